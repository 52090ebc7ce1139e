"""Waits for what nobody tells a test of: the states of another process, or of a thread that is just about to block."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

LONGEST = 20.0
PAUSE = 0.005


def wait_until(condition: Callable[[], object]) -> None:
    """Asks again and again."""
    end = time.monotonic() + LONGEST
    while not condition():
        assert time.monotonic() < end, "it never came about"
        threading.Event().wait(PAUSE)
