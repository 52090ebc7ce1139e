"""Calls back at points in time, exactly and without ticks: one thread for all who wait for one.

Knows nothing of who is called. Threads: `set` and `cancel` may be called by any; the callbacks run one after the other
in the clock's own thread, so they have to be quick.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from threading import Condition, Thread
from typing import Final

logger = logging.getLogger(__name__)

LONGEST_WAIT: Final = 86400.0
"""Seconds; a condition refuses waits that the platform's clock cannot hold."""

MOST_CANCELLED: Final = 64
"""Alarms that may lie among the others before these are sorted out."""


class Alarm:
    """One callback to come, or None if it was cancelled. `at` is in seconds of `time.monotonic`."""

    __slots__ = ("at", "callback")

    def __init__(self, at: float, callback: Callable[[], None]) -> None:
        self.at = at
        self.callback: Callable[[], None] | None = callback

    def __lt__(self, other: Alarm) -> bool:
        return self.at < other.at


class AlarmClock:
    """Starts its thread with the first alarm. The condition guards the heap."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._alarms: list[Alarm] = []
        self._cancelled = 0  # of them, at most: some may have rung
        self._thread: Thread | None = None

    def set(self, at: float, callback: Callable[[], None]) -> Alarm:
        """Has the callback called at that time, or at once if it has passed."""
        alarm = Alarm(at, callback)
        with self._changed:
            if self._thread is None:
                thread = Thread(target=self._run, name="vintner-alarms", daemon=True)
                thread.start()
                self._thread = thread
            heappush(self._alarms, alarm)
            if self._alarms[0] is alarm:
                self._changed.notify()
        return alarm

    def cancel(self, alarm: Alarm) -> None:
        """Lets go of an alarm's callback, which may be running already."""
        with self._changed:
            alarm.callback = None
            self._cancelled += 1
            if self._cancelled > MOST_CANCELLED and self._cancelled > len(self._alarms) // 2:
                self._alarms = [one for one in self._alarms if one.callback is not None]
                heapify(self._alarms)
                self._cancelled = 0

    def _run(self) -> None:
        while True:
            callback = self._next().callback
            if callback is not None:
                try:
                    callback()
                except Exception:
                    logger.exception("an alarm's callback failed")
            del callback  # or it would be kept until the next one is due

    def _next(self) -> Alarm:
        """Waits for the alarm that is due first."""
        with self._changed:
            while True:
                wait = self._alarms[0].at - time.monotonic() if self._alarms else LONGEST_WAIT
                if wait <= 0:
                    return heappop(self._alarms)
                self._changed.wait(min(wait, LONGEST_WAIT))
