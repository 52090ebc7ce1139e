"""The clock that calls back."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from queue import SimpleQueue

import pytest
from vintner.alarms import AlarmClock

WAIT = 10.0


def test_alarms_ring_in_the_order_of_their_times_and_not_before() -> None:
    clock, rung = AlarmClock(), SimpleQueue[tuple[float, float]]()
    start = time.monotonic()

    def set_them() -> None:
        """In the clock's own thread: none rings before all are set."""
        for offset in (0.09, 0.03, 0.06, 0.0, -1.0):
            clock.set(start + offset, lambda offset=offset: rung.put((offset, time.monotonic() - start)))

    clock.set(start, set_them)
    order = [rung.get(timeout=WAIT) for _ in range(5)]
    assert [offset for offset, _ in order] == [-1.0, 0.0, 0.03, 0.06, 0.09]
    assert all(at >= offset for offset, at in order)


def test_an_earlier_alarm_wakes_the_clock_from_a_later_one() -> None:
    clock, rung = AlarmClock(), threading.Event()
    clock.set(time.monotonic() + 3600, lambda: None)
    clock.set(time.monotonic() + 0.01, rung.set)
    assert rung.wait(WAIT)


def test_an_alarm_in_centuries_does_not_hurt() -> None:
    clock, rung = AlarmClock(), threading.Event()
    clock.set(1e15, lambda: None)
    clock.set(time.monotonic(), rung.set)
    assert rung.wait(WAIT)


def test_a_cancelled_alarm_is_silent_and_lets_go_of_its_callback() -> None:
    rung: list[str] = []

    class Owner:
        def ring(self) -> None:
            rung.append("cancelled")

    clock, busy, after, owner = AlarmClock(), threading.Event(), threading.Event(), Owner()
    clock.set(0.0, lambda: busy.wait(WAIT) and None)  # until it is cancelled, nothing else rings
    alarm = clock.set(1.0, owner.ring)
    clock.cancel(alarm)
    gone = weakref.ref(owner)
    del owner
    gc.collect()
    assert gone() is None
    clock.set(2.0, after.set)
    busy.set()
    assert after.wait(WAIT)
    assert rung == []


def test_a_callback_that_raises_is_logged_and_the_clock_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> None:
        raise ValueError("a bug")

    clock, after = AlarmClock(), threading.Event()
    clock.set(0.0, broken)
    clock.set(0.0, after.set)
    assert after.wait(WAIT)
    assert "a bug" in caplog.text


def test_cancelled_alarms_do_not_pile_up() -> None:
    clock = AlarmClock()
    kept = [clock.set(time.monotonic() + 3600, lambda: None) for _ in range(10)]
    for _ in range(10_000):
        clock.cancel(clock.set(time.monotonic() + 3600, lambda: None))
    assert len(clock._alarms) < 200
    assert all(alarm in clock._alarms for alarm in kept)


def test_a_clock_whose_thread_could_not_be_started_tries_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    clock, rung = AlarmClock(), threading.Event()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refused)
        with pytest.raises(RuntimeError):
            clock.set(0.0, rung.set)
    clock.set(0.0, rung.set)
    assert rung.wait(WAIT)
