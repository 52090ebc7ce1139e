"""What is added to an answer by the next piece of generated text: content, reasoning, parts of tool calls.

Knows no family of models. Invariant: added up, deltas of the same answer do not depend on how its text came in pieces.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """`id` and `name` come once, with the first delta of a call; `arguments` is to be appended."""

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass(frozen=True, slots=True)
class Delta:
    content: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.content or self.reasoning or self.tool_calls)

    def plus(self, later: Delta) -> Delta:
        """Both as one."""
        builder = DeltaBuilder()
        for delta in (self, later):
            builder.content(delta.content)
            builder.reasoning(delta.reasoning)
            for call in delta.tool_calls:
                builder.call(call)
        return builder.take()


class OutputParser(Protocol):
    """Of one answer. `finish` gives what was held back, once, when the text has ended for whatever reason."""

    def feed(self, text: str) -> Delta: ...

    def finish(self) -> Delta: ...


class DeltaBuilder:
    """Collects one Delta; parts of the same call become one."""

    def __init__(self) -> None:
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._calls: dict[int, ToolCallDelta] = {}

    def content(self, text: str) -> None:
        self._content.append(text)

    def reasoning(self, text: str) -> None:
        self._reasoning.append(text)

    def call(self, delta: ToolCallDelta) -> None:
        so_far = self._calls.get(delta.index)
        if so_far is not None:
            arguments = so_far.arguments + delta.arguments
            delta = ToolCallDelta(delta.index, so_far.id or delta.id, so_far.name or delta.name, arguments)
        self._calls[delta.index] = delta

    def take(self) -> Delta:
        delta = Delta("".join(self._content), "".join(self._reasoning), tuple(self._calls.values()))
        self._content, self._reasoning, self._calls = [], [], {}
        return delta
