"""Runs the requests of one model version on its instances, in batches, without a thread for each request.

There is no batcher thread, and nobody sleeps until an answer is there. `submit` puts a request in the queue; if an
instance is idle, it gives the caller a `Turn`: the right and the duty to lead. The caller may first submit what else
has arrived, and then runs its turn: it cuts a batch from what waits by then, runs it, and gives every member its
answer itself. As long as more waits, the turn goes on. So no instance idles while work waits, a lone request pays no
thread switch, batches grow by themselves under load, and what a request costs in switches is shared by its batch.

A model whose runs are brief, less than a thread switch is worth caring for, is led from where its requests arrive.
Where runs take longer, the instance is handed to a worker thread before the answers are sent, so that it does not wait
for them; idle instances share what waits; and a request that waits learns of its client's cancellation.

Invariants, under the lock: an idle instance means an empty queue, or a leader who is about to cut; a call is queued,
running or done, and gets exactly one result; an instance is idle or in the hands of exactly one leader.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Final

from vintner.alarms import Alarm, AlarmClock
from vintner.backend import Instance
from vintner.batching import BatchQueue, QueueLimits
from vintner.call import Call, Result, answer
from vintner.cores import give_way
from vintner.errors import Cancelled, Stopping
from vintner.execution import execute
from vintner.executor import LeanExecutor
from vintner.metrics import SchedulerMetrics
from vintner.rate_limiter import Claim
from vintner.turnstile import Turnstile, Turnstiles

logger = logging.getLogger(__name__)

BRIEF: Final = 1e-3
"""Seconds of mean run time below which a hand-over to another thread costs more than it gains."""

WEIGHT: Final = 0.2
"""Of the newest run in the mean of run times."""

COPIED: Final = 2e9
"""Bytes per second at which large requests are stacked, their way through the caches included, on the safe side."""

SMALL: Final = 64 * 1024
"""Bytes up to which a request is always worth stacking."""

GATHERINGS: Final = 4
"""Times that a thread gives way at most before it leads."""

MOST_WORKERS: Final = 1024
"""Threads that may lead at the same time where requests' own threads do not stay; each has an instance in its hands."""


@dataclass(frozen=True, slots=True)
class Threads:
    """What the schedulers of a server share: threads that lead where a request's own cannot stay, a clock, and the
    resources of models that are rate limited.

    Neither starts a thread before it is needed.
    """

    workers: LeanExecutor = field(default_factory=lambda: LeanExecutor(MOST_WORKERS, "vintner-run"))
    alarms: AlarmClock = field(default_factory=AlarmClock)
    turnstiles: Turnstiles = field(default_factory=Turnstiles)


class Turn:
    """An instance in the hands of whoever submitted the request that found it idle. To be run soon, and to the end."""

    __slots__ = ("_alone", "_scheduler", "granted", "instance")

    def __init__(self, scheduler: Scheduler, instance: Instance, alone: bool = False) -> None:
        self._scheduler = scheduler
        self.instance = instance
        self.granted = False  # it has the resources that its next run needs
        self._alone = alone  # the request would not be stacked with others

    @property
    def brief(self) -> bool:
        """Whether it can be expected to take no longer than a thread switch is worth."""
        return self._scheduler.brief

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
            return False
        return self._scheduler.lead(self.instance)

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


