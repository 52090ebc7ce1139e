"""Threads that take turns at polling: who polls while others work, and when a thread ends."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue

import pytest
from vintner import pollers
from vintner.pollers import POLLING, Pollers, PollingEnded, Work

WAIT = 10.0


class Events:
    """Stands for a completion queue: what is put comes out of one `poll`; after `end` every poll raises."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[Work | type[PollingEnded] | None] = SimpleQueue()

    def put(self, work: Work | None) -> None:
        self._queue.put(work)

    def poll(self) -> Work | None:
        event = self._queue.get()
        if event is PollingEnded:
            self._queue.put(event)
            raise PollingEnded
        assert not isinstance(event, type)
        return event

    def end(self) -> None:
        self._queue.put(PollingEnded)


class HeldWork:
    """Work that blocks until it is let go."""

    def __init__(self) -> None:
        self.started = threading.Event()
        self.go = threading.Event()
        self.done = threading.Event()

    def __call__(self) -> None:
        self.started.set()
        assert self.go.wait(WAIT)
        self.done.set()


def until(true: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(int(WAIT * 1000)):
        if true():
            return
        pause.wait(0.001)
    raise AssertionError("never")


@pytest.fixture
def events() -> Events:
    return Events()


def started(events: Events, max_threads: int = 8) -> Pollers:
    threads = Pollers(events.poll, max_threads=max_threads, name="test")
    threads.start()
    return threads


def ended(events: Events, threads: Pollers) -> None:
    events.end()
    threads.end()
    until(lambda: threads.counts == (0, 0, 0))


def test_an_event_without_work_needs_no_second_thread(events: Events) -> None:
    threads = started(events)
    for _ in range(100):
        events.put(None)
    assert threads.counts == (1, 0, 1)
    ended(events, threads)


def test_while_all_others_work_one_thread_polls(events: Events) -> None:
    threads = started(events)
    held = [HeldWork() for _ in range(5)]
    for work in held:
        events.put(work)
    assert all(work.started.wait(WAIT) for work in held)
    assert threads.counts == (1, 0, 6)
    for work in held:
        work.go.set()
    until(lambda: threads.counts == (POLLING, 6 - POLLING, 6))
    ended(events, threads)


def test_a_parked_thread_polls_again_before_a_new_one_is_started(events: Events) -> None:
    threads = started(events)
    for _ in range(3):
        held = [HeldWork() for _ in range(4)]
        for work in held:
            events.put(work)
        assert all(work.started.wait(WAIT) for work in held)
        assert threads.counts[2] == 5
        for work in held:
            work.go.set()
        until(lambda: threads.counts == (POLLING, 5 - POLLING, 5))
    ended(events, threads)


def test_at_the_limit_the_next_event_waits_for_a_thread(events: Events) -> None:
    threads = started(events, max_threads=2)
    held = [HeldWork() for _ in range(3)]
    for work in held:
        events.put(work)
    assert held[0].started.wait(WAIT)
    assert held[1].started.wait(WAIT)
    assert threads.counts == (0, 0, 2)
    assert not held[2].started.is_set()
    held[0].go.set()
    assert held[2].started.wait(WAIT)
    held[1].go.set()
    held[2].go.set()
    ended(events, threads)


def test_work_that_raises_is_logged_and_its_thread_goes_on(events: Events, caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> None:
        raise ValueError("a bug")

    threads = started(events, max_threads=1)
    after = HeldWork()
    after.go.set()
    events.put(broken)
    events.put(after)
    assert after.done.wait(WAIT)
    assert "a bug" in caplog.text
    ended(events, threads)


def test_a_parked_thread_ends_when_it_is_not_needed_for_long(events: Events, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pollers, "PARKED_SECONDS", 0.01)
    threads = started(events)
    held = [HeldWork() for _ in range(5)]
    for work in held:
        events.put(work)
    assert all(work.started.wait(WAIT) for work in held)
    for work in held:
        work.go.set()
    until(lambda: threads.counts == (POLLING, 0, POLLING))
    ended(events, threads)


def test_without_further_threads_the_last_one_works_and_polls_again(
    events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = started(events)

    def refused(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)
    done: SimpleQueue[int] = SimpleQueue()
    for number in range(20):
        events.put(lambda number=number: done.put(number))  # type: ignore[misc]
    assert [done.get(timeout=WAIT) for _ in range(20)] == list(range(20))
    monkeypatch.undo()
    ended(events, threads)


def test_every_piece_of_work_is_run_once_under_contention(events: Events) -> None:
    threads = started(events, max_threads=16)
    done: SimpleQueue[int] = SimpleQueue()
    pause = threading.Event()

    def work(number: int) -> Work:
        def run() -> None:
            if number % 7 == 0:
                pause.wait(0.001)
            done.put(number)

        return run

    for number in range(3000):
        events.put(work(number))
    assert sorted(done.get(timeout=WAIT) for _ in range(3000)) == list(range(3000))
    until(lambda: threads.counts[0] == min(POLLING, threads.counts[2]))
    ended(events, threads)
