"""Parsers of generated text: the same answer however it is cut into pieces, and every character accounted for."""

from __future__ import annotations

import json
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vintner.errors import ConfigError
from vintner.output_parsers import (
    REASONING_PARSERS,
    TOOL_PARSERS,
    Delta,
    OutputParser,
    SpaceCollected,
    choose_reasoning_parser,
    choose_tool_parser,
    new_call_id,
    parser_for,
)

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "f",
            "parameters": {
                "type": "object",
                "properties": {
                    "a": {"type": "integer"},
                    "b": {"type": "string"},
                    "c": {"type": ["array", "null"]},
                    "d": {"type": "boolean"},
                    "e": {"type": "number"},
                    "o": {"type": "object"},
                },
            },
        },
    }
]
Calls = list[tuple[str, Any]]


def made(tool: str | None = None, reasoning: str | None = None, prompt_end: str = "") -> OutputParser:
    ids = count()
    return parser_for(
        tool=tool, reasoning=reasoning, tools=TOOLS, prompt_end=prompt_end, new_id=lambda: f"call_{next(ids)}"
    )


def read(parser: OutputParser, pieces: list[str]) -> Delta:
    whole = Delta()
    for piece in pieces:
        whole = whole.plus(parser.feed(piece))
    return whole.plus(parser.finish())


def calls_in(delta: Delta) -> Calls:
    assert [call.index for call in delta.tool_calls] == list(range(len(delta.tool_calls)))
    assert [call.id for call in delta.tool_calls] == [f"call_{place}" for place in range(len(delta.tool_calls))]
    return [(call.name, json.loads(call.arguments)) for call in delta.tool_calls]


HERMES = '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'
CALLS: list[tuple[str, str, str, Calls]] = [
    ("hermes", HERMES, "", [("f", {"a": 1})]),
    ("hermes", f"Let me see.\n\n{HERMES}\n", "Let me see.", [("f", {"a": 1})]),
    ("hermes", f"{HERMES}\n{HERMES}", "", [("f", {"a": 1}), ("f", {"a": 1})]),
    ("hermes", f"{HERMES} Done.", " Done.", [("f", {"a": 1})]),
    ("hermes", '<tool_call>{"arguments": {"s": "a\\"}{"}, "name": "g"}</tool_call>', "", [("g", {"s": 'a"}{'})]),
    ("hermes", '<tool_call>{"name": "g"}</tool_call>', "", [("g", {})]),
    ("hermes", '<tool_call>{"name": "g", "arguments": null}</tool_call>', "", [("g", {})]),
    ("hermes", '<tool_call>{"name": "g", "arguments": ""}</tool_call>', "", [("g", {})]),
    ("hermes", '<tool_call>{"name": "g", "arguments": "{\\"x\\": [1]}"}</tool_call>', "", [("g", {"x": [1]})]),
    ("hermes", '<tool_call>{"id": 7, "name": "g", "why": {}, "arguments": {}}</tool_call>', "", [("g", {})]),
    ("hermes", '<tool_call>{"name": "naïve", "arguments": {"é": "😀"}}', "", [("naïve", {"é": "😀"})]),
    ("llama3_json", '{"name": "f", "parameters": {"a": 1}}', "", [("f", {"a": 1})]),
    ("llama3_json", '<|python_tag|>{"name": "f", "parameters": {"a": 1}}', "", [("f", {"a": 1})]),
    ("llama3_json", ' {"type": "function", "name": "f", "parameters": {}}', "", [("f", {})]),
    ("llama3_json", '{"name": "f", "parameters": {}}; {"name": "g", "parameters": {}}', "", [("f", {}), ("g", {})]),
    ("pythonic", '[f(a=1), g(b="x)]", c=[1, -2.5, {"k": None}], d=true)]', "",
     [("f", {"a": 1}), ("g", {"b": "x)]", "c": [1, -2.5, {"k": None}], "d": True})]),
    ("pythonic", "<|python_start|>[f()]<|python_end|>", "", [("f", {})]),
    ("pythonic", "[a.b(x='it\\'s')]", "", [("a.b", {"x": "it's"})]),
    ("mistral", '[TOOL_CALLS] [{"name": "f", "arguments": {"a": 1}}, {"arguments": {}, "name": "g"}]', "",
     [("f", {"a": 1}), ("g", {})]),
    ("mistral", '[TOOL_CALLS]f[ARGS]{"a": 1}[TOOL_CALLS]g[CALL_ID]abc123def[ARGS]{}', "", [("f", {"a": 1}), ("g", {})]),
    ("mistral", 'Well.[TOOL_CALLS]f{"a": 1}', "Well.", [("f", {"a": 1})]),
    ("phi4", 'functools[{"name": "f", "arguments": {"a": 1}}]', "", [("f", {"a": 1})]),
    ("phi4", '<|tool_call|>[{"name": "f", "arguments": {"a": 1}}]<|/tool_call|>', "", [("f", {"a": 1})]),
    ("qwen3_coder", "<tool_call>\n<function=f>\n<parameter=a>\n3\n</parameter>\n</function>\n</tool_call>", "",
     [("f", {"a": 3})]),
    ("qwen3_coder", "<tool_call><function=f></function></tool_call>", "", [("f", {})]),
    ("qwen3_coder", "<tool_call><function=f><parameter=b>\n3\n</parameter><parameter=x>\n1\n < 2\n</parameter>"
     "<parameter=c>[1]</parameter><parameter=d>true</parameter><parameter=a>true</parameter><parameter=e>1.5</parameter>"
     '<parameter=o>{"k": 1}</parameter></function></tool_call>', "",
     [("f", {"b": "3", "x": "1\n < 2", "c": [1], "d": True, "a": "true", "e": 1.5, "o": {"k": 1}})]),
    ("qwen3_coder", "<tool_call><function=g><parameter=a>3</parameter></function></tool_call>", "",
     [("g", {"a": "3"})]),
]  # fmt: skip


