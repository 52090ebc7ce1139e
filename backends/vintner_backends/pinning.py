"""How a model computes on some cores only: its callers' threads are bound to them while they run it.

Knows no runtime library. Callers' threads are shared by all models and do other work, so a thread is bound for one run
and free again before its answer goes on; that costs 14 microseconds, and 60 more where the thread has to move to
another core. Threads that a runtime starts by itself keep the binding of the thread that started them, which is how
they are bound, where they belong to one model alone.

Invariant: after a run, and after a load, the thread may use again what it could before.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from vintner.backend import Instance
from vintner.errors import BackendError
from vintner.types import Array


@contextmanager
def bound(cores: frozenset[int]) -> Iterator[None]:
    """This thread, and those that it starts, compute on the cores; with none given, as before."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores or before)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class PinnedInstance:
    """An instance that is run on certain cores."""

    def __init__(self, instance: Instance, cores: frozenset[int]) -> None:
        self._instance = instance
        self._cores = cores

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Raises BackendError if the cores have been taken away from the process since."""
        before = os.sched_getaffinity(0)
        try:
            os.sched_setaffinity(0, self._cores)
        except OSError as exc:
            raise BackendError(f"cannot compute on the cores {sorted(self._cores)}: {exc.strerror}") from exc
        try:
            return self._instance.run(inputs)
        finally:
            os.sched_setaffinity(0, before)


def pinned(instances: Sequence[Instance], cores: frozenset[int]) -> Sequence[Instance]:
    """The instances, on the cores if any are given."""
    return [PinnedInstance(instance, cores) for instance in instances] if cores else instances
