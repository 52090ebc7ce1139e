"""Requests that wait for a model to be loaded, on a clock that is set by hand."""

from __future__ import annotations

import gc
import time
import weakref
from collections.abc import Callable
from threading import Thread
from typing import Any

import numpy as np
import pytest
from vintner.alarms import Alarm
from vintner.errors import Cancelled, DeadlineExceeded, ModelNotReady, QueueFull, Stopping
from vintner.model_config import QueueConfig
from vintner.parking import Parking
from vintner.types import Cancellation, Request, Tensor

LIMITS = QueueConfig(max_requests=2, max_bytes=100)


class Clock:
    """Keeps the alarms, to be rung by hand."""

    def __init__(self) -> None:
        self.alarms: list[Alarm] = []

    def set(self, at: float, callback: Callable[[], None]) -> Alarm:
        self.alarms.append(Alarm(at, callback))
        return self.alarms[-1]

    def cancel(self, alarm: Alarm) -> None:
        alarm.callback = None

    def ring(self) -> None:
        for alarm in self.alarms:
            if alarm.callback is not None:
                alarm.callback()


class Lot:
    """A parking, and what becomes of the requests in it."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.parking = Parking(self.clock, patience=5)  # type: ignore[arg-type]
        self.outcomes: list[object] = []

    def park(self, size: int = 10, **request: Any) -> Callable[[], None]:
        inputs = {"x": Tensor("UINT8", np.zeros(size, np.uint8))}
        made = Request("m", "", inputs, **request)
        return self.parking.park(made, LIMITS, lambda: self.outcomes.append("resumed"), self.outcomes.append)


def test_a_request_goes_on_when_it_is_time_once() -> None:
    lot = Lot()
    go_on = lot.park()
    go_on()
    go_on()
    lot.clock.ring()
    assert lot.outcomes == ["resumed"]


@pytest.mark.parametrize(("seconds", "error"), [(1.0, DeadlineExceeded), (900.0, ModelNotReady), (None, ModelNotReady)])
def test_it_waits_no_longer_than_its_deadline_or_patience(seconds: float | None, error: type[Exception]) -> None:
    lot = Lot()
    before = time.monotonic()
    go_on = lot.park(deadline=None if seconds is None else before + seconds)
    if error is DeadlineExceeded:
        assert lot.clock.alarms[0].at == before + 1.0
    else:
        assert before + 5 <= lot.clock.alarms[0].at <= time.monotonic() + 5
    lot.clock.ring()
    go_on()
    assert [type(outcome) for outcome in lot.outcomes] == [error]


def test_a_client_that_goes_away_frees_the_place() -> None:
    lot = Lot()
    cancellation = Cancellation()
    go_on = lot.park(cancellation=cancellation)
    lot.park()
    with pytest.raises(QueueFull):
        lot.park()
    cancellation.cancel()
    cancellation.cancel()
    assert [type(outcome) for outcome in lot.outcomes] == [Cancelled]
    lot.park()
    go_on()
    assert len(lot.outcomes) == 1


@pytest.mark.parametrize("end", ["late", "resumed", "cancelled"])
def test_nothing_of_a_request_outlives_its_wait(end: str) -> None:
    class Call(Cancellation):
        """As a front end's, which holds all that there is of the call."""

    gc.disable()
    try:
        lot, call = Lot(), Call()
        kept = weakref.ref(call)
        go_on = lot.park(cancellation=call)  # which whoever loads the model holds
        ends = {"resumed": go_on, "late": lot.clock.ring, "cancelled": call.cancel}
        ends[end]()
        assert len(lot.outcomes) == 1
        del call, ends
        assert kept() is None
    finally:
        gc.enable()


def test_a_client_that_is_gone_already_does_not_wait() -> None:
    lot = Lot()
    cancellation = Cancellation()
    cancellation.cancel()
    lot.park(cancellation=cancellation)()
    assert [type(outcome) for outcome in lot.outcomes] == [Cancelled]


def test_requests_and_bytes_are_bounded_but_one_may_be_large() -> None:
    lot = Lot()
    first = lot.park(size=1000)
    with pytest.raises(QueueFull, match="1 requests wait for model 'm' to load already"):
        lot.park(size=1)
    first()
    lot.park(size=60)
    with pytest.raises(QueueFull):
        lot.park(size=60)
    lot.park(size=40)


def test_of_two_who_end_a_wait_one_does() -> None:
    for _ in range(200):
        lot = Lot()
        cancellation = Cancellation()
        go_on = lot.park(cancellation=cancellation)
        threads = [Thread(target=each) for each in (go_on, cancellation.cancel, lot.clock.ring)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(lot.outcomes) == 1
        assert not lot.parking._waiting


def test_all_that_wait_when_the_server_ends_are_told_so_once() -> None:
    lot = Lot()
    earlier, _ = lot.park(), lot.park()
    earlier()
    lot.parking.clear(at=3.0)
    lot.park()
    assert lot.outcomes == ["resumed"]
    [end] = [alarm for alarm in lot.clock.alarms if alarm.at == 3.0]
    for _ in range(2):
        assert end.callback is not None
        end.callback()
    assert lot.outcomes[0] == "resumed"
    assert [type(outcome) for outcome in lot.outcomes[1:]] == [Stopping, Stopping]
    lot.park()  # their places are free
