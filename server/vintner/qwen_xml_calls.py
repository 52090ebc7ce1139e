"""Reads tool calls as Qwen3-Coder writes them: `<function=f><parameter=a>1</parameter></function>`.

Knows the schemas of the tools, for the text does not tell a number from a string. Invariant: the arguments are a JSON
object that grows by whole parameters; a value that is not JSON of a declared type is a string.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from vintner.call_sink import CallSink
from vintner.held_back import beginning_of
from vintner.json_values import Reading

_FUNCTION: Final = "<function="
_PARAMETER: Final = "<parameter="
_VALUE_ENDS: Final = "</parameter>"
_FUNCTION_ENDS: Final = "</function>"
_KINDS: Final[Mapping[str, type | tuple[type, ...]]] = {
    "integer": int, "number": (int, float), "boolean": bool, "object": dict, "array": list, "null": type(None),
}  # fmt: skip
_TAGS_NAME: Final = re.compile(r"[^<>\s]{1,256}")


class QwenXmlCall:
    def __init__(self, sink: CallSink, tools: Sequence[Mapping[str, Any]]) -> None:
        self.state = Reading.MORE
        self._sink = sink
        self._tools = tools
        self._types: Mapping[str, Any] = {}
        self._names: set[str] = set()
        self._parameter: str | None = None
        self._value: list[str] = []

    def take(self, text: str) -> int:
        place, changes = 0, self._sink.changes
        while self.state is Reading.MORE and self._sink.changes == changes:
            step = self._step(text[place:])
            if not step:
                break
            place += step
        return place

    def _step(self, text: str) -> int:
        """Consumes one tag or part of a value; 0 if it waits for more."""
        if self._parameter is not None:
            return self._in_value(text)
        begun = text.lstrip()
        space = len(text) - len(begun)
        if not self._sink.open:
            name, length = self._tag(_FUNCTION, begun)
            if name:
                self._begin(name)
            return space + length if name else 0
        if begun.startswith(_FUNCTION_ENDS):
            self._end()
            return space + len(_FUNCTION_ENDS)
        if _FUNCTION_ENDS.startswith(begun):
            return 0
        name, length = self._tag(_PARAMETER, begun)
        if name in self._names:
            self.state = Reading.BROKEN
        elif name:
            self._parameter, self._value = name, []
            return space + length
        return 0

    def _tag(self, opening: str, text: str) -> tuple[str, int]:
        """Its name and its length; no name if it is not complete, or is another and breaks the call."""
        if opening.startswith(text):
            return "", 0
        name, bracket, _ = text[len(opening) : len(opening) + 300].partition(">")
        if not text.startswith(opening) or (name and not _TAGS_NAME.fullmatch(name)) or (bracket and not name):
            self.state = Reading.BROKEN
            return "", 0
        return (name, len(opening) + len(name) + 1) if bracket else ("", 0)

    def _begin(self, name: str) -> None:
        self._types = _parameter_types(self._tools, name)
        self._sink.begin(name)

    def _in_value(self, text: str) -> int:
        place = text.find(_VALUE_ENDS)
        if place < 0:
            taken = len(text) - beginning_of((_VALUE_ENDS,), text)
            self._value.append(text[:taken])
            return taken
        self._value.append(text[:place])
        self._write(str(self._parameter), "".join(self._value).removeprefix("\n").removesuffix("\n"))
        self._parameter = None
        return place + len(_VALUE_ENDS)

    def _write(self, name: str, text: str) -> None:
        value = json.dumps(_value_of(text, self._types.get(name)), ensure_ascii=False)
        self._sink.arguments(f"{', ' if self._names else '{'}{json.dumps(name, ensure_ascii=False)}: {value}")
        self._names.add(name)

    def _end(self) -> None:
        self._sink.arguments("}" if self._names else "{}")
        self._sink.end()
        self.state = Reading.DONE


def _parameter_types(tools: Sequence[Mapping[str, Any]], name: str) -> Mapping[str, Any]:
    for tool in tools:
        function = tool.get("function")
        if isinstance(function, Mapping) and function.get("name") == name:
            parameters = function.get("parameters")
            properties = parameters.get("properties") if isinstance(parameters, Mapping) else None
            return properties if isinstance(properties, Mapping) else {}
    return {}


def _value_of(text: str, schema: Any) -> Any:
    declared = schema.get("type") if isinstance(schema, Mapping) else None
    kinds = declared if isinstance(declared, list) else [declared]
    try:
        value = json.loads(text)
        json.dumps(value, allow_nan=False)
    except (ValueError, RecursionError):
        return text
    fits = any(isinstance(value, _KINDS[kind]) for kind in kinds if isinstance(kind, str) and kind in _KINDS)
    return value if fits and not (isinstance(value, bool) and "boolean" not in kinds) else text
