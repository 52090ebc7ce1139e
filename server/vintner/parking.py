"""Requests that wait until their model is loaded, without a thread.

Knows nothing of loading: the manager says when it is time. A parked request waits at most `PATIENCE`, and no longer
than its deadline or its client do; it counts against the bounds of its model's queue. Invariant: a parked request is
either resumed or refused, once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import Lock
from typing import Final

from vintner.alarms import Alarm, AlarmClock
from vintner.errors import Cancelled, DeadlineExceeded, ModelNotReady, QueueFull, Stopping, VintnerError
from vintner.model_config import QueueConfig
from vintner.types import Request

PATIENCE: Final = 300.0
"""Seconds; a large language model takes minutes to compile."""


@dataclass(frozen=True, slots=True)
class _Ways:
    """How a request goes on. They hold it, and what it came with."""

    resume: Callable[[], None]
    refuse: Callable[[VintnerError], None]


class _Parked:
    """One request. `leave` gives its ways to the first who takes it out, for whatever reason, and keeps nothing of it:
    whoever loads the model holds this for as long as that takes."""

    __slots__ = ("_lock", "_ways", "alarm", "cancellation", "name", "size")

    def __init__(self, request: Request, ways: _Ways) -> None:
        self.name = request.model_name
        self.size = sum(tensor.nbytes for tensor in request.inputs.values())
        if request.untyped is not None:
            self.size += request.untyped.size
        self.cancellation = request.cancellation
        self.alarm: Alarm | None = None
        self._ways: _Ways | None = ways
        self._lock = Lock()

    def leave(self) -> _Ways | None:
        with self._lock:
            ways, self._ways = self._ways, None
            return ways


class Parking:
    """All requests that wait for a model. Threads: any."""

    def __init__(self, alarms: AlarmClock, patience: float = PATIENCE) -> None:
        self._alarms = alarms
        self._patience = patience
        self._lock = Lock()
        self._waiting: dict[str, tuple[int, int]] = {}  # requests and bytes, by model
        self._parked: set[_Parked] = set()

    @property
    def waiting(self) -> Mapping[str, tuple[int, int]]:
        """Requests and bytes, of the models that any wait for."""
        with self._lock:
            return dict(self._waiting)

    def park(
        self,
        request: Request,
        limits: QueueConfig,
        resume: Callable[[], None],
        refuse: Callable[[VintnerError], None],
        since: float | None = None,
    ) -> Callable[[], None]:
        """Keeps a request, which has waited `since` then. Returns what is to be called when its model is there, or will
        not be.

        `resume` is called then, or `refuse` before it, from any thread. Raises QueueFull if too much waits already.
        """
        parked = _Parked(request, _Ways(resume, refuse))
        self._enter(parked, limits)
        at, error = self._end(request, time.monotonic() if since is None else since)
        parked.alarm = self._alarms.set(at, lambda: self._give_up(parked, error))
        if request.cancellation is not None:
            cancelled = Cancelled("the client cancelled the request")
            request.cancellation.on_cancel(lambda: self._give_up(parked, cancelled))
        return lambda: self._resume(parked)

    def clear(self, at: float) -> None:
        """Has all that still wait at that time, of `time.monotonic`, told that the server is stopping."""
        self._alarms.set(at, self._refuse_all)

    def _refuse_all(self) -> None:
        with self._lock:
            parked = list(self._parked)
        for each in parked:
            self._give_up(each, Stopping(f"the server is stopping, and model '{each.name}' is not loaded"))

    def _end(self, request: Request, since: float) -> tuple[float, VintnerError]:
        """When a request has waited long enough, and what it is told then."""
        name, at = request.model_name, since + self._patience
        if request.deadline is not None and request.deadline < at:
            return request.deadline, DeadlineExceeded(f"the deadline passed while model '{name}' was being loaded")
        return at, ModelNotReady(f"model '{name}' is still not loaded after {self._patience:g} s")

    def _enter(self, parked: _Parked, limits: QueueConfig) -> None:
        with self._lock:
            requests, size = self._waiting.get(parked.name, (0, 0))
            if requests >= limits.max_requests or (requests and size + parked.size > limits.max_bytes):
                raise QueueFull(
                    f"Exceeds maximum queue size: {requests} requests wait for model '{parked.name}' to load already"
                )
            self._waiting[parked.name] = requests + 1, size + parked.size
            self._parked.add(parked)

    def _leave(self, parked: _Parked) -> _Ways | None:
        ways = parked.leave()
        if ways is None:
            return None
        with self._lock:
            self._parked.discard(parked)
            requests, size = self._waiting[parked.name]
            if requests == 1:
                del self._waiting[parked.name]
            else:
                self._waiting[parked.name] = requests - 1, size - parked.size
        if parked.alarm is not None:
            self._alarms.cancel(parked.alarm)
        cancellation, parked.cancellation = parked.cancellation, None  # or the two would keep each other
        if cancellation is not None:
            cancellation.on_cancel(None)
        return ways

    def _give_up(self, parked: _Parked, error: VintnerError) -> None:
        ways = self._leave(parked)
        if ways is not None:
            ways.refuse(error)

    def _resume(self, parked: _Parked) -> None:
        ways = self._leave(parked)
        if ways is not None:
            ways.resume()
