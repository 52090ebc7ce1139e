"""Kinds of values that an option can have: how a text becomes the value, and back.

Knows nothing of options or where their texts come from. Invariant: `kind.parse(kind.write(value)) == value`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Kind(Generic[T_co]):
    """A kind of value. `parse` raises ValueError, and `write` is its inverse."""

    expected: str
    """Completes "expected …" in an error and the docs."""
    metavar: str
    parse: Callable[[str], T_co]
    write: Callable[[Any], str] = str
    schema: Mapping[str, Any] = field(default_factory=lambda: {"type": "string", "minLength": 1}, compare=False)
    """JSON Schema of how a configuration file best writes the value. It admits no text that `parse` refuses."""


def integer(low: int, high: int | None = None, metavar: str = "N") -> Kind[int]:
    """Integers from `low` to `high`, both included."""
    expected = f"an integer from {low} to {high}" if high is not None else f"an integer of at least {low}"
    schema = {"type": "integer", **_bounds(low, high)}
    return Kind(expected, metavar, lambda text: _within(int(text), low, high), schema=schema)


def size(high: int | None = None, low: int = 1) -> Kind[int]:
    """A number of bytes from `low`, 0 or 1, to `high`; `64MiB` and Kubernetes' `64Mi` are the same."""
    limit = f" up to {high}" if high is not None else ""
    zero = "0 or " if low == 0 else ""
    expected = f"{zero}a number of bytes{limit}, such as 1048576, 512KiB, 64MiB or 1GiB"
    digits = "[0-9]+" if low == 0 else "0*[1-9][0-9]*"
    pattern = f"^{digits} ?([KMGTkmgt][Ii][Bb]?)?$"
    schema = {"type": ["integer", "string"], **_bounds(low, high), "pattern": pattern}
    return Kind(expected, "BYTES", lambda text: _within(_parse_size(text), low, high), _write_size, schema)


def choice(names: Sequence[T_co]) -> Kind[T_co]:
    """One of a few words, in any case."""
    by_text = {str(name): name for name in names}

    def parse(text: str) -> T_co:
        if text.lower() not in by_text:
            raise ValueError(text)
        return by_text[text.lower()]

    expected = f"one of {', '.join(by_text)}"
    return Kind(expected, "|".join(by_text), parse, schema={"enum": list(by_text)})


def _bounds(low: float, high: float | None = None) -> Mapping[str, float]:
    return {"minimum": low} if high is None else {"minimum": low, "maximum": high}


def _within(number: int, low: int, high: int | None) -> int:
    if number < low or (high is not None and number > high):
        raise ValueError(number)
    return number


SIZE: Final = re.compile(r"(\d+) ?(?:([KMGT])iB?)?", re.IGNORECASE)
SIZE_SHIFTS: Final[Mapping[str, int]] = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}


def _parse_size(text: str) -> int:
    match = SIZE.fullmatch(text)
    if match is None:
        raise ValueError(text)
    return int(match[1]) << SIZE_SHIFTS[(match[2] or "").upper()]


def _write_size(number: int) -> str:
    """The shortest exact form: 67108864 is 64MiB."""
    if number == 0:
        return "0"
    unit = max((unit for unit, shift in SIZE_SHIFTS.items() if number % (1 << shift) == 0), key=SIZE_SHIFTS.__getitem__)
    return f"{number >> SIZE_SHIFTS[unit]}{unit}iB" if unit else str(number)


def _parse_seconds(text: str) -> float:
    seconds = float(text)
    if not isfinite(seconds) or seconds < 0:
        raise ValueError(text)
    return seconds


def _at_least(seconds: float, low: float) -> float:
    if seconds < low:
        raise ValueError(seconds)
    return seconds


def _parse_boolean(text: str) -> bool:
    word = text.lower()
    if word not in {"true", "yes", "on", "1", "false", "no", "off", "0"}:
        raise ValueError(text)
    return word in {"true", "yes", "on", "1"}


def _parse_resource(text: str) -> tuple[str, int]:
    name, _, count = text.rpartition(":")
    if not name or "," in name:  # several of them in one flag
        raise ValueError(text)
    return name, _within(int(count), 1, None)


PORT: Final = integer(0, 65535, "PORT")
SECONDS: Final = Kind(
    "a number of seconds, 0 or more",
    "SECONDS",
    _parse_seconds,
    lambda seconds: str(seconds).removesuffix(".0"),
    {"type": "number", **_bounds(0)},
)
PERIOD: Final = Kind(
    "a number of seconds of at least 0.1",
    "SECONDS",
    lambda text: _at_least(_parse_seconds(text), 0.1),
    lambda seconds: str(seconds).removesuffix(".0"),
    {"type": "number", **_bounds(0.1)},
)
BOOLEAN: Final = Kind(
    "true or false", "true|false", _parse_boolean, lambda value: str(value).lower(), {"type": "boolean"}
)
RESOURCE: Final = Kind(
    "a resource and how many units there are, such as disk:2",
    "NAME:COUNT",
    _parse_resource,
    lambda resource: f"{resource[0]}:{resource[1]}",
    {"type": "string", "pattern": "^[^,]+:0*[1-9][0-9]*$"},
)
NAME: Final = Kind("a name", "NAME", str)
ADDRESS: Final = Kind("an address", "ADDRESS", str)
DIRECTORY: Final = Kind("a directory", "DIR", Path)
FILE: Final = Kind("a file", "FILE", Path)