@pytest.mark.parametrize(("family", "text", "content", "calls"), CALLS)
def test_a_call_is_read_in_pieces_of_any_size(family: str, text: str, content: str, calls: Calls) -> None:
    for size in (1, 2, 3, 7, len(text)):
        delta = read(made(family), [text[place : place + size] for place in range(0, len(text), size)])
        assert (delta.content, calls_in(delta)) == (content, calls), size


NO_CALLS = [
    ("hermes", "<tool_call>\nnot a call\n</tool_call>"),
    ("hermes", '<tool_call>{"name": 3, "arguments": {}}</tool_call>'),
    ("hermes", '<tool_call>{"name": "", "arguments": {}}</tool_call>'),
    ("hermes", '<tool_call>{"name": "f", "arguments": [1]}</tool_call>'),
    ("hermes", '<tool_call>{"name": "f", "arguments": "[1]"}</tool_call>'),
    ("hermes", '<tool_call>{"arguments": {}}</tool_call>'),
    ("hermes", '<tool_call>{"name": "f", "name": "g", "arguments": {}}</tool_call>'),
    ("hermes", '<tool_call>{"name": "f"'),
    ("hermes", "a <tool_ca"),
    ("hermes", "a < b <tool> \n"),
    ("llama3_json", '{"name": "Ada", "born": 1815}'),
    ("llama3_json", '{"a": [1, 2]}'),
    ("llama3_json", "{no JSON}"),
    ("llama3_json", '<|python_tag|>brave_search.call(query="x")'),
    ("llama3_json", 'See {"name": "f", "parameters": {}}'),
    ("pythonic", "[1, 2, 3]"),
    ("pythonic", "[x for x in y]"),
    ("pythonic", "[f(1)]"),
    ("pythonic", "[f(a=__import__('os'))]"),
    ("pythonic", "[f(a=1, **b)]"),
    ("pythonic", "[f(a=1, a=2)]"),
    ("pythonic", "[f(a=1e999)]"),
    ("pythonic", "[f(a=" + "[" * 60 + "]" * 60 + ")]"),
    ("pythonic", "[f(a=1"),
    ("pythonic", "[" + "f" * 300 + "(a=1)]"),
    ("mistral", "[TOOL_CALLS] nothing of the kind"),
    ("mistral", "[TOOL_CALLS] [1]"),
    ("mistral", "[TOOL_CALLS]{}"),
    ("phi4", "import functools\nfunctools.reduce"),
    ("qwen3_coder", "<tool_call>\nhello"),
    ("qwen3_coder", "<tool_call><function=></function></tool_call>"),
    ("qwen3_coder", "<tool_call><functional></functional>"),
]


