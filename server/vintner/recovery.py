"""What becomes of instances that fail or hang: examined, and if need be their pool is opened anew, in the background.

Knows neither requests nor the queue; the scheduler takes slots out, and is told what came of it. A slot that passes a
run of zeros, in shapes that a run once succeeded with, is fit: then the requests were at fault. Otherwise the whole
pool is opened anew, because what broke one instance (a device that was reset, a stream that hangs) mostly broke what
they share. Until that succeeds, what is left of the pool goes on.

Invariant: for each pool there is at most one attempt to open it, running or to come.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from threading import Lock
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vintner.alarms import Alarm
from vintner.backend import Instance, LoadedModel, close_anyway
from vintner.call import Parametrized
from vintner.pools import Pool, Slot
from vintner.types import Array

if TYPE_CHECKING:
    from vintner.scheduler import Scheduler

logger = logging.getLogger(__name__)

FIRST_PAUSE: Final = 1.0
"""Seconds between a failed attempt and the next; doubled each time."""

LONGEST_PAUSE: Final = 60.0

PATIENCE: Final = 10.0
"""Seconds for which requests wait for a model that has no instance left, before they are refused."""

Sample = Mapping[str, tuple[tuple[int, ...], np.dtype[Any], Any]]
"""Of each input the shape, the dtype, and what an element is that means nothing."""


def sample_of(inputs: Mapping[str, Array]) -> Sample:
    """What inputs look like, without their values, with the parameters that matter to a run."""
    looks = {name: (array.shape, array.dtype, _nothing(array)) for name, array in inputs.items()}
    return Parametrized(looks, inputs.parameters) if isinstance(inputs, Parametrized) else looks


def blank(sample: Sample) -> dict[str, Array]:
    """Inputs that look so, of zeros or empty strings."""
    inputs = {name: _filled(*looks) for name, looks in sample.items()}
    return Parametrized(inputs, sample.parameters) if isinstance(sample, Parametrized) else inputs


def _nothing(array: Array) -> Any:
    """Zero, an empty string, or zeros for an array in an array, which is a row of a ragged input."""
    if array.dtype != np.object_:
        return 0
    first = array.flat[0] if array.size else b""
    return np.zeros_like(first) if isinstance(first, np.ndarray) else b""


def _filled(shape: tuple[int, ...], dtype: np.dtype[Any], element: Any) -> Array:
    if not isinstance(element, np.ndarray):
        return np.full(shape, element, dtype)
    rows: Array = np.empty(shape, dtype)
    for index in np.ndindex(shape):
        rows[index] = element
    return rows


class Recovery:
    """Of one model. `examine` and `reopen` return at once and may be called under the scheduler's lock."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._lock = Lock()
        self._reopening: set[Pool] = set()

    def examine(self, slot: Slot) -> None:
        """Restores a slot that was taken out if it is fit, or discards it and opens its pool anew."""
        alarm = self._scheduler.threads.alarms.set(time.monotonic() + PATIENCE, lambda: self._overdue(slot))
        self._scheduler.threads.workers.submit(self._examine, slot, alarm)

    def reopen(self, pool: Pool) -> None:
        """Opens a pool anew, again and again until it succeeds."""
        if pool.reopen is None:
            return
        # Also where it is being opened already: when that began, another instance may have been left.
        self._scheduler.threads.alarms.set(time.monotonic() + PATIENCE, self._scheduler.despair)
        with self._lock:
            if pool in self._reopening:
                return
            self._reopening.add(pool)
        logger.warning("%s: instances on %s are opened anew: %s", self._scheduler.name, pool.device, pool.fault)
        self._scheduler.threads.workers.submit(self._attempt, pool, FIRST_PAUSE)

    def _examine(self, slot: Slot, alarm: Alarm) -> None:
        try:
            self._try(slot.instance)
            fit = True
        except BaseException:  # some runtimes' panics, and SystemExit, are no Exceptions
            fit = False
        self._scheduler.threads.alarms.cancel(alarm)
        if fit:
            self._scheduler.restore(slot)
            return
        self._scheduler.discard(slot)
        self._replace(slot)

    def _overdue(self, slot: Slot) -> None:
        if self._scheduler.lose(slot):
            self._replace(slot)

    def _replace(self, slot: Slot) -> None:
        """Opens a slot's pool anew, unless that was done since the slot was taken out."""
        if not slot.opening.retired:
            self.reopen(slot.pool)

    def _try(self, instance: Instance) -> None:
        """Raises whatever the backend does."""
        if self._scheduler.sample is not None:
            instance.run(blank(self._scheduler.sample))

    def _attempt(self, pool: Pool, pause: float) -> None:
        reopen = pool.reopen
        if self._scheduler.closed or reopen is None:
            return
        try:
            model = self._open(reopen)
        except BaseException as exc:
            logger.error(
                "%s: instances on %s could not be opened anew, next try in %g s: %s",
                self._scheduler.name,
                pool.device,
                pause,
                exc,
            )
            self._scheduler.despair()
            longer = min(2 * pause, LONGEST_PAUSE)
            self._scheduler.threads.alarms.set(time.monotonic() + pause, lambda: self._again(pool, longer))
            return
        with self._lock:
            self._reopening.discard(pool)
        self._scheduler.replace(pool, model)
        logger.warning("%s: instances on %s are back in service", self._scheduler.name, pool.device)

    def _again(self, pool: Pool, pause: float) -> None:
        self._scheduler.threads.workers.submit(self._attempt, pool, pause)

    def _open(self, reopen: Callable[[], LoadedModel]) -> LoadedModel:
        model = reopen()
        try:
            for instance in model.instances:
                self._try(instance)
        except BaseException:
            close_anyway(model.close, self._scheduler.name)
            raise
        return model
