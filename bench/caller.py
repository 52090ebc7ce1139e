"""Load from one gRPC channel whose every request is timed: a closed loop, or arrivals of their own.

The messages are bytes already and stay bytes, so what the client does for a request is grpcio's part alone. Good for
models that run for milliseconds; for smaller ones it would be the client that is measured (`load.py` has h2load).
Invariant: a latency counts from when the request ought to have been sent, so no wait is omitted.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Self

import grpc

from bench.arrivals import REFUSED, SERVED, Answer, Trace
from bench.messages import GRPC_PATH

_PATIENCE_SECONDS = 120.0
_LEAD_SECONDS = 0.05


class CallerError(RuntimeError):
    """A request was neither served nor refused."""


class Caller:
    """A channel to a server, used by one thread at a time. Closed on leaving."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)])
        self._infer: Any = self._channel.unary_unary(GRPC_PATH)
        self._ended: SimpleQueue[Answer] = SimpleQueue()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._channel.close()

    def replies(self, bodies: Sequence[bytes]) -> list[bytes]:
        """What is answered to them, sent all at once. Raises grpc.RpcError if one of them fails."""
        calls = [self._infer.future(body, timeout=_PATIENCE_SECONDS) for body in bodies]
        return [bytes(call.result()) for call in calls]

    def closed_loop(self, bodies: Iterable[bytes], in_flight: int) -> Trace:
        """Sends all of them, the next one whenever an answer comes."""
        answers: list[Answer] = []
        sent = 0
        with _undisturbed():
            start = time.monotonic()
            for body in bodies:
                if sent >= in_flight:
                    answers.append(self._next())
                    start = answers[-1].ended
                self._send(body, start)
                sent += 1
            answers += [self._next() for _ in range(sent - len(answers))]
        return Trace(answers)

    def open_loop(self, bodies: Sequence[bytes], arrivals: Sequence[float]) -> Trace:
        """Sends each at its time, in seconds from the start, whatever has been answered by then."""
        with _undisturbed():
            start = time.monotonic() + _LEAD_SECONDS
            for body, arrival in zip(bodies, arrivals, strict=True):
                while (left := start + arrival - time.monotonic()) > 0:
                    time.sleep(left)
                self._send(body, start + arrival)
            return Trace([self._next() for _ in bodies])

    def _send(self, body: bytes, intended: float) -> None:
        def done(call: grpc.Future) -> None:
            self._ended.put(Answer(intended, time.monotonic(), call.code().name))

        self._infer.future(body, timeout=_PATIENCE_SECONDS).add_done_callback(done)

    def _next(self) -> Answer:
        try:
            answer = self._ended.get(timeout=_PATIENCE_SECONDS + 10)
        except Empty:
            raise CallerError("the server left a request without an answer") from None
        if answer.status not in (SERVED, REFUSED):
            raise CallerError(f"a request ended with {answer.status}, expected {SERVED} or {REFUSED}")
        return answer


@contextmanager
def _undisturbed() -> Iterator[None]:
    """A collection of garbage takes milliseconds, which would be taken for the server's."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
