"""Recognises one JSON value in text that comes in pieces, strictly and without building it.

Knows nothing of what the value means. Invariant: what it has consumed is the beginning of a JSON text (RFC 8259), and
when `state` is BROKEN the character after that is one that cannot follow.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Final

SPACE: Final = " \t\n\r"
DEEPEST: Final = 100
LONGEST_NUMBER: Final = 128
_PLAIN: Final = re.compile(r'[^"\\\x00-\x1f]*')
_NUMBER: Final = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_BEGUN_NUMBER: Final = re.compile(r"-?((0|[1-9][0-9]*)((\.[0-9]*)|(\.[0-9]+)?[eE][+-]?[0-9]*)?)?")
_LITERALS: Final = {"t": "rue", "f": "alse", "n": "ull"}
_CLOSING: Final = {"{": "}", "[": "]"}


class Reading(Enum):
    """Where a reader of something stands."""

    MORE = "it is not complete"
    DONE = "it is complete, and what follows is not part of it"
    BROKEN = "what follows cannot be part of it"


class JsonValue:
    """Space before the value belongs to it, space after it does not.

    A bare number is DONE at the character after it.
    """

    def __init__(self) -> None:
        self.state = Reading.MORE
        self._open: list[str] = []  # the brackets that will close what is open
        self._next = self._value
        self._is_key = False
        self._pending = ""  # what is left of a literal, or the number so far

    def take(self, text: str, start: int = 0) -> int:
        """Consumes what belongs to the value, from `start` on; returns where it stopped."""
        place = start
        while place < len(text) and self.state is Reading.MORE:
            place = self._next(text, place)
        return place

    def _value(self, text: str, place: int) -> int:
        character = text[place]
        if character in SPACE:
            return place + 1
        if character in _CLOSING and len(self._open) < DEEPEST:
            self._open.append(_CLOSING[character])
            self._next = self._first
        elif character == '"':
            self._is_key, self._next = False, self._string
        elif character in _LITERALS:
            self._pending, self._next = _LITERALS[character], self._literal
        elif character in "-0123456789":
            self._pending, self._next = character, self._number
        else:
            return self._broken(place)
        return place + 1

    def _first(self, text: str, place: int) -> int:
        if text[place] == self._open[-1]:
            return self._close(place)
        return self._key(text, place) if self._open[-1] == "}" else self._value(text, place)

    def _key(self, text: str, place: int) -> int:
        if text[place] == '"':
            self._is_key, self._next = True, self._string
            return place + 1
        return place + 1 if text[place] in SPACE else self._broken(place)

    def _colon(self, text: str, place: int) -> int:
        if text[place] == ":":
            self._next = self._value
            return place + 1
        return place + 1 if text[place] in SPACE else self._broken(place)

    def _string(self, text: str, place: int) -> int:
        place = _PLAIN.match(text, place).end()  # type: ignore[union-attr]  # it matches nothing too
        if place == len(text):
            return place
        if text[place] == "\\":
            self._next = self._escape
        elif text[place] != '"':
            return self._broken(place)
        elif self._is_key:
            self._next = self._colon
        else:
            self._ended()
        return place + 1

    def _escape(self, text: str, place: int) -> int:
        if text[place] == "u":
            self._pending, self._next = "", self._hexadecimal
        elif text[place] in '"\\/bfnrt':
            self._next = self._string
        else:
            return self._broken(place)
        return place + 1

    def _hexadecimal(self, text: str, place: int) -> int:
        if text[place] not in "0123456789abcdefABCDEF":
            return self._broken(place)
        self._pending += text[place]
        if len(self._pending) == 4:
            self._next = self._string
        return place + 1

    def _literal(self, text: str, place: int) -> int:
        if text[place] != self._pending[0]:
            return self._broken(place)
        self._pending = self._pending[1:]
        if not self._pending:
            self._ended()
        return place + 1

    def _number(self, text: str, place: int) -> int:
        longer = self._pending + text[place]
        if len(longer) <= LONGEST_NUMBER and _BEGUN_NUMBER.fullmatch(longer):
            self._pending = longer
            return place + 1
        if not _NUMBER.fullmatch(self._pending) or text[place] in "+-.eE0123456789":
            return self._broken(place)
        self._ended()
        return place

    def _after(self, text: str, place: int) -> int:
        character = text[place]
        if character == self._open[-1]:
            return self._close(place)
        if character == ",":
            self._next = self._key if self._open[-1] == "}" else self._value
            return place + 1
        return place + 1 if character in SPACE else self._broken(place)

    def _close(self, place: int) -> int:
        self._open.pop()
        self._ended()
        return place + 1

    def _ended(self) -> None:
        self._next = self._after
        if not self._open:
            self.state = Reading.DONE

    def _broken(self, place: int) -> int:
        self.state = Reading.BROKEN
        return place
