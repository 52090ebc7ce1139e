"""The server-sent events of one answer of the OpenAI API, as the transport iterates them.

Knows neither the model nor what was asked. Invariant: what goes wrong before the first event is raised, and decides the
status; later it is an event of its own. Either way the last event is `[DONE]`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

import orjson

from vintner.answer_stream import Ended
from vintner.openai_asked import Streamed
from vintner.openai_errors import error_object
from vintner.prompts import Piece

HEADERS: Final = (
    ("Content-Type", "text/event-stream; charset=utf-8"),
    ("Cache-Control", "no-cache"),
    ("X-Accel-Buffering", "no"),
)
"""The last has nginx pass on each event at once."""

PATIENT: Final = 1.0
"""Seconds for which the first event is waited for, before the header is sent without one."""

SILENCE: Final = 15.0
"""Seconds after which a comment is sent: proxies end what is idle."""
COMMENT: Final = b": still here\n\n"

LOOK: Final = 0.5
"""Seconds after which an empty part is sent, of which nothing goes over the wire: the transport tells when it cannot
be sent any more, for the client has gone."""

DONE: Final = b"data: [DONE]\n\n"


class Events:
    """Those of one request. One thread."""

    def __init__(
        self, asked: Streamed, closed: Callable[[], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`closed` is called once, when nothing more is sent."""
        self._asked = asked
        self._closed: Callable[[], None] | None = closed
        self._clock = clock
        self._first: bytes | None = None
        self._ended = False
        self._sent_at = clock()

    def expect_first(self) -> None:
        """Waits for the first event, if it does not take long. Raises the error, if the request ends before."""
        try:
            pieces = self._asked.next(PATIENT)
        except Ended:
            self._first = self._last()
        else:
            self._first = COMMENT if pieces is None else self._written(pieces)

    def __next__(self) -> bytes:
        first, self._first = self._first, None
        if first:
            return first
        if self._ended:
            raise StopIteration
        try:
            pieces = self._asked.next(LOOK)
            part = b"" if pieces is None else self._written(pieces)
        except Ended:
            part = self._last()
        except Exception as exc:
            self._ended = True
            part = _event(orjson.dumps(error_object(exc))) + DONE
        return self._timed(part)

    def _timed(self, part: bytes) -> bytes:
        now = self._clock()
        if not part and now - self._sent_at >= SILENCE:
            part = COMMENT
        if part:
            self._sent_at = now
        return part

    def _written(self, pieces: Sequence[Piece]) -> bytes:
        writer = self._asked.writer
        assert writer is not None
        return b"".join(_event(chunk) for piece in pieces for chunk in writer.chunks(piece))

    def _last(self) -> bytes:
        self._ended = True
        last = self._asked.writer.last_chunk() if self._asked.writer is not None else None
        return (_event(last) if last is not None else b"") + DONE

    def close(self) -> None:
        """The client went away, or has everything."""
        self._asked.close()
        closed, self._closed = self._closed, None
        if closed is not None:
            closed()


def _event(data: bytes) -> bytes:
    return b"data: %b\n\n" % data
