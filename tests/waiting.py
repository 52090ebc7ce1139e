"""Waits for what nobody tells a test of: the states of another process, or of a thread that is just about to block."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

LONGEST = 60.0
"""Seconds, which only a test that fails waits for: a busy machine may hold anything up for a while."""
PAUSE = 0.005


def wait_until(condition: Callable[[], object]) -> None:
    """Asks again and again."""
    end = time.monotonic() + LONGEST
    while not condition():
        assert time.monotonic() < end, f"it never came about in {LONGEST:g} s"
        threading.Event().wait(PAUSE)
