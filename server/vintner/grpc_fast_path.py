"""Unary gRPC calls on a lean loop over grpcio's C core, beside an ordinary server on the same port.

grpcio's synchronous server has one thread that polls; it hands each call to a pool, whose thread waits for the
message on a condition. Here the thread that polls begins the call itself, and whoever has the answer sends it, so no
thread waits for one. Only this file knows grpcio's private interface (`grpc._cython.cygrpc`, and where a `grpc.server`
keeps its core), and `unusable` says whether it is what this file expects.

A call is three events: it arrives, its message arrives, its answer is sent. What the handler sees of it is `Call`: a
part of `grpc.ServicerContext`, and a way to answer. Invariant: the completion queue is shut down when
neither a call nor a request for one is left that could still use it, for the core aborts the process otherwise.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from threading import Event, Lock
from typing import Any, Final

import grpc
from grpc._cython import cygrpc

from vintner.executor import LeanExecutor
from vintner.poller import NothingReady, Poller, PollingEnded, Turn

logger = logging.getLogger(__name__)

TESTED: Final = ((1, 81), (1, 86))
"""The grpcio releases, from and below, for which the tests have been run."""

REQUESTED: Final = 128
"""Calls that the core may hand over before the loop has to ask for more."""

CHECK_SECONDS: Final = 2.0
NO_FLAGS: Final = 0
OK: Final = grpc.StatusCode.OK.value[0]

AT_ONCE: Final = 0.0
"""A deadline that has passed."""

Begin = Callable[[bytes, Any], Turn | None]
"""Is given a call's message; answers, or sees to it that somebody will. Returns what is to be run for it, and soon."""


class FastPath:
    """Serves a few unary methods of a `grpc.server` that has not been started; everything else stays the server's.

    Life: the constructor, `start`, `stop`, each once. What begins a call must neither block nor raise.
    """

    def __init__(self, server: grpc.Server, *, methods: Mapping[str, Begin]) -> None:
        self._server = server
        self._core = server._state.server
        self._methods = [_Method(self, name, begin) for name, begin in methods.items()]
        self._queue = cygrpc.CompletionQueue()
        self._core.register_completion_queue(self._queue)
        for name in methods:
            self._core.register_method(name)
        self._poller = Poller(self._poll, name="vintner-grpc-fast")
        self._lock = Lock()
        self._users = 1  # of the queue: this object until `stop`, every request for a call, every call
        self._ended = Event()

    def start(self) -> None:
        """Starts the server too."""
        self._server.start()
        for method in self._methods:
            for _ in range(REQUESTED):
                method.request_call()
        self._poller.start()

    def stop(self, grace: float) -> None:
        """Refuses new calls, waits up to `grace` seconds for the running ones, then cancels them."""
        deadline = time.monotonic() + grace
        self._server.stop(grace).wait()
        self.release()
        self._ended.wait(max(0.0, deadline - time.monotonic()))

    def release(self) -> None:
        """One user of the queue less; the last one shuts it down."""
        with self._lock:
            self._users -= 1
            last = not self._users
        if last:
            self._queue.shutdown()
            self._ended.set()

    def _poll(self, wait: bool) -> Turn | None:
        # The event must be gone before the next poll, or it keeps its call alive, which can make a server that shuts
        # down spin (grpc._server._serve says so). It is, for every event has a frame of its own here.
        event = self._queue.poll(deadline=None if wait else AT_ONCE)
        if event.tag is None:
            raise NothingReady if event.completion_type == cygrpc.CompletionType.queue_timeout else PollingEnded
        try:
            turn: Turn | None = event.tag(event)
            return turn
        except Exception:
            logger.exception("a call's event could not be handled")
            return None

    def request_call(self, method: str, arrived: Callable[[Any], None]) -> None:
        """Asks the core for one call more."""
        with self._lock:
            self._users += 1
        try:
            self._core.request_registered_call(self._queue, self._queue, method, arrived)
        except ValueError:  # the server is shutting down
            self.release()


class _Method:
    """One method, and what begins its calls."""

    __slots__ = ("_name", "_path", "begin")

    def __init__(self, path: FastPath, name: str, begin: Begin) -> None:
        self._path = path
        self._name = name
        self.begin = begin

    def request_call(self) -> None:
        self._path.request_call(self._name, self._arrived)

    def _arrived(self, event: Any) -> None:
        if event.success:
            self.request_call()
            Call(self._path, self.begin, event).receive()
        else:  # the server is shutting down
            self._path.release()


