"""JSON text as this server reads it: orjson, with the literals `NaN`, `Infinity` and `-Infinity`, and with limits.

Knows nothing of what a document means. Invariant: both readers, orjson and the standard library's for texts with a
literal that orjson does not know, accept the same documents otherwise and give the same values.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import isinf
from typing import Any, Final

import orjson

from vintner.errors import InvalidArgument


@dataclass(frozen=True, slots=True)
class JsonLimits:
    """What a small request may not exceed, so that it stays cheap to read."""

    nesting: int = 100
    """Arrays and objects within one another, the document itself being the first."""
    keys: int = 1024
    """Keys of one object."""
    outputs: int = 1024
    """Outputs that one request may ask for."""
    arrays: int = 1 << 22
    """Arrays and objects of a document. Brackets in its strings count too, for they are counted before it is parsed:
    twenty million empty arrays, 64 MiB, hold up everything else for seconds and take gigabytes."""


DEFAULT_LIMITS: Final = JsonLimits()
_CONTAINERS: Final = (dict, list)


def _whole(document: Any) -> Any:
    return document


def parse(
    text: bytes | memoryview, limits: JsonLimits = DEFAULT_LIMITS, measured: Callable[[Any], Any] = _whole
) -> Any:
    """The document in a UTF-8 text. Raises InvalidArgument.

    `measured` leaves out of a document what need not be walked to hold it against the limits: what its reader
    bounds by other means.
    """
    _check_arrays(text, limits)
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError as exc:
        document = _parse_with_literals(bytes(text), exc)
    if _may_exceed(text, limits):
        check_limits(measured(document), limits)
    return document


def _check_arrays(text: bytes | memoryview, limits: JsonLimits) -> None:
    if len(text) <= 2 * limits.arrays:
        return
    whole = bytes(text)
    count = whole.count(b"[") + whole.count(b"{")
    if count > limits.arrays:
        raise InvalidArgument(f"the JSON has {count} arrays and objects, at most {limits.arrays} are allowed")


def check_limits(document: Any, limits: JsonLimits) -> None:
    """Raises InvalidArgument for a document that nests too deep or holds an object of too many keys."""
    level = [document] if isinstance(document, _CONTAINERS) else []
    depth = 0
    while level:
        depth += 1
        if depth > limits.nesting:
            raise InvalidArgument(f"JSON nesting depth exceeds maximum allowed limit ({limits.nesting})")
        below: list[Any] = []
        for container in level:
            below += [member for member in _members(container, limits) if isinstance(member, _CONTAINERS)]
        level = below


def parse_object(
    text: bytes | memoryview,
    limits: JsonLimits = DEFAULT_LIMITS,
    measured: Callable[[Any], Any] = _whole,
    refusal: str = "the request body must be a JSON object",
) -> dict[str, Any]:
    """As `parse`; a document of another kind is InvalidArgument too, with `refusal`."""
    document = parse(text, limits, measured)
    if type(document) is not dict:
        raise InvalidArgument(refusal)
    return document


def _members(container: dict[str, Any] | list[Any], limits: JsonLimits) -> Iterable[Any]:
    if isinstance(container, list):
        return container
    if len(container) > limits.keys:
        raise InvalidArgument(f"a JSON object has {len(container)} keys, at most {limits.keys} are allowed")
    return container.values()


def _may_exceed(text: bytes | memoryview, limits: JsonLimits) -> bool:
    """Whether a document has to be walked: cheap, and never false for one over a limit. A key takes 5 bytes or more."""
    if len(text) > min(4096, 5 * limits.keys):
        return True
    small = bytes(text)
    return small.count(b"[") + small.count(b"{") > limits.nesting


def _parse_with_literals(text: bytes, refusal: orjson.JSONDecodeError) -> Any:
    if b"NaN" not in text and b"Infinity" not in text:
        raise _malformed(refusal)
    try:
        document = json.loads(text.decode(), parse_int=_integer, parse_float=_finite)
        orjson.dumps(document)  # it does not write what it would not have read: lone surrogates, abysses
    except (ValueError, TypeError, RecursionError) as exc:
        raise _malformed(exc) from None
    return document


def _malformed(reason: Exception) -> InvalidArgument:
    return InvalidArgument(f"malformed JSON: {reason}")


def _integer(digits: str) -> int | float:
    value = int(digits)
    return value if -(2**63) <= value < 2**64 else _finite(digits)


def _finite(digits: str) -> float:
    value = float(digits)
    if isinf(value):
        raise ValueError("number is infinity when parsed as double")
    return value
