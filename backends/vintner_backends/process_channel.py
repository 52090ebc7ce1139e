"""Messages between a process and one that it started, over a socket that they share.

A message is a tuple of numbers, strings, bytes, lists, tuples and dictionaries, written by `marshal`, which is fast,
and which both understand, as they are the same interpreter; it is nothing for a peer that is not trusted. Four bytes
before it say how long it is, least first. Knows nothing of what messages mean.

Invariant: a message arrives whole or not at all.
"""

from __future__ import annotations

import marshal
import socket
import struct
from typing import Any, Final

LENGTH: Final = struct.Struct("<I")
AT_ONCE: Final = 65536


class Channel:
    """One end. Threads: one at a time; waiting for a message holds no lock of the interpreter."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._unread = bytearray()

    def send(self, *message: Any) -> None:
        """Raises OSError if the other end is gone."""
        body = marshal.dumps(message)
        self._connection.sendall(LENGTH.pack(len(body)) + body)

    def receive(self, timeout: float | None = None) -> tuple[Any, ...]:
        """Raises EOFError, or another OSError, if the other end is gone, and TimeoutError if so many seconds pass
        without a byte of it; then the channel cannot be used any more."""
        self._connection.settimeout(timeout)
        [length] = LENGTH.unpack(self._take(LENGTH.size))
        message: tuple[Any, ...] = marshal.loads(self._take(length))
        return message

    def _take(self, length: int) -> bytes:
        while len(self._unread) < length:
            more = self._connection.recv(AT_ONCE)
            if not more:
                raise EOFError("the other process has closed the connection")
            self._unread += more
        taken = bytes(self._unread[:length])
        del self._unread[:length]
        return taken

    def close(self) -> None:
        """The other end is told."""
        self._connection.close()
