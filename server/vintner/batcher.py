"""What waits for a model, and which of it is run together: the queue, and what was measured of arrivals and runs.

Pure: no threads, no locks, no clock of its own. The scheduler calls it under its lock and passes the time in.

Requests are stacked where that gains: not if they are so large that a copy takes longer than a run, nor if a batch
takes as long as its members one after the other. Where runs are brief it always gains, so nothing is measured there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from vintner.batching import BatchQueue, QueueLimits, Reason
from vintner.call import Call
from vintner.gains import Arrivals, Verdict, stacking_pays, utilisation
from vintner.pools import WEIGHT, Pools, Slot
from vintner.queue_delay import QueueDelay

COPIED: Final = 2e9
"""Bytes per second at which large requests are stacked, their way through the caches included, on the safe side."""

SMALL: Final = 64 * 1024
"""Bytes up to which a request is always worth stacking."""


@dataclass(frozen=True, slots=True)
class Batching:
    """How requests are put together; rows, and seconds. See `BatchQueue` and `QueueDelay`.

    `in_order` gives answers in the order of arrival; `retry` runs the members of a batch that failed one by one.
    """

    max_rows: int = 1
    preferred: Sequence[int] = ()
    longest_delay: float | None = None
    in_order: bool = False
    retry: bool = True


class Batcher:
    """The requests of one model that wait."""

    def __init__(self, batching: Batching, limits: QueueLimits, pools: Pools) -> None:
        self.queue: BatchQueue[Call] = BatchQueue(limits, batching.max_rows, batching.preferred)
        self._pools = pools
        self._arrivals = Arrivals()
        self._mean_each = math.inf  # seconds of a run for each request of it; long until it has been measured
        self._delay: QueueDelay | None = None
        self._adopt(batching)

    def reconfigure(self, batching: Batching, limits: QueueLimits) -> None:
        """What waits and what was measured stays, and so does `max_rows`."""
        self.queue.reconfigure(limits, batching.preferred)
        self._adopt(batching)

    def _adopt(self, batching: Batching) -> None:
        self._prefers = bool(batching.preferred)
        rows = max(batching.preferred, default=batching.max_rows)
        if not batching.longest_delay or batching.max_rows <= 1:
            self._delay = None
        elif self._delay is None:
            self._delay = QueueDelay(batching.longest_delay, rows)
        else:
            self._delay.reconfigure(batching.longest_delay, rows)

    def push(self, call: Call) -> None:
        """Raises QueueFull, and leaves the queue as it was."""
        self.queue.push(call)
        if not self._pools.brief:
            self._arrivals.arrived(call.rows, call.arrived)
        if self._delay is not None:
            self._delay.arrived(self._present, call.arrived)

    def wait_until(self, now: float) -> float | None:
        """The time until which idle instances had better wait for more requests, if they had. Something must wait."""
        if self._delay is None or not self._pools.idle:
            return None
        deadline = min((call.deadline for call in self.queue if call.deadline is not None), default=math.inf)
        cost = self._pools.fastest.costs[self.queue.head.signature]
        load = utilisation(cost, self._arrivals.rate(now), self._pools.in_service)
        return self._delay.until(cost, load, self._present, self.queue.rows, deadline, now)

    @property
    def _present(self) -> int:
        """Requests that wait or run."""
        return len(self.queue) + sum(len(slot.batch) for slot in self._pools.busy())

    def next(self, slot: Slot, now: float) -> Call | None:
        """Takes out the request that is to lead a slot's next batch, if one is."""
        return self.queue.pop(self._pools.ahead(slot.pool, now))

    def batch(self, leader: Call, slot: Slot, now: float) -> tuple[list[Call], Reason]:
        """Takes out what is to be run together with a leader, and says why no more."""
        gains = self._gains(leader, slot, now) if self.stacks(leader) else "no"
        most = {"yes": self._pools.share(slot, leader.rows + self.queue.rows), "maybe": 2 * leader.rows}
        followers, reason = self.queue.cut(leader, now, most.get(gains, leader.rows))
        if reason == "share" and gains != "yes":
            reason = "no_gain"
        if self._delay is not None:
            ended = self._delay.cut()
            reason = ended if reason == "idle" else reason
        return [leader, *followers], reason

    def stacks(self, call: Call) -> bool:
        """Whether stacking a request costs less than its run. A large input is best run while it is in the cache."""
        return call.size <= max(SMALL, self._mean_each * COPIED)

    def _gains(self, leader: Call, slot: Slot, now: float) -> Verdict:
        pool = slot.pool
        if pool.brief or not self.queue or self._prefers:
            return "yes"
        cost, rate = pool.costs[leader.signature], self._arrivals.rate(now)
        return stacking_pays(cost, rate, self._pools.in_service, len(self.queue))

    def ran(self, requests: int, seconds: float, now: float) -> None:
        """Takes in a run that has just ended."""
        if self._delay is not None:
            self._delay.answered(now)
        each = seconds / requests
        self._mean_each = each if self._mean_each == math.inf else self._mean_each + WEIGHT * (each - self._mean_each)
