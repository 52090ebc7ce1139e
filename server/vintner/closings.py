"""Work that follows the end of a version's last request, a few at a time, by the server's workers.

A worker that was started stays, so 1,000 models that are removed together must not start 1,000 of them. Knows no
models. Invariant: what is submitted runs once; at most `PLACES` at a time, so that as many may hang.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from threading import Lock
from typing import Final

from vintner.executor import LeanExecutor

logger = logging.getLogger(__name__)

PLACES: Final = 8


class Closings:
    """Threads: any."""

    def __init__(self, workers: LeanExecutor) -> None:
        self._workers = workers
        self._lock = Lock()
        self._waiting: deque[Callable[[], object]] = deque()
        self._running = 0

    def submit(self, task: Callable[[], object]) -> None:
        """Returns at once."""
        with self._lock:
            self._waiting.append(task)
            if self._running == PLACES:
                return
            self._running += 1
        self._workers.submit(self._run)

    def _run(self) -> None:
        while (task := self._next()) is not None:
            try:
                task()
            except BaseException:  # or the place would be lost
                logger.exception("the closing of a model failed outside of its handler")

    def _next(self) -> Callable[[], object] | None:
        with self._lock:
            if self._waiting:
                return self._waiting.popleft()
            self._running -= 1
            return None
