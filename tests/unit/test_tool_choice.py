"""Forced tool calls: the schemas, and the parsers of what they accept."""

from __future__ import annotations

import json
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from vintner.deltas import Delta, OutputParser, ToolCallDelta
from vintner.errors import InvalidArgument
from vintner.json_schemas import check_schema
from vintner.tool_choice import forced_call, required_calls, tool_choice_schema

TREE = {
    "type": "object",
    "properties": {"root": {"$ref": "#/$defs/node"}},
    "required": ["root"],
    "$defs": {"node": {"type": "object", "properties": {"child": {"$ref": "#/$defs/node"}, "n": {"type": "integer"}}}},
}
SELF = {"type": "object", "properties": {"again": {"$ref": "#"}}, "additionalProperties": False}
TOOLS: list[dict[str, Any]] = [
    {"type": "function", "function": {"name": "grow", "parameters": TREE}},
    {"type": "function", "function": {"name": "again", "parameters": SELF}},
    {"type": "function", "function": {"name": "now"}},
]


def read(parser: OutputParser, text: str, size: int) -> Delta:
    delta = Delta()
    for place in range(0, len(text), size):
        delta = delta.plus(parser.feed(text[place : place + size]))
    return delta.plus(parser.finish())


@pytest.mark.parametrize(
    ("calls", "valid"),
    [
        ([{"name": "now", "parameters": {}}], True),
        ([{"name": "now", "parameters": {"x": 1}}], False),
        ([{"name": "grow", "parameters": {"root": {"child": {"n": 1}}}}, {"name": "now", "parameters": {}}], True),
        ([{"name": "grow", "parameters": {"root": {"child": {"n": "1"}}}}], False),
        ([{"name": "again", "parameters": {"again": {"again": {}}}}], True),
        ([{"name": "again", "parameters": {"again": {"other": {}}}}], False),
        ([{"name": "other", "parameters": {}}], False),
        ([{"name": "now"}], False),
        ([], False),
    ],
)
def test_required_calls_fit_the_tools(calls: Any, valid: bool) -> None:
    assert jsonschema_rs.is_valid(tool_choice_schema(TOOLS), calls) is valid


def test_one_call_if_they_are_not_to_be_parallel() -> None:
    call = {"name": "now", "parameters": {}}
    schema = tool_choice_schema(TOOLS, parallel=False)
    assert jsonschema_rs.is_valid(schema, [call])
    assert not jsonschema_rs.is_valid(schema, [call, call])


def test_a_named_function_has_its_own_schema() -> None:
    assert tool_choice_schema(TOOLS, "grow") == TREE
    assert jsonschema_rs.is_valid(tool_choice_schema(TOOLS, "now"), {})


def test_a_function_that_there_is_not_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="no function 'grown' in tools; did you mean 'grow'"):
        tool_choice_schema(TOOLS, "grown")
    with pytest.raises(InvalidArgument, match="at least one function"):
        tool_choice_schema([])


@pytest.mark.parametrize(
    ("tool", "reason"),
    [
        ("f", r"tools\[0\].function must be an object with a name"),
        ({"function": {}}, r"tools\[0\].function must be an object with a name"),
        ({"function": {"name": "f", "parameters": []}}, None),
        ({"function": {"name": "f", "parameters": 3}}, r"tools\[0\].function.parameters must be a JSON schema"),
    ],
)
def test_tools_of_another_shape_are_refused(tool: Any, reason: str | None) -> None:
    if reason is None:
        assert tool_choice_schema([tool], "f")["properties"] == {}
        return
    with pytest.raises(InvalidArgument, match=reason):
        tool_choice_schema([tool])


def test_two_functions_of_one_name_are_refused() -> None:
    with pytest.raises(InvalidArgument, match=r"tools\[1\].function.name: there is another function 'now'"):
        tool_choice_schema([TOOLS[2], TOOLS[2]])


@pytest.mark.parametrize("parallel", [True, False])
@pytest.mark.parametrize("name", [None, "grow", "again", "now"])
def test_the_schemas_are_ones_that_runtimes_follow(name: str | None, parallel: bool) -> None:
    check_schema(tool_choice_schema(TOOLS, name, parallel=parallel))


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_forced_arguments_are_one_call(size: int) -> None:
    delta = read(forced_call("grow", lambda: "call_1"), ' {"root": {"n": 1}}\n', size)
    assert delta == Delta(tool_calls=(ToolCallDelta(0, "call_1", "grow", '{"root": {"n": 1}}'),))


def test_forced_arguments_that_are_cut_off_come_as_far_as_they_go() -> None:
    delta = read(forced_call("grow", lambda: "call_1"), '{"root": {"n"', 4)
    assert delta == Delta(tool_calls=(ToolCallDelta(0, "call_1", "grow", '{"root": {"n"'),))


@pytest.mark.parametrize("text", ["no JSON", "[1]", "", "  "])
def test_what_is_no_object_is_content(text: str) -> None:
    assert read(forced_call("grow", lambda: "call_1"), text, 1) == Delta(text)
    if text != "[1]":
        assert read(required_calls(lambda: "call_1"), text, 1) == Delta(text)


@given(st.lists(st.tuples(st.sampled_from(["f", "g"]), st.dictionaries(st.text(), st.integers()))), st.integers(1, 20))
def test_required_calls_are_streamed(calls: list[tuple[str, dict[str, int]]], size: int) -> None:
    text = json.dumps([{"name": name, "parameters": parameters} for name, parameters in calls])
    delta = read(required_calls(), text, size)
    assert delta.content == ""
    assert [(call.name, json.loads(call.arguments)) for call in delta.tool_calls] == calls
