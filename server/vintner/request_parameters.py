"""The keys of a request's parameters, whatever protocol it came over. What they mean is for others to say.

Pure.
"""

from __future__ import annotations

from typing import Final

from vintner.errors import InvalidArgument

RESERVED: Final = "triton_"
"""The prefix of Triton's own."""


def check_key(key: str) -> None:
    """Raises InvalidArgument for one that no client may set."""
    if key.startswith(RESERVED):
        raise InvalidArgument(
            f"parameter '{key}': parameter keys starting with '{RESERVED}' are reserved for Triton usage and should not"
            " be specified."
        )
