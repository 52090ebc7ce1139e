"""The queue under any sequence of arrivals, cuts and departures, against a list of what waits.

The clock only goes forward, and a cut is what a scheduler makes: the leader taken out, then its followers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from vintner.batching import AGEING, PATIENCE, BatchQueue, Pending, QueueLimits
from vintner.errors import QueueFull

START = 100.0
BOUNDS = QueueLimits(max_requests=16, max_bytes=40, levels={2: 5, 3: 2})

Arrival = tuple[int, int, str, float | None, int]
ARRIVALS = st.tuples(
    st.integers(0, 6),
    st.integers(0, 6),
    st.sampled_from("aab"),
    st.none() | st.none() | st.sampled_from((-0.1, 0.3, 0.6, 4.0)),
    st.sampled_from((1, 1, 2, 3)),
)
"""Rows, bytes, signature, seconds to the deadline and level."""


class Waiting(Pending):
    """A request, how many batches have been cut since it came, and how many others may go first whatever they are."""

    __slots__ = ("cuts", "number", "postponed", "rivals")

    def __init__(self, number: int, rivals: int, rows: int, size: int, signature: str, **options: Any) -> None:
        super().__init__(rows, size, signature, **options)
        self.number = number
        self.rivals = rivals
        self.cuts = 0
        self.postponed = 0  # the when-th, from 1

    @property
    def plain(self) -> bool:
        """It has nothing but its place in the line."""
        return self.deadline is None and not self.postponed

    @property
    def latest(self) -> float:
        """It is due then, whatever its deadline; who comes later goes later, unless he was too late when he came."""
        return self.arrived + PATIENCE + (self.level - 1) * AGEING


class QueueMachine(RuleBasedStateMachine):
    """Deadlines, levels, several signatures and bounds, all at once."""

    @initialize(max_rows=st.integers(1, 10))
    def begin(self, max_rows: int) -> None:
        self.now = START
        self.max_rows = max_rows
        self.queue: BatchQueue[Waiting] = BatchQueue(BOUNDS, max_rows)
        self.waiting: list[Waiting] = []
        self.came = 0

    # -- what can happen -------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from((0.01, 0.5, 2.0, AGEING + 2 * PATIENCE)))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(arrivals=st.lists(ARRIVALS, min_size=1, max_size=6))
    def some_come(self, arrivals: Sequence[Arrival]) -> None:
        for rows, size, signature, patience, level in arrivals:
            deadline = None if patience is None else self.now + patience
            rivals = len(self.waiting)
            item = Waiting(self.came, rivals, rows, size, signature, deadline=deadline, level=level, arrived=self.now)
            self.came += 1
            self._one_comes(item)

    def _one_comes(self, item: Waiting) -> None:
        if not self._admits(item):
            with pytest.raises(QueueFull):
                self.queue.push(item)
            return
        self.queue.push(item)
        for other in self.waiting:
            other.rivals += may_go_first(item, other)
        self.waiting.append(item)

    def _admits(self, item: Waiting) -> bool:
        of_level = sum(other.level == item.level for other in self.waiting)
        return (
            len(self.waiting) < BOUNDS.max_requests
            and (not self.waiting or self._bytes() + item.size <= BOUNDS.max_bytes)
            and of_level < BOUNDS.levels.get(item.level, BOUNDS.max_requests)
        )

    @precondition(lambda self: self.waiting)
    @rule(share=st.none() | st.integers(1, 8))
    def one_batch_is_cut(self, share: int | None) -> None:
        leader = self.queue.pop()
        self.waiting.remove(leader)
        leads_rightly(leader, self.waiting)
        followers, _ = self.queue.cut(leader, self.now, share)
        for item in followers:
            self.waiting.remove(item)
        most = min(self.max_rows, share or self.max_rows)
        follow_rightly(leader, followers, self.waiting, 0 if self.max_rows == 1 else most, self.now)
        for item in self.waiting:
            item.cuts += 1
            assert item.postponed or item.cuts <= item.rivals, "starved"

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def one_leaves(self, data: st.DataObject) -> None:
        item = data.draw(st.sampled_from(self.waiting))
        assert self.queue.remove(item)
        assert not self.queue.remove(item)
        self.waiting.remove(item)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def one_is_postponed(self, data: st.DataObject) -> None:
        item = data.draw(st.sampled_from(self.waiting))
        self.queue.postpone(item)
        self.came += 1
        item.postponed = self.came

    # -- what always holds -----------------------------------------------------------------------------------

    @invariant()
    def the_counts_are_exact(self) -> None:
        queue = self.queue
        assert (len(queue), queue.rows, queue.bytes) == (
            len(self.waiting),
            sum(item.rows for item in self.waiting),
            self._bytes(),
        )
        assert set(queue) == set(self.waiting)

    def _bytes(self) -> int:
        return sum(item.size for item in self.waiting)


def may_go_first(item: Waiting, other: Waiting) -> bool:
    """Whether one that comes later may lead a batch before another."""
    return item.arrived <= other.latest or item.expired(other.latest)


def leads_rightly(leader: Waiting, others: Sequence[Waiting]) -> None:
    """Those that are left were not to go first."""
    for other in others:
        if leader.postponed:
            assert leader.postponed < other.postponed
        elif not other.postponed:
            assert may_go_first(leader, other)
            if leader.level == other.level:
                same_level(leader, other)


def same_level(leader: Waiting, other: Waiting) -> None:
    """First come first served, whatever the signatures, but for who has a nearer deadline."""
    if leader.plain and other.plain:
        assert leader.number < other.number
    if other.deadline is not None and other.deadline < leader.arrived + PATIENCE:
        assert leader.deadline is not None
        assert leader.deadline <= other.deadline


def follow_rightly(
    leader: Waiting, followers: Sequence[Waiting], left: Sequence[Waiting], most_rows: int, now: float
) -> None:
    """A batch has one signature, fits, leaves no room for one that waits, and has them in their order."""
    rows = leader.rows + sum(item.rows for item in followers)
    assert not followers or rows <= most_rows
    assert all(item.signature == leader.signature and not item.expired(now) for item in followers)
    for item in left:
        if item.signature != leader.signature or item.expired(now):
            continue
        assert rows >= most_rows or rows + item.rows > most_rows
        for follower in followers:
            if item.plain and follower.plain and item.level == follower.level and item.number < follower.number:
                assert item.rows > follower.rows, "overtaken by one that did not fit better"


TestQueue = QueueMachine.TestCase
TestQueue.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
