"""Many clients of HTTP in one thread: each has a connection, and sends its next request when it has its answer.

Unlike h2load it sends bodies that differ, so that a server which groups requests by their length is measured at that.
Knows nothing of what is asked. Invariant: every answer was a 200, or the run raises.
"""

from __future__ import annotations

import re
import selectors
import socket
import time
from collections.abc import Iterator, Sequence

from bench.load import LoadError

_PATIENCE_SECONDS = 120.0
_HEAD = re.compile(rb"HTTP/1.1 (\d+) .*?\r\n\r\n", re.DOTALL)
_LENGTH = re.compile(rb"(?i)content-length: (\d+)")


def post(path: str, body: bytes) -> bytes:
    """A request as it is sent."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def closed_loop(address: str, requests: Sequence[bytes], clients: int) -> float:
    """The seconds from the first request to the last answer. Raises LoadError."""
    host, _, port = address.rpartition(":")
    waiting = iter(requests)
    with selectors.DefaultSelector() as selector:
        open_ones = [_Client(socket.create_connection((host, int(port)))) for _ in range(clients)]
        started = time.perf_counter()
        for client in open_ones:
            client.send(selector, waiting)
        while selector.get_map():
            ready = selector.select(_PATIENCE_SECONDS)
            if not ready:
                raise LoadError(f"{address} answered nothing for {_PATIENCE_SECONDS} s")
            for key, _ in ready:
                if key.data.receive():
                    key.data.send(selector, waiting)
        return time.perf_counter() - started


class _Client:
    """One connection."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection = connection
        self._received = b""
        self._registered = False

    def send(self, selector: selectors.BaseSelector, waiting: Iterator[bytes]) -> None:
        """Sends the next request; closes where there is none."""
        request = next(waiting, None)
        if request is None:
            if self._registered:
                selector.unregister(self._connection)
            self._connection.close()
            return
        if not self._registered:
            selector.register(self._connection, selectors.EVENT_READ, self)
            self._registered = True
        self._received = b""
        self._connection.sendall(request)

    def receive(self) -> bool:
        """Whether the answer is complete."""
        part = self._connection.recv(1 << 18)
        if not part:
            raise LoadError("the server closed a connection")
        self._received += part
        head = _HEAD.match(self._received)
        if head is None:
            return False
        length = _LENGTH.search(head[0])
        if length is None or head[1] != b"200":
            raise LoadError(f"the server answered {self._received[:500]!r}")
        return len(self._received) >= head.end() + int(length[1])
