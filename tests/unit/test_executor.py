"""The thread pool that grpcio submits its calls to."""

from __future__ import annotations

import threading

import pytest
from vintner.executor import LeanExecutor

WAIT = 10.0


def test_a_call_never_waits_for_another_while_threads_may_be_added() -> None:
    executor = LeanExecutor(8, "test")
    barrier = threading.Barrier(9)
    for _ in range(8):
        executor.submit(barrier.wait, WAIT)
    barrier.wait(WAIT)  # passes only if all eight run at once
    executor.shutdown()


def test_threads_are_used_again() -> None:
    executor = LeanExecutor(8, "test")
    names = []
    for _ in range(20):
        done = threading.Event()
        executor.submit(lambda done=done: (names.append(threading.current_thread().name), done.set()))
        assert done.wait(WAIT)
    executor.shutdown()
    assert len(set(names)) <= 2  # the second, if a call came before the first thread had said that it was free


def test_more_calls_than_threads_are_run_in_turn() -> None:
    executor = LeanExecutor(2, "test")
    counted = threading.Semaphore(0)
    for _ in range(50):
        executor.submit(counted.release)
    for _ in range(50):
        assert counted.acquire(timeout=WAIT)
    executor.shutdown()


def test_a_call_that_raises_is_logged_and_costs_no_thread(caplog: pytest.LogCaptureFixture) -> None:
    executor = LeanExecutor(1, "test")
    executor.submit(lambda: 1 / 0)
    done = threading.Event()
    executor.submit(done.set)
    assert done.wait(WAIT)
    executor.shutdown()
    assert "ZeroDivisionError" in caplog.text


def test_shutdown_finishes_what_was_submitted_and_refuses_more() -> None:
    executor = LeanExecutor(1, "test")
    seen: list[int] = []
    for number in range(10):
        executor.submit(seen.append, number)
    executor.shutdown()
    assert seen == list(range(10))
    with pytest.raises(RuntimeError):
        executor.submit(print)


def test_callbacks_on_the_future_are_not_kept() -> None:
    executor = LeanExecutor(1, "test")
    future = executor.submit(int)
    future.add_done_callback(print)
    assert future._done_callbacks == []
    executor.shutdown()
