"""Passes connections on to a server and counts them, and the bytes that come back: what a client library hides."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Thread


class Relay:
    """Its own `address`, and what has passed so far. Bytes are counted before they are passed on."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = host, int(port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.connections = 0
        self.bytes_back = 0
        Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):  # it has been closed
            while True:
                client = self._listener.accept()[0]
                self.connections += 1
                server = socket.create_connection(self._target)
                Thread(target=self._pass_on, args=(client, server, False), daemon=True).start()
                Thread(target=self._pass_on, args=(server, client, True), daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket, back: bool) -> None:
        with suppress(OSError), source, target:
            while part := source.recv(65536):
                self.bytes_back += len(part) if back else 0
                target.sendall(part)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@contextmanager
def relay_to(target: str) -> Iterator[Relay]:
    relay = Relay(target)
    yield relay
    relay.close()