class Call:
    """One call, as its handler sees it. What `grpc.ServicerContext` says of a method of its name holds.

    Threads: the one that polls, and whichever calls `answer` or `fail`.
    """

    __slots__ = ("_begin", "_call", "_callbacks", "_event", "_over", "_path")

    def __init__(self, path: FastPath, begin: Begin, event: Any) -> None:
        self._path = path
        self._begin = begin
        self._event = event
        self._call = event.call
        self._callbacks: list[Callable[[], None]] | None = None
        self._over = False

    # -- for the handler -------------------------------------------------------------------------------------

    def time_remaining(self) -> float:
        deadline: float = self._event.call_details.deadline
        return max(0.0, deadline - time.time())

    def peer(self) -> str:
        address: bytes = self._call.peer()
        return address.decode(errors="replace")

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

    def answer(self, message: bytes) -> None:
        """Ends the call. This or `fail` is to be called once, from any thread."""
        self._finish(OK, b"", cygrpc.SendMessageOperation(message, NO_FLAGS))

    def fail(self, code: grpc.StatusCode, details: str) -> None:
        self._finish(code.value[0], details.encode(errors="replace"))

    # -- for the loop ----------------------------------------------------------------------------------------

    def receive(self) -> None:
        self._call.start_server_batch((cygrpc.ReceiveMessageOperation(NO_FLAGS),), self._received)

    def _received(self, event: Any) -> Turn | None:
        message = event.batch_operations[0].message()
        if message is None:  # as grpcio; unless the call is over, and then it reaches nobody
            self.fail(grpc.StatusCode.UNIMPLEMENTED, "a unary call has exactly one request message")
            return None
        try:
            return self._begin(message, self)
        except Exception:
            self.fail(grpc.StatusCode.INTERNAL, "internal error")
            raise

    def _finish(self, code: int, details: bytes, *messages: Any) -> None:
        """Sends everything in one batch, with the end of the call awaited in the same one if it is not already."""
        operations = [
            cygrpc.SendInitialMetadataOperation(None, NO_FLAGS),
            *messages,
            cygrpc.SendStatusFromServerOperation(None, code, details, NO_FLAGS),
        ]
        if self._callbacks is None:
            operations.append(cygrpc.ReceiveCloseOnServerOperation(NO_FLAGS))
        self._call.start_server_batch(operations, self._finished)

    def _finished(self, event: Any) -> None:
        self._path.release()

    def _closed(self, event: Any) -> None:
        self._over = True
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks or ():
            callback()


def unusable() -> str | None:
    """Why the fast path cannot be used with the grpcio that is installed; None if it can.

    The releases are bounded because a core that is misused may abort the process; within the bounds calls are tried.
    """
    low, high = TESTED
    release = tuple(int(part) for part in grpc.__version__.split(".")[:2] if part.isdigit())
    if not low <= release < high:
        return f"it was not tested with grpcio {grpc.__version__}"
    try:
        return _try_it()
    except Exception as exc:
        return f"grpcio {grpc.__version__} is not as expected: {exc!r}"


def _try_it() -> str | None:
    """Makes one good and one failing call over a socket without a name in the file system."""
    executor = LeanExecutor(1, "vintner-grpc-check")
    server = grpc.server(executor)
    path = FastPath(server, methods={"/check/Echo": _check})
    address = f"unix-abstract:vintner-{os.getpid()}-{time.monotonic_ns():x}"
    server.add_insecure_port(address)
    path.start()
    try:
        with grpc.insecure_channel(address, options=(("grpc.use_local_subchannel_pool", 1),)) as channel:
            call = channel.unary_unary("/check/Echo")
            if call(b"echo", timeout=CHECK_SECONDS) != b"echo":
                return "an answer was wrong"
            failed = call.future(b"", timeout=CHECK_SECONDS)
            if (failed.code(), failed.details()) != (grpc.StatusCode.NOT_FOUND, "nothing"):
                return f"a status was wrong: {failed.code()}"
    finally:
        path.stop(CHECK_SECONDS)
        executor.shutdown()
    return None


def _check(message: bytes, call: Call) -> None:
    if not message:
        call.fail(grpc.StatusCode.NOT_FOUND, "nothing")
        return
    in_time = 0.0 < call.time_remaining() < 2 * CHECK_SECONDS
    call.answer(message if in_time and call.add_callback(lambda: None) else b"wrong")
