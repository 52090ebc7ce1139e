"""Answers that are tool calls because the request says so: the JSON schemas that force them, and what they then are.

Knows neither templates nor runtimes. Invariant: what such a schema accepts is read by the parser that belongs to it,
`forced_call` for a function that is named and `required_calls` for any.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from vintner.call_regions import CallFormat, CallParser
from vintner.call_sink import new_call_id
from vintner.deltas import OutputParser
from vintner.errors import InvalidArgument, nearest
from vintner.json_calls import JsonArguments, JsonCalls

_NO_PARAMETERS: Final = {"type": "object", "properties": {}, "additionalProperties": False}


def forced_call(name: str, new_id: Callable[[], str] = new_call_id) -> OutputParser:
    """For text that is the arguments of one function."""
    return CallParser(CallFormat(lambda sink: JsonArguments(sink, name), bare="{", single=True), new_id)


def required_calls(new_id: Callable[[], str] = new_call_id) -> OutputParser:
    """For text that is an array of `{"name", "parameters"}`."""
    return CallParser(CallFormat(JsonCalls, bare="[", single=True), new_id)


def tool_choice_schema(
    tools: Sequence[Mapping[str, Any]], name: str | None = None, *, parallel: bool = True
) -> dict[str, Any]:
    """The schema of one function's arguments if it is named; else that of an array of calls, one if not `parallel`.

    `tools` are OpenAI's: `{"type": "function", "function": {"name", "parameters"}}`. Raises InvalidArgument for a name
    that none of them has, if there are none, and for tools of another shape. The schema is still to be checked.
    """
    functions = _functions(tools)
    if name is not None and name not in functions:
        raise InvalidArgument(f"tool_choice: there is no function '{name[:64]}' in tools{nearest(name, functions)}")
    if not functions:
        raise InvalidArgument("tool_choice needs at least one function in tools")
    if name is not None:
        return dict(functions[name])
    places = [f"parameters{place}" for place in range(len(functions))]
    calls = [_call(function, f"#/$defs/{place}") for function, place in zip(functions, places, strict=True)]
    kept = [_moved(schema, f"#/$defs/{place}") for schema, place in zip(functions.values(), places, strict=True)]
    bounds = {"minItems": 1} if parallel else {"minItems": 1, "maxItems": 1}
    return {"type": "array", **bounds, "items": {"anyOf": calls}, "$defs": dict(zip(places, kept, strict=True))}


def _functions(tools: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    functions: dict[str, Mapping[str, Any]] = {}
    for place, tool in enumerate(tools):
        function = tool.get("function") if isinstance(tool, Mapping) else None
        name = function.get("name") if isinstance(function, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(name, str) or not name:
            raise InvalidArgument(f"tools[{place}].function must be an object with a name")
        if name in functions:
            raise InvalidArgument(f"tools[{place}].function.name: there is another function '{name[:64]}'")
        parameters = function.get("parameters") or _NO_PARAMETERS
        if not isinstance(parameters, Mapping):
            raise InvalidArgument(f"tools[{place}].function.parameters must be a JSON schema")
        functions[name] = parameters
    return functions


def _call(name: str, parameters: str) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"name": {"type": "string", "enum": [name]}, "parameters": {"$ref": parameters}},
        "required": ["name", "parameters"],
        "additionalProperties": False,
    }


def _moved(schema: Any, to: str) -> Any:
    """A schema whose own references hold where it stands now, which runtimes find only through objects."""
    if isinstance(schema, list):
        return [_moved(member, to) for member in schema]
    if not isinstance(schema, Mapping):
        return schema
    return {
        key: to + value[1:] if key == "$ref" and isinstance(value, str) and value[:1] == "#" else _moved(value, to)
        for key, value in schema.items()
    }
