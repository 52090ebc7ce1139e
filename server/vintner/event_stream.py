"""The server-sent events of one request, as the transport iterates them, in one thread.

Knows neither what the events say nor what they are made of. Invariant: what goes wrong before the first event is
raised, and decides the status; later it is an event of its own, and the last.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, Protocol

from vintner.answer_stream import Ended

HEADERS: Final = (
    ("Content-Type", "text/event-stream; charset=utf-8"),
    ("Cache-Control", "no-cache"),
    ("X-Accel-Buffering", "no"),
)
"""The last has nginx pass on each event at once."""

SILENCE: Final = 15.0
"""Seconds after which a comment is sent: proxies end what is idle."""
COMMENT: Final = b": still here\n\n"

LOOK: Final = 0.5
"""Seconds after which an empty part is sent, of which nothing goes over the wire: the transport tells when it cannot
be sent any more, for the client has gone."""


class EventSource(Protocol):
    """What the events of one request come from."""

    def next(self, timeout: float | None) -> bytes | None:
        """The next events, or None if there were none in so many seconds. Raises what ended the request, or Ended."""
        ...

    def last(self) -> bytes:
        """What follows when the request has ended well; may be empty."""
        ...

    def told(self, error: Exception) -> bytes:
        """What follows when it has not."""
        ...

    def close(self) -> None:
        """Nobody wants more."""
        ...


class EventStream:
    """Those of one request."""

    def __init__(
        self,
        source: EventSource,
        closed: Callable[[], None],
        *,
        patience: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`closed` is called once, when nothing more is sent. The first event is waited for as many seconds as
        `patience`, before a comment is sent in its place; None: for ever."""
        self._source = source
        self._closed: Callable[[], None] | None = closed
        self._patience = patience
        self._clock = clock
        self._first = b""
        self._ended = False
        self._sent_at = clock()

    def expect_first(self) -> None:
        """Raises the error, if the request ends with one before."""
        try:
            self._first = self._source.next(self._patience) or COMMENT
        except Ended:
            self._first = self._last()

    def __next__(self) -> bytes:
        first, self._first = self._first, b""
        if first:
            return first
        if self._ended:
            raise StopIteration
        try:
            part = self._source.next(LOOK) or b""
        except Ended:
            part = self._last()
        except Exception as exc:
            self._ended = True
            part = self._source.told(exc)
        return self._timed(part)

    def _last(self) -> bytes:
        self._ended = True
        return self._source.last()

    def _timed(self, part: bytes) -> bytes:
        now = self._clock()
        if not part and now - self._sent_at >= SILENCE:
            part = COMMENT
        if part:
            self._sent_at = now
        return part

    def close(self) -> None:
        """The client went away, or has everything."""
        self._source.close()
        closed, self._closed = self._closed, None
        if closed is not None:
            closed()


def event(data: bytes) -> bytes:
    """One event, of JSON on one line."""
    return b"data: %b\n\n" % data
