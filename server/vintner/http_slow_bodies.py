"""Bodies that take too long to arrive: their clients are told 408, and their connections are closed for reading.

A thread that reads a body waits in granian, which has neither a time-out for it nor a way to give it up, nor says which
connection a request came on. But a reader wakes when its connection ends. So the connection is found by what only it
can have done: it sent nothing for as long as the body took, and then at once the 408. Knows no routes and no limits of
size. Invariant: of a reader that has its body and a watch that gives it up, one comes first, and only that one acts.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from threading import Event, Thread
from typing import Any, ClassVar, Final

from vintner.errors import RequestError

SECONDS_PER_BYTE: Final = 8.0 / 2**20
"""That large bodies have on top: a client that sends a megabit each second is in time."""

PROMPT: Final = 2.0
"""Seconds within which an answer that was handed over is sent, even on a busy machine."""

PAUSE: Final = 0.005
"""Seconds after which to look whether it was, the first time; each next time twice as long."""

SLACK: Final = 0.1
"""Seconds by which the kernel's clock for a connection may differ from ours."""

TCP_INFO: Final = struct.Struct("8x 9I I")
"""The beginning of Linux's `struct tcp_info`, up to `tcpi_last_data_sent`, in milliseconds."""


HEADERS: Final = (("Content-Type", "application/json"), ("Connection", "close"))

Respond = Callable[[int, Sequence[tuple[str, str]], bytes], None]


class SlowBody(RequestError):
    """The body did not arrive in time."""

    status: ClassVar[int] = 408


class TimedBody:
    """A body whose reading is watched. Each byte that is asked for extends its time."""

    __slots__ = ("_body", "_time", "_watch", "respond")

    def __init__(self, body: Any, watch: SlowBodies, respond: Respond) -> None:
        """Who reads it when its time is over gets SlowBody, but by then `respond` has been called."""
        self._body = body
        self._watch = watch
        self._time = 0.0
        self.respond = respond

    def read(self, size: int) -> bytes:
        """At most `size` bytes, fewer only at the end. Raises SlowBody."""
        reading = self._watch.reading
        self._time = (self._time or time.monotonic() + self._watch.seconds) + size * SECONDS_PER_BYTE
        reading[self] = self._time
        part: bytes = self._body.read(size)
        if reading.pop(self, None) is None:
            raise self._watch.error
        return part


class SlowBodies:
    """Gives up the bodies of one port that are late. `reading` has those that somebody waits for, with their times."""

    def __init__(self, port: int, seconds: float) -> None:
        """`seconds` is what a body has, beside what its size adds."""
        self.seconds = seconds
        self.reading: dict[TimedBody, float] = {}
        self.error = SlowBody(f"the body did not arrive within {seconds:g} s, and 8 s for each MiB of it")
        self._port = port
        self._over = Event()
        self._thread = Thread(target=self._watch, name="slow-bodies", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """What is read from now on is not watched any more."""
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(min(1.0, self.seconds / 4)):
            self.give_up(time.monotonic())

    def give_up(self, now: float) -> None:
        """Answers what is late at that time, and wakes its readers."""
        late = [body for body, end in self.reading.copy().items() if end <= now and self.reading.pop(body, 0.0)]
        if not late:
            return
        silent = {each.file: each for each in _connections(self._port) if each.silence > self.seconds - SLACK}
        text = json.dumps({"error": self.error.message}).encode()
        for body in late:
            body.respond(SlowBody.status, HEADERS, text)
        self._close(silent, len(late))

    def end_reading(self, if_so_many: int) -> None:
        """Ends the reading of all connections that there are, if their number is this."""
        connections = list(_connections(self._port))
        if len(connections) == if_so_many:
            for each in connections:
                _end_reading(each)

    def _close(self, silent: dict[int, _Connection], most: int) -> None:
        """Ends the reading of those that were silent, and no longer are."""
        end, pause = time.monotonic() + PROMPT, PAUSE
        while most and time.monotonic() < end:
            for now in _connections(self._port):
                before = silent.get(now.file)
                if before is not None and now.peer == before.peer and now.silence < before.silence:
                    _end_reading(silent.pop(now.file))
                    most -= 1
            self._over.wait(pause)
            pause *= 2


@dataclass(frozen=True, slots=True)
class _Connection:
    """A connection to a client, `silence` being the seconds since it sent something, or began."""

    file: int
    peer: str
    silence: float


def _connections(port: int) -> Iterator[_Connection]:
    """This process's connections on a port."""
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError), _opened(int(name)) as connection:
            if connection.family in (socket.AF_INET, socket.AF_INET6) and connection.getsockname()[1] == port:
                yield _Connection(int(name), str(connection.getpeername()), _silence(connection))


def _opened(file: int) -> socket.socket:
    """The same connection, by a file of our own. Raises OSError for what is no socket, or gone."""
    copy = os.dup(file)
    try:
        return socket.socket(fileno=copy)
    except OSError:
        os.close(copy)
        raise


def _silence(connection: socket.socket) -> float:
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO.size)
    return float(TCP_INFO.unpack(info)[-1]) / 1000


def _end_reading(given: _Connection) -> None:
    with suppress(OSError), _opened(given.file) as connection:
        if str(connection.getpeername()) == given.peer:  # the file may have become another's
            connection.shutdown(socket.SHUT_RD)
