"""The thread that polls: what it gathers, what it runs itself, what it passes on, and who takes its place."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue

import pytest
from vintner import poller
from vintner.poller import NothingReady, Poller, PollingEnded, Turn
from waiting import wait_until

WAIT = 10.0


class Events:
    """Stands for a completion queue: what is put comes out of one `poll`; after `end` every poll raises."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[Turn | type[PollingEnded] | None] = SimpleQueue()

    def put(self, *turns: Turn | None) -> None:
        for turn in turns:
            self._queue.put(turn)

    def poll(self, wait: bool) -> Turn | None:
        try:
            event = self._queue.get(block=wait)
        except Empty:
            raise NothingReady from None
        if event is PollingEnded:
            self._queue.put(event)
            raise PollingEnded
        assert not isinstance(event, type)
        return event

    @property
    def waiting(self) -> int:
        return self._queue.qsize()

    def end(self) -> None:
        self._queue.put(PollingEnded)


class Work:
    """A turn of so many steps, each of which may do something. Notes the threads that ran it."""

    def __init__(self, step: Callable[[], None] = lambda: None, *, steps: int = 1, brief: bool = True) -> None:
        self.brief = brief
        self.threads: list[str] = []
        self.done = threading.Event()
        self.passed_on = threading.Event()
        self._do = step
        self._steps = steps

    def step(self) -> bool:
        self.threads.append(threading.current_thread().name)
        self._steps -= 1
        if not self._steps:
            self.done.set()
        self._do()
        return self._steps > 0

    def pass_on(self) -> None:
        self.passed_on.set()


def names() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("test")]


@pytest.fixture
def events() -> Iterator[Events]:
    """Those of a poller that runs, and that leaves no thread behind."""
    events = Events()
    Poller(events.poll, name="test").start()
    yield events
    events.end()
    wait_until(lambda: names() == [])


def test_events_without_work_are_taken(events: Events) -> None:
    after = Work()
    events.put(None, None, None, after)
    assert after.done.wait(WAIT)


def test_work_is_put_off_until_what_is_ready_has_been_taken(events: Events, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first holds the poller up, so that the others are all there when it polls again."""
    monkeypatch.setattr(poller, "GATHERING", WAIT)
    first, second = Work(lambda: left.append(events.waiting)), Work(lambda: left.append(events.waiting))
    blocking = Work(lambda: events.put(first, None, None, second))
    left: list[int] = []
    events.put(blocking)
    assert second.done.wait(WAIT)
    wait_until(lambda: len(left) == 2)
    assert left == [0, 0]


def test_work_is_not_put_off_for_ever_by_further_events() -> None:
    work, over, polled = Work(), threading.Event(), 0

    def poll(wait: bool) -> Turn | None:
        nonlocal polled
        if over.is_set():
            raise PollingEnded
        polled += 1
        return work if polled == 1 else None

    Poller(poll, name="test").start()
    assert work.done.wait(WAIT)
    over.set()
    wait_until(lambda: names() == [])


def test_a_turn_of_several_steps_is_polled_between(events: Events) -> None:
    for _ in range(10):
        other = Work()
        long = Work(lambda other=other: None if other.done.is_set() else events.put(other), steps=50)  # type: ignore[misc]
        events.put(long)
        wait_until(lambda long=long: long.done.is_set() or long.passed_on.is_set())  # type: ignore[misc]
        if not long.passed_on.is_set():  # as it is where the machine stalls in one of its steps
            break
    assert long.done.is_set()
    assert other.done.is_set()
    assert set(long.threads) == {"test"}


def test_work_that_is_not_brief_is_passed_on(events: Events) -> None:
    long, brief = Work(brief=False), Work()
    events.put(long, brief)
    assert long.passed_on.wait(WAIT)
    assert brief.done.wait(WAIT)
    assert long.threads == []


def test_work_that_raises_is_logged_and_the_poller_goes_on(events: Events, caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> None:
        raise ValueError("a bug")

    after = Work()
    events.put(Work(broken), after)
    assert after.done.wait(WAIT)
    assert "a bug" in caplog.text


def test_another_thread_polls_when_brief_work_does_not_come_back(events: Events) -> None:
    go = threading.Event()
    stuck = Work(lambda: go.wait(WAIT) and None, steps=2)  # type: ignore[func-returns-value]
    events.put(stuck)
    for _ in range(3):
        after = Work()
        events.put(after)
        assert after.done.wait(WAIT)
    assert not stuck.done.is_set()
    go.set()
    assert stuck.passed_on.wait(WAIT), "what is left of the late turn has to be run by somebody"
    wait_until(lambda: names().count("test") == 1)


def test_work_that_waited_behind_a_stuck_turn_is_run(events: Events) -> None:
    go = threading.Event()
    blocking = Work(lambda: go.wait(WAIT) and None)  # type: ignore[func-returns-value]
    waiting = [Work() for _ in range(5)]
    events.put(blocking, *waiting)
    assert all(work.done.wait(WAIT) for work in waiting)
    go.set()


def test_every_turn_is_run_to_its_end_once_whatever_gets_stuck(events: Events) -> None:
    pause = threading.Event()
    turns = [Work(lambda n=n: pause.wait(0.12 if n % 40 == 0 else 0) and None, steps=1 + n % 3) for n in range(200)]  # type: ignore[misc]
    for turn in turns:
        events.put(turn)
    wait_until(lambda: all(turn.done.is_set() or turn.passed_on.is_set() for turn in turns))
    for number, turn in enumerate(turns):
        assert turn.passed_on.is_set() or len(turn.threads) == 1 + number % 3
