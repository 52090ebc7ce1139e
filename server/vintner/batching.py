"""The queue of one model and the decision which of its requests form the next batch.

Pure: no threads, no locks, no clock of its own. The scheduler calls it under its lock and passes the time in.

Every request has a time at which it is due: its deadline, or `PATIENCE` after its arrival if that is sooner; each level
of priority below the first adds `AGEING`. What is due first leads the next batch. So the nearest deadline goes first
within a level, a lower level waits for a higher one but not for ever, and without either it is first come first served.

Besides, requests wait in a bucket per signature, because only requests of one signature can be stacked. A leader's
batch is filled from its own bucket, passing over what does not fit, so a big request does not hold up the small ones
behind it. A batch is cut when an instance is there to run it, not before (late binding).

Invariant: a request is in the order and in its bucket, or in neither; length, `rows`, `bytes` and the counts of the
levels count exactly those.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, Literal, TypeVar

from vintner.errors import QueueFull

PATIENCE: Final = 1.0
"""Seconds after which a request is due that has no nearer deadline."""

AGEING: Final = 5.0
"""Seconds that a request of one level lets newer ones of the level above go first."""


Reason = Literal["unbatched", "no_gain", "full", "share", "shape", "delay", "deadline", "idle"]
"""Why a batch holds no more: the model is not batched; requests alone are run as fast; nothing more fits, or it has a
preferred size; idle instances take the rest; what else waits has another signature; more was waited for, as long as is
allowed, or until a deadline came near; an instance was idle, and nothing else waited."""


class Pending:
    """What the queue needs to know of a waiting request.

    `rows` is its extent in the batch dimension, `size` its bytes. `arrived` and `deadline` (or None) are in seconds of
    the clock that is passed to `cut`. `level` is its priority, 1 the highest.
    """

    __slots__ = ("arrived", "deadline", "level", "place", "rows", "signature", "size")

    def __init__(
        self,
        rows: int,
        size: int,
        signature: Hashable,
        deadline: float | None,
        level: int = 1,
        arrived: float = 0.0,
    ) -> None:
        self.rows = rows
        self.size = size
        self.signature = signature
        self.deadline = deadline
        self.level = level
        self.arrived = arrived
        self.place: tuple[float, int] | None = None  # when it is due, and its number, while it is in a queue

    def expired(self, now: float) -> bool:
        return self.deadline is not None and self.deadline <= now


PendingT = TypeVar("PendingT", bound=Pending)


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """Bounds of what may wait for one model, and of a level in it; the request that would pass one is refused."""

    max_requests: int = 256
    max_bytes: int = 256 * 2**20
    levels: Mapping[int, int] = field(default_factory=dict)


class BatchQueue(Generic[PendingT]):
    """Requests that wait, in the order in which they are due.

    `max_rows` of 1 or less means that nothing is stacked. Where enough waits for one of the `preferred` sizes, a batch
    has the largest of these.
    """

    def __init__(self, limits: QueueLimits, max_rows: int, preferred: Sequence[int] = ()) -> None:
        self._limits = limits
        self._preferred = sorted(preferred, reverse=True)
        self.max_rows = max_rows
        # Sorted lists: a queue is short, and what arrives later is mostly due later, so it goes to the end.
        self._order: list[tuple[float, int, PendingT]] = []
        self._buckets: dict[Hashable, list[tuple[float, int, PendingT]]] = {}
        self._levels = dict.fromkeys(limits.levels, 0)
        self._number = 0
        self.bytes = 0
        self.rows = 0

    def reconfigure(self, limits: QueueLimits, preferred: Sequence[int]) -> None:
        """What waits stays, even where it is more than could come in now."""
        self._limits = limits
        self._preferred = sorted(preferred, reverse=True)
        self._levels = {level: sum(item.level == level for item in self) for level in limits.levels}

    def __iter__(self) -> Iterator[PendingT]:
        return (item for _, _, item in self._order)

    def __len__(self) -> int:
        return len(self._order)

    def push(self, item: PendingT) -> None:
        """Raises QueueFull, in the words that Triton's clients match, and leaves the queue as it was."""
        if len(self._order) >= self._limits.max_requests:
            raise QueueFull(f"Exceeds maximum queue size: {self._limits.max_requests} requests wait already")
        # A request over the bound of bytes is still let in alone: what an idle server would run must not be refused.
        if self._order and self.bytes + item.size > self._limits.max_bytes:
            raise QueueFull(f"Exceeds maximum queue size: {self.bytes} of {self._limits.max_bytes} bytes wait already")
        if item.level in self._levels:
            bound = self._limits.levels[item.level]
            if self._levels[item.level] >= bound:
                raise QueueFull(f"Exceeds maximum queue size: {bound} requests of priority {item.level} wait already")
            self._levels[item.level] += 1
        due = item.arrived + PATIENCE
        if item.deadline is not None and item.deadline < due:
            due = item.deadline
        self._insert(item, due + (item.level - 1) * AGEING)

    def postpone(self, item: PendingT) -> None:
        """Puts a request behind all that are not postponed, whether it is in the queue or was just taken out."""
        self.remove(item)
        if item.level in self._levels:
            self._levels[item.level] += 1
        self._insert(item, math.inf)

    def _insert(self, item: PendingT, due: float) -> None:
        self._number += 1
        item.place = (due, self._number)
        entry = (due, self._number, item)
        bucket = self._buckets.get(item.signature)
        if bucket is None:
            bucket = self._buckets[item.signature] = []
        for entries in (self._order, bucket):
            if not entries or entries[-1] < entry:
                entries.append(entry)
            else:
                insort(entries, entry)
        self.bytes += item.size
        self.rows += item.rows

    def remove(self, item: PendingT) -> bool:
        """Takes one request out, wherever it stands. False if it was not in the queue any more."""
        place = item.place
        if place is None:
            return False
        item.place = None
        bucket = self._buckets[item.signature]
        for entries in (self._order, bucket):
            del entries[bisect_left(entries, place)]
        if not bucket:
            del self._buckets[item.signature]
        if item.level in self._levels:
            self._levels[item.level] -= 1
        self.bytes -= item.size
        self.rows -= item.rows
        return True

    @property
    def oldest(self) -> float | None:
        """When what has waited longest arrived; None if nothing waits. From any thread: the copy is made at once."""
        return min((item.arrived for _, _, item in self._order.copy()), default=None)

    @property
    def head(self) -> PendingT:
        """The request that is due first. The queue must not be empty."""
        return self._order[0][2]

    def pop(self, ahead: int = 0) -> PendingT | None:
        """Takes out the request that leads the next batch; the first that is due behind `ahead` rows, if there is
        one."""
        for _, _, leader in self._order:
            if not ahead or leader.rows > ahead:
                self.remove(leader)
                return leader
            ahead -= leader.rows
        return None

    def cut(self, leader: PendingT, now: float, rows: int | None = None) -> tuple[list[PendingT], Reason]:
        """Takes out the followers of a leader: same signature, what is due first, as many as fit; and says why no more.

        `rows` sets a bound below `max_rows` for this batch. Requests whose deadline has passed are left for whoever
        ends them.
        """
        if self.max_rows <= 1:
            return [], "unbatched"
        limited = rows is not None and rows < self.max_rows
        bound = rows if rows is not None and limited else self.max_rows
        bucket = self._buckets.get(leader.signature, ())
        if self._preferred and bucket:
            waiting = leader.rows + sum(item.rows for _, _, item in bucket)
            bound = next((size for size in self._preferred if leader.rows <= size <= min(bound, waiting)), bound)
        space = bound - leader.rows
        followers: list[PendingT] = []
        for _, _, item in bucket:
            if space <= 0:
                break
            if item.rows <= space and not item.expired(now):
                followers.append(item)
                space -= item.rows
        for item in followers:
            self.remove(item)
        if leader.signature in self._buckets:
            return followers, "share" if limited else "full"
        if space <= 0 and not limited:
            return followers, "full"
        return followers, "shape" if self._order else "idle"
