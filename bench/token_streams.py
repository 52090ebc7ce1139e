"""Load on a language model, from one thread: so many streams at once, each of which asks again when it was answered;
or requests that arrive when they do, whatever became of those before.

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
from itertools import zip_longest
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
    """Seconds from each request, or the time at which it ought to have been sent, to its first token."""
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

    def run(self, streams: int, prompts: Sequence[Prompt], arrivals: Sequence[float] = ()) -> Streamed:
        """`streams`, of which there are never more, is a multiple of the connections. `arrivals` has the seconds from
        the start at which to ask each, in order; without them each is asked as soon as a stream is free. Raises
        BadAnswer, or TimeoutError."""
        waiting = deque(zip_longest(prompts, arrivals))
        free = deque(self._connections[place % len(self._connections)] for place in range(streams))
        ended: list[_Times] = []
        gc.collect()
        gc.disable()
        try:
            start = time.perf_counter()
            while len(ended) < len(prompts):
                patience = self._ask_due(waiting, free, start)
                ended.extend(self._progress(free, patience))
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

    def _ask_due(
        self, waiting: deque[tuple[Prompt, float | None]], free: deque[_Connection], start: float
    ) -> float | None:
        """Asks what is to be asked by now. Returns the seconds to the next one; None: answers decide."""
        while waiting and free:
            asked, arrival = waiting[0]
            now = time.perf_counter()
            begun = now if arrival is None else start + arrival
            if begun > now:
                return begun - now
            waiting.popleft()
            self._ask(free.popleft(), asked, begun)
        return None

    def _ask(self, connection: _Connection, asked: Prompt, begun: float) -> None:
        self._number += 1
        data = connection.wire.request(self._number, asked)
        connection.answers[self._number] = _Times(asked, begun)
        connection.socket.sendall(data)

    def _progress(self, free: deque[_Connection], patience: float | None) -> list[_Times]:
        """Reads what is there. Returns the answers that ended; their streams are free then."""
        ended: list[_Times] = []
        ready = self._selector.select(PATIENCE if patience is None else patience)
        if not ready and patience is None:
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
                free.append(connection)
            if reply := connection.wire.reply():
                connection.socket.sendall(reply)
        return ended


def _greet(connection: _Connection) -> None:
    """At once, for a server does not wait long for it."""
    if greeting := connection.wire.greeting:
        connection.socket.sendall(greeting)
        deque(connection.wire.feed(connection.socket.recv(1 << 16)), 0)
        connection.socket.sendall(connection.wire.reply())
