"""Says whether directories are there that somebody else puts there while the server starts already.

Knows no models. KServe's modelcar makes /mnt/models a link into the files of another container, which may start later.
Invariant: of what is waited for, the log says so at once, and again at intervals that double.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

logger = logging.getLogger(__name__)

FIRST_REMINDER: Final = 10.0
"""Seconds after which it is said again."""


class Arrival:
    """Of some directories. Threads: one at a time."""

    def __init__(self, paths: Sequence[Path], clock: Callable[[], float] = time.monotonic) -> None:
        self._paths = paths
        self._clock = clock
        self._began = clock()
        self._due = self._began
        self._reported = FIRST_REMINDER / 2

    def pending(self) -> bool:
        """Whether one of the directories cannot be read."""
        troubles = [trouble for trouble in map(_trouble, self._paths) if trouble]
        now = self._clock()
        if troubles and now >= self._due:
            self._report(now, troubles)
        if not troubles and self._due > self._began:
            logger.info("the models are there, after %.1f s", now - self._began)
        return bool(troubles)

    def _report(self, now: float, troubles: Sequence[str]) -> None:
        logger.info("waiting for models, not ready, since %.0f s: %s", now - self._began, "; ".join(troubles))
        self._reported *= 2
        self._due = self._began + self._reported


def _trouble(path: Path) -> str:
    """Why a directory cannot be listed; "" if it can be."""
    try:
        os.scandir(path).close()
    except OSError as exc:
        return f"{path}: {exc.strerror}"
    return ""
