"""Load on a language model: so many streams at once, each of which asks again when it was answered, from one thread.

Invariant: each request is answered to its end, or the run fails.
"""

from __future__ import annotations

import gc
import selectors
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from bench.prompts import Prompt
from bench.stream_wires import BadAnswer, Wire

PATIENCE = 120.0
"""Seconds without a byte after which a run has failed."""


@dataclass(frozen=True, slots=True)
class Streamed:
    """What became of some requests."""

    seconds: float
    tokens: int
    first: Sequence[float]
    """Seconds from each request to its first token."""
    per_token: Sequence[float]
    """Seconds from there to its end, by token."""
    pieces: int = 0
    """In how many parts the answers came, as they were read."""


@dataclass(slots=True)
class _Times:
    asked: Prompt
    begun: float
    first: float = 0.0
    last: float = 0.0
    pieces: int = 0


@dataclass(slots=True)
class _Connection:
    socket: socket.socket
    wire: Wire
    answers: dict[int, _Times]


class TokenStreams:
    """Connections to one address, for one run: servers look after those that are silent. Closed on leaving."""

    def __init__(self, address: str, wire: Callable[[], Wire], connections: int) -> None:
        host, _, port = address.rpartition(":")
        self._selector = selectors.DefaultSelector()
        self._connections: list[_Connection] = []
        self._number = 0
        for _ in range(connections):
            opened = socket.create_connection((host, int(port)))
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = _Connection(opened, wire(), {})
            _greet(connection)
            self._selector.register(opened, selectors.EVENT_READ, connection)
            self._connections.append(connection)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for connection in self._connections:
            connection.socket.close()
        self._selector.close()

    def run(self, streams: int, prompts: Sequence[Prompt]) -> Streamed:
        """`streams` is a multiple of the connections. Raises BadAnswer, or TimeoutError."""
        waiting, ended = deque(prompts), []
        gc.collect()
        gc.disable()
        try:
            start = time.perf_counter()
            for place in range(min(streams, len(waiting))):
                self._ask(self._connections[place % len(self._connections)], waiting.popleft())
            while len(ended) < len(prompts):
                ended.extend(self._progress(waiting))
            taken = time.perf_counter() - start
        finally:
            gc.enable()
        return Streamed(
            taken,
            sum(one.asked.tokens for one in ended),
            [one.first - one.begun for one in ended],
            [(one.last - one.first) / max(1, one.asked.tokens - 1) for one in ended],
            sum(one.pieces for one in ended),
        )

    def _ask(self, connection: _Connection, asked: Prompt) -> None:
        self._number += 1
        data = connection.wire.request(self._number, asked)
        connection.answers[self._number] = _Times(asked, time.perf_counter())
        connection.socket.sendall(data)

    def _progress(self, waiting: deque[Prompt]) -> list[_Times]:
        """Reads what is there, and asks again for each answer that ended; returns those."""
        ended: list[_Times] = []
        ready = self._selector.select(PATIENCE)
        if not ready:
            raise TimeoutError(f"nothing came for {PATIENCE:g} s")
        for key, _ in ready:
            connection: _Connection = key.data
            data = connection.socket.recv(1 << 18)
            if not data:
                raise ConnectionError("the server closed a connection")
            now = time.perf_counter()
            for number, what in connection.wire.feed(data):
                times = connection.answers[number]
                if what == "piece":
                    times.pieces += 1
                    times.first = times.first or now
                    times.last = now
                    continue
                if not times.pieces:
                    raise BadAnswer("an answer ended before it began")
                ended.append(connection.answers.pop(number))
                if waiting:
                    self._ask(connection, waiting.popleft())
            if reply := connection.wire.reply():
                connection.socket.sendall(reply)
        return ended


def _greet(connection: _Connection) -> None:
    """At once, for a server does not wait long for it."""
    if greeting := connection.wire.greeting:
        connection.socket.sendall(greeting)
        deque(connection.wire.feed(connection.socket.recv(1 << 16)), 0)
        connection.socket.sendall(connection.wire.reply())
