"""Calls back at points in time, exactly and without ticks: one thread for all who wait for one.

Knows nothing of who is called. Threads: `set` and `cancel` may be called by any; the callbacks run one after the other
in the clock's own thread, so they have to be quick.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from heapq import heappop, heappush
from threading import Condition, Thread
from typing import Final

logger = logging.getLogger(__name__)

LONGEST_WAIT: Final = 86400.0
"""Seconds; a condition refuses waits that the platform's clock cannot hold."""


class Alarm:
    """One callback to come. `at` is in seconds of `time.monotonic`."""

    __slots__ = ("at", "callback")

    def __init__(self, at: float, callback: Callable[[], None]) -> None:
        self.at = at
        self.callback: Callable[[], None] | None = callback

    def __lt__(self, other: Alarm) -> bool:
        return self.at < other.at

    def cancel(self) -> None:
        """Lets go of the callback, which may be running already."""
        self.callback = None


class AlarmClock:
    """Starts its thread with the first alarm. The condition guards the heap."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._alarms: list[Alarm] = []
        self._thread: Thread | None = None

    def set(self, at: float, callback: Callable[[], None]) -> Alarm:
        """Has the callback called at that time, or at once if it has passed."""
        alarm = Alarm(at, callback)
        with self._changed:
            if self._thread is None:
                self._thread = Thread(target=self._run, name="vintner-alarms", daemon=True)
                self._thread.start()
            heappush(self._alarms, alarm)
            if self._alarms[0] is alarm:
                self._changed.notify()
        return alarm

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
