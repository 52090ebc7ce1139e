"""What follows a last request runs a few at a time."""

from __future__ import annotations

import threading

import pytest
from vintner.closings import PLACES, Closings
from vintner.executor import LeanExecutor


def test_a_thousand_closings_have_few_threads_and_all_of_them_run() -> None:
    workers = LeanExecutor(1024, "closing")
    closings = Closings(workers)
    gate, ended = threading.Event(), threading.Semaphore(0)

    def close() -> None:
        assert gate.wait(10)
        ended.release()

    for _ in range(1000):
        closings.submit(close)
    assert sum(thread.name.startswith("closing-") for thread in threading.enumerate()) <= PLACES
    gate.set()
    assert all(ended.acquire(timeout=10) for _ in range(1000))
    workers.shutdown()


def test_closings_that_fail_keep_no_place(caplog: pytest.LogCaptureFixture) -> None:
    workers = LeanExecutor(1024, "failing")
    closings = Closings(workers)
    for _ in range(2 * PLACES):
        closings.submit(lambda: 1 // 0)
    done = threading.Event()
    closings.submit(done.set)
    assert done.wait(10)
    workers.shutdown()
    assert caplog.text.count("ZeroDivisionError: ") == 2 * PLACES


def test_one_that_hangs_leaves_the_others_their_places() -> None:
    workers = LeanExecutor(1024, "hanging")
    closings = Closings(workers)
    gate, done = threading.Event(), threading.Event()
    closings.submit(lambda: gate.wait(10))
    closings.submit(done.set)
    assert done.wait(10)
    gate.set()
    workers.shutdown()
