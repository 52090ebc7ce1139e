"""Finds tool calls in generated text and hands what is between their markers to a reader; the rest is content.

Knows no format: a family is its markers and its reader. Invariant: every character of the text is part of a call, of
its markers or the space around them, or comes out as content, in order; what looked like a call and is none is content
from its marker on, as far as the call was not begun. Nothing depends on how the text came in pieces.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vintner.call_sink import CallSink
from vintner.deltas import Delta, DeltaBuilder
from vintner.held_back import beginning_of
from vintner.json_calls import CallReader
from vintner.json_values import Reading


@dataclass(frozen=True, slots=True)
class CallFormat:
    """A family's way to write calls. With `bare`, one may begin with that character, without an opening marker, at the
    start of the answer or after another call; if it is `single`, only at the start."""

    reader: Callable[[CallSink], CallReader]
    openings: tuple[str, ...] = ()
    closings: tuple[str, ...] = ()
    bare: str = ""
    single: bool = False


class CallParser:
    """The OutputParser of a CallFormat. Space before a marker is dropped: models put it there, and it is no content."""

    def __init__(self, calls: CallFormat, new_id: Callable[[], str]) -> None:
        self._format = calls
        self._out = DeltaBuilder()
        self._sink = CallSink(self._out, new_id)
        self._held = ""
        self._ended = False
        self._tried: list[str] = []  # read of a region, and not part of a call so far
        self._after_call = False
        self._reader: CallReader
        self._step = self._start if calls.bare else self._content

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
        if not text:
            return self._content() if self._ended else False
        self._step = self._content
        if text[0] in self._format.bare:
            self._enter(len(self._held) - len(text))
        return True

    def _content(self) -> bool:
        place, opening = self._first_opening()
        if opening:
            self._write(self._held[:place].rstrip())
            self._held = self._held[len(self._held[:place].rstrip()) :]
            self._enter(len(self._held) - len(self._held.lstrip()) + len(opening))
            return True
        kept = 0 if self._ended else self._might_open()
        sent = len(self._held) - kept
        if not (self._after_call and self._held.isspace()):
            self._write(self._held[:sent])
        self._held = self._held[sent:]
        return False

    def _first_opening(self) -> tuple[int, str]:
        found = [(place, opening) for opening in self._format.openings if (place := self._held.find(opening)) >= 0]
        return min(found, default=(0, ""))

    def _might_open(self) -> int:
        if not self._format.openings:
            return 0
        begun = beginning_of(self._format.openings, self._held)
        return len(self._held) - len(self._held[: len(self._held) - begun].rstrip())

    def _enter(self, consumed: int) -> None:
        self._tried, self._held = [self._held[:consumed]], self._held[consumed:]
        self._reader = self._format.reader(self._sink)
        self._step = self._region

    def _region(self) -> bool:
        changes = self._sink.changes
        taken = self._reader.take(self._held)
        changed = self._sink.changes != changes
        if changed or self._sink.open:
            self._tried = []
        else:
            self._tried.append(self._held[:taken])
        self._held = self._held[taken:]
        if self._reader.state is Reading.DONE:
            self._after_call = changes + changed > 0
            self._step = self._closing
            return True
        if self._reader.state is Reading.MORE and (changed or not self._ended):
            return changed
        return self._give_up()

    def _give_up(self) -> bool:
        """What is left of a region that is broken, or cut off at the end of the answer, is content."""
        if self._sink.open:
            self._sink.end()
        self._write("".join(self._tried))
        self._tried = []
        self._step = self._content
        return True

    def _closing(self) -> bool:
        text = self._held.lstrip()
        closing = next((marker for marker in self._format.closings if text.startswith(marker)), "")
        waits = not self._ended and any(marker.startswith(text) for marker in self._format.closings)
        if waits and not closing:
            return False
        if closing:
            self._held = text[len(closing) :]
        self._step = self._start if self._format.bare and not self._format.single else self._content
        return True

    def _write(self, text: str) -> None:
        if text:
            self._after_call = False
            self._out.content(text)
