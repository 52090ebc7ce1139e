"""Triton's trace settings, on a server that does not trace: what they are, and that they cannot change.

Pure. Invariant: whatever is accepted asks for what holds already.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from vintner.errors import InvalidArgument, Unsupported, nearest

HELD: Final[Mapping[str, Sequence[str]]] = {
    "trace_level": ("OFF",),
    "trace_rate": ("1000",),
    "trace_count": ("-1",),
    "log_frequency": ("0",),
    "trace_file": ("",),
    "trace_mode": ("triton",),
}
"""Every setting, with Triton's defaults."""

EXPECTED: Final[Mapping[str, tuple[str, str]]] = {
    "trace_level": (r"OFF|TIMESTAMPS|TENSORS", "OFF, TIMESTAMPS or TENSORS"),
    "trace_rate": (r"\d{1,10}", "a number"),
    "trace_count": (r"-1|\d{1,10}", "a number, or -1 for any"),
    "log_frequency": (r"\d{1,10}", "a number"),
    "trace_file": (r".*", "a path"),
    "trace_mode": (r"triton|opentelemetry", "triton or opentelemetry"),
}
"""A pattern of a setting's values, and what an error says that they are."""


def update(changes: Mapping[str, Sequence[str]]) -> Mapping[str, Sequence[str]]:
    """What holds. A setting without values is to go back to its default.

    Raises InvalidArgument for an unknown setting or a bad value, Unsupported for one that would have no effect.
    """
    for name, values in changes.items():
        if name not in HELD:
            raise InvalidArgument(f"unknown trace setting '{name}'{nearest(name, HELD)}")
        pattern, expected = EXPECTED[name]
        if not all(re.fullmatch(pattern, value, re.DOTALL) for value in values) or (
            len(values) > 1 and name != "trace_level"
        ):
            raise InvalidArgument(f"trace setting '{name}': expected {expected}, got {', '.join(values)!r:.60}")
    for name, values in changes.items():
        if values and set(values) != set(HELD[name]):
            raise Unsupported(f"tracing is not supported by this server: {name} stays '{HELD[name][0]}'")
    return HELD
