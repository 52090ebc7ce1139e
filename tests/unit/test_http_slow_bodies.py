"""Bodies that take too long: who is given up, when, and that no other connection is touched."""

from __future__ import annotations

import io
import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from vintner.http_slow_bodies import SlowBodies, SlowBody, TimedBody

SECONDS = 0.3
WAIT = 10.0


class Connection:
    """Both ends of one, the server's with the interface of a body."""

    def __init__(self, listener: socket.socket) -> None:
        self.client = socket.create_connection(listener.getsockname(), WAIT)
        self.server = listener.accept()[0]

    def read(self, size: int) -> bytes:
        """In parts: with MSG_WAITALL a signal would end it early."""
        read = b""
        while len(read) < size and (part := self.server.recv(size - len(read))):
            read += part
        return read

    def respond(self, status: int, headers: Sequence[tuple[str, str]], body: bytes) -> None:
        assert (status, *headers) == (408, ("Content-Type", "application/json"), ("Connection", "close"))
        self.server.sendall(body)

    def close(self) -> None:
        self.client.close()
        self.server.close()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


class Reader(threading.Thread):
    """Reads a body of 100 bytes; `outcome` is that, or the error."""

    def __init__(self, body: TimedBody) -> None:
        super().__init__()
        self.body = body
        self.outcome: Any = None
        self.start()

    def run(self) -> None:
        try:
            self.outcome = self.body.read(100)
        except SlowBody as exc:
            self.outcome = exc


def reading(watch: SlowBodies, count: int) -> None:
    """Until so many wait."""
    pause = threading.Event()
    for _ in range(1000):
        if len(watch.reading) == count:
            return
        pause.wait(0.005)
    raise AssertionError("nobody reads")


def test_a_late_body_is_answered_its_reader_woken_and_others_left_alone(listener: socket.socket) -> None:
    watch = SlowBodies(listener.getsockname()[1], SECONDS)
    late, timely, idle = (Connection(listener) for _ in range(3))
    files = len(os.listdir("/proc/self/fd"))
    late.client.sendall(b"some")
    readers = [Reader(TimedBody(late, watch, late.respond))]
    reading(watch, 1)
    (end,) = watch.reading.values()
    watch.give_up(end - 1e-6)
    assert readers[0].is_alive(), "given up before its time"
    readers.append(Reader(TimedBody(timely, watch, timely.respond)))
    reading(watch, 2)
    threading.Event().wait(max(0.0, end - time.monotonic()))
    watch.give_up(end)
    readers[0].join(WAIT)
    assert readers[0].outcome is watch.error
    assert late.client.recv(1000) == b'{"error": "the body did not arrive within 0.3 s, and 8 s for each MiB of it"}'
    timely.client.sendall(bytes(100))
    readers[1].join(WAIT)
    assert readers[1].outcome == bytes(100)
    idle.client.sendall(b"more")
    assert idle.read(4) == b"more"
    assert watch.reading == {}
    assert len(os.listdir("/proc/self/fd")) == files
    for connection in (late, timely, idle):
        connection.close()


def test_a_connection_that_was_answered_shortly_before_is_not_the_one(listener: socket.socket) -> None:
    """Its silence was not as long as the body took."""
    watch = SlowBodies(listener.getsockname()[1], 1.0)
    busy = Connection(listener)
    busy.server.sendall(b"an answer")
    reader = Reader(TimedBody(busy, watch, busy.respond))
    reading(watch, 1)
    watch.give_up(time.monotonic() + 5)
    assert reader.is_alive()
    busy.client.sendall(b"the rest")
    busy.client.shutdown(socket.SHUT_WR)
    reader.join(WAIT)
    assert reader.outcome is watch.error
    busy.close()


def test_the_time_of_a_body_grows_with_what_is_asked_for() -> None:
    watch = SlowBodies(0, 60)
    ends: list[float] = []
    asked: list[float] = []

    class Body(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            asked.append(time.monotonic())
            ends.extend(watch.reading.values())
            return b""

    body = TimedBody(Body(), watch, lambda *answer: None)
    started = time.monotonic()
    for _ in range(2):
        assert body.read(1 << 20) == b""
    assert started + 68 <= ends[0] <= asked[0] + 68
    assert ends[1] - ends[0] == pytest.approx(8)


def test_what_is_late_is_given_up_by_itself(listener: socket.socket) -> None:
    watch = SlowBodies(listener.getsockname()[1], SECONDS)
    late = Connection(listener)
    watch.start()
    reader = Reader(TimedBody(late, watch, late.respond))
    reader.join(WAIT)
    assert reader.outcome is watch.error
    watch.stop()
    late.close()
