"""The instances of a model, in a pool for each device, and which of them is to run what waits.

Pure but for `let_go`: no threads, no locks, no clock of its own. The scheduler calls it under its lock and passes the
time in.

In one pool, any idle instance will do. Of several, work goes to the one that will have finished it first, by the run
times that were measured: an idle instance of a slower pool leaves to the faster ones, busy as they are, what they will
have finished before it could.

Invariant: a slot is idle, in its pool's list, or in the hands of one thread, or out of service for good; only the slots
of a pool's newest opening are in service.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, Final

from vintner.backend import Instance, LoadedModel, close_anyway
from vintner.gains import RunCosts
from vintner.model_metrics import PoolState

BRIEF: Final = 1e-3
"""Seconds of mean run time below which a hand-over to another thread costs more than it gains."""

WEIGHT: Final = 0.2
"""Of the newest run in the mean of run times."""

TRIALS: Final = 3
"""Runs before a pool's time is believed; the shortest of them is, since runtimes put things off to the first."""

OPTIMISM: Final = 0.999
"""What a pool's time shrinks by with each run of another: one that was slow for a while gets another try."""


class Slot:
    """An instance and how it fares. `batch` is what it runs, since `started`."""

    __slots__ = (
        "batch",
        "busy",
        "examined",
        "failures",
        "in_service",
        "instance",
        "lost",
        "opening",
        "pool",
        "started",
    )

    def __init__(self, instance: Instance, pool: Pool, opening: Opening) -> None:
        self.instance = instance
        self.pool = pool
        self.opening = opening
        self.batch: Sequence[Any] = ()
        self.started = math.inf
        self.failures = 0
        """Runs that failed in a row."""
        self.busy = False
        """In the hands of a thread, a leader's or an examiner's."""
        self.examined = False
        self.in_service = True
        self.lost = False
        """Given up in the middle of a run, which may never end."""

    def begin(self, batch: Sequence[Any], now: float) -> None:
        self.batch = batch
        self.started = now

    def end(self) -> None:
        self.batch = ()
        self.started = math.inf


class Opening:
    """A pool's model as it was opened once. It is closed when it is retired and no thread is in it any more."""

    def __init__(self, pool: Pool, instances: Sequence[Instance], close: Callable[[], None] | None) -> None:
        self.slots = [Slot(instance, pool, self) for instance in instances]
        self.close = close
        self.retired = False

    @property
    def occupied(self) -> bool:
        """Whether a thread is in it."""
        return any(slot.busy for slot in self.slots)

    @property
    def to_be_closed(self) -> bool:
        return self.retired and self.close is not None and not self.occupied


def let_go(*openings: Opening | None) -> None:
    """Closes those that are there. That one cannot be closed holds nothing up. Not to be called under a lock."""
    for opening in openings:
        if opening is not None and opening.close is not None:
            close, opening.close = opening.close, None
            close_anyway(close, "a model")


class Pool:
    """The instances of a model on one device. `reopen` loads them anew, or is None if that cannot be done."""

    def __init__(
        self,
        instances: Sequence[Instance],
        device: str = "CPU",
        close: Callable[[], None] | None = None,
        reopen: Callable[[], LoadedModel] | None = None,
        *,
        lasting: bool = False,
    ) -> None:
        """The runs of a `lasting` one are never brief: they may wait for clients."""
        self._lasting = lasting
        self.device = device
        self.reopen = reopen
        self.opening = Opening(self, instances, close)
        self.former: list[Opening] = []
        """Retired ones that threads are in."""
        self.idle = list(self.opening.slots)
        self.runs = 0
        self.mean = math.inf
        """Seconds of a run; long until it has been measured."""
        self.rows = 1.0
        """Rows of a run."""
        self.costs = RunCosts()
        """Of runs that are not brief."""
        self.brief = False
        """Whether passing a run to another thread does not pay."""
        self.fault = ""
        """Why it is being opened anew, if it is."""

    @property
    def in_service(self) -> int:
        return sum(slot.in_service for slot in self.opening.slots)

    @property
    def slots(self) -> Iterator[Slot]:
        """All that a thread may be in."""
        return (slot for opening in (self.opening, *self.former) for slot in opening.slots)

    @property
    def state(self) -> PoolState:
        slots = self.opening.slots
        busy = sum(bool(slot.batch) and slot.in_service for slot in slots)
        return PoolState(self.device, busy, self.in_service, len(slots) - self.in_service)

    @property
    def expected(self) -> float:
        """Seconds of a run, for a choice among pools: one that is hardly tried is worth a try."""
        return self.mean if self.runs >= TRIALS else 0.0

    @property
    def rate(self) -> float:
        """Rows that an instance does in a second, or 0 if that is not known."""
        return self.rows / self.mean if self.mean else 0.0

    def measured(self, seconds: float, rows: int, signature: Hashable = None) -> None:
        """Takes in a run that succeeded."""
        self.runs += 1
        if not self.brief:
            self.costs[signature].ran(rows, seconds)
        if self.runs <= TRIALS:
            self.mean = min(self.mean, seconds)
            self.rows = float(rows)
        else:
            self.mean += WEIGHT * (seconds - self.mean)
            self.rows += WEIGHT * (rows - self.rows)
        self.brief = self.mean < BRIEF and not self._lasting

    def open(self, instances: Sequence[Instance], close: Callable[[], None]) -> Opening:
        """Puts newly opened instances in the place of the present ones, and returns what was there, retired."""
        former = self.opening
        former.retired = True
        for slot in former.slots:
            slot.in_service = False
        if former.occupied:
            self.former.append(former)
        self.opening = Opening(self, instances, close)
        self.idle = list(self.opening.slots)
        self.fault = ""
        return former


