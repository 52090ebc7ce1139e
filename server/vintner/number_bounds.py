"""Whether the bounds of a number in a JSON schema can be met.

Knows the four keywords and nothing else of a schema. Invariant: bounds that pass leave at least one value, and those of
integers are whole numbers of 64 bits, which is what structured generation counts with.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any, Final, NoReturn

from vintner.errors import InvalidArgument

_BOUNDS: Final = ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum")
_LIMIT: Final = 2**63 - 1


def check_bounds(schema: Mapping[str, Any], where: str) -> None:
    """Raises InvalidArgument that names the keyword."""
    for keyword in _BOUNDS:
        bound = schema.get(keyword, 0)
        if isinstance(bound, bool) or not isinstance(bound, int | float) or not isfinite(bound):
            _fail(where, keyword, "must be a finite number")
    kinds = schema.get("type")
    if "integer" in (kinds if isinstance(kinds, list) else (kinds,)):
        _check_whole(schema, where)
    low = max(schema.get("minimum", -_LIMIT), schema.get("exclusiveMinimum", -_LIMIT))
    if "maximum" in schema and low > schema["maximum"] and _bounded_below(schema):
        _fail(where, "maximum", "must not be less than the minimum")
    if "exclusiveMaximum" in schema and low >= schema["exclusiveMaximum"] and _bounded_below(schema):
        _fail(where, "exclusiveMaximum", "must be more than the minimum")
    if "exclusiveMinimum" in schema and "maximum" in schema and schema["exclusiveMinimum"] >= schema["maximum"]:
        _fail(where, "exclusiveMinimum", "must be less than the maximum")


def _bounded_below(schema: Mapping[str, Any]) -> bool:
    return "minimum" in schema or "exclusiveMinimum" in schema


def _check_whole(schema: Mapping[str, Any], where: str) -> None:
    for keyword in _BOUNDS:
        bound = schema.get(keyword, 0)
        if bound != int(bound) or abs(bound) >= _LIMIT:
            _fail(where, keyword, "must be a whole number of at most 64 bits for an integer")
    low = max(schema.get("minimum", -_LIMIT), schema.get("exclusiveMinimum", -_LIMIT) + 1)
    high = min(schema.get("maximum", _LIMIT), schema.get("exclusiveMaximum", _LIMIT) - 1)
    if low > high:
        keyword = next(keyword for keyword in _BOUNDS if keyword in schema)
        _fail(where, keyword, "there is no integer between the bounds")


def _fail(where: str, keyword: str, reason: str) -> NoReturn:
    raise InvalidArgument(f"{where}.{keyword}: {reason}")
