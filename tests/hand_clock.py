"""A clock that a test holds: time goes by when the test says so, however long the machine takes.

Stands in for `time` in the modules that read it, and for the alarms that schedulers share. Invariant: when `forward`
returns, every alarm that is due has rung, in the order of their times.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from vintner import decoupled, execution, recovery, scheduler, servable
from vintner.alarms import Alarm
from vintner.turns import Threads

READERS = (scheduler, execution, recovery, decoupled, servable)
"""The modules that tell how long a run takes and a call waits."""


class HandClock:
    """Alarms ring in the thread that moves the clock on; one whose time has passed when it is set, at the next move."""

    def __init__(self) -> None:
        self.now = 1.0  # long before the alarms of those who go by the machine's own clock, which do not ring
        self._alarms: list[Alarm] = []

    def monotonic(self) -> float:
        return self.now

    def set(self, at: float, callback: Callable[[], None]) -> Alarm:
        alarm = Alarm(at, callback)
        self._alarms.append(alarm)
        return alarm

    def cancel(self, alarm: Alarm) -> None:
        alarm.callback = None

    def forward(self, seconds: float) -> None:
        """Lets time go by, from alarm to alarm."""
        end = self.now + seconds
        while due := [alarm for alarm in list(self._alarms) if alarm.callback is not None and alarm.at <= end]:
            first = min(due)
            self._alarms.remove(first)
            self.now = max(self.now, first.at)
            if first.callback is not None:
                first.callback()
        self.now = end


def hand_clock(monkeypatch: pytest.MonkeyPatch) -> HandClock:
    """Has schedulers go by a clock that is held; those that `threads_by` it are for ring its alarms."""
    clock = HandClock()
    for module in READERS:
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=clock.monotonic, time=time.time))
    return clock


def threads_by(clock: HandClock) -> Threads:
    return Threads(alarms=clock)  # type: ignore[arg-type]
