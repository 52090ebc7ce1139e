"""Backends are found by entry points, and made when they are first asked for."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fake_backend import FakeBackend
from vintner.backend import Backends


class Slow(FakeBackend):
    """Takes so long to be made that another thread would come to make it too."""

    made = 0

    def __init__(self) -> None:
        super().__init__()
        type(self).made += 1
        threading.Event().wait(0.05)


class Point:
    """An entry point that does not have to be installed."""

    def load(self) -> type[Slow]:
        return Slow


def test_a_backend_that_two_threads_ask_for_at_once_is_made_once() -> None:
    points: Any = {"slow": Point()}
    backends = Backends(points)
    with ThreadPoolExecutor(4) as threads:
        got = list(threads.map(lambda _: backends.get("slow"), range(4)))
    assert Slow.made == 1
    assert all(backend is got[0] for backend in got)
