"""The queue of one model and the decision which of its requests form the next batch.

Pure: no threads, no locks, no clock of its own. The scheduler calls it under its lock and passes the time in.

Requests wait in one first-come-first-served order, and besides in a bucket per signature, because only requests of
one signature can be stacked. The head of the order always leads the next batch, so nobody starves; its batch is
filled from its own bucket, passing over what does not fit, so a big request does not hold up the small ones
behind it. A batch is cut when an instance is there to run it, not before (late binding).

Invariant: a request is in the order and in its bucket, or in neither; length, `rows` and `bytes` count exactly those.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from vintner.errors import QueueFull


class Pending:
    """What the queue needs to know of a waiting request.

    `rows` is its extent in the batch dimension, `size` its bytes, `deadline` in the seconds of the clock that is
    passed to `cut`, or None.
    """

    __slots__ = ("deadline", "rows", "signature", "size")

    def __init__(self, rows: int, size: int, signature: Hashable, deadline: float | None) -> None:
        self.rows = rows
        self.size = size
        self.signature = signature
        self.deadline = deadline

    def expired(self, now: float) -> bool:
        return self.deadline is not None and self.deadline <= now


PendingT = TypeVar("PendingT", bound=Pending)


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """Bounds of what may wait for one model; the request that would pass one is refused."""

    max_requests: int = 256
    max_bytes: int = 256 * 2**20


class BatchQueue(Generic[PendingT]):
    """Requests that wait, first come first served. `max_rows` of 1 or less means that nothing is stacked."""

    def __init__(self, limits: QueueLimits, max_rows: int) -> None:
        self._limits = limits
        self.max_rows = max_rows
        # OrderedDict, because taking the first of a plain dict scans the places of all that left before it.
        self._order: OrderedDict[PendingT, None] = OrderedDict()
        self._buckets: dict[Hashable, OrderedDict[PendingT, None]] = {}
        self.bytes = 0
        self.rows = 0

    def __iter__(self) -> Iterator[PendingT]:
        return iter(self._order)

    def __len__(self) -> int:
        return len(self._order)

    def push(self, item: PendingT) -> None:
        """Raises QueueFull, in the words that Triton's clients match, and leaves the queue as it was."""
        if len(self._order) >= self._limits.max_requests:
            raise QueueFull(f"Exceeds maximum queue size: {self._limits.max_requests} requests wait already")
        # A request over the bound of bytes is still let in alone: what an idle server would run must not be refused.
        if self._order and self.bytes + item.size > self._limits.max_bytes:
            raise QueueFull(f"Exceeds maximum queue size: {self.bytes} of {self._limits.max_bytes} bytes wait already")
        self._order[item] = None
        bucket = self._buckets.get(item.signature)
        if bucket is None:
            bucket = self._buckets[item.signature] = OrderedDict()
        bucket[item] = None
        self.bytes += item.size
        self.rows += item.rows

    def remove(self, item: PendingT) -> bool:
        """Takes one request out, wherever it stands. False if it was not in the queue any more."""
        if item not in self._order:
            return False
        del self._order[item]
        bucket = self._buckets[item.signature]
        del bucket[item]
        if not bucket:
            del self._buckets[item.signature]
        self.bytes -= item.size
        self.rows -= item.rows
        return True

    def pop(self) -> PendingT:
        """Takes out the request that leads the next batch. The queue must not be empty."""
        leader = next(iter(self._order))
        self.remove(leader)
        return leader

    def cut(self, leader: PendingT, now: float, rows: int | None = None) -> list[PendingT]:
        """Takes out the followers of a leader: same signature, first come first served, as many as fit.

        `rows` sets a bound below `max_rows` for this batch.

        Requests whose deadline has passed are left for whoever ends them.
        """
        space = (self.max_rows if rows is None else min(rows, self.max_rows)) - leader.rows
        followers: list[PendingT] = []
        for item in self._buckets.get(leader.signature, ()):
            if space <= 0:
                break
            if item.rows <= space and not item.expired(now):
                followers.append(item)
                space -= item.rows
        for item in followers:
            self.remove(item)
        return followers
