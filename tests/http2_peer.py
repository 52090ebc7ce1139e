"""A client that speaks HTTP/2's frames and nothing above them, to see how a server keeps its connections.

It never begins a call. Frames are those of RFC 9113.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS, PING, GOAWAY, ACKNOWLEDGED = 4, 6, 7, 1
NO_ERROR, ENHANCE_YOUR_CALM = 0, 11


@dataclass(frozen=True, slots=True)
class Event:
    """A ping of the server's, its answer to one (`pong`), its `goaway`, or the `end` of the connection."""

    kind: str
    code: int = 0
    reason: str = ""


class Http2Peer:
    """One connection. With `answers` False it leaves the server's pings unanswered."""

    def __init__(self, address: str, answers: bool = True) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)))
        self._answers = answers
        self._received = b""
        self._socket.sendall(PREFACE)
        self._send(SETTINGS)

    def __enter__(self) -> Http2Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def ping(self) -> None:
        self._send(PING, payload=b"12345678")

    def events(self, seconds: float = 20.0) -> Iterator[Event]:
        """What comes within that time, until the connection ends."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self._socket.settimeout(left)
            try:
                part = self._socket.recv(65536)
            except TimeoutError:
                return
            except ConnectionError:
                part = b""
            if not part:
                yield Event("end")
                return
            self._received += part
            yield from self._frames()

    def _frames(self) -> Iterator[Event]:
        while len(self._received) >= 9:
            size, kind, flags = int.from_bytes(self._received[:3]), self._received[3], self._received[4]
            if len(self._received) < 9 + size:
                return
            payload, self._received = self._received[9 : 9 + size], self._received[9 + size :]
            if kind == SETTINGS and not flags & ACKNOWLEDGED:
                self._send(SETTINGS, ACKNOWLEDGED)
            elif kind == PING and flags & ACKNOWLEDGED:
                yield Event("pong")
            elif kind == PING:
                if self._answers:
                    self._send(PING, ACKNOWLEDGED, payload)
                yield Event("ping")
            elif kind == GOAWAY:
                yield Event("goaway", int.from_bytes(payload[4:8]), payload[8:].decode())

    def _send(self, kind: int, flags: int = 0, payload: bytes = b"") -> None:
        """A frame of the connection itself; one that has been closed takes none."""
        with suppress(ConnectionError):
            self._socket.sendall(len(payload).to_bytes(3) + bytes([kind, flags]) + bytes(4) + payload)
