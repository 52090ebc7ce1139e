"""The right and the duty to lead, in the hands of a thread; and the threads that a server's schedulers share.

Knows nothing of batches. Invariant: a turn is run by one thread at a time, and to the end.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from vintner.alarms import AlarmClock
from vintner.cores import give_way
from vintner.executor import LeanExecutor
from vintner.pools import Slot
from vintner.turnstile import Turnstiles

if TYPE_CHECKING:
    from vintner.scheduler import Scheduler

logger = logging.getLogger(__name__)

GATHERINGS: Final = 4
"""Times that a thread gives way at most before it leads."""

MOST_WORKERS: Final = 1024
"""Threads that may lead at the same time where requests' own threads do not stay; each has an instance in its hands."""


MOST_CLOSERS: Final = 8
"""Threads that close what was unloaded; as many may hang."""


@dataclass(frozen=True, slots=True)
class Threads:
    """What the schedulers of a server share: threads that lead where a request's own cannot stay, threads that close
    models, a clock, and the resources of models that are rate limited.

    Neither starts a thread before it is needed.
    """

    workers: LeanExecutor = field(default_factory=lambda: LeanExecutor(MOST_WORKERS, "vintner-run"))
    closers: LeanExecutor = field(default_factory=lambda: LeanExecutor(MOST_CLOSERS, "vintner-close"))
    alarms: AlarmClock = field(default_factory=AlarmClock)
    turnstiles: Turnstiles = field(default_factory=Turnstiles)


class Turn:
    """An instance in the hands of whoever submitted the request that found it idle. To be run soon, and to the end."""

    __slots__ = ("_alone", "_scheduler", "granted", "slot")

    def __init__(self, scheduler: Scheduler, slot: Slot, alone: bool = False) -> None:
        self._scheduler = scheduler
        self.slot = slot
        self.granted = False  # it has the resources that its next run needs
        self._alone = alone  # the request would not be stacked with others

    @property
    def brief(self) -> bool:
        """Whether it can be expected to take no longer than a thread switch is worth."""
        return self.slot.pool.brief

    def gather(self) -> None:
        """Lets requests in that came with the one that got this turn, and wait for the interpreter or a core."""
        if self._alone:
            return
        for _ in range(GATHERINGS):
            before = self._scheduler.queued
            give_way()
            if self._scheduler.queued == before:
                return

    def step(self) -> bool:
        """Runs one batch. True if more waits, and the turn is still this caller's."""
        turnstile = self._scheduler.turnstile
        if turnstile is not None and not turnstile.enter(self):
            self._scheduler.look_idle()
            return False
        slot = self._scheduler.lead(self.slot)
        if slot is None:
            return False
        self.slot = slot
        return True

    def run(self) -> None:
        """Runs batches until nothing waits, or until another thread has taken over."""
        while self.step():
            pass

    def pass_on(self) -> None:
        """Lets another thread run it; this one, if there can be no other."""
        try:
            self._scheduler.threads.workers.submit(self.run)
        except RuntimeError as exc:
            logger.warning("a request's thread has to lead: %s", exc)
            self.run()


def run_here(turn: Turn | None) -> None:
    """Runs a turn, if there is one, in a thread that may stay in it, and lets in what came with its request before."""
    if turn is not None:
        turn.gather()
        turn.run()