@pytest.mark.parametrize(("family", "text"), NO_CALLS)
def test_what_is_no_call_comes_out_as_content_unchanged(family: str, text: str) -> None:
    for size in (1, 3, len(text)):
        delta = read(made(family), [text[place : place + size] for place in range(0, len(text), size)])
        assert delta == Delta(text), size


BROKEN = [
    ("hermes", '<tool_call>{"name": "f", "arguments": {"a": 1, oops}}</tool_call>', '{"a": 1, ', "oops}}</tool_call>"),
    ("hermes", '<tool_call>{"name": "f", "arguments": {"a": [1, 2', '{"a": [1, 2', ""),
    ("mistral", '[TOOL_CALLS][{"name": "f", "arguments": {}}, {"name": 5}]', "{}", ', {"name": 5}]'),
    ("pythonic", "[f(), g(1)]", "{}", ", g(1)]"),
    ("qwen3_coder", "<tool_call><function=f><parameter=a>1</parameter><parameter=b>x", '{"a": 1', ""),
    ("qwen3_coder", "<tool_call><function=f><parameter=a>1</parameter>oops", '{"a": 1', "oops"),
]


@pytest.mark.parametrize(("family", "text", "arguments", "content"), BROKEN)
def test_a_call_that_breaks_off_keeps_what_was_right(family: str, text: str, arguments: str, content: str) -> None:
    for size in (1, 3, len(text)):
        delta = read(made(family), [text[place : place + size] for place in range(0, len(text), size)])
        assert [(call.name, call.arguments) for call in delta.tool_calls] == [("f", arguments)]
        assert delta.content == content, size


SEEDS = {family: [text for name, text, *_ in CALLS if name == family] for family in TOOL_PARSERS} | {
    "": ["<think>\nWell.\n</think>\n\nSo.", "<think>", "</think>"]
}
FRAGMENTS = ["<tool_call>", "</tool_call>", "[TOOL_CALLS]", "<|python_tag|>", "functools", "[f(a=1)", '{"name": "f", ',
             '"arguments": {', "<function=f>", "<parameter=a>", "</parameter>", "}", "]", "[", "{", ";", " ", "\n", "x",
             "<think>", "</think>", '"', "\\", "1"]  # fmt: skip


@st.composite
def cut_texts(draw: st.DrawFn) -> tuple[str, list[str]]:
    family = draw(st.sampled_from(sorted(TOOL_PARSERS)))
    parts = st.one_of(st.sampled_from(SEEDS[family] + SEEDS[""]), st.sampled_from(FRAGMENTS))
    text = "".join(draw(st.lists(parts, max_size=6)))
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=12)))
    return family, [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]


@given(cut_texts(), st.sampled_from([None, *REASONING_PARSERS]), st.sampled_from(["", "<think>\n"]))
def test_the_cut_into_pieces_changes_nothing(cut: tuple[str, list[str]], reasoning: str | None, end: str) -> None:
    family, pieces = cut
    assert read(made(family, reasoning, end), pieces) == read(made(family, reasoning, end), ["".join(pieces)])


@given(st.sampled_from(sorted(TOOL_PARSERS)), st.text(st.characters(exclude_characters="{[<f"), max_size=40))
def test_without_markers_content_is_the_text(family: str, text: str) -> None:
    assert read(made(family, "think"), list(text)) == Delta(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), JSON, max_size=4), st.sampled_from([1, 5, 1000]), st.booleans(), st.booleans())
def test_any_arguments_come_through(arguments: Any, size: int, escaped: bool, name_last: bool) -> None:
    members = [("name", "f"), ("arguments", arguments)]
    text = json.dumps(dict(members[::-1] if name_last else members), ensure_ascii=escaped)
    for family, written in (
        ("hermes", f"<tool_call>\n{text}\n</tool_call>"),
        ("llama3_json", text),
        ("mistral", f"[TOOL_CALLS][{text}]"),
    ):
        pieces = [written[place : place + size] for place in range(0, len(written), size)]
        delta = read(made(family), pieces)
        assert (delta.content, calls_in(delta)) == ("", [("f", arguments)])


def test_arguments_are_handed_on_as_they_come() -> None:
    parser = made("hermes")
    parser.feed('<tool_call>{"name": "f", "arguments": {"text": "Once')
    assert [call.arguments for call in parser.feed(" upon").tool_calls] == [" upon"]


def test_only_what_may_begin_a_marker_is_held_back() -> None:
    parser = made("hermes")
    assert parser.feed("1 < 2").content == "1 < 2"
    assert parser.feed(" <tool").content == ""
    assert parser.feed("box>").content == " <toolbox>"


