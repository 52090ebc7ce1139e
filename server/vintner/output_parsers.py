"""Parsers of generated text by name: which there are, which one a chat template asks for, and how they are combined.

Knows the families of models by what their templates contain. Invariant: with no parser, content is the text; a parser
of reasoning comes first, and one of tool calls sees only what that takes for content.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, TypeVar

from vintner.call_regions import CallFormat, CallParser
from vintner.call_sink import new_call_id
from vintner.deltas import Delta, OutputParser, ToolCallDelta
from vintner.errors import ConfigError, nearest
from vintner.json_calls import JsonCall, JsonCalls
from vintner.mistral_calls import MistralCalls
from vintner.pythonic_calls import PythonicCalls
from vintner.qwen_xml_calls import QwenXmlCall
from vintner.reasoning import ReasoningParser
from vintner.tool_choice import forced_call, required_calls, tool_choice_schema

__all__ = [
    "REASONING_PARSERS",
    "TOOL_PARSERS",
    "Delta",
    "OutputParser",
    "ToolCallDelta",
    "choose_reasoning_parser",
    "choose_tool_parser",
    "forced_call",
    "new_call_id",
    "parser_for",
    "required_calls",
    "tool_choice_schema",
]

Tools = Sequence[Mapping[str, Any]]
_Made = TypeVar("_Made")
NewId = Callable[[], str]
ToolParser = Callable[[NewId, Tools], OutputParser]
Reasoning = Callable[[str], OutputParser]
"""From the end of the prompt, which may have opened the thoughts already."""


def _calls(made: Callable[[Tools], CallFormat]) -> ToolParser:
    return lambda new_id, tools: CallParser(made(tools), new_id)


def _thoughts(opening: str, closing: str) -> Reasoning:
    return lambda end: ReasoningParser(opening, closing, inside=end.rstrip().endswith(opening))


_HERMES: Final = CallFormat(lambda sink: JsonCall(sink, strict=False), ("<tool_call>",), ("</tool_call>",))
_LLAMA3: Final = CallFormat(lambda sink: JsonCall(sink, strict=True), ("<|python_tag|>",), (";", ","), bare="{")
_MISTRAL: Final = CallFormat(MistralCalls, ("[TOOL_CALLS]",))
_PHI4: Final = CallFormat(JsonCalls, ("functools", "<|tool_call|>"), ("<|/tool_call|>",))
_PYTHONIC: Final = CallFormat(PythonicCalls, ("<|python_start|>",), ("<|python_end|>",), bare="[")

TOOL_PARSERS: Final[Mapping[str, ToolParser]] = MappingProxyType(
    {
        "hermes": _calls(lambda _: _HERMES),
        "llama3_json": _calls(lambda _: _LLAMA3),
        "mistral": _calls(lambda _: _MISTRAL),
        "phi4": _calls(lambda _: _PHI4),
        "pythonic": _calls(lambda _: _PYTHONIC),
        "qwen3_coder": _calls(
            lambda tools: CallFormat(lambda sink: QwenXmlCall(sink, tools), ("<tool_call>",), ("</tool_call>",))
        ),
    }
)
REASONING_PARSERS: Final[Mapping[str, Reasoning]] = MappingProxyType(
    {
        "think": _thoughts("<think>", "</think>"),
        "mistral": _thoughts("[THINK]", "[/THINK]"),
        "granite": _thoughts("Here is my thought process:", "Here is my response:"),
    }
)

_TOOL_MARKERS: Final = (  # the first that a template contains tells
    ("<function=", "qwen3_coder"),
    ("<tool_call>", "hermes"),
    ("[TOOL_CALLS]", "mistral"),
    ("functools", "phi4"),
    ("<|tool_call|>", "phi4"),
    ("<|python_start|>", "pythonic"),
    ("[func_name1(", "pythonic"),
    ("<|python_tag|>", "llama3_json"),
    ('"parameters": dictionary of argument name', "llama3_json"),
)
_REASONING_MARKERS: Final = (
    ("<think>", "think"),
    ("</think>", "think"),
    ("[THINK]", "mistral"),
    ("Here is my thought process", "granite"),
)


def choose_tool_parser(template_source: str) -> str | None:
    """The name of the parser for what a model with this chat template writes; None if it calls no tools we know of."""
    return next((name for marker, name in _TOOL_MARKERS if marker in template_source), None)


def choose_reasoning_parser(template_source: str) -> str | None:
    return next((name for marker, name in _REASONING_MARKERS if marker in template_source), None)


def parser_for(
    *,
    tool: str | None = None,
    reasoning: str | None = None,
    tools: Tools = (),
    prompt_end: str = "",
    new_id: NewId = new_call_id,
) -> OutputParser:
    """A parser for one answer; either name may be None. Raises ConfigError for a name that there is not.

    `prompt_end` is the last of the prompt, a few hundred characters are enough: if it opens the model's thoughts, the
    answer begins in them.
    """
    calls = _named(TOOL_PARSERS, tool, "tool parser")(new_id, tools) if tool is not None else PlainText()
    if reasoning is not None:
        calls = Composed(_named(REASONING_PARSERS, reasoning, "reasoning parser")(prompt_end), calls)
    return calls if isinstance(calls, PlainText) else SpaceCollected(calls)


def _named(table: Mapping[str, _Made], name: str, kind: str) -> _Made:
    if name not in table:
        raise ConfigError(f"there is no {kind} '{name}'{nearest(name, table)}")
    return table[name]


class PlainText:
    """All of the text is content."""

    def feed(self, text: str) -> Delta:
        return Delta(text)

    def finish(self) -> Delta:
        return Delta()


class SpaceCollected:
    """Hands space on with what follows it. Parsers wait for the end of space, and look at all of it again for each
    piece, which takes the square of its length; models that are lost write nothing else."""

    def __init__(self, parser: OutputParser) -> None:
        self._parser = parser
        self._space: list[str] = []

    def feed(self, text: str) -> Delta:
        self._space.append(text)
        return Delta() if not text or text.isspace() else self._parser.feed(self._taken())

    def finish(self) -> Delta:
        return self._parser.feed(self._taken()).plus(self._parser.finish())

    def _taken(self) -> str:
        space, self._space = self._space, []
        return "".join(space)


class Composed:
    """What the first parser takes for content is read by the second."""

    def __init__(self, first: OutputParser, second: OutputParser) -> None:
        self._first = first
        self._second = second

    def feed(self, text: str) -> Delta:
        first = self._first.feed(text)
        return Delta("", first.reasoning).plus(self._second.feed(first.content))

    def finish(self) -> Delta:
        first = self._first.finish()
        content = self._second.feed(first.content).plus(self._second.finish())
        return Delta("", first.reasoning).plus(content)
