"""Unary gRPC calls on a lean loop over grpcio's C core, beside an ordinary server on the same port.

grpcio's synchronous server has one thread that polls; it hands each call to a pool, whose thread waits for the
message on a condition. Here the threads that poll run the handler themselves. Only this file knows grpcio's private
interface (`grpc._cython.cygrpc`, the constructor of `grpc._server._Server`), and `unusable` says whether it is what
this file expects.

A call is three events: it arrives, its message arrives, its answer is sent. What the handler sees of it, `Call`, is
the part of `grpc.ServicerContext` that Vintner's handlers use. Invariant: the completion queue is shut down when
neither a call nor a request for one is left that could still use it, for the core aborts the process otherwise.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from threading import Event, Lock
from typing import Any, Final

import grpc
from grpc._cython import cygrpc

from vintner.pollers import Pollers, PollingEnded, Work

logger = logging.getLogger(__name__)

TESTED: Final = ((1, 81), (1, 86))
"""The grpcio releases, from and below, for which the tests have been run."""

REQUESTED: Final = 128
"""Calls that the core may hand over before the loop has to ask for more."""

CHECK_SECONDS: Final = 2.0
NO_FLAGS: Final = 0

Answer = Callable[[bytes, Any], bytes]
Options = Sequence[tuple[str, int]]


class FastPath:
    """A `grpc.server` in which one unary method is served by a loop of our own.

    `server` is for everything else: services, ports. Life: the constructor, `start`, `stop`, each once. `answer` is
    given the message's bytes and the `Call`, may block, and raises nothing. `max_threads` has to exceed the number of
    handlers that block at the same time, for the loop does the network's work of the ordinary server too.
    """

    def __init__(self, executor: Executor, options: Options, *, method: str, answer: Answer, max_threads: int) -> None:
        self.server: grpc.Server = _UnpolledServer(executor, options)
        self.answer = answer
        self._core = self.server._state.server
        self._method = method
        self._queue = cygrpc.CompletionQueue()
        self._core.register_completion_queue(self._queue)
        self._core.register_method(method)
        self._pollers = Pollers(self._poll, max_threads=max_threads, name="vintner-grpc-fast")
        self._lock = Lock()
        self._users = 1  # of the queue: this object until `stop`, every request for a call, every call
        self._ended = Event()

    def start(self) -> None:
        self.server.start()
        for _ in range(REQUESTED):
            self._request_call()
        self._pollers.start()

    def stop(self, grace: float) -> None:
        """Refuses new calls, waits up to `grace` seconds for the running ones, then cancels them."""
        deadline = time.monotonic() + grace
        self.server.stop(grace).wait()
        self.release()
        self._ended.wait(max(0.0, deadline - time.monotonic()))

    def release(self) -> None:
        """One user of the queue less; the last one shuts it down."""
        with self._lock:
            self._users -= 1
            last = not self._users
        if last:
            self._queue.shutdown()
            self._pollers.end()
            self._ended.set()

    def _poll(self) -> Work | None:
        # The event must be gone before the next poll: it may hold the last reference to a call of a server that is
        # shutting down, which would keep the queue busy for ever (see grpc._server._serve). So there is one frame each.
        event = self._queue.poll()
        if event.tag is None:
            raise PollingEnded
        work: Work | None = event.tag(event)
        return work

    def _request_call(self) -> None:
        with self._lock:
            self._users += 1
        try:
            self._core.request_registered_call(self._queue, self._queue, self._method, self._arrived)
        except ValueError:  # the server is shutting down
            self.release()

    def _arrived(self, event: Any) -> None:
        if event.success:
            self._request_call()
            Call(self, event).receive()
        else:  # the server is shutting down
            self.release()


class Call:
    """One call, as its handler sees it: what `grpc.ServicerContext` says of these methods holds.

    Threads: the handler's own, and for `_closed` any that polls.
    """

    __slots__ = ("_call", "_callbacks", "_code", "_details", "_event", "_message", "_over", "_path", "_pending")

    def __init__(self, path: FastPath, event: Any) -> None:
        self._path = path
        self._event = event
        self._call = event.call
        self._message: bytes | None = None
        self._code = grpc.StatusCode.OK
        self._details = b""
        self._callbacks: list[Callable[[], None]] | None = None
        self._over = False

    # -- for the handler -------------------------------------------------------------------------------------

    def time_remaining(self) -> float:
        return max(0.0, self._event.call_details.deadline - time.time())

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """As grpcio's, except that the callback may have been called even so if the answer is False.

        Most calls never wait. So the core is asked to tell the end of the call when somebody first wants to know.
        """
        if self._callbacks is None:
            self._callbacks = [callback]
            self._call.start_server_batch((cygrpc.ReceiveCloseOnServerOperation(NO_FLAGS),), self._closed)
        else:
            self._callbacks.append(callback)
        return not self._over

    def set_code(self, code: grpc.StatusCode) -> None:
        self._code = code

    def set_details(self, details: str) -> None:
        self._details = details.encode(errors="replace")

    # -- for the loop ----------------------------------------------------------------------------------------
