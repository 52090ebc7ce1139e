"""Vintner with another batching policy, to compare policies and nothing else: a fixed delay, as in Triton.

`python -m bench.fixed_delay SECONDS serve …` is `vintner serve …` with a scheduler that cuts a batch only when it is
full or its oldest request has waited that long, also while an instance is idle. Triton's dynamic batcher does so: a
batch leaves at its preferred size, which is the largest unless configured, or with the delay; one that is due grows
until an instance takes it; and without a delay, batches come of back-pressure alone. Everything else is Vintner's own,
so the rival has its late binding, its buckets and its speed. As in Triton, the thread that received a request never
runs it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from functools import partial
from threading import Condition
from typing import Any

from vintner import cli, servable
from vintner.call import Call
from vintner.pools import Pool, Slot
from vintner.scheduler import Scheduler


def remaining(rows: int, max_rows: int, oldest: float, now: float, delay: float) -> float:
    """Seconds that a batch has yet to wait for more requests: none if it is full or its oldest one is due."""
    return 0.0 if rows >= max_rows else max(0.0, oldest + delay - now)


class FixedDelayScheduler(Scheduler):
    """Leaders wait before they cut. `_arrived` is told of each request, for one of them may fill the batch."""

    def __init__(self, delay: float, pools: Sequence[Pool], **others: Any) -> None:
        super().__init__(pools, **others)
        self._delay = delay
        self._arrived = Condition()
        setattr(self._batcher, "_gains", lambda *_: "yes")  # noqa: B010 - Triton stacks whatever it costs

    def submit(self, call: Call) -> None:
        turn = super().submit(call)
        with self._arrived:
            self._arrived.notify_all()
        if turn is not None:
            turn.pass_on()

    def lead(self, slot: Slot) -> Slot | None:
        with self._arrived:
            while (left := self._remaining()) > 0:
                self._arrived.wait(left)
        return super().lead(slot)

    def _remaining(self) -> float:
        with self._lock:
            oldest = min((call.arrived for call in self._queue), default=None)
            rows, most = self._queue.rows, self._queue.max_rows
        return 0.0 if oldest is None else remaining(rows, most, oldest, time.monotonic(), self._delay)


def main(arguments: Sequence[str]) -> int:
    policy = partial(FixedDelayScheduler, float(arguments[0]))
    setattr(servable, "Scheduler", policy)  # noqa: B010 - for a type checker this is another class
    return cli.main(arguments[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
