"""Splits what a model thinks from what it answers, by the markers that it writes around its thoughts.

Knows nothing of tool calls. Invariant: only the first thing in an answer can be thoughts; without the opening marker
there, and unless the prompt ends with it, all of the text is content, unchanged. Space around a marker belongs to it.
"""

from __future__ import annotations

from collections.abc import Callable

from vintner.deltas import Delta, DeltaBuilder
from vintner.held_back import beginning_of


class ReasoningParser:
    """`inside`: the prompt already ends with the opening marker, which the answer then need not repeat."""

    def __init__(self, opening: str, closing: str, *, inside: bool) -> None:
        self._opening = opening
        self._closing = closing
        self._inside = inside
        self._held = ""
        self._ended = False
        self._out = DeltaBuilder()
        self._step: Callable[[], bool] = self._start

    def feed(self, text: str) -> Delta:
        self._held += text
        while self._step():
            pass
        return self._out.take()

    def finish(self) -> Delta:
        self._ended = True
        return self.feed("")

    def _start(self) -> bool:
        text = self._held.lstrip()
        if self._opening.startswith(text) and text != self._opening and not self._ended:
            return False
        found = text.startswith(self._opening)
        if found or self._inside:
            self._held = text.removeprefix(self._opening)
            self._step = self._first_thought
        else:
            self._step = self._content
        return True

    def _first_thought(self) -> bool:
        return self._skip_space(self._thoughts)

    def _thoughts(self) -> bool:
        place = self._held.find(self._closing)
        if place >= 0:
            self._out.reasoning(self._held[:place].rstrip())
            self._held = self._held[place + len(self._closing) :]
            self._step = self._first_content
            return True
        begun = beginning_of((self._closing,), self._held)
        sent = len(self._held) if self._ended else len(self._held[: len(self._held) - begun].rstrip())
        self._out.reasoning(self._held[:sent])
        self._held = self._held[sent:]
        return False

    def _first_content(self) -> bool:
        return self._skip_space(self._content)

    def _skip_space(self, then: Callable[[], bool]) -> bool:
        self._held = self._held.lstrip()
        if not self._held:
            return False
        self._step = then
        return True

    def _content(self) -> bool:
        self._out.content(self._held)
        self._held = ""
        return False
