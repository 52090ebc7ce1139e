"""Has a language model generate for all its requests at once: continuous batching, by one thread for each model.

The thread lets requests into the engine while others run, steps it, and hands over what came. It never waits for a
client: what cannot be sent yet is kept with its sequence and sent together later, so a slow reader costs no more than
its own text. Requests that end early, by their client or their deadline, are answered at once by whoever notices; the
thread then takes them out of the engine before the next step.

A step that fails, fails for all sequences. The engine is reset; those that have not made a token since they were added
are tried one by one, so the one that cannot be run is found, and told; all others go on where they were. It is the same
where the engine cannot even take a sequence, because its process has died, say.

Invariants: a call gets exactly one end; a key is in the engine if and only if its sequence is in `_running`.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from threading import Condition, Thread
from typing import Final

from vintner.alarms import Alarm, AlarmClock
from vintner.batching import BatchQueue, QueueLimits
from vintner.cores import give_way
from vintner.errors import BackendError, Cancelled, Internal, InvalidArgument, Stopping, TooLarge, VintnerError
from vintner.generated_sequence import GeneratedSequence
from vintner.generation import Engine, Progress
from vintner.generation_call import GenerationCall
from vintner.generation_counting import count_admission, count_end, count_step, count_tokens
from vintner.generation_metrics import GenerationMetrics, Load

logger = logging.getLogger(__name__)

EVENTS_PER_CORE: Final = 500.0
"""Pieces that are sent at most in a second for each core, of all streams together; where tokens come faster, a piece
has several. To send one is estimated to take 0.1 to 0.2 ms of a core, and the runtime has a use for all of them."""

RESERVED: Final = 256
"""Tokens of an answer for which there must be room in the cache before it is begun; longer ones may have to be begun
again, if others need the room."""

MOST_FAILURES: Final = 3
"""Failed steps that a sequence may take part in as a suspect, without a token between them."""


class Stepper:
    """One engine, the sequences in it and the requests in front of it. Threads: any; the engine is its own thread's."""

    def __init__(
        self,
        engine: Engine,
        *,
        limits: QueueLimits,
        metrics: GenerationMetrics,
        alarms: AlarmClock,
        timeout: float | None = None,
        name: str = "the model",
        cores: int = 1,
        clock: Callable[[], float] = time.monotonic,
        closed: Callable[[], None] = lambda: None,
    ) -> None:
        """A step may take `timeout` seconds; `name` is for the log, `cores` are those of the process; `closed` is
        called in the end, when the engine is not used any more."""
        self._engine = engine
        self._metrics = metrics
        self._alarms = alarms
        self._timeout = timeout
        self._name = name
        self._events = EVENTS_PER_CORE * cores  # in a second
        self._clock = clock
        self._closed = closed
        self._most = engine.max_sequences
        self._changed = Condition()  # guards the queue, the states of calls, and what others leave to the thread
        self._queue: BatchQueue[GenerationCall] = BatchQueue(limits, 1)
        self._calls: set[GenerationCall] = set()  # those that run
        self._refusal: Exception | None = None
        self._alarm: Alarm | None = None
        self._when_idle: Callable[[], None] | None = None
        self._stopped = False
        self._step_began: float | None = None
        self._key = 0
        self._ready: deque[GeneratedSequence] = deque()  # of calls that run, and not in the engine yet
        self._trial: deque[GeneratedSequence] = deque()  # suspects, which are tried before anything else is let in
        self._running: dict[int, GeneratedSequence] = {}
        self._unproven: set[int] = set()  # keys that have not given a token
        self.fault = ""
        """Why it does not run, if so."""
        self._cache = engine.cache
        metrics.load = self._load
        self._thread = Thread(target=self._run, name="vintner-step", daemon=True)
        self._thread.start()

    @property
    def queued(self) -> tuple[int, int]:
        """Requests and bytes that wait."""
        return len(self._queue), self._queue.bytes

    @property
    def longest_wait(self) -> float:
        """Seconds for which the request has waited that has done so longest, of those of which the engine has nothing
        yet; 0 if there is none."""
        with self._changed:
            oldest = self._queue.oldest
            arrivals = [call.arrived for call in self._calls if not call.admitted]
        if oldest is not None:
            arrivals.append(oldest)
        return max(0.0, self._clock() - min(arrivals)) if arrivals else 0.0

    @property
    def busy(self) -> bool:
        """Whether sequences are in the engine, or about to be."""
        return bool(self._running or self._ready or self._trial)

    def _load(self) -> Load:
        with self._changed:
            queued, calls = list(self._queue), list(self._calls)
        running = len(self._running)
        begun = sum(1 for call in calls if call.admitted)
        waiting = len(self._ready) + len(self._trial) + sum(len(call.sequences) for call in queued)
        # What an engine tells is of its last step, and in one without sequences nothing of the cache is used.
        cache = self._cache if running else replace(self._cache, used=0.0)
        return Load(begun, len(queued) + len(calls) - begun, running, waiting, cache)

    # -- a call's way in and out -----------------------------------------------------------------------------

    def submit(self, call: GenerationCall) -> None:
        """Queues a call and returns at once. Raises QueueFull, Stopping or TooLarge, and then `call.done` is not
        called."""
        self._check_room(call)
        call.arrived = self._clock()
        call.received = call.received or call.arrived
        if call.cancellation is not None:
            call.cancellation.on_cancel(lambda: self._end(call, Cancelled("the client cancelled the request")))
        try:
            self._push(call)
        except Exception:
            if call.cancellation is not None:
                call.cancellation.on_cancel(None)  # or the two would keep each other
            raise

    def _push(self, call: GenerationCall) -> None:
        with self._changed:
            if call.state == "done":
                return
            try:
                if self._refusal is not None:
                    raise self._refusal
                self._queue.push(call)
            except Exception:
                call.state = "done"  # under the lock, or a client that goes away now would be answered as well
                raise
            if call.deadline is not None:
                self._expect(call.deadline)
            self._changed.notify()

    def _check_room(self, call: GenerationCall) -> None:
        cache = self._cache
        longest = max(len(sequence.prompt) for sequence in call.sequences)
        if cache.blocks and longest + 1 > cache.blocks * cache.block_tokens:
            raise TooLarge(
                f"a prompt of {longest} tokens does not fit into the model's key-value cache, which has room for"
                f" {cache.blocks * cache.block_tokens}"
            )

    def _end(self, call: GenerationCall, error: Exception | None) -> None:
        """Answers a call, unless that was done. Its sequences leave the engine before the next step. Any thread."""
        with self._changed:
            if call.state == "done":
                return
            self._queue.remove(call)
            self._calls.discard(call)
            call.state = "done"
            count_end(self._metrics, call, error, self._clock())
            self._changed.notify()
        if call.cancellation is not None:
            call.cancellation.on_cancel(None)
        try:
            call.done(error)
        except Exception:
            logger.exception("an answer could not be given")
        call.sequences = ()  # each knows its call: the two would keep each other until Python looks for such circles

    def _expect(self, deadline: float) -> None:
        """Sets the alarm to a deadline, unless it rings earlier anyway. Needs the lock."""
        if self._alarm is None or deadline < self._alarm.at:
            if self._alarm is not None:
                self._alarms.cancel(self._alarm)
            self._alarm = self._alarms.set(deadline, self._expire)

    def _expire(self) -> None:
        """Ends the calls whose deadline has passed."""
        now = self._clock()
        with self._changed:
            self._alarm = None
            calls = [*self._queue, *self._calls]
            late = [call for call in calls if call.expired(now)]
            left = [call.deadline for call in calls if call.deadline is not None and call.deadline > now]
            if left and not self._stopped:
                self._expect(min(left))
        for call in late:
            self._end(call, call.lateness())

    # -- its life --------------------------------------------------------------------------------------------

    def reconfigure(self, limits: QueueLimits, timeout: float | None = None) -> None:
        """The timeout holds from the next step on."""
        self._timeout = timeout
        with self._changed:
            self._queue.reconfigure(limits, ())

    def when_idle(self, callback: Callable[[], None]) -> None:
        """Has the callback called whenever nothing runs any more, from now on; by the thread."""
        with self._changed:
            self._when_idle = callback
            self._changed.notify()

    def close(self) -> None:
        """Refuses new calls and ends those that there are. The thread ends after its step."""
        with self._changed:
            self._stopped = True
            if self._alarm is not None:
                self._alarms.cancel(self._alarm)
            self._changed.notify()
        self.cut_short(Stopping("the model is being unloaded"))

    def cut_short(self, reason: Exception) -> None:
        """Refuses new calls from now on and ends those that there are."""
        with self._changed:
            self._refusal = reason
            left = [*self._queue, *self._calls]
        for call in left:
            self._end(call, reason)

    # -- the thread ------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._wait():
                self._round()
        finally:
            self._closed()

    def _wait(self) -> bool:
        """Blocks until there is something to do. False if nothing is to be done any more."""
        with self._changed:
            while not (self._stopped or self._queue or self.busy):
                callback, self._when_idle = self._when_idle, None
                if callback is None:
                    self._changed.wait()
                    continue
                self._changed.release()
                try:
                    callback()
                finally:
                    self._changed.acquire()
            return not self._stopped

    def _round(self) -> None:
        try:
            self._drop()
            self._admit()
            if self._running:
                tokens = self._metrics.prompt_tokens + self._metrics.generated_tokens
                self._take(self._step())
                count_step(self._metrics, tokens)
                self._cache = self._engine.cache
        except Exception as exc:
            self._recover(exc)

    def _step(self) -> Sequence[Progress]:
        timeout = self._timeout
        if timeout is None:
            return self._engine.step()
        self._step_began = began = self._clock()
        alarm = self._alarms.set(began + timeout, lambda: self._overdue(began))
        try:
            return self._engine.step()
        finally:
            self._alarms.cancel(alarm)
            with self._changed:
                self._step_began = None
                if self.fault and not self._stopped:
                    logger.warning("%s is back after a step of %.1f s", self._name, self._clock() - began)
                    self.fault, self._refusal = "", None

    def _overdue(self, began: float) -> None:
        """Answers all, when a step takes too long: it may never end. If it does, the model is in service again."""
        with self._changed:
            if self._step_began != began or self._stopped:
                return
            self.fault = f"a step has been running for more than {self._timeout:g} s"
            self._refusal = BackendError(self.fault)
            left = [*self._queue, *self._calls]
        logger.error("%s: %s", self._name, self.fault)
        for call in left:
            self._end(call, self._refusal)

    def _drop(self) -> None:
        """Takes those out of the engine that nobody waits for any more."""
        over = [key for key, sequence in self._running.items() if sequence.call.state == "done"]
        for key in over:
            self._leave(key)
            self._engine.cancel(key)
        for waiting in (self._ready, self._trial):
            if any(sequence.call.state == "done" for sequence in waiting):
                left = [sequence for sequence in waiting if sequence.call.state != "done"]
                waiting.clear()
                waiting.extend(left)

    def _leave(self, key: int) -> GeneratedSequence:
        self._unproven.discard(key)
        return self._running.pop(key)

    # -- in --------------------------------------------------------------------------------------------------

    def _admit(self) -> None:
        if self._trial:
            if not self._unproven:
                self._add(self._trial.popleft())
            return
        if self._engine.in_waves and self._running:
            return
        while not self._trial and len(self._running) < self._most and (sequence := self._next()) is not None:
            if sequence.call.state == "done":
                continue
            if not self._fits(sequence):
                self._ready.appendleft(sequence)
                return
            self._add(sequence)

    def _next(self) -> GeneratedSequence | None:
        if self._ready:
            return self._ready.popleft()
        with self._changed:
            call = self._queue.pop()
            if call is None:
                return None
            call.state = "running"
            call.deadline = call.client_deadline
            self._calls.add(call)
            if call.deadline is not None:
                self._expect(call.deadline)
            self._ready.extend(call.sequences)
        return self._ready.popleft()

    def _fits(self, sequence: GeneratedSequence) -> bool:
        """Whether it can run beside the others: with their adapters, and in the room that they leave in the cache.
        Alone it has all the room that there is."""
        if not self._running:
            return True
        if sequence.crowded:
            return False
        other = next(iter(self._running.values()))
        if not self._engine.mixes_adapters and sequence.sampling.adapters != other.sampling.adapters:
            return False
        cache = self._engine.cache
        if not cache.blocks:
            return True
        taken = sum(_blocks(other, cache.block_tokens) for other in self._running.values())
        return taken + _blocks(sequence, cache.block_tokens) <= cache.blocks

    def _add(self, sequence: GeneratedSequence) -> None:
        self._key += 1
        prompt, sampling = sequence.again() if sequence.made else (sequence.prompt, sequence.sampling)
        try:
            self._engine.add(self._key, prompt, sampling)
        except BackendError as exc:
            self._renew([*self._running.values(), sequence], [sequence], exc)
            return
        except Exception as exc:
            self._end(sequence.call, exc)
            return
        if not sequence.call.admitted:
            count_admission(self._metrics, sequence.call, self._clock())
        sequence.key = self._key
        self._running[self._key] = sequence
        self._unproven.add(self._key)

    # -- out -------------------------------------------------------------------------------------------------

    def _take(self, steps: Iterable[Progress]) -> None:
        now = self._clock()
        interval = len(self._running) / self._events
        alone = len(self._running) == 1
        touched: dict[GenerationCall, None] = {}
        for progress in steps:
            sequence = self._running.get(progress.key)
            if sequence is None or sequence.call.state == "done":
                continue
            call, made = sequence.call, sequence.made
            if progress.end == "no_room":
                self._make_room(sequence, alone)
                continue
            try:
                sequence.feed(progress)
            except Exception as exc:
                self._end(call, BackendError(str(exc)))
                continue
            count = sequence.made - made
            if count and sequence.proven:
                self._unproven.discard(progress.key)
                sequence.failures = 0
            if count or sequence.finish:
                count_tokens(self._metrics, sequence, count, now)
            if sequence.finish:
                self._leave(progress.key)
                if not progress.end:
                    self._engine.cancel(progress.key)
                call.left -= 1
                call.send(sequence)
            elif sequence.pending and now >= sequence.due and call.wants_pieces:
                sequence.due = now + interval
                call.send(sequence)
            else:
                continue
            touched[call] = None
        for call in touched:
            try:
                call.flush()
            except Exception:
                logger.exception("a part of an answer could not be given")
                self._end(call, Internal())
            if not call.left:
                self._end(call, None)
        if touched:
            give_way()  # those who send do so now, not in the middle of the next step, or at its end

    # -- when something fails --------------------------------------------------------------------------------

    def _make_room(self, sequence: GeneratedSequence, alone: bool) -> None:
        """Lets a sequence for which the cache had no room begin again when all others have left; if it was alone, there
        is no hope."""
        self._leave(sequence.key)
        if not alone:
            self._metrics.no_room += 1
            sequence.crowded = True
            self._ready.appendleft(sequence)
            return
        cache = self._engine.cache
        room = f", which has {cache.blocks * cache.block_tokens} tokens" if cache.blocks else ""
        self._end(
            sequence.call,
            TooLarge(f"the key-value cache{room} has no room for the prompt and what was generated so far"),
        )

    def _recover(self, error: Exception) -> None:
        """After a step that failed."""
        self._renew(list(self._running.values()), self._suspects(), error)

    def _renew(
        self, running: Sequence[GeneratedSequence], suspects: Collection[GeneratedSequence], error: Exception
    ) -> None:
        """Goes on with those that ran, in an engine that has forgotten them. A suspect is tried again, for it may have
        been the engine's fault; if it fails alone then, it is at fault."""
        logger.warning("%s failed with %d sequences: %s", self._name, len(running), error)
        self._running.clear()
        self._unproven.clear()
        try:
            self._engine.reset()
        except Exception as exc:
            self._give_up(exc)
            return
        most = 2 if len(suspects) == 1 else MOST_FAILURES
        for sequence in reversed(running):
            if sequence.call.state == "done":
                continue
            sequence.failures += sequence in suspects
            if sequence.failures >= most and sequence in suspects:
                self._end(sequence.call, _blame(sequence, error))
                continue
            self._metrics.retried += 1
            (self._trial if sequence in suspects else self._ready).appendleft(sequence)

    def _suspects(self) -> list[GeneratedSequence]:
        """Of the sequences in the engine, those with which a step may have failed: the new ones, as they were added;
        or those with constraints, which can fail later; or all."""
        new = [sequence for key, sequence in self._running.items() if key in self._unproven]
        constrained = [one for one in self._running.values() if one.sampling.constraint is not None]
        return new or constrained or list(self._running.values())

    def _give_up(self, error: Exception) -> None:
        """The engine cannot be used any more."""
        logger.error("%s cannot go on: %s", self._name, error)
        self.fault = f"the runtime failed, and cannot go on: {error}"
        self._ready.clear()
        self._trial.clear()
        self.cut_short(BackendError(self.fault))


def _blocks(sequence: GeneratedSequence, block_tokens: int) -> int:
    """Blocks of the cache that a sequence needs, or will soon."""
    to_come = min(sequence.sampling.max_new_tokens, max(sequence.made + 1, RESERVED))
    return -(-(len(sequence.prompt) + to_come) // block_tokens)


def _blame(sequence: GeneratedSequence, error: Exception) -> Exception:
    constraint = sequence.sampling.constraint
    if constraint is None:
        return error if isinstance(error, VintnerError) else BackendError(f"the model failed: {error}")
    return InvalidArgument(f"the runtime cannot generate by this {constraint.kind}: {error}")
