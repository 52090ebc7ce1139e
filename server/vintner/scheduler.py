"""Runs the requests of one model version on its instances, in batches, without a thread for each request.

There is no batcher thread, and nobody sleeps until an answer is there. `submit` puts a request in the queue; if an
instance is idle, it gives the caller a `Turn`: the right and the duty to lead. The caller may first submit what else
has arrived, and then runs its turn: it cuts a batch from what waits by then, runs it, and gives every member its
answer itself. As long as more waits, the turn goes on. So no instance idles while work waits, a lone request pays no
thread switch, batches grow by themselves under load, and what a request costs in switches is shared by its batch.

A model whose runs are brief, less than a thread switch is worth caring for, is led from where its requests arrive.
Where runs take longer, the instance is handed to a worker thread before the answers are sent, so that it does not wait
for them; idle instances share what waits; and a request that waits learns of its client's cancellation.

What instances there are and which of them leads is for `pools`; what becomes of one that fails or hangs for `recovery`.

Invariants, under the lock: an idle instance means an empty queue, a leader who is about to cut, or a faster pool that
will soon be free; a call is queued, running or done, and gets exactly one result.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Lock

from vintner.alarms import Alarm
from vintner.answer_order import AnswerOrder
from vintner.backend import LoadedModel, close_anyway
from vintner.batcher import Batcher, Batching
from vintner.batching import QueueLimits
from vintner.call import Call, Result, answer
from vintner.errors import Cancelled, DeadlineExceeded, ModelNotReady, Stopping, VintnerError
from vintner.execution import Execution, execute
from vintner.model_metrics import PoolState, SchedulerMetrics
from vintner.pools import Opening, Pool, Pools, Slot, let_go
from vintner.rate_limiter import Claim
from vintner.recovery import Recovery, Sample, sample_of
from vintner.turns import Threads, Turn
from vintner.turnstile import Turnstile

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Health:
    """When an instance is no longer trusted: after so many failures in a row, and after seconds in one run."""

    failures: int = 3
    timeout: float | None = None


class Scheduler:
    """The instances of one model and the queue in front of them.

    Threads: any. The lock guards the queue, the states of calls and instances and the metrics' counts; it is never
    held while a model runs or an answer is given.
    """

    def __init__(
        self,
        pools: Sequence[Pool],
        *,
        batching: Batching | None = None,
        limits: QueueLimits | None = None,
        metrics: SchedulerMetrics | None = None,
        threads: Threads | None = None,
        health: Health | None = None,
        claim: Claim | None = None,
        name: str = "the model",
    ) -> None:
        """`name` is for the log. Raises LoadError if the claim is for more of a resource than there is."""
        self.name = name
        self.threads = threads or Threads()
        self.turnstile: Turnstile[Turn] | None = self.threads.turnstiles.open(claim) if claim else None
        self._lock = Lock()
        self._pools = Pools(pools)
        self._health = health or Health()
        self._timed_from = 0.0  # what ran already when the execution time-out was set counts from then
        self._recovery = Recovery(self)
        self._batching = batching = batching or Batching()
        self._batcher = Batcher(batching, limits or QueueLimits(), self._pools)
        self._queue = self._batcher.queue
        self._order = AnswerOrder() if batching.in_order else None
        self._running: set[Call] = set()  # only those that had a deadline when they began
        self._metrics = metrics or SchedulerMetrics()
        self._gathering = False  # a leader has its instance and has not cut its first batch yet
        self._alarm: Alarm | None = None
        self._when_idle: Callable[[], None] | None = None
        self._refusal: tuple[type[VintnerError], str] | None = None  # what new calls are told
        self.unbatched = ""
        """Why nothing is stacked though the shapes would admit it; empty otherwise."""
        self.sample: Sample | None = None
        """What inputs look like that a run succeeded with."""

    @property
    def queued(self) -> tuple[int, int]:
        """Requests and bytes that wait."""
        return len(self._queue), self._queue.bytes

    @property
    def longest_wait(self) -> float:
        """Seconds for which what has waited longest has done so; 0 if nothing waits."""
        oldest = self._queue.oldest
        return 0.0 if oldest is None else time.monotonic() - oldest

    @property
    def instances(self) -> tuple[int, int]:
        """Busy ones, and all that are in service; those that wait for resources are not busy."""
        states = self.pools
        return sum(state.busy for state in states), sum(state.instances for state in states)

    @property
    def awaiting_resources(self) -> int:
        """Instances that wait for what other models hold."""
        return self.turnstile.waiting if self.turnstile else 0

    @property
    def brief(self) -> bool:
        """Whether runs take so little that passing them to another thread does not pay."""
        return self._pools.brief

    @property
    def pools(self) -> Sequence[PoolState]:
        return [pool.state for pool in self._pools]

    @property
    def faults(self) -> str:
        """Why instances are out of service; empty if none is."""
        return self._pools.faults

    @property
    def down(self) -> bool:
        """Whether no instance is in service."""
        return not self._pools.in_service

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
        except Exception as exc:
            if call.watched and call.cancellation is not None:
                call.cancellation.on_cancel(None)  # or the two would keep each other
            with self._lock:  # it may be queued already, if no thread could be started for the clock
                self._queue.remove(call)
                self._end(call, exc)
            raise

    def _enqueue(self, call: Call) -> Turn | None:
        """As `submit`. Needs the lock."""
        call.state = "done"  # for a cancellation, if the call is refused
        if self._refusal is not None:
            error, reason = self._refusal
            raise error(reason)
        if call.deadline is not None:
            self._expect(call.deadline)
        self._batcher.push(call)
        call.state = "queued"
        if self._order is not None:
            self._order.expect(call)
        if self._gathering or (slot := self._take(call.arrived)) is None:
            return None
        self._gathering = True
        return Turn(self, slot, alone=not self._batcher.stacks(call))

    def _take(self, now: float) -> Slot | None:
        """The slot that is to lead what waits, if one is. Needs the lock."""
        if not self._queue:
            return None
        until = self._batcher.wait_until(now)
        if until is not None:
            self._expect(until)
            return None
        slot = self._pools.take(self._queue.rows, now)
        if slot is None and self._pools.several and self._pools.idle:
            self._expect(now + self._pools.patience(now))
        return slot

    @property
    def max_rows(self) -> int:
        return self._queue.max_rows

    def serve_unbatched(self, reason: str) -> None:
        """Stacks nothing from now on."""
        if self._queue.max_rows > 1:
            self._queue.max_rows = 1
            self.unbatched = reason
            logger.warning("%s is served unbatched from now on: %s", self.name, reason)

    def reconfigure(self, batching: Batching, limits: QueueLimits, health: Health) -> None:
        """Changes what can be changed while calls wait and run; `max_rows` and `in_order` stay as they are.

        Every call keeps its place, and the deadline that it came with. The limits of the queue hold for what comes, the
        rest from the next batch on; a run that is under way gets a new execution time-out from now.
        """
        now = time.monotonic()
        with self._lock:
            self._batching = batching
            self._batcher.reconfigure(batching, limits)
            if health.timeout != self._health.timeout:
                self._timed_from = now
                if health.timeout is not None and not self.closed:
                    self._expect(now + health.timeout)
            self._health = health
        self._resume()  # an instance may have waited for more requests than it would now

    def close(self) -> None:
        """Refuses new calls and answers the ones that wait. Instances that run are left to their leaders."""
        with self._lock:
            if self._alarm:
                self.threads.alarms.cancel(self._alarm)
            ended = self._refuse(Stopping, "the model is being unloaded")
        self._recall()
        with self._lock:
            openings = self._pools.retire()
        self._answer(ended)
        let_go(*openings)
        if self.turnstile is not None:
            self.turnstile.close()

    def _refuse(self, error: type[VintnerError], reason: str) -> list[Call]:
        """Has new calls refused from now on, and ends those that wait. Needs the lock."""
        self._refusal = (error, reason)
        waiting = list(self._queue)
        for call in waiting:
            self._queue.remove(call)
        return [call for call in waiting if self._end(call, error(reason))]

    def _withdraw(self, call: Call, error: Exception) -> None:
        """Gives a call its error, unless it is done. If it runs, its batch goes on without it."""
        with self._lock:
            self._queue.remove(call)
            ended = self._end(call, error)
        if ended:
            self._answer([call])

    def _end(self, call: Call, result: Result, ran: bool = False) -> bool:
        """Marks a call as done; False if it was. Needs the lock, for many may want to end a call."""
        if call.state == "done":
            return False
        if self._order is not None and not ran:
            self._order.leave(call)
        call.result = result  # before the state, at which those look who answer in order, without this lock
        call.state = "done"
        self._running.discard(call)
        return True

    def _answer(self, ended: Sequence[Call]) -> None:
        """Tells the owners of calls that have ended, and those who waited for their order. Not to be called under the
        lock."""
        answer(ended)
        if self._order is not None:
            self._order.answer()

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
            given_up = self._overdue(now)
            late += self._give_up(given_up)
            left = [call.deadline for call in (*self._queue, *self._running) if call.deadline is not None]
            limit = self._health.timeout
            left += [self._due(slot, limit, now) for slot in self._pools.busy()] if limit else []
            if left and not self.closed:
                self._expect(min(left))
        if self.turnstile is not None:
            for _ in given_up:  # whose runs may never end, and would keep all others waiting
                self.turnstile.leave()
        self._answer(late)
        self._resume()

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
            closing = [self._put(turn.slot) for turn in turns]
            self._gathering = self._gathering and not turns
        let_go(*closing)

    def _tell_idle(self) -> None:
        if self._when_idle is not None and self._pools.at_rest:
            self._when_idle()

    def lead(self, slot: Slot) -> Slot | None:
        """Cuts a batch, runs it, answers its members. Returns the slot that the caller has to go on with, if any."""
        following = self._lead(slot)
        if following is None:
            self.look_idle()
        return following

    def look_idle(self) -> None:
        """To be called by a turn that ends or waits for resources: a model that is unloaded has no use for those."""
        if self._when_idle is not None:
            self._recall()
            self._tell_idle()

    def _lead(self, slot: Slot) -> Slot | None:
        batch = self._start(slot)
        if not batch:
            return None
        started = time.monotonic()
        execution = execute(batch, slot.instance, self._batching.retry)
        if execution.misfit is not None:
            self.serve_unbatched(execution.misfit)
        return self._finish(slot, batch, execution, started)

    def _start(self, slot: Slot) -> Sequence[Call]:
        """Cuts a batch, or puts the slot back if there is none; has idle slots see to what is left."""
        with self._lock:
            self._gathering = False
            now = time.monotonic()
            batch, expired = self._cut(slot, now)
            if batch:
                self._begin(slot, batch, now)
            closing = None if batch else self._put(slot)
            other = self._take(now)
        if other is not None:
            Turn(self, other).pass_on()
        if not batch and self.turnstile is not None:
            self.turnstile.leave(used=False)
        self._answer(expired)
        let_go(closing)
        return batch

    def _finish(self, slot: Slot, batch: Sequence[Call], execution: Execution, started: float) -> Slot | None:
        """Answers a batch. Returns the slot that the caller has to go on with.

        The slot goes on before the answers are given, in another thread, unless runs are brief. Then this thread
        answers first, so that more can join the next batch; but with a claim on resources it has to ask for these as
        it gives the last ones back, or it would never compete with those that wait.
        """
        limited = self.turnstile is not None
        with self._lock:
            self._count(slot, batch, execution, started)
            results = zip(batch, execution.results, strict=True)
            ended = [call for call, result in results if self._end(call, result, ran=True)]
            lost = slot.lost
            # An examiner may put a slot back that was taken out as soon as the lock is free: it must not be ours then.
            stays = slot.pool.brief and not slot.examined and not (limited and lost)
            following, closing = (None, None) if stays and not limited else self._next(slot)
        turn = Turn(self, following) if following is not None else None
        # What a lost instance had was given back when it was given up.
        if self.turnstile is not None and not lost and not self.turnstile.leave(turn):
            turn = following = None
        if turn is not None and not stays:
            turn.pass_on()
        self._answer([] if self._order else ended)
        if stays and not limited:
            with self._lock:
                following, closing = self._next(slot)
        let_go(closing)
        return following if stays else None

    def _begin(self, slot: Slot, batch: Sequence[Call], now: float) -> None:
        """Marks a batch as running. Needs the lock."""
        for call in batch:
            call.state = "running"
            if call.deadline is not None:
                self._running.add(call)
        slot.begin(batch, now)
        if self._health.timeout is not None:
            self._expect(now + self._health.timeout)

    def _next(self, slot: Slot) -> tuple[Slot | None, Opening | None]:
        """Puts a slot back and takes the one that is to go on, which is mostly the same. Needs the lock."""
        closing = self._put(slot)
        return self._take(time.monotonic()), closing

    def _put(self, slot: Slot) -> Opening | None:
        """Takes a slot back from its leader. Returns what is to be closed now. Needs the lock."""
        return slot.opening if self._pools.put(slot) else None

    def _count(self, slot: Slot, batch: Sequence[Call], execution: Execution, started: float) -> None:
        """What a run tells of its pool, its instance and for the metrics. Needs the lock."""
        taken = sum(execution.stages)
        rows = sum(call.rows for call in batch)
        self._metrics.ran(rows, [started - call.arrived for call in batch], execution.stages)
        for call in batch:
            if call.timing is not None:
                call.timing.ran(started - call.arrived, execution.stages, rows, len(batch))
        self._batcher.ran(len(batch), taken, started + taken)
        if execution.failure is not None:
            self._suspect(slot, execution.failure)
            return
        slot.failures = 0
        if not slot.lost and not isinstance(execution.results[0], Exception):
            self._pools.measured(slot, taken, rows, batch[0].signature)
        if self.sample is None:
            ran = zip(batch, execution.results, strict=True)
            good = next((call for call, result in ran if not isinstance(result, Exception)), None)
            self.sample = sample_of(good.inputs) if good is not None else None

    def _cut(self, slot: Slot, now: float) -> tuple[list[Call], list[Call]]:
        """Takes a slot's next batch out of the queue, and what has expired before it. Needs the lock."""
        expired: list[Call] = []
        while (leader := self._batcher.next(slot, now)) is not None:
            if leader.expired(now):
                if leader.postpones:
                    self._postpone(leader)
                elif self._end(leader, leader.lateness()):
                    expired.append(leader)
                continue
            batch, reason = self._batcher.batch(leader, slot, now)
            self._metrics.cuts[reason] += 1
            return batch, expired
        return [], expired

    # -- health ----------------------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._refusal is not None and self._refusal[0] is Stopping

    def _suspect(self, slot: Slot, failure: Exception) -> None:
        """Counts a run that failed, and takes the instance out if there were too many in a row. Needs the lock.

        One that has never succeeded is let be: the requests may be at fault, and nothing shows that it once was fit.
        """
        slot.failures += 1
        if slot.failures >= self._health.failures and slot.in_service and self.sample and slot.pool.reopen:
            self._pools.take_out(slot)
            slot.pool.fault = f"{slot.failures} runs in a row failed: {failure}"
            self._recovery.examine(slot)

    def _overdue(self, now: float) -> list[Slot]:
        """The slots whose run takes too long. Needs the lock."""
        limit = self._health.timeout
        return [] if limit is None else [one for one in self._pools.busy() if self._due(one, limit, now) <= now]

    def _due(self, slot: Slot, limit: float, now: float) -> float:
        """When a slot's run takes too long, as far as is known: while it waits for its client, the model takes no
        time, or a client that is slow could have it opened anew again and again."""
        rests = [call.rests for call in slot.batch if call.rests is not None]
        if any(each.resting for each in rests):
            return now + limit
        rested: float = sum(each.seconds for each in rests)
        return max(slot.started, self._timed_from) + limit + rested

    def _give_up(self, overdue: Sequence[Slot]) -> list[Call]:
        """Ends the calls of runs that take too long, whose instances are lost. Needs the lock."""
        limit = self._health.timeout
        late: list[Call] = []
        for slot in overdue:
            error = f"the model did not finish within its execution timeout of {limit:g} s"
            late += [call for call in slot.batch if self._end(call, DeadlineExceeded(error))]
            if slot.in_service:  # or its pool was opened anew since
                slot.pool.fault = f"a run took more than {limit:g} s"
                self._recovery.reopen(slot.pool)
            self._pools.give_up(slot)
        return late

    def restore(self, slot: Slot) -> None:
        """Puts an instance that was taken out back into service, unless it was lost or its pool opened anew since."""
        with self._lock:
            closing = slot.opening if self._pools.restore(slot) else None
            if slot.in_service:
                if slot.pool.in_service == len(slot.pool.opening.slots):
                    slot.pool.fault = ""
                self._refusal = self._refusal if self.closed else None
        self._resume()
        let_go(closing)

    def discard(self, slot: Slot) -> None:
        """Lets go of an instance that was examined and not restored."""
        with self._lock:
            closing = slot.opening if self._pools.discard(slot) else None
        self._resume()
        let_go(closing)

    def lose(self, slot: Slot) -> bool:
        """Gives up an instance whose examination takes too long. False if that has ended."""
        with self._lock:
            examined = slot.examined
            slot.lost = slot.lost or examined
        self._tell_idle()
        return examined

    def replace(self, pool: Pool, model: LoadedModel) -> None:
        """Puts a pool's newly opened model into the place of the former one, which is closed when no run is in it."""
        with self._lock:
            closed = self.closed
            former = None if closed else pool.open(model.instances, model.close)
            closing = former if former is not None and former.to_be_closed else None
            if not closed:
                self._refusal = None
        if closed:
            close_anyway(model.close, self.name)
            return
        self._resume()
        let_go(closing)

    def despair(self) -> None:
        """If no instance is in service, ends what waits and refuses what comes, until one is again."""
        with self._lock:
            if self.closed or self._pools.in_service:
                return
            ended = self._refuse(ModelNotReady, f"no instance of the model is in service: {self._pools.faults}")
        self._answer(ended)

    def _resume(self) -> None:
        """Has what waits led by instances that have become idle, if any."""
        with self._lock:
            slot = None if self._gathering else self._take(time.monotonic())
        if slot is not None:
            Turn(self, slot).pass_on()
        self._tell_idle()
