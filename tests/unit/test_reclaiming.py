"""Many unloads share one return of memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from vintner.reclaiming import LATEST, QUIET, Reclaimer
from vintner.turns import Threads


class World:
    """A clock that is put forward by hand, with its alarms, and workers that run at once."""

    def __init__(self) -> None:
        self.now = 0.0
        self.alarms: list[tuple[float, Callable[[], None]]] = []
        self.returns: list[float] = []
        threads = Threads(workers=self, alarms=self)  # type: ignore[arg-type]
        self.reclaimer = Reclaimer(threads, lambda: self.returns.append(self.now), lambda: self.now)

    def set(self, at: float, callback: Callable[[], None]) -> None:
        self.alarms.append((at, callback))

    def submit(self, task: Callable[[], Any]) -> None:
        task()

    def advance(self, until: float) -> None:
        while due := [alarm for alarm in self.alarms if alarm[0] <= until]:
            first = min(due, key=lambda alarm: alarm[0])
            self.alarms.remove(first)
            self.now = max(self.now, first[0])
            first[1]()
        self.now = max(self.now, until)


def test_fifty_unloads_in_a_second_are_one_return() -> None:
    world = World()
    for number in range(50):
        world.advance(number / 50)
        world.reclaimer.unloaded()
    world.advance(60)
    assert world.returns == [49 / 50 + QUIET]


def test_a_lone_unload_is_returned_soon() -> None:
    world = World()
    world.reclaimer.unloaded()
    world.advance(QUIET / 2)
    assert world.returns == []
    world.advance(QUIET)
    assert world.returns == [QUIET]


def test_unloads_without_end_are_returned_every_few_seconds() -> None:
    world = World()
    for number in range(1, 1001):
        world.advance(number / 50)
        world.reclaimer.unloaded()
    assert 2 <= len(world.returns) <= 20 / LATEST


@given(st.lists(st.floats(0, 30), min_size=1, max_size=60))
def test_every_unload_is_followed_by_a_return_in_time_and_returns_are_apart(times: list[float]) -> None:
    world = World()
    for at in sorted(times):
        world.advance(at)
        world.reclaimer.unloaded()
    world.advance(100)
    assert world.alarms == []
    for at in times:
        assert any(at <= then <= at + LATEST for then in world.returns)
    assert all(later - sooner >= QUIET for sooner, later in zip(world.returns, world.returns[1:], strict=False))
