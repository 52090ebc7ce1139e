"""The events of one streamed answer of the OpenAI API.

Knows neither the model nor what was asked. Invariant: however an answer ends, its last event is `[DONE]`.
"""

from __future__ import annotations

from typing import Final

import orjson

from vintner.event_stream import event
from vintner.openai_asked import Streamed
from vintner.openai_errors import error_object

PATIENT: Final = 1.0
"""Seconds for which the first event is waited for, before the header is sent without one."""

DONE: Final = b"data: [DONE]\n\n"


class OpenAIEvents:
    """Those of one request, as `EventSource`."""

    def __init__(self, asked: Streamed) -> None:
        self._asked = asked

    def next(self, timeout: float | None) -> bytes | None:
        pieces = self._asked.next(timeout)
        if pieces is None:
            return None
        writer = self._asked.writer
        assert writer is not None
        return b"".join(event(chunk) for piece in pieces for chunk in writer.chunks(piece))

    def last(self) -> bytes:
        last = self._asked.writer.last_chunk() if self._asked.writer is not None else None
        return (event(last) if last is not None else b"") + DONE

    def told(self, error: Exception) -> bytes:
        return event(orjson.dumps(error_object(error))) + DONE

    def close(self) -> None:
        self._asked.close()
