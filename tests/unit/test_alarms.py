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
    for offset in (0.09, 0.03, 0.06, 0.0, -1.0):
        clock.set(start + offset, lambda offset=offset: rung.put((offset, time.monotonic() - start)))
    order = [rung.get(timeout=WAIT) for _ in range(5)]
    assert sorted(offset for offset, _ in order) == [-1.0, 0.0, 0.03, 0.06, 0.09]
    assert [offset for offset, _ in order if offset > 0] == [0.03, 0.06, 0.09]
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
    class Owner:
        def ring(self) -> None:
            raise AssertionError("cancelled")

    clock, after, owner = AlarmClock(), threading.Event(), Owner()
    alarm = clock.set(time.monotonic() + 0.02, owner.ring)
    alarm.cancel()
    gone = weakref.ref(owner)
    del owner
    gc.collect()
    assert gone() is None
    clock.set(time.monotonic() + 0.03, after.set)
    assert after.wait(WAIT)


def test_a_callback_that_raises_is_logged_and_the_clock_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> None:
        raise ValueError("a bug")

    clock, after = AlarmClock(), threading.Event()
    clock.set(0.0, broken)
    clock.set(0.0, after.set)
    assert after.wait(WAIT)
    assert "a bug" in caplog.text
