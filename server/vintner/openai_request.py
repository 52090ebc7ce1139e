"""The JSON object of a request to the OpenAI API, read parameter by parameter.

Pure. Invariant: what `finish` lets pass was read: every parameter is known to its reader, stands at a value that asks
for nothing, or is refused by name. As in OpenAI's API, null is as good as left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import takewhile
from math import isfinite
from typing import Any, Final

from vintner.errors import InvalidArgument, RequestError, Unsupported, close_to

SHOWN: Final = 100
"""Characters of a value that are told in an error."""


def bad(param: str, expected: str, given: object) -> InvalidArgument:
    """The error for a parameter that is not what was expected."""
    return InvalidArgument(f"parameter '{param}': expected {expected}, got {shown(given)}", param)


def shown(value: Any) -> str:
    """The first hundred characters of its `repr`, without making the rest, which may be of megabytes."""
    return repr(_begun(value, [SHOWN]))[:SHOWN]


def _begun(value: Any, left: list[int]) -> Any:
    """The begin of a JSON value: so many members, each of which is shown as one character or more."""
    left[0] -= 1
    if isinstance(value, str):
        return value[:SHOWN]
    if isinstance(value, list):
        return [_begun(member, left) for member in takewhile(lambda _: left[0] > 0, value)]
    if isinstance(value, dict):
        members = takewhile(lambda _: left[0] > 0, value.items())
        return {name[:SHOWN]: _begun(member, left) for name, member in members}
    return value


@contextmanager
def blamed(param: str) -> Iterator[None]:
    """Has an error of the request's name a parameter, if it names none."""
    try:
        yield
    except RequestError as exc:
        exc.param = exc.param or param
        raise


class Parameters:
    """Those of one object. The methods take one each: what it is, or the default. They raise InvalidArgument."""

    def __init__(self, document: Mapping[str, Any], path: str = "") -> None:
        """`path` is what the object is called in errors, with a dot behind it, if it lies within another."""
        self._left = {name: value for name, value in document.items() if value is not None}
        self._path = path
        self._asked: list[str] = []

    def has(self, name: str) -> bool:
        """Whether it is there, and was not read."""
        return name in self._left

    def value(self, name: str) -> Any:
        """Whatever it is; None if it is not there."""
        self._asked.append(name)
        return self._left.pop(name, None)

    def text(self, name: str, default: str | None = None) -> str | None:
        value = self.value(name)
        if value is None:
            return default
        if not isinstance(value, str):
            raise bad(self._path + name, "a string", value)
        return value

    def required(self, name: str) -> str:
        """A text that is not empty."""
        value = self.text(name)
        if not value:
            raise InvalidArgument(f"parameter '{self._path}{name}' is missing: expected a string", self._path + name)
        return value

    def flag(self, name: str, default: bool = False) -> bool:
        value = self.value(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise bad(self._path + name, "true or false", value)
        return value

    def whole(self, name: str, least: int, most: int | None = None) -> int | None:
        """A whole number within bounds; a float that is one, too."""
        value = self.value(name)
        if value is None:
            return None
        if type(value) is float and value.is_integer():
            value = int(value)
        if type(value) is not int or value < least or (most is not None and value > most):
            bounds = f"of at least {least}" if most is None else f"from {least} to {most}"
            raise bad(self._path + name, f"a whole number {bounds}", value)
        return value

    def number(self, name: str) -> float | None:
        value = self.value(name)
        if value is None:
            return None
        if type(value) not in (int, float) or not isfinite(value):
            raise bad(self._path + name, "a number", value)
        return float(value)

    def strings(self, name: str) -> tuple[str, ...]:
        """A string, or several."""
        value = self.value(name)
        if value is None:
            return ()
        values = [value] if isinstance(value, str) else value
        if not isinstance(values, list) or not all(isinstance(one, str) for one in values):
            raise bad(self._path + name, "a string or an array of strings", value)
        return tuple(values)

    def whole_numbers(self, name: str) -> tuple[int, ...]:
        values = self.value(name)
        if values is None:
            return ()
        if not isinstance(values, list) or not all(type(one) is int for one in values):
            raise bad(self._path + name, "an array of whole numbers", values)
        return tuple(values)

    def choice(self, name: str, choices: Sequence[str], default: str) -> str:
        value = self.value(name)
        if value is None:
            return default
        if value not in choices:
            raise bad(self._path + name, f"one of {', '.join(choices)}", value)
        return str(value)

    def inner(self, name: str) -> Parameters | None:
        """An object within this one, to be finished on its own."""
        value = self.value(name)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise bad(self._path + name, "an object", value)
        return Parameters(value, f"{self._path}{name}.")

    def finish(self, neutral: Mapping[str, Sequence[Any]] | None = None) -> None:
        """Refuses what was not read. `neutral` are parameters that this server does not have, with the values at which
        they ask for nothing. Raises Unsupported for those at other values, and InvalidArgument for unknown ones."""
        neutral = neutral or {}
        for name, value in self._left.items():
            path = self._path + name[:64]
            if name not in neutral:
                hint = close_to(name, sorted({*self._asked, *neutral}))
                raise InvalidArgument(f"unknown parameter '{path}'{hint}", path)
            if not any(type(value) is type(one) and value == one for one in neutral[name]):
                raise Unsupported(f"parameter '{path}' is not supported: got {shown(value)}", path)