class Scheduler:
    """The instances of one model and the queue in front of them.

    Threads: any. The lock guards the queue, the states of calls and instances and the metrics' counts; it is never
    held while a model runs or an answer is given.
    """

    def __init__(
        self,
        instances: Sequence[Instance],
        *,
        max_rows: int = 1,
        limits: QueueLimits | None = None,
        metrics: SchedulerMetrics | None = None,
        threads: Threads | None = None,
        claim: Claim | None = None,
    ) -> None:
        """Raises LoadError if the claim is for more of a resource than there is."""
        self.threads = threads or Threads()
        self.turnstile: Turnstile[Turn] | None = self.threads.turnstiles.open(claim) if claim else None
        self._lock = Lock()
        self._idle = list(instances)
        self._total = len(instances)
        self._queue: BatchQueue[Call] = BatchQueue(limits or QueueLimits(), max_rows)
        self._running: set[Call] = set()  # only those that had a deadline when they began
        self._metrics = metrics or SchedulerMetrics()
        self._mean = math.inf  # seconds of a run; long until it has been measured
        self._mean_each = math.inf  # the same for each request of it
        self._gathering = False  # a leader has its instance and has not cut its first batch yet
        self._alarm: Alarm | None = None
        self._when_idle: Callable[[], None] | None = None
        self._closed = False

    @property
    def queued(self) -> tuple[int, int]:
        """Requests and bytes that wait."""
        return len(self._queue), self._queue.bytes

    @property
    def instances(self) -> tuple[int, int]:
        """Busy and all instances; those that wait for resources are not busy."""
        return self._total - len(self._idle) - self.awaiting_resources, self._total

    @property
    def awaiting_resources(self) -> int:
        """Instances that wait for what other models hold."""
        return self.turnstile.waiting if self.turnstile else 0

    @property
    def brief(self) -> bool:
        """Whether runs take so little that passing them to another thread does not pay."""
        return self._mean < BRIEF

    # -- a call's way in and out -----------------------------------------------------------------------------

    def submit(self, call: Call) -> Turn | None:
        """Queues a call and returns at once, with a turn to run if an instance was idle.

        Raises QueueFull or Stopping, and then `call.done` is not called.
        """
        call.arrived = time.monotonic()
        if call.cancellation is not None and not self.brief:  # before it is queued: a call that is over takes no watch
            call.watched = True
            call.cancellation.on_cancel(lambda: self._withdraw(call, Cancelled("the client cancelled the request")))
        try:
            with self._lock:
                if call.state == "done":
                    return None
                return self._enqueue(call)
        except Exception:
            if call.watched and call.cancellation is not None:
                call.cancellation.on_cancel(None)  # or the two would keep each other
            raise

    def _enqueue(self, call: Call) -> Turn | None:
        """As `submit`. Needs the lock."""
        call.state = "done"  # for a cancellation, if the call is refused
        if self._closed:
            raise Stopping("the model is being unloaded")
        if call.deadline is not None:
            self._expect(call.deadline)
        self._queue.push(call)
        call.state = "queued"
        if not self._idle or self._gathering:
            return None
        self._gathering = True
        return Turn(self, self._idle.pop(), not self._pays(call))

    def serve_unbatched(self, reason: str) -> None:
        """Stacks nothing from now on."""
        self._queue.max_rows = 1
        logger.warning("served unbatched from now on: %s", reason)

    def close(self) -> None:
        """Refuses new calls and answers the ones that wait. Instances that run are left to their leaders."""
        with self._lock:
            self._closed = True
            if self._alarm:
                self.threads.alarms.cancel(self._alarm)
            waiting = [self._queue.pop() for _ in range(len(self._queue))]
            ended = [call for call in waiting if self._end(call, Stopping("the model is being unloaded"))]
        answer(ended)
        self._recall()
        if self.turnstile is not None:
            self.turnstile.close()

    def _withdraw(self, call: Call, error: Exception) -> None:
        """Gives a call its error, unless it is done. If it runs, its batch goes on without it."""
        with self._lock:
            self._queue.remove(call)
            ended = self._end(call, error)
        if ended:
            answer([call])

    def _end(self, call: Call, result: Result) -> bool:
        """Marks a call as done; False if it was. Needs the lock, for many may want to end a call."""
        if call.state == "done":
            return False
        call.state = "done"
        call.result = result
        self._running.discard(call)
        return True

    # -- deadlines -------------------------------------------------------------------------------------------

    def _expect(self, deadline: float) -> None:
        """Sets the alarm to a deadline, unless it rings earlier anyway. Needs the lock."""
        if self._alarm is None or deadline < self._alarm.at:
            if self._alarm is not None:
                self.threads.alarms.cancel(self._alarm)
                self._alarm = None
            self._alarm = self.threads.alarms.set(deadline, self._expire)

    def _expire(self) -> None:
        """Ends the calls whose deadline has passed. If they run, their batch goes on without them."""
        now = time.monotonic()
        with self._lock:
            self._alarm = None
            late = [call for call in (*self._queue, *self._running) if call.expired(now)]
            for call in late:
                if call.postpones:
                    self._postpone(call)
                else:
                    self._queue.remove(call)
                    self._end(call, call.lateness())
            late = [call for call in late if call.state == "done"]
            left = [call.deadline for call in (*self._queue, *self._running) if call.deadline is not None]
            if left and not self._closed:
                self._expect(min(left))
        answer(late)

    def _postpone(self, call: Call) -> None:
        """Puts a call behind the others, if it does not run already. Needs the lock."""
        call.postponed()
        if call.state == "queued":
            self._queue.postpone(call)

    # -- leading ---------------------------------------------------------------------------------------------

    def when_idle(self, callback: Callable[[], None]) -> None:
        """Has the callback called whenever the last busy instance becomes idle, from now on; at once if all are."""
        self._when_idle = callback
        self._recall()
        self._tell_idle()

    def _recall(self) -> None:
        """Takes instances back that wait for resources, if no call is left for which they would."""
        if self.turnstile is None or self._queue:
            return
        turns = self.turnstile.recall()
        with self._lock:
            self._idle += [turn.instance for turn in turns]
            self._gathering = self._gathering and not turns

    def _tell_idle(self) -> None:
        if self._when_idle is not None and len(self._idle) == self._total:
            self._when_idle()

    def lead(self, instance: Instance) -> bool:
        """Cuts a batch, runs it, answers its members. True if the caller has to go on with this instance."""
        more = self._lead(instance)
        if not more and self._when_idle is not None:
            self._tell_idle()
        return more

    def _lead(self, instance: Instance) -> bool:
        with self._lock:
            self._gathering = False
            batch, expired = self._cut()
            if not batch:
                self._idle.append(instance)
            other = self._idle.pop() if self._queue and self._idle else None
        if other is not None:
            Turn(self, other).pass_on()
        if not batch and self.turnstile is not None:
            self.turnstile.leave(used=False)
        answer(expired)
        if not batch:
            return False
        started = time.monotonic()
        execution = execute(batch, instance)
        taken = sum(execution.stages)
        if execution.misfit is not None:
            self.serve_unbatched(execution.misfit)
        with self._lock:
            self._mean = _moved(self._mean, taken)
            self._mean_each = _moved(self._mean_each, taken / len(batch))
            self._metrics.ran(
                rows=sum(call.rows for call in batch),
                waits=[started - call.arrived for call in batch],
                stages=execution.stages,
            )
            ended = [call for call, result in zip(batch, execution.results, strict=True) if self._end(call, result)]
            stay = self.brief
            limited = self.turnstile is not None
            more = (limited or not stay) and self._keep(instance)
        following = Turn(self, instance) if more else None
        if self.turnstile is not None and not self.turnstile.leave(following):
            following = None
        if following is not None and not stay:
            following.pass_on()
        answer(ended)
        if limited or not stay:
            return stay and following is not None
        with self._lock:
            return self._keep(instance)

    def _keep(self, instance: Instance) -> bool:
        """Whether there is more for an instance; makes it idle if there is not. Needs the lock."""
        if self._queue:
            return True
        self._idle.append(instance)
        return False

    def _cut(self) -> tuple[list[Call], list[Call]]:
        """Takes the next batch out of the queue, and what has expired before it. Needs the lock."""
        now = time.monotonic()
        expired: list[Call] = []
        while self._queue:
            leader = self._queue.pop()
            if leader.expired(now):
                if leader.postpones:
                    self._postpone(leader)
                elif self._end(leader, leader.lateness()):
                    expired.append(leader)
                continue
            batch = [leader, *self._queue.cut(leader, now, self._share(leader))]
            for call in batch:
                call.state = "running"
                if call.deadline is not None:
                    self._running.add(call)
            return batch, expired
        return [], expired

    def _share(self, leader: Call) -> int | None:
        """Rows that a batch may have, if not as many as it can.

        Idle instances take part in what waits, if runs are worth their wake-up.
        """
        if not self._pays(leader):
            return leader.rows
        if not self._idle or self.brief:
            return None
        return math.ceil((leader.rows + self._queue.rows) / (len(self._idle) + 1))

    def _pays(self, leader: Call) -> bool:
        """Whether stacking a request costs less than its run. A large input is best run while it is in the cache."""
        return leader.size <= max(SMALL, self._mean_each * COPIED)


def _moved(mean: float, newest: float) -> float:
    return newest if mean == math.inf else mean + WEIGHT * (newest - mean)
