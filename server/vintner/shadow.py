"""Copies of served requests for a version on trial, whose answers are compared with the served ones and dropped.

Nothing here can delay or fail a request that is served. A copy begins after its request was answered, and in another
thread; how many there may be is bounded in number and bytes, and what is more is skipped and counted. In the queue of
its version a copy has the lowest priority, and copies fill at most a quarter of it. It takes no place of the server's
bound on requests, and it is cancelled as soon as its version is to go.

A copy holds the arrays of its request and of the served answer, and copies neither: they are views of bytes that are
never written to again, and keep those alive.

Invariant: every copy that began holds a lease of its version until it has a result, and is counted once, by outcome.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from threading import Lock
from typing import Any, Final, Protocol

from vintner.drift import Drift, differences
from vintner.errors import Cancelled, Stopping, outcome_of
from vintner.response_cache import STEERING
from vintner.servable import Servable
from vintner.traffic import SILVER, Points
from vintner.types import Cancellation, Parameter, Request, Response

logger = logging.getLogger(__name__)

MOST_COPIES: Final = 16
"""Copies under way for one model."""

MOST_BYTES: Final = 64 * 2**20
"""Bytes of their requests and served answers; one copy is let in whatever its size."""

QUEUE_SHARE: Final = 4
"""Copies may fill one in so many of the places in the queue of their version."""


class Executor(Protocol):
    """Runs calls in a thread of its own, in order."""

    def submit(self, fn: Callable[..., Any], /, *args: Any) -> object: ...


@dataclass(eq=False, slots=True)
class _Copy:
    request: Request
    served: Response
    size: int
    cancellation: Cancellation = field(default_factory=Cancellation)


class Shadow:
    """The copies of one model's requests for one version.

    Threads: any; the lock guards all that is counted, and is not held while a copy is submitted or compared.
    """

    def __init__(self, version: int, executor: Executor) -> None:
        """The executor should have one thread: so the comparisons of a server never take more than one core."""
        self.version = str(version)
        self._share = 0.0
        self._executor = executor
        self._points = Points(SILVER)
        self._lock = Lock()
        self._target: Servable | None = None
        self._served: frozenset[str] = frozenset()
        self._copies: set[_Copy] = set()
        self._bytes = 0
        self._outcomes: dict[tuple[str, str], int] = {}
        self._drifts: dict[str, Drift] = {}
        self._skipped = {"busy": 0, "not_ready": 0, "not_comparable": 0}

    @property
    def skipped(self) -> Mapping[str, int]:
        """Requests that got no copy though they ought to have, by why."""
        return self._skipped

    @property
    def outcomes(self) -> Mapping[tuple[str, str], int]:
        """Copies that ended, by the version that served their request and their outcome; `ok` ones were compared."""
        return self._outcomes.copy()

    @property
    def drifts(self) -> Mapping[str, Drift]:
        """By the version that served the requests."""
        return self._drifts.copy()

    def aim(self, percent: float, ready: Mapping[str, Servable]) -> None:
        """Sends copies to this load of the version from now on, if it is among those that are ready, and cancels those
        that are with another. What was counted of versions that are not ready any more is dropped."""
        with self._lock:
            self._share = percent / 100
            target = ready.get(self.version)
            left = [] if target is self._target else list(self._copies)
            self._target = target
            self._served = frozenset(ready)
            self._drifts = {version: drift for version, drift in self._drifts.items() if version in ready}
            self._outcomes = {key: count for key, count in self._outcomes.items() if key[0] in ready}
        for copy in left:
            copy.cancellation.cancel()

    def offer(self, request: Request, served: Response) -> None:
        """Has a copy made of a request that was answered, if it is one of the share. Returns soon, and never raises."""
        if served.model_version == self.version or self._points.next() >= self._share:
            return
        if not served.outputs:  # a stream has gone, and what a chat asks is no tensor
            self._skip("not_comparable")
            return
        copy = _Copy(request, served, _size(request) + _size(served))
        if not self._admit(copy):
            return
        try:
            self._executor.submit(self._begin, copy)
        except RuntimeError:  # no thread can be started
            self._let_go(copy)
            self._skip("busy")

    def _admit(self, copy: _Copy) -> bool:
        with self._lock:
            if self._target is None:
                self._skipped["not_ready"] += 1
                return False
            queue = self._target.config.queue
            full = len(self._copies) >= min(MOST_COPIES, max(1, queue.max_requests // QUEUE_SHARE))
            large = self._bytes + copy.size > min(MOST_BYTES, queue.max_bytes // QUEUE_SHARE)
            if full or (large and self._copies):
                self._skipped["busy"] += 1
                return False
            self._copies.add(copy)
            self._bytes += copy.size
            return True

    def _skip(self, reason: str) -> None:
        with self._lock:
            self._skipped[reason] += 1

    def _let_go(self, copy: _Copy) -> None:
        with self._lock:
            self._copies.discard(copy)
            self._bytes -= copy.size

    def _begin(self, copy: _Copy) -> None:
        with self._lock:
            target = self._target
        # Not under the lock: whoever retires the version cancels first, so this copy is cancelled or gets no lease.
        if target is None or copy.cancellation.cancelled or not target.acquire():
            self._let_go(copy)
            self._skip("not_ready")
            return
        answered = partial(self._answered, copy, target)
        try:
            turn = target.submit(_copied(copy, target), answered)
        except Exception as exc:
            answered(exc)
            return
        if turn is not None:
            turn.pass_on()

    def _answered(self, copy: _Copy, target: Servable, result: Response | Exception) -> None:
        """Leaves the comparison to the executor: the thread that gave the answer has others to give."""
        target.release()
        self._executor.submit(self._end, copy, result)

    def _end(self, copy: _Copy, result: Response | Exception) -> None:
        try:
            if isinstance(result, (Cancelled, Stopping)):
                self._skip("not_ready")
            elif isinstance(result, Exception):
                logger.debug("a copy for version %s of '%s' failed: %s", self.version, copy.request.model_name, result)
                self._count(copy, outcome_of(result))
            else:
                self._count(copy, "ok", result)
        finally:
            self._let_go(copy)

    def _count(self, copy: _Copy, outcome: str, result: Response | None = None) -> None:
        version = copy.served.model_version
        apart = differences(copy.served.outputs, result.outputs) if result is not None else None
        with self._lock:
            if version not in self._served:
                return
            self._outcomes[version, outcome] = self._outcomes.get((version, outcome), 0) + 1
            if apart is not None:
                self._drifts.setdefault(version, Drift()).add(apart)


def _copied(copy: _Copy, target: Servable) -> Request:
    """The request as its copy asks it: behind all others, without its client's deadline and cancellation."""
    asked = copy.request
    parameters: dict[str, Parameter] = {
        name: value for name, value in asked.parameters.items() if name not in STEERING
    } | {"priority": target.config.queue.priority_levels}
    return Request(
        asked.model_name,
        target.version,
        asked.inputs,
        asked.outputs,
        parameters=parameters,
        cancellation=copy.cancellation,
    )


def _size(message: Request | Response) -> int:
    tensors = message.inputs if isinstance(message, Request) else message.outputs
    return sum(tensor.nbytes for tensor in tensors.values())