class Recorded:
    def __init__(self) -> None:
        self.fed: list[str] = []

    def feed(self, text: str) -> Delta:
        self.fed.append(text)
        return Delta(text)

    def finish(self) -> Delta:
        return Delta("!")


def test_a_parser_is_given_space_once_and_not_piece_by_piece() -> None:
    recorded = Recorded()
    parser = SpaceCollected(recorded)
    deltas = [parser.feed(text) for text in ("a", *[" \n"] * 1000, "b", "\n")]
    assert recorded.fed == ["a", " \n" * 1000 + "b"]
    assert "".join(delta.content for delta in deltas) + parser.finish().content == "a" + " \n" * 1000 + "b\n!"
    assert isinstance(made("hermes"), SpaceCollected)
    assert isinstance(parser_for(reasoning="think"), SpaceCollected)


REASONING = [
    ("think", "", "<think>\nHmm.\n</think>\n\nYes.", "Hmm.", "Yes."),
    ("think", "<think>\n", "Hmm.\n</think>\n\nYes.", "Hmm.", "Yes."),
    ("think", "<think>\n", "<think>Hmm.</think>Yes.", "Hmm.", "Yes."),
    ("think", "<think>\n\n</think>\n\n", "Yes.", "", "Yes."),
    ("think", "", "<think>\n\n</think>\n\nYes.", "", "Yes."),
    ("think", "", "<think>Hmm. </thi", "Hmm. </thi", ""),
    ("think", "", "No <think>x</think>", "", "No <think>x</think>"),
    ("think", "", " <thin", "", " <thin"),
    ("think", "", "<think>a b\n c</think>d</think>", "a b\n c", "d</think>"),
    ("mistral", "", "[THINK]Hmm.[/THINK]Yes.", "Hmm.", "Yes."),
    ("granite", "", "Here is my thought process: Hmm. Here is my response: Yes.", "Hmm.", "Yes."),
]


@pytest.mark.parametrize(("family", "end", "text", "reasoning", "content"), REASONING)
def test_thoughts_are_told_from_the_answer(family: str, end: str, text: str, reasoning: str, content: str) -> None:
    for size in (1, 2, 5, len(text)):
        pieces = [text[place : place + size] for place in range(0, len(text), size)]
        assert read(made(None, family, end), pieces) == Delta(content, reasoning), size


def test_a_call_after_thoughts_is_a_call_and_one_in_them_is_not() -> None:
    delta = read(made("hermes", "think"), [f"<think>\nI could {HERMES}\n</think>\n\n{HERMES}"])
    assert (delta.content, delta.reasoning) == ("", f"I could {HERMES}")
    assert calls_in(delta) == [("f", {"a": 1})]


def test_ids_are_openais() -> None:
    ids = {new_call_id() for _ in range(100)}
    assert len(ids) == 100
    assert all(len(made) == 29 and made.startswith("call_") and int(made[5:], 16) >= 0 for made in ids)


@pytest.mark.parametrize(
    ("source", "tool", "reasoning"),
    [
        ("{{ '<tool_call>' }} {{ '<function=' }}", "qwen3_coder", None),
        ("{{ '<tool_call>\\n' }}{% if '</think>' in content %}", "hermes", "think"),
        ("{{ '[TOOL_CALLS] [' }}", "mistral", None),
        ("{{ '<|python_tag|>' }}", "llama3_json", None),
        ('Respond with {"name": function name, "parameters": dictionary of argument name and its value}',
         "llama3_json", None),
        ("[func_name1(params_name1=params_value1)]", "pythonic", None),
        ("<|tool|>{{ tools }}<|/tool|> functools[", "phi4", None),
        ("[THINK]", None, "mistral"),
        ("{{ messages }}", None, None),
    ],
)  # fmt: skip
def test_parsers_are_chosen_by_the_template(source: str, tool: str | None, reasoning: str | None) -> None:
    assert (choose_tool_parser(source), choose_reasoning_parser(source)) == (tool, reasoning)


def test_an_unknown_parser_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="no tool parser 'herme'; did you mean 'hermes'"):
        parser_for(tool="herme")
    with pytest.raises(ConfigError, match="no reasoning parser 'deepseek'; expected one of: granite, mistral, think"):
        parser_for(reasoning="deepseek")
