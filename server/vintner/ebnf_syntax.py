"""Whether a grammar is one that structured generation can follow: GBNF, rules such as `root ::= "yes" | [a-z]{1,9}`.

Why before it runs, and by what this was found, is said in `regex_syntax`. It does not know which texts a grammar
makes. Invariant: a grammar that it lets pass has a rule `root`, and each name in it has exactly one rule.
"""

from __future__ import annotations

import re
from typing import Final

from vintner.errors import InvalidArgument
from vintner.regex_syntax import MOST_LOOSE, MOST_NESTED_REPEATS, looseness
from vintner.syntax_cursor import SyntaxCursor

LONGEST_GRAMMAR: Final = 65_536
DEEPEST_GRAMMAR: Final = 64
MOST_RULES: Final = 1_000
_SPACE: Final = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*")
_NAME: Final = re.compile(r"[A-Za-z_.][\w.\-]*", re.ASCII)
_RULE: Final = re.compile(r"[ \t]*([A-Za-z_.][\w.\-]*)[ \t]*::=", re.ASCII)
_BEGINS_RULE: Final = re.compile(r"[A-Za-z_.][\w.\-]*[ \t]*::=", re.ASCII)
_ESCAPES: Final = "nrt\"'\\"
_CLASS_ESCAPES: Final = _ESCAPES + "]-^["


def check_grammar(grammar: str, where: str = "grammar") -> None:
    """Raises InvalidArgument that says what is wrong, and at which position."""
    reader = _GrammarReader(grammar, where, LONGEST_GRAMMAR)
    reader.rules()
    missing = sorted(reader.used - reader.defined)
    if "root" not in reader.defined:
        raise InvalidArgument(f'{where}: there is no rule \'root\', such as root ::= "yes" | "no"')
    if missing:
        raise InvalidArgument(f"{where}: there is no rule '{missing[0][:64]}', which another one uses")


class _GrammarReader(SyntaxCursor):
    defined: set[str]
    used: set[str]
    _loose = 0
    """Of the rule's repetitions so far."""
    _spent = 0
    """The same of the rules before it, squared, as it costs."""

    def rules(self) -> None:
        self.defined, self.used = set(), set()
        self.match(_SPACE)
        while self.here():
            found = self.match(_RULE)
            if found is None:
                self.fail('expected a rule, such as root ::= "yes"')
            if found[1] in self.defined:
                self.fail(f"there is another rule '{found[1][:64]}'")
            self.defined.add(found[1])
            if len(self.defined) > MOST_RULES:
                self.fail(f"there are more than {MOST_RULES} rules")
            self._alternatives(0)
            self._spent, self._loose = self._spent + self._loose**2, 0
            if self.here() == ")":
                self.fail("')' closes nothing")

    def _alternatives(self, depth: int) -> int:
        most = self._sequence(depth)
        while self.took("|"):
            most = max(most, self._sequence(depth))
        return most

    def _sequence(self, depth: int) -> int:
        most, elements = 1, 0
        self.match(_SPACE)
        while self.here() not in ("", "|", ")") and not (self._at_rule() and not depth):
            most = max(most, self._element(depth))
            elements += 1
            self.match(_SPACE)
        if not elements:
            self.fail('an alternative is empty, for which "" is to be written')
        return most

    def _at_rule(self) -> bool:
        return _BEGINS_RULE.match(self.text, self.place) is not None

    def _element(self, depth: int) -> int:
        within = 1
        if self.took("("):
            within = self._group(depth + 1)
        elif self.took('""'):
            self._leave_open(1)  # whoever writes it leaves something out
        elif self.took('"'):
            self._literal()
        elif self.took("["):
            self._class()
        elif (found := self.match(_NAME)) is not None:
            self.used.add(found[0])
        else:
            self.fail("expected a literal, a character class, a group or a rule's name")
        repeats = self._repeats() * within
        if within > 1 and repeats > MOST_NESTED_REPEATS:
            self.fail(f"ranges within ranges make {repeats} repetitions, at most {MOST_NESTED_REPEATS} are allowed")
        return repeats

    def _group(self, depth: int) -> int:
        if depth > DEEPEST_GRAMMAR:
            self.fail(f"it nests deeper than {DEEPEST_GRAMMAR} groups")
        within = self._alternatives(depth)
        if not self.took(")"):
            self.fail("a group is not closed")
        return within

    def _literal(self) -> None:
        while not self.took('"'):
            if self.here() in ("", "\n", "\r"):
                self.fail("a literal is not closed")
            self._character(_ESCAPES)

    def _class(self) -> None:
        self.took("^")
        if self.here() == "]":
            self.fail("a character class is empty")
        while not self.took("]"):
            low = self._character(_CLASS_ESCAPES)
            if self.here() == "-" and self.here(2) not in ("-", "-]"):
                self.place += 1
                if self._character(_CLASS_ESCAPES) < low:
                    self.fail("a range of characters must go from a lower to a higher one")

    def _character(self, escapes: str) -> str:
        if self.here() in ("", "\n", "\r"):
            self.fail("a character class is not closed")
        if not self.took("\\"):
            self.place += 1
            return self.text[self.place - 1]
        kind = self.here()
        if not kind or kind not in escapes + "xuU":
            self.fail(f"there is no escape '\\{kind}' here")
        self.place += 1
        return self.coded(kind) if kind in "xuU" else {"n": "\n", "r": "\r", "t": "\t"}.get(kind, kind)

    def _repeats(self) -> int:
        found = self.repetition()
        if found is None:
            return 1
        least, most = found
        self._leave_open(looseness(least, most))
        return max(least, most or 0, 1)

    def _leave_open(self, loose: int) -> None:
        self._loose += loose
        if self._spent + self._loose**2 > MOST_LOOSE**2:
            self.fail("there are too many repetitions that leave open how often")
