"""Calls that tests give to a scheduler without a server, and wait for."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import numpy as np
from vintner.call import Call, Result
from vintner.scheduler import Scheduler

WAIT = 10.0


class Asked(Call):
    """A call whose answer, the rows of `y`, comes as a future."""

    __slots__ = ("future",)

    def __init__(self, *values: float, signature: object = None, **options: Any) -> None:
        inputs = {"x": np.array([[value] for value in values])}
        super().__init__(inputs, len(values), 8 * len(values), signature, done=self._done, **options)
        self.future: Future[list[float]] = Future()

    def _done(self, result: Result) -> None:
        assert not self.future.done(), "answered twice"
        if isinstance(result, Exception):
            self.future.set_exception(result)
        else:
            self.future.set_result([float(v) for v in result["y"][:, 0]])


def call(*values: float, **options: Any) -> Asked:
    return Asked(*values, **options)


def infer(scheduler: Scheduler, request: Asked) -> list[float]:
    """Runs one request in this thread, turn and all."""
    turn = scheduler.submit(request)
    if turn:
        turn.run()
    return request.future.result(WAIT)
