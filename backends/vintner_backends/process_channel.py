"""Messages between a process and one that it started, over a socket that they share.

A message is a tuple of numbers, strings, bytes, lists, tuples and dictionaries, written by `marshal`, which is fast,
and which both understand, as they are the same interpreter; it is nothing for a peer that is not trusted. Four bytes
before it say how long it is, least first. Knows nothing of what messages mean.

Invariant: a message arrives whole or not at all.
"""

from __future__ import annotations

import marshal
import select
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
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)

    def send(self, *message: Any) -> None:
        """Raises OSError if the other end is gone."""
        body = marshal.dumps(message)
        self._connection.sendall(LENGTH.pack(len(body)) + body)

    def receive(self, timeout: float | None = None) -> tuple[Any, ...]:
        """Raises EOFError, or another OSError, if the other end is gone, and TimeoutError if so many seconds pass
        without a byte of it; then the channel cannot be used any more."""
        self._connection.settimeout(timeout)
        while not self.has_message():
            more = self._connection.recv(AT_ONCE)
            if not more:
                raise EOFError("the other process has closed the connection")
            self._unread += more
        end = self._end()
        message: tuple[Any, ...] = marshal.loads(self._unread[LENGTH.size : end])
        del self._unread[:end]
        return message

    def has_message(self) -> bool:
        """Whether the next message has arrived, as far as is known without a look at the connection."""
        return len(self._unread) >= LENGTH.size and len(self._unread) >= self._end()

    def _end(self) -> int:
        return LENGTH.size + int(LENGTH.unpack_from(self._unread)[0])

    def is_quiet(self) -> bool:
        """Whether nothing is there to be received."""
        return not self._unread and not self._poll.poll(0)

    def close(self) -> None:
        """The other end is told."""
        self._connection.close()
