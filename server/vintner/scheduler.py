"""Runs the requests of one model version on its instances, in batches, by leader and followers.

There is no batcher thread. A request's own thread takes the lock; if an instance is idle it becomes the leader of
a batch of one and runs it at once, with no hand-over. If none is idle, it waits. A leader that has run its batch
hands the instance to the head of the queue before it does anything else; that thread cuts its batch from what
waits by then and runs it. So no instance idles while work waits, a lone request pays no thread switch, and batches
grow by themselves under load.

Invariants, under the lock: an idle instance means an empty queue; a call is queued, running or done, and every call
gets exactly one result; an instance is idle or in the hands of exactly one leader.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Hashable, Mapping, Sequence
from threading import Lock
from typing import Literal

import numpy as np

from vintner.backend import Instance
from vintner.batching import BatchQueue, Pending, QueueLimits
from vintner.errors import Cancelled, DeadlineExceeded, Stopping
from vintner.metrics import SchedulerMetrics
from vintner.types import Array, Cancellation

logger = logging.getLogger(__name__)

LONGEST_WAIT = 365 * 86400.0
"""Seconds; a lock refuses waits that the platform's clock cannot hold."""

Arrays = Mapping[str, Array]


class Call(Pending):
    """One request on its way through the scheduler. Its owner reads `outputs` after `Scheduler.infer` returned."""

    __slots__ = ("cancellation", "error", "inputs", "instance", "outputs", "queued_at", "state", "wakeup")

    def __init__(
        self,
        inputs: Arrays,
        rows: int,
        size: int = 0,
        signature: Hashable = None,
        deadline: float | None = None,
        cancellation: Cancellation | None = None,
    ) -> None:
        super().__init__(rows, size, signature, deadline)
        self.inputs = inputs
        self.cancellation = cancellation
        self.outputs: Arrays = {}
        self.error: Exception | None = None
        self.instance: Instance | None = None  # set when this call is to lead
        self.state: Literal["queued", "running", "done"] = "running"
        self.wakeup: Lock | None = None
        self.queued_at = 0.0


