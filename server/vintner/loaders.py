"""Threads that load models, a few at a time, and what becomes of one that hangs.

Knows nothing of models. A runtime's code cannot be interrupted, so a load that hangs keeps its thread; what can be done
is to give its place to another. Invariant: at most `places` loads run whose places were not lent.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from threading import Condition, Thread

logger = logging.getLogger(__name__)


class Load:
    """One load, queued or running. `started` is in seconds of `time.monotonic`, None as long as it is queued."""

    __slots__ = ("lent", "queued", "started", "task")

    def __init__(self, task: Callable[[Load], None]) -> None:
        self.task = task
        self.queued = time.monotonic()
        self.started: float | None = None
        self.lent = False

    def seconds(self, now: float) -> float:
        """How long it has been running."""
        return now - self.started if self.started is not None else 0.0


class Loaders:
    """Starts a thread when a load finds a free place; a thread ends when nothing is queued."""

    def __init__(self, places: int) -> None:
        self._places = places
        self._changed = Condition()
        self._queue: deque[Load] = deque()
        self._running: set[Load] = set()
        self._stopped = False

    def submit(self, task: Callable[[Load], None], urgent: bool = False) -> Load:
        """Has the task called with its load, in a thread of its own; an urgent one before those that are queued."""
        load = Load(task)
        with self._changed:
            if urgent:
                self._queue.appendleft(load)
            else:
                self._queue.append(load)
            self._start()
        return load

    def lend(self, load: Load) -> None:
        """Lets another load have the place of one that takes long."""
        with self._changed:
            if load in self._running and not load.lent:
                load.lent = True
                self._start()

    def give_up(self, load: Load) -> None:
        """Lets another load have the place of one that may never end, and `stop` not wait for it."""
        with self._changed:
            load.lent = True
            self._running.discard(load)
            self._changed.notify_all()
            self._start()

    def cancel(self, load: Load) -> bool:
        """Takes back a load that has not begun. False if it has."""
        with self._changed:
            if load not in self._queue:
                return False
            self._queue.remove(load)
            return True

    def stop(self, timeout: float) -> bool:
        """Begins no more, and waits for what runs, unless it was given up. False if that took longer than `timeout`
        seconds."""
        with self._changed:
            self._stopped = True
            self._queue.clear()
            return self._changed.wait_for(lambda: not self._running, timeout)

    def _start(self) -> None:
        """Starts threads for what is queued, as far as there are places. Needs the lock."""
        while self._queue and not self._stopped and sum(not load.lent for load in self._running) < self._places:
            load = self._take()
            Thread(target=self._run, args=(load,), name="vintner-load", daemon=True).start()

    def _take(self) -> Load:
        load = self._queue.popleft()
        load.started = time.monotonic()
        self._running.add(load)
        return load

    def _run(self, first: Load) -> None:
        load: Load | None = first
        while load is not None:
            try:
                load.task(load)
            except BaseException:  # or the place would be lost
                logger.exception("a load failed outside of its handler")
            load = self._next(load)

    def _next(self, ended: Load) -> Load | None:
        """The load that takes the place of one that has ended, if that was not lent."""
        with self._changed:
            self._running.discard(ended)
            self._changed.notify_all()
            if ended.lent or self._stopped or not self._queue:
                return None
            return self._take()
