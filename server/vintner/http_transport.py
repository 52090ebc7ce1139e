"""Runs a request handler behind granian's HTTP server, inside this process.

granian's own command and `Granian` class start the application in a child process that they supervise. Here the
models, the gRPC server and the signals belong to one process, so its worker class is used directly: the same code
that runs in that child, given a listening socket, a callback and an event to stop it. That class is not public API,
which is why the dependency is pinned to one minor series and everything that touches it is in this file.

A handler runs in one of the worker's threads. It may block, and it may leave the answer to be sent later, from
another thread. When the worker is told to stop, it accepts nothing more, and ends when every request was answered.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from threading import Event, Semaphore
from typing import Any, Protocol

from granian import _granian
from granian._futures import _new_cbscheduler
from granian.http import HTTP1Settings, HTTP2Settings

from vintner.cores import without_preempting
from vintner.errors import ConfigError
from vintner.http_slow_bodies import SlowBodies, SlowBody, TimedBody

native: Any = _granian  # its stubs describe an older version

BACKLOG = 1024
CONNECTIONS = 65536
"""granian counts open connections, idle ones included, against this; inferences are bounded by the service."""

DISCARDED = 256 << 20
"""Bytes of a refused body that are read; a client that sends more finds its connection closed."""

LOOK = 0.1
"""Seconds after which to look who is left, when the server ends."""

DISCARDERS = 16
"""Threads that do so at the same time; clients beyond them may find their connection closed before the answer."""

Headers = Sequence[tuple[str, str]]
Answer = tuple[int, Headers, bytes]
"""Status, headers and body."""


class Parts(Protocol):
    """The body of a streamed answer, piece by piece, iterated in one thread."""

    def __next__(self) -> bytes: ...

    def close(self) -> None:
        """Called in the end, and as soon as a piece cannot be sent because the client went away; perhaps twice."""


@dataclass(frozen=True, slots=True)
class StreamedAnswer:
    """An answer whose body comes in pieces, each of which is sent at once. It keeps its thread until the end."""

    status: int
    headers: Headers
    parts: Parts


Environ = Mapping[str, Any]
"""As in WSGI (PEP 3333): REQUEST_METHOD, PATH_INFO, QUERY_STRING, CONTENT_LENGTH, HTTP_*, `wsgi.input`."""

Respond = Callable[[int, Headers, bytes], None]
"""Sends the answer of one request: to be called once, from any thread."""

Handler = Callable[[Environ, Respond], Answer | StreamedAnswer | None]
"""Returns the answer, or None if it has called `respond`, or will. May block while it reads the body; never raises."""


class HttpTransport:
    """Its life is three calls: the constructor binds, `start` serves, `stop` lets running requests finish."""

    def __init__(
        self,
        handler: Handler,
        *,
        host: str,
        port: int,
        threads: int,
        purpose: str,
        header_seconds: float = 65.0,
        body_seconds: float = 65.0,
    ) -> None:
        """Binds the port; 0 picks a free one, `port` has it then. Raises ConfigError if it cannot be bound.

        A request has so many seconds for its header, the first on a connection or the next one that it is kept for, and
        so many for its body, as `SlowBodies` says.
        """
        self._handler = handler
        self._header_seconds = header_seconds
        self._threads = threads + DISCARDERS  # whom a silent client holds up for as long as it likes
        self._discarders = Semaphore(DISCARDERS)
        self._discarding: set[Any] = set()
        self._socket = _listen(host, port, purpose)
        self.port: int = self._socket.getsockname()[1]
        self._slow_bodies = SlowBodies(self.port, body_seconds)
        self._loop = asyncio.new_event_loop()  # granian wants one to hold on to; nothing ever runs in it
        self._stop = native.WorkerSignal()
        self._stopped = Event()
        self._stop.add_cb(self._stopped.set)

    def start(self) -> None:
        """Begins to accept, in threads of granian's."""
        self._slow_bodies.start()
        worker = native.WSGIWorker(
            1,
            (None, native.SocketHolder(self._socket.detach(), False, BACKLOG)),  # which closes it in the end
            None,  # no channel to a supervisor
            1,  # event loop threads: one parses faster than Python can answer
            8,
            self._threads,
            30,  # seconds after which a thread that has nothing to do ends
            CONNECTIONS,
            "1",
            HTTP1Settings(header_read_timeout=int(self._header_seconds * 1000)),
            HTTP2Settings(),
            None,  # no static files
            False,  # TLS: none
            None,
            None,
            None,
            "tls1.3",
            None,
            [],
            False,
            (None, None),  # none of granian's own metrics
        )
        worker.serve_mtr(_new_cbscheduler(self._loop, self._answer, impl_asyncio=True), self._loop, self._stop)

    def _answer(self, response: Any, environ: dict[str, Any]) -> None:
        body, respond = environ["wsgi.input"], response.response_bytes
        has_body = "CONTENT_LENGTH" in environ or "HTTP_TRANSFER_ENCODING" in environ
        if has_body:
            environ["wsgi.input"] = TimedBody(body, self._slow_bodies, respond)
        answer = self._handler(environ, respond)
        if isinstance(answer, StreamedAnswer):
            try:
                with without_preempting():
                    response.response_iter(answer.status, answer.headers, answer.parts)
            finally:
                answer.parts.close()
        elif answer is not None and answer[0] != SlowBody.status:  # that has been sent already, see `SlowBodies`
            respond(*answer)
            # What is not read ends the connection. But who asks first is not to hear "100 Continue" now.
            if (has_body or answer[0] >= 400) and "HTTP_EXPECT" not in environ:
                self._discard(body)

    def _discard(self, body: Any) -> None:
        """Takes what a client still sends after its answer: most read the answer only once they have sent all."""
        if not self._discarders.acquire(blocking=False):
            return
        self._discarding.add(body)
        try:
            left = DISCARDED
            while left > 0 and (part := body.read(1 << 20)):
                left -= len(part)
        finally:
            self._discarding.discard(body)
            self._discarders.release()

    def stop(self) -> None:
        """Stops accepting, and returns when the running requests have been answered.

        Whoever still holds back a body that nobody wants is not waited for once there is nobody else.
        """
        self._stop.set()
        while not self._stopped.wait(LOOK):
            if self._discarding:
                self._slow_bodies.end_reading(if_so_many=len(self._discarding))
        self._slow_bodies.stop()
        self._loop.close()


def _listen(host: str, port: int, purpose: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Connections inherit it. Else a piece of a stream waits for the receipt of the one before, for up to 40 ms.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        listener.bind((host, port))
        listener.listen(BACKLOG)  # for two sockets may be bound to one port as long as neither listens
    except OSError as exc:
        listener.close()
        reason = "the port is in use" if exc.errno == errno.EADDRINUSE else exc.strerror
        raise ConfigError(f"cannot listen for {purpose} on {host}:{port}: {reason}") from exc
    listener.setblocking(False)
    return listener
