"""Questions on their way through the core: the whole answer of one, or its pieces as they come.

Knows the core's requests, and no transport. Invariant: the model's thread is never held up: what a client does not take
is kept by the core, and a client that takes nothing at all ends its request.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

from vintner.answer_stream import Ended, answered
from vintner.errors import Cancelled
from vintner.openai_answers import AnswerWriter
from vintner.openai_questions import Question
from vintner.outbox import PATIENCE, Outbox
from vintner.prompts import Asked, Language, Piece, Work
from vintner.types import Cancellation, Request, Response

MOST_WAITING: Final = 8
"""Lots of pieces that wait to be sent; what is generated meanwhile is sent together."""


class _Asked:
    """What both ways have in common. What else an `Asked` has is theirs."""

    def __init__(self, question: Question) -> None:
        self._question = question
        self.writer: AnswerWriter | None = None
        """What writes the answer, once the request was prepared."""

    def prepare(self, language: Language) -> Work:
        work, self.writer = self._question.prepare(language)
        return work


def request_of(question: Question, asked: Asked, cancellation: Cancellation) -> Request:
    """The core's."""
    manner = question.manner
    parameters = {"priority": manner.priority} if manner.priority else {}
    name = manner.name.model
    return Request(name, "", {}, id=manner.id, parameters=parameters, cancellation=cancellation, asked=asked)


class Whole(_Asked):
    """Gives the answer when it is complete. Threads: the model's."""

    streams = False

    def __init__(
        self,
        question: Question,
        done: Callable[[bytes | Exception], None],
        later: Callable[[Callable[[], None]], object],
    ) -> None:
        """`done` is called once, with the JSON of the answer or what went wrong; `later` has it called by another
        thread, for there may be much to write."""
        super().__init__(question)
        self._done = done
        self._later = later
        self._pieces: list[Piece] = []

    def has_room(self) -> bool:
        return True

    def take(self, pieces: Sequence[Piece]) -> None:
        self._pieces.extend(pieces)

    def end(self, result: Response | Exception) -> None:
        """Takes the core's answer to the request."""
        if isinstance(result, Exception):
            self._done(result)
        else:
            self._later(self._write)

    def _write(self) -> None:
        written: bytes | Exception
        try:
            written = _known(self.writer).document(self._pieces)
        except Exception as exc:
            written = exc
        self._done(written)


def _known(writer: AnswerWriter | None) -> AnswerWriter:
    if writer is None:
        raise RuntimeError("the request was answered before it was prepared")
    return writer


class Streamed(_Asked):
    """Gives the pieces as they come. Threads: the model's, which puts, and the front end's, which takes."""

    streams = True

    def __init__(self, question: Question, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(question)
        self.cancellation = Cancellation()
        self._outbox: Outbox[Sequence[Piece] | Exception] = Outbox(MOST_WAITING)
        self._clock = clock
        self._full_since: float | None = None

    def has_room(self) -> bool:
        """Ends the request of a client that has taken nothing for too long."""
        if self._outbox.has_room():
            self._full_since = None
            return True
        now = self._clock()
        if self._full_since is None:
            self._full_since = now
        elif now - self._full_since > PATIENCE and not self.cancellation.cancelled:
            self._outbox.put(Cancelled(f"no part of the answer was taken for {PATIENCE:g} s"))
            self.cancellation.cancel()
        return False

    def take(self, pieces: Sequence[Piece]) -> None:
        self._outbox.put(pieces)

    def end(self, result: Response | Exception) -> None:
        """Takes the core's answer to the request."""
        self._outbox.put(result if isinstance(result, Exception) else Ended())

    def next(self, timeout: float | None) -> Sequence[Piece] | None:
        """The next pieces, or None if there were none in so many seconds. Raises what ended the request, or Ended."""
        return answered(self._outbox.take(timeout))

    def close(self) -> None:
        """Nobody wants more."""
        self._outbox.close()
        self.cancellation.cancel()
