"""Triton's sequence parameters, which no model here has a use for: none keeps anything from one request to the next.

Pure. A request that belongs to a sequence is refused, for its answer would not be the one that its client expects;
what clients send by default, which says that there is no sequence, is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from vintner.errors import InvalidArgument
from vintner.types import Parameter

IDENTITY: Final = "sequence_id"
ENDS: Final = ("sequence_start", "sequence_end")


def check_stateless(model: str, parameters: Mapping[str, Parameter]) -> None:
    """Raises InvalidArgument for a parameter that says that the request belongs to a sequence."""
    identity = parameters.get(IDENTITY, 0)
    if isinstance(identity, (bool, float)):
        raise InvalidArgument(f"parameter '{IDENTITY}' must be an integer or a string, got {identity!r}")
    if identity not in (0, ""):
        raise _stateful(model, IDENTITY, identity)
    for name in ENDS:
        flag = parameters.get(name, False)
        if not isinstance(flag, bool):
            raise InvalidArgument(f"parameter '{name}' must be a boolean, got {flag!r:.60}")
        if flag:
            raise _stateful(model, name, flag)


def _stateful(model: str, name: str, value: Parameter) -> InvalidArgument:
    return InvalidArgument(
        f"parameter '{name}' is {value!r:.60}, but model '{model}' keeps no state between requests; send them without"
        " sequence parameters"
    )
