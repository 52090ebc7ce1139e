"""One run of an instance for the requests of a batch: stacked, run, split; or one by one, where that is not possible.

Knows no queue. Whatever a backend does, each member of the batch gets a result.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vintner.backend import Instance
from vintner.call import Arrays, Call, Result
from vintner.errors import BackendError, InvalidArgument
from vintner.types import Array

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Execution:
    """What came of it: a result for each member, and the seconds that it took to assemble, to run and to split.

    `misfit` names an output whose first dimension is not the batch, so that the model must not be batched again.
    `failure` is why the backend failed, if it failed for every member and not because of what they asked.
    """

    results: Sequence[Result]
    stages: tuple[float, float, float]
    misfit: str | None = None
    failure: Exception | None = None


def execute(batch: Sequence[Call], instance: Instance, retry: bool = True) -> Execution:
    """Runs a batch; with `retry` its members one by one, if it fails. Raises nothing."""
    started = time.monotonic()
    if len(batch) == 1:
        return _one_by_one(batch, instance, started)
    try:
        inputs = _stack(batch)
        assembled = time.monotonic()
        outputs = instance.run(inputs)
        ran = time.monotonic()
        misfit = without_batch_in_front(outputs, sum(call.rows for call in batch))
        if misfit is None:
            results = _split(outputs, batch)
            return Execution(results, (assembled - started, ran - assembled, time.monotonic() - ran))
    except BaseException as exc:
        if not retry:
            failure = _failure(exc)
            return Execution([failure] * len(batch), (0.0, time.monotonic() - started, 0.0), failure=failure)
        # One request can spoil a batch; the others are not to suffer for it.
        logger.info("a batch of %d requests failed and is run again one by one: %s", len(batch), exc)
        misfit = None
    return _one_by_one(batch, instance, started, misfit)


def _one_by_one(batch: Sequence[Call], instance: Instance, started: float, misfit: str | None = None) -> Execution:
    results: list[Result] = []
    failure: Exception | None = None
    fit = False
    for call in batch:
        try:
            results.append(instance.run(call.inputs))
            fit = True
        except BaseException as exc:
            failure = _failure_of_one(exc, call)
            fit = fit or isinstance(failure, InvalidArgument)
            results.append(failure)
    return Execution(results, (0.0, time.monotonic() - started, 0.0), misfit, None if fit else failure)


def _failure(error: BaseException) -> Exception:
    """What a request is told of an error in a run. Some runtimes' panics, and SystemExit, are no Exceptions."""
    return error if isinstance(error, Exception) else BackendError(f"the backend raised {error!r}")


def _failure_of_one(error: BaseException, call: Call) -> Exception:
    """The same of a request that ran alone: if a tensor of it has no elements, it is that which the library minds."""
    failure = _failure(error)
    if isinstance(failure, BackendError) and any(array.size == 0 for array in call.inputs.values()):
        return InvalidArgument(f"the model does not run on a tensor without elements: {failure.message}")
    return failure


def _stack(batch: Sequence[Call]) -> dict[str, Array]:
    """Concatenates the inputs of a batch along their first dimension: the one copy on the way in."""
    return {name: np.concatenate([call.inputs[name] for call in batch]) for name in batch[0].inputs}


def without_batch_in_front(outputs: Arrays, rows: int) -> str | None:
    """Names an output whose first dimension is not the batch, or None."""
    for name, array in outputs.items():
        if array.ndim == 0 or array.shape[0] != rows:
            return f"output '{name}' has shape {list(array.shape)} for a batch of {rows} rows"
    return None


def _split(outputs: Arrays, batch: Sequence[Call]) -> Sequence[Arrays]:
    """The rows of each call, as views."""
    parts: list[Arrays] = []
    start = 0
    for call in batch:
        stop = start + call.rows
        parts.append({name: array[start:stop] for name, array in outputs.items()})
        start = stop
    return parts
