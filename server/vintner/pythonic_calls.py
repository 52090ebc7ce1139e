"""Reads tool calls that are a Python list: `[f(a=1), g(b="x")]`, as Llama 3.2 and 4 and others write them.

Knows neither markers nor tools. Invariant: a call is handed on whole, when its closing parenthesis is there and all of
its arguments are named literals; nothing is evaluated but literals.
"""

from __future__ import annotations

import ast
import json
import re
from typing import Any, Final

from vintner.call_sink import CallSink
from vintner.json_values import SPACE, Reading

LONGEST_CALL: Final = 1 << 16
LONGEST_NAME: Final = 256
_DEEPEST: Final = 50
_NAME: Final = re.compile(r"[A-Za-z_][\w.\-]*")
_CONSTANTS: Final = {"true": True, "false": False, "null": None}


class PythonicCalls:
    def __init__(self, sink: CallSink) -> None:
        self.state = Reading.MORE
        self._sink = sink
        self._expected = "["
        self._call = ""  # the text of the call that is being read
        self._quote = ""
        self._escaped = False
        self._depth = 0

    def take(self, text: str) -> int:
        place, changes = 0, self._sink.changes
        while place < len(text) and self.state is Reading.MORE and self._sink.changes == changes:
            place += self._in_call(text[place]) if self._call else self._between(text[place])
        return place

    def _between(self, character: str) -> int:
        if character in SPACE:
            return 1
        if "f" in self._expected and (character.isalpha() or character == "_"):
            self._call = character
        elif character == "]" and "]" in self._expected:
            self.state = Reading.DONE
        elif character in "[," and character in self._expected:
            self._expected = "f"
        else:
            self.state = Reading.BROKEN
            return 0
        return 1

    def _in_call(self, character: str) -> int:
        self._call += character
        if not self._depth and character != "(" and not self._is_name():
            return self._broken()
        if self._quote:
            self._in_string(character)
        elif character in "\"'":
            self._quote = character
        elif character in "([{":
            self._depth += 1
        elif character in ")]}":
            self._depth -= 1
        if self._depth > _DEEPEST or len(self._call) > LONGEST_CALL:
            return self._broken()
        return 1 if self._depth or character not in ")]}" else self._complete()

    def _is_name(self) -> bool:
        return len(self._call) <= LONGEST_NAME and _NAME.fullmatch(self._call) is not None

    def _in_string(self, character: str) -> None:
        if self._escaped:
            self._escaped = False
        elif character == "\\":
            self._escaped = True
        elif character == self._quote:
            self._quote = ""

    def _complete(self) -> int:
        try:
            name, arguments = _parsed(self._call)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            return self._broken()
        self._sink.begin(name)
        self._sink.arguments(arguments)
        self._sink.end()
        self._call, self._expected = "", ",]"
        return 1

    def _broken(self) -> int:
        self.state = Reading.BROKEN
        return 0


def _parsed(text: str) -> tuple[str, str]:
    """The name of a call and its arguments as JSON; ValueError and its like for anything but named literals."""
    name, _, arguments = text.partition("(")
    tree = ast.parse(f"f({arguments}", mode="eval").body
    if not isinstance(tree, ast.Call) or tree.args or any(keyword.arg is None for keyword in tree.keywords):
        raise ValueError("arguments must be named")
    values = {str(keyword.arg): _literal(keyword.value) for keyword in tree.keywords}
    if len(values) < len(tree.keywords):
        raise ValueError("an argument is given twice")
    return name, json.dumps(values, ensure_ascii=False, allow_nan=False)


def _literal(node: ast.expr) -> Any:
    match node:
        case ast.Name(id=word) if word in _CONSTANTS:
            return _CONSTANTS[word]
        case ast.Constant(value=str() | int() | float() | None as value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return -number
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_literal(item) for item in items]
        case ast.Dict(keys=keys, values=values):
            return {_key(key): _literal(value) for key, value in zip(keys, values, strict=True)}
    raise ValueError("arguments must be literals")


def _key(node: ast.expr | None) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    raise ValueError("keys must be strings")
