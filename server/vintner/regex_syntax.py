"""Whether a regular expression is one that structured generation can follow.

The runtimes compile it only while they generate, where a mistake fails every request of the model, and one that nests
too deep ends the process. So this refuses, before that, all that xgrammar in OpenVINO GenAI 2026.4 was seen to refuse
or to choke on; a little more, where it takes a text for something else than everybody does. It does not know which
texts a pattern matches. Invariant: a pattern that it lets pass has only constructs that xgrammar was seen to compile.
"""

from __future__ import annotations

import re
from typing import Final

from vintner.syntax_cursor import SyntaxCursor

LONGEST_REGEX: Final = 8192
DEEPEST_REGEX: Final = 64
MOST_NESTED_REPEATS: Final = 10_000
"""Of ranges in ranges, multiplied: `(a{0,300}){0,300}` took 25 seconds, in which the model did nothing else."""
MOST_LOOSE: Final = 200
"""Of all repetitions in a pattern: to compile takes the square. `a?` five hundred times took a second, a thousand times
five, and `a{0,9999}` fifty times did not end."""
_WIDE: Final = 16
_GROUP_KIND: Final = re.compile(r"\?:|\?<[A-Za-z_]\w*>")
_REFUSED_GROUPS: Final = {
    "?=": "lookahead", "?!": "lookahead", "?<=": "lookbehind", "?<!": "lookbehind",
}  # fmt: skip
_REFUSED_ESCAPES: Final = {
    "b": "a word boundary", "B": "a word boundary", "p": "a Unicode class", "P": "a Unicode class",
    "k": "a backreference", **dict.fromkeys("123456789", "a backreference"),
}  # fmt: skip


def check_regex(pattern: str, where: str = "regex") -> int:
    """How much its repetitions leave open, as `looseness` counts it. Raises InvalidArgument that says what is wrong,
    and at which position."""
    reader = _RegexReader(pattern, where, LONGEST_REGEX)
    reader.alternatives(0)
    if reader.here():
        reader.fail("')' closes nothing")
    return reader.loose


def looseness(least: int, most: int | None) -> int:
    """How much a repetition leaves open, and so costs: 0 for one of so many, 16 for a wide range; `most` is None where
    there is no bound."""
    if least == most:
        return int(least > _WIDE)
    return min(_WIDE, most - least if most is not None else max(1, least))


class _RegexReader(SyntaxCursor):
    loose = 0

    def alternatives(self, depth: int) -> int:
        """Up to the end or a closing parenthesis; returns the largest product of ranges within one another."""
        most, elements, several = 1, 0, False
        while self.here() not in ("", ")"):
            if self.took("|"):
                if not elements:
                    self.fail("an alternative is empty")
                elements, several = 0, True
            elif self.here() in "^$":
                self._anchor()
            else:
                most = max(most, self._element(depth))
                elements += 1
        if several and not elements:
            self.fail("an alternative is empty")
        return most

    def _anchor(self) -> None:
        if self.place != (0 if self.here() == "^" else len(self.text) - 1):
            self.fail("'^' is supported at the beginning only, and '$' at the end")
        self.place += 1
        if self.here() and self.here() in "*+?{":
            self.fail("there is nothing to repeat")

    def _element(self, depth: int) -> int:
        if self.here() in "*+?{":
            self.fail("there is nothing to repeat")
        within = 1
        if self.took("("):
            within = self._group(depth + 1)
        elif self.took("["):
            self._class()
        elif self.took("\\"):
            self._escape()
        else:
            self.place += 1
        repeats = self._repeats() * within
        if within > 1 and repeats > MOST_NESTED_REPEATS:
            self.fail(f"ranges within ranges make {repeats} repetitions, at most {MOST_NESTED_REPEATS} are allowed")
        return repeats

    def _group(self, depth: int) -> int:
        if depth > DEEPEST_REGEX:
            self.fail(f"it nests deeper than {DEEPEST_REGEX} groups")
        if self.here() == "?" and not self.match(_GROUP_KIND):
            kind = next(
                (name for mark, name in _REFUSED_GROUPS.items() if self.text.startswith(mark, self.place)), None
            )
            self.fail(f"{kind or 'this kind of group'} is not supported")
        if self.here() == ")":
            self._leave_open(1)  # `(a|())` is `a?`
        within = self.alternatives(depth)
        if not self.took(")"):
            self.fail("a group is not closed")
        return within

    def _repeats(self) -> int:
        found = self.repetition(lazy=True)
        if found is None:
            return 1
        least, most = found
        self._leave_open(looseness(least, most))
        return max(least, most or 0, 1)

    def _leave_open(self, loose: int) -> None:
        self.loose += loose
        if self.loose > MOST_LOOSE:
            self.fail("there are too many repetitions that leave open how often")

    def _class(self) -> None:
        if not self.took("^") and self.here() == "]":
            self.fail("a character class is empty")
        if self.here() == "]":
            self.fail("'[^]' is not supported")
        while not self.took("]"):
            low = self._member()
            if self.here() == "-" and self.here(2) not in ("-", "-]"):
                self.place += 1
                high = self._member()
                if low is None or high is None or high < low:
                    self.fail("a range of characters must go from a lower to a higher one")

    def _member(self) -> str | None:
        """One character; None for a shorthand like `\\d`, which is several."""
        if self.here() in ("", "\n", "\r"):
            self.fail("a character class is not closed on its line")
        self.place += 1
        return self.text[self.place - 1] if self.text[self.place - 1] != "\\" else self._escape(in_class=True)

    def _escape(self, *, in_class: bool = False) -> str | None:
        character = self.here()
        if not character:
            self.fail("an escape is not finished")
        if character in _REFUSED_ESCAPES and not (in_class and character == "b"):
            self.fail(f"{_REFUSED_ESCAPES[character]} is not supported")
        self.place += 1
        if character in "xu":
            return self.coded(character, braced=character == "u")
        if character == "c" and not re.match("[A-Za-z]", self.here()):
            self.fail("\\c needs a letter")
        if character == "c":
            self.place += 1
            return chr(ord(self.text[self.place - 1]) % 32)
        if character.isalnum() and character not in "dDwWsSfnrtv0b":
            self.place -= 1
            self.fail(f"there is no escape '\\{character}'")
        return None if character in "dDwWsS" else {"n": "\n", "r": "\r", "t": "\t"}.get(character, character)
