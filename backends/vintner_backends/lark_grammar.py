"""Makes a grammar for ONNX Runtime GenAI, which takes Lark's syntax, of one in GBNF, as the seam has it.

Knows neither. It reads what was checked before, and keeps its structure rule by rule. Invariant: names of rules are its
own, for Lark takes a name in capitals for something else; characters that mean something in a pattern are spelled by
their numbers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Final

from vintner.errors import InvalidArgument

NAME: Final = r"[A-Za-z_.][A-Za-z0-9_.\-]*"
TOKEN: Final = re.compile(
    rf'(?P<space>(?:[ \t\r\n]|#[^\r\n]*)+)|(?P<rule>{NAME})[ \t]*::=|(?P<name>{NAME})|"(?P<literal>(?:[^"\\]|\\.)*)"'
    r"|\[(?P<set>(?:[^\]\\]|\\.)*)\]|(?P<mark>[|()*+?]|\{[0-9,]+\})"
)
CHARACTER: Final = re.compile(r"\\x(..)|\\u(.{4})|\\U(.{8})|\\(.)|(.)", re.DOTALL)
CONTROLS: Final = {"n": "\n", "r": "\r", "t": "\t"}


def lark_grammar(grammar: str) -> str:
    """Raises InvalidArgument for what is no GBNF."""
    names = {"root": "start"}
    rules: list[list[str]] = []
    for kind, text in _tokens(grammar):
        if kind == "rule":
            rules.append([f"{_named(names, text)}:"])
        elif kind != "space" and rules:
            rules[-1].append(_element(names, kind, text))
    return "\n".join(" ".join(rule) for rule in rules)


def _tokens(grammar: str) -> Iterator[tuple[str, str]]:
    place = 0
    while place < len(grammar):
        found = TOKEN.match(grammar, place)
        if found is None or found.lastgroup is None:
            raise InvalidArgument(f"the grammar is no GBNF at position {place}")
        yield found.lastgroup, found[found.lastgroup]
        place = found.end()


def _element(names: dict[str, str], kind: str, text: str) -> str:
    if kind == "name":
        return _named(names, text)
    if kind == "literal":
        return json.dumps("".join(_characters(text)))
    return f"/{_pattern(text)}/" if kind == "set" else text


def _named(names: dict[str, str], name: str) -> str:
    return names.setdefault(name, f"rule_{len(names)}")


def _pattern(text: str) -> str:
    """A set of characters, of which two with a dash between are a range."""
    negated, text = text.startswith("^"), text.removeprefix("^")
    spelled, characters = [match[0] for match in _spelled(text)], list(_characters(text))
    parts: list[str] = []
    place = 0
    while place < len(characters):
        parts.append(_code(characters[place]))
        if spelled[place + 1 : place + 2] == ["-"] and place + 2 < len(characters):
            parts.append(f"-{_code(characters[place + 2])}")
            place += 2
        place += 1
    return f"[{'^' * negated}{''.join(parts)}]"


def _code(character: str) -> str:
    return rf"\x{{{ord(character):x}}}"


def _spelled(text: str) -> Iterator[re.Match[str]]:
    return CHARACTER.finditer(text)


def _characters(text: str) -> Iterator[str]:
    for found in _spelled(text):
        code = found[1] or found[2] or found[3]
        if code:
            yield chr(int(code, 16))
        else:
            yield CONTROLS.get(found[4], found[4]) if found[4] else found[5]