class Pools:
    """All pools of a model, in the order of its configuration."""

    def __init__(self, pools: Sequence[Pool]) -> None:
        self._pools = pools
        self._only = pools[0] if len(pools) == 1 else None
        self.several = len(pools) > 1

    def __iter__(self) -> Iterator[Pool]:
        return iter(self._pools)

    @property
    def brief(self) -> bool:
        return all(pool.brief for pool in self._pools) if self._only is None else self._only.brief

    @property
    def fastest(self) -> Pool:
        return min(self._pools, key=lambda pool: pool.expected)

    @property
    def idle(self) -> int:
        return sum(len(pool.idle) for pool in self._pools)

    @property
    def in_service(self) -> int:
        return sum(pool.in_service for pool in self._pools)

    @property
    def at_rest(self) -> bool:
        """Whether no thread is in any instance, but for those whose run was given up."""
        return not any(slot.busy and not slot.lost for pool in self._pools for slot in pool.slots)

    def busy(self) -> Iterator[Slot]:
        """The slots that run a batch."""
        return (slot for pool in self._pools for slot in pool.slots if slot.batch)

    # -- the choice ------------------------------------------------------------------------------------------

    def take(self, rows: int, now: float) -> Slot | None:
        """Takes the idle slot that is to lead, when `rows` wait; None if none is idle, or those that are had better
        not."""
        pool = self._only or self._choose(rows, now)
        if pool is None or not pool.idle:
            return None
        slot = pool.idle.pop()
        slot.busy = True
        return slot

    def _choose(self, rows: int, now: float) -> Pool | None:
        for pool in sorted(self._pools, key=lambda one: one.expected):
            if pool.idle:
                ahead = self.ahead(pool, now)
                if not ahead or rows > ahead:
                    return pool
        return None

    def put(self, slot: Slot) -> bool:
        """Takes a slot back from its thread. True if it was the last of an opening that is to be closed."""
        slot.end()
        if slot.examined:  # its examiner has it now
            return False
        slot.busy = False
        if slot.in_service:
            slot.pool.idle.append(slot)
            return False
        if slot.opening in slot.pool.former and not slot.opening.occupied:
            slot.pool.former.remove(slot.opening)
        return slot.opening.to_be_closed

    def ahead(self, pool: Pool, now: float) -> int:
        """Rows at the head of the queue that faster pools will have finished before this one could."""
        if self._only is not None:
            return 0
        rows = 0
        for other in self._pools:
            if 0 < other.expected < pool.expected:
                runs = sum(self._runs_within(pool.expected, slot, now) for slot in other.opening.slots)
                rows += int(runs * max(1.0, other.rows))
        return rows

    def _runs_within(self, seconds: float, slot: Slot, now: float) -> int:
        """Whole runs that a slot can begin and end in that time, after the one that it is busy with."""
        if not slot.in_service:
            return 0
        mean = slot.pool.mean
        left = 0.0
        if slot.batch:
            # A run that takes longer than usual is expected to take as much longer again: it may hang.
            left = abs(slot.started + mean - now)
        return max(0, int((seconds - left) / mean))

    def patience(self, now: float) -> float:
        """Seconds after which the choice may turn out differently though nothing happened."""
        left = [abs(slot.started + slot.pool.mean - now) for slot in self.busy()]
        return max(BRIEF, min(left, default=BRIEF))

    def share(self, slot: Slot, rows: int) -> int | None:
        """Of so many rows that wait, those that a slot is to run so that others finish the rest meanwhile; None is all.

        Idle slots take part, and the busy ones of faster pools. Where runs are brief, no wake-up pays.
        """
        if slot.pool.brief:
            return None
        own = slot.pool.rate
        others = 0.0
        for pool in self._pools:
            slots = pool.in_service if pool.expected < slot.pool.expected else len(pool.idle)
            others += slots * (pool.rate / own if own and pool.rate else 1.0)
        return math.ceil(rows / (others + 1)) if others else None

    def measured(self, slot: Slot, seconds: float, rows: int, signature: Hashable = None) -> None:
        """Takes in a run that succeeded."""
        slot.pool.measured(seconds, rows, signature)
        if self._only is None:
            for pool in self._pools:
                if pool is not slot.pool:
                    pool.mean *= OPTIMISM

    # -- health ----------------------------------------------------------------------------------------------

    @property
    def faults(self) -> str:
        """Why instances are out of service, by device; empty if none is."""
        return "; ".join(f"{pool.device}: {pool.fault}" for pool in self._pools if pool.fault)

    def take_out(self, slot: Slot) -> None:
        """Takes a slot that its leader is about to put back out of service, and into the hands of an examiner."""
        slot.in_service = False
        slot.examined = True

    def give_up(self, slot: Slot) -> None:
        """Takes a slot out of service that its thread may never put back."""
        slot.in_service = False
        slot.lost = True
        slot.end()

    def restore(self, slot: Slot) -> bool:
        """Puts a slot back into service, unless it was lost or its opening is retired; as `put`."""
        slot.in_service = not slot.opening.retired and not slot.lost
        slot.failures = 0
        return self.discard(slot)

    def discard(self, slot: Slot) -> bool:
        """Takes a slot back from its examiner; as `put`."""
        slot.examined = False
        return self.put(slot)

    def retire(self) -> list[Opening]:
        """Takes everything out of service, for good. Returns what can be closed now; of the rest `put` tells."""
        for pool in self._pools:
            pool.reopen = None  # which holds the model's files, and they may be there for the model's sake alone
            pool.opening.retired = True
            pool.idle.clear()
            for slot in pool.opening.slots:
                slot.in_service = False
        return [pool.opening for pool in self._pools if pool.opening.to_be_closed]
