"""What of an answer waits for its client, and when a client is given up; the events that it gets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from vintner.errors import BackendError, Cancelled, InvalidArgument
from vintner.event_stream import COMMENT, SILENCE, EventStream
from vintner.openai_asked import MOST_WAITING, Streamed, Whole
from vintner.openai_events import DONE, OpenAIEvents
from vintner.outbox import PATIENCE
from vintner.prompts import Piece, Work
from vintner.types import Response

EMPTY = Response("m", "1", {})


class Writer:
    """Writes texts as they are."""

    def chunks(self, piece: Piece) -> list[bytes]:
        return [piece.text.encode()]

    def last_chunk(self) -> bytes | None:
        return b"usage"

    def document(self, pieces: list[Piece]) -> bytes:
        if not pieces:
            raise ValueError("nothing")
        return b"".join(piece.text.encode() for piece in pieces)


class Question:
    def prepare(self, language: Any) -> tuple[Work, Writer]:
        return Work([[1]], None), Writer()  # type: ignore[arg-type]


def streamed(clock: Callable[[], float] = lambda: 0.0) -> Streamed:
    asked = Streamed(Question(), clock)  # type: ignore[arg-type]
    asked.prepare(None)  # type: ignore[arg-type]
    return asked


def piece(text: str) -> list[Piece]:
    return [Piece(0, text, 1)]


def test_a_whole_answer_is_written_by_another_thread() -> None:
    done: list[Any] = []
    later: list[Callable[[], None]] = []
    asked = Whole(Question(), done.append, later.append)  # type: ignore[arg-type]
    asked.prepare(None)  # type: ignore[arg-type]
    asked.take(piece("a"))
    asked.take(piece("b"))
    asked.end(EMPTY)
    assert not done
    later[0]()
    assert done == [b"ab"]


def test_what_cannot_be_written_is_an_error() -> None:
    done: list[Any] = []
    asked = Whole(Question(), done.append, lambda write: write())  # type: ignore[arg-type]
    asked.prepare(None)  # type: ignore[arg-type]
    asked.end(EMPTY)
    asked.end(error := InvalidArgument("no"))
    assert [type(each) for each in done] == [ValueError, InvalidArgument]
    assert done[1] is error


def test_a_client_that_takes_nothing_is_given_up_in_the_end() -> None:
    now = [0.0]
    asked = streamed(lambda: now[0])
    cancelled: list[bool] = []
    asked.cancellation.on_cancel(lambda: cancelled.append(True))
    for _ in range(MOST_WAITING):
        assert asked.has_room()
        asked.take(piece("a"))
    assert not asked.has_room()
    now[0] = PATIENCE
    assert not asked.has_room()
    assert not cancelled
    asked.next(1)
    assert asked.has_room()  # and its time begins anew
    asked.take(piece("a"))
    assert not asked.has_room()
    now[0] = 2 * PATIENCE + 0.1
    assert not asked.has_room()
    assert not asked.has_room()
    assert cancelled == [True]
    for _ in range(MOST_WAITING):
        asked.next(1)
    with pytest.raises(Cancelled, match="no part of the answer was taken for 30 s"):
        asked.next(1)


def test_nothing_is_kept_for_a_client_that_has_gone() -> None:
    asked = streamed()
    closed: list[bool] = []
    events = EventStream(OpenAIEvents(asked), lambda: closed.append(True))
    events.close()
    events.close()
    asked.take(piece("a"))
    assert asked.next(0) is None
    assert asked.cancellation.cancelled
    assert closed == [True]


def test_events_end_with_usage_and_done() -> None:
    asked = streamed()
    events = EventStream(OpenAIEvents(asked), lambda: None)
    asked.take([*piece("a"), *piece("b")])
    asked.end(EMPTY)
    events.expect_first()
    assert next(events) == b"data: a\n\ndata: b\n\n"
    assert next(events) == b"data: usage\n\n" + DONE
    with pytest.raises(StopIteration):
        next(events)


def test_an_error_is_raised_before_the_first_event_and_told_after_it() -> None:
    asked = streamed()
    asked.end(BackendError("it broke"))
    with pytest.raises(BackendError):
        EventStream(OpenAIEvents(asked), lambda: None).expect_first()
    asked = streamed()
    events = EventStream(OpenAIEvents(asked), lambda: None)
    asked.take(piece("a"))
    events.expect_first()
    asked.end(BackendError("it broke"))
    assert next(events) == b"data: a\n\n"
    told = next(events)
    assert told.startswith(b'data: {"error":{"message":"it broke"')
    assert told.endswith(DONE)
    with pytest.raises(StopIteration):
        next(events)


def test_a_comment_is_sent_after_a_silence_and_nothing_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vintner.event_stream.LOOK", 0.0)
    now = [0.0]
    events = EventStream(OpenAIEvents(streamed()), lambda: None, patience=0.0, clock=lambda: now[0])
    events.expect_first()
    assert next(events) == COMMENT
    assert next(events) == b""
    now[0] = SILENCE
    assert next(events) == COMMENT
    assert next(events) == b""


def test_an_answer_without_pieces_ends_at_once() -> None:
    asked = streamed()
    events = EventStream(OpenAIEvents(asked), lambda: None)
    asked.end(EMPTY)
    events.expect_first()
    assert next(events) == b"data: usage\n\n" + DONE
    with pytest.raises(StopIteration):
        next(events)
