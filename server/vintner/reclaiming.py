"""Returns the memory of models that were unloaded to the system: some time after, and once for many of them.

All threads stand still meanwhile (`memory.give_back`): with 1,000 models, 50 that were reloaded together held up the
others for up to four seconds when each was followed by a return of its own. Knows no models. Invariant: each unload
is followed by a return that begins after it, at most `LATEST` seconds later.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Lock
from typing import Final

from vintner import memory
from vintner.turns import Threads

QUIET: Final = 0.5
"""Seconds without another unload after which memory is returned."""
LATEST: Final = 5.0
"""Seconds after which it is returned though models go on being unloaded."""


class Reclaimer:
    """Threads: any. The return itself is run by a worker."""

    def __init__(
        self,
        threads: Threads,
        give_back: Callable[[], object] = memory.give_back,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`clock` is the one of the alarms."""
        self._threads = threads
        self._give_back = give_back
        self._clock = clock
        self._lock = Lock()
        self._first: float | None = None  # of the unloads that were told of since the last return
        self._last = 0.0

    def unloaded(self) -> None:
        """Something was closed."""
        with self._lock:
            self._last = self._clock()
            if self._first is not None:
                return
            self._first = self._last
        self._threads.alarms.set(self._last + QUIET, self._look)

    def _look(self) -> None:
        with self._lock:
            assert self._first is not None
            due = min(self._last + QUIET, self._first + LATEST)
            over = due <= self._clock()
            if over:
                self._first = None
        if over:
            self._threads.workers.submit(self._give_back)
        else:
            self._threads.alarms.set(due, self._look)
