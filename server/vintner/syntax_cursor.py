"""A place in a text that is being checked, and errors that say where it is wrong."""

from __future__ import annotations

import re
from typing import Final, NoReturn

from vintner.errors import InvalidArgument

MOST_REPEATS: Final = 2**31 - 1
_QUANTIFIER: Final = re.compile(r"[*+?]|\{([0-9]{1,10})(,([0-9]{0,10}))?\}")
_HEXADECIMAL: Final = {"x": 2, "u": 4, "U": 8}
_BRACED: Final = re.compile(r"\{([0-9a-fA-F]{1,8})\}")


class SyntaxCursor:
    """`where` names the text in errors, which are InvalidArgument and count places from 0."""

    def __init__(self, text: str, where: str, longest: int) -> None:
        self.text = text
        self.where = where
        self.place = 0
        if len(text) > longest:
            raise InvalidArgument(f"{where} has {len(text)} characters, at most {longest} are allowed")
        if "\0" in text:
            raise InvalidArgument(f"{where} must not contain the character NUL")

    def here(self, length: int = 1) -> str:
        return self.text[self.place : self.place + length]

    def took(self, text: str) -> bool:
        if not self.text.startswith(text, self.place):
            return False
        self.place += len(text)
        return True

    def match(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        found = pattern.match(self.text, self.place)
        if found is not None:
            self.place = found.end()
        return found

    def fail(self, reason: str) -> NoReturn:
        raise InvalidArgument(f"{self.where}: {reason}, at position {self.place}")

    def repetition(self, *, lazy: bool = False) -> tuple[int, int | None] | None:
        """How often what is before is repeated at least, and at most if a number says so; None if it is not. It may be
        `lazy`, with a question mark behind."""
        if self.here() not in ("*", "+", "?", "{"):
            return None
        found = self.match(_QUANTIFIER)
        if found is None:
            self.fail("a repetition must be like {3}, {3,} or {3,5}")
        least = int(found[1] or 0)
        most = int(found[3] or 0) if found[2] else least
        if max(least, most) > MOST_REPEATS or (found[3] and most < least):
            self.fail(f"a repetition must have bounds that rise, of at most {MOST_REPEATS}")
        if lazy:
            self.took("?")
        if self.here() and self.here() in "*+?{":
            self.fail("a repetition cannot be repeated")
        return least, most if found[3] or (found[1] and not found[2]) else None

    def coded(self, kind: str, *, braced: bool = False) -> str:
        """The character that is written as hexadecimal digits after `\\x`, `\\u` or `\\U`."""
        found = self.match(_BRACED) if braced else None
        digits = found[1] if found else self.here(_HEXADECIMAL[kind])
        if not re.fullmatch(r"[0-9a-fA-F]+", digits) or (not found and len(digits) < _HEXADECIMAL[kind]):
            self.fail(f"\\{kind} needs {_HEXADECIMAL[kind]} hexadecimal digits")
        self.place += 0 if found else len(digits)
        code = int(digits, 16)
        if code > 0x10FFFF or 0xD800 <= code <= 0xDFFF:
            self.fail(f"there is no character {digits}")
        return chr(code)