class Scheduler:
    """The instances of one model and the queue in front of them.

    Threads: `infer` is called by any number of threads and blocks each until its answer is there. The lock guards
    the queue, the idle instances and the metrics' counts; it is never held while a model runs.
    """

    def __init__(
        self,
        instances: Sequence[Instance],
        *,
        max_rows: int = 1,
        limits: QueueLimits | None = None,
        metrics: SchedulerMetrics | None = None,
    ) -> None:
        self._lock = Lock()
        self._idle = list(instances)
        self._total = len(instances)
        self._queue: BatchQueue[Call] = BatchQueue(limits or QueueLimits(), max_rows)
        self._metrics = metrics or SchedulerMetrics()
        self._closed = False

    @property
    def queued(self) -> tuple[int, int]:
        """Requests and bytes that wait."""
        return len(self._queue), self._queue.bytes

    @property
    def instances(self) -> tuple[int, int]:
        """Busy and all instances."""
        return self._total - len(self._idle), self._total

    def infer(self, call: Call) -> Arrays:
        """Runs one request and returns its outputs: rows `call.rows` of the batch that it went with.

        Raises QueueFull, DeadlineExceeded, Cancelled, Stopping, or what the backend raised.
        """
        call.queued_at = time.monotonic()
        with self._lock:
            if self._closed:
                raise Stopping("the model is being unloaded")
            instance = self._idle.pop() if self._idle else None
            if instance is None:
                self._enqueue(call)
        if instance is not None:
            self._lead([call], instance)
        elif self._wait(call):
            self._lead_from_queue(call)
        if call.error is not None:
            raise call.error
        return call.outputs

    def close(self) -> None:
        """Refuses new calls and answers the ones that wait. Instances that run are left to their leaders."""
        with self._lock:
            self._closed = True
            while self._queue:
                self._finish(self._queue.pop(), Stopping("the model is being unloaded"))

    def _enqueue(self, call: Call) -> None:
        self._queue.push(call)
        call.state = "queued"
        call.wakeup = Lock()
        call.wakeup.acquire()

    def _wait(self, call: Call) -> bool:
        """Sleeps until the call was run by another leader, or failed (False), or is to lead itself (True)."""
        assert call.wakeup is not None
        if call.cancellation is not None:
            call.cancellation.on_cancel(lambda: self._withdraw(call, Cancelled("the client cancelled the request")))
        timeout = -1.0
        if call.deadline is not None:
            timeout = min(max(0.0, call.deadline - time.monotonic()), LONGEST_WAIT)
        if not call.wakeup.acquire(timeout=timeout):
            self._withdraw(call, DeadlineExceeded("the deadline passed while the request waited or ran"))
        if call.cancellation is not None:
            call.cancellation.on_cancel(None)
        return call.instance is not None

    def _withdraw(self, call: Call, error: Exception) -> None:
        """Gives a call its error, unless it is done or leads. If it runs, its batch goes on without it."""
        with self._lock:
            if call.state == "done" or call.instance is not None:
                return
            self._queue.remove(call)
            self._finish(call, error)

    @staticmethod
    def _finish(call: Call, error: Exception | None = None) -> None:
        """Marks a call as done and wakes its owner. Needs the lock, for a call can be withdrawn meanwhile."""
        if call.state == "done":
            return
        call.error = error
        call.state = "done"
        if call.wakeup is not None:
            call.wakeup.release()

    def _lead_from_queue(self, leader: Call) -> None:
        instance = leader.instance
        assert instance is not None
        now = time.monotonic()
        error: Exception | None = None
        if leader.expired(now):
            error = DeadlineExceeded("the deadline passed while the request waited")
        elif leader.cancellation is not None and leader.cancellation.cancelled:
            error = Cancelled("the client cancelled the request")
        if error is not None:
            leader.error = error
            with self._lock:
                self._hand_over(instance)
            return
        with self._lock:
            batch = [leader, *self._queue.cut(leader, now)]
            for call in batch:
                call.state = "running"
        self._lead(batch, instance)

    def _lead(self, batch: list[Call], instance: Instance) -> None:
        """Runs a batch, hands the instance on, and gives every member its outputs or its error."""
        started = time.monotonic()
        outputs = self._run(batch, instance)
        finished = time.monotonic()
        with self._lock:
            self._hand_over(instance)
            self._metrics.ran(
                rows=sum(call.rows for call in batch),
                waits=[started - call.queued_at for call in batch],
                compute=finished - started,
            )
        if outputs is not None:
            _split(outputs, batch)
        if len(batch) > 1:
            with self._lock:
                for call in batch[1:]:
                    self._finish(call, call.error)

    def _run(self, batch: list[Call], instance: Instance) -> Arrays | None:
        """The outputs of the batch, or None if its members have been given theirs, or their errors, one by one."""
        if len(batch) == 1:
            _run_alone(batch[0], instance)
            return None
        try:
            outputs = instance.run(_stack(batch))
        except Exception as exc:
            # One request can spoil a batch; the others are not to suffer for it.
            logger.info("a batch of %d requests failed and is run again one by one: %s", len(batch), exc)
        else:
            misfit = _without_batch_in_front(outputs, sum(call.rows for call in batch))
            if misfit is None:
                return outputs
            self._queue.max_rows = 1
            logger.warning("served unbatched from now on: %s", misfit)
        for call in batch:
            _run_alone(call, instance)
        return None

    def _hand_over(self, instance: Instance) -> None:
        """Makes the head of the queue the next leader, or the instance idle. Needs the lock."""
        if not self._queue:
            self._idle.append(instance)
            return
        leader = self._queue.pop()
        leader.state = "running"
        leader.instance = instance
        assert leader.wakeup is not None
        leader.wakeup.release()


def _run_alone(call: Call, instance: Instance) -> None:
    try:
        call.outputs = instance.run(call.inputs)
    except Exception as exc:
        call.error = exc


def _stack(batch: Sequence[Call]) -> dict[str, Array]:
    """Concatenates the inputs of a batch along their first dimension: the one copy on the way in."""
    return {name: np.concatenate([call.inputs[name] for call in batch]) for name in batch[0].inputs}


def _without_batch_in_front(outputs: Arrays, rows: int) -> str | None:
    """Names an output whose first dimension is not the batch, or None."""
    for name, array in outputs.items():
        if array.ndim == 0 or array.shape[0] != rows:
            return f"output '{name}' has shape {list(array.shape)} for a batch of {rows} rows"
    return None


def _split(outputs: Arrays, batch: Sequence[Call]) -> None:
    """Gives each call its rows, as views."""
    start = 0
    for call in batch:
        stop = start + call.rows
        call.outputs = {name: array[start:stop] for name, array in outputs.items()}
        start = stop
