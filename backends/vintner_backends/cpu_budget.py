"""How a model's instances share the processor's cores: the one rule, for every backend.

Knows no runtime library. Invariant: the threads that compute for one model, over all of its instances, are never more
than the cores that the process may use.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from vintner.backend import LoadSpec

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CpuBudget:
    """Threads of all instances together, and the instances that were asked for, if any were."""

    threads: int
    instances: int | None


def cpu_budget(spec: LoadSpec) -> CpuBudget:
    """Cuts what the configuration asks for down to the cores, and says so in the log.

    Each running instance computes on a thread at least, so there are never more instances than threads: one more
    would have to wait inside the runtime, where it can no longer be batched, dropped or counted.
    """
    threads = cut("threads", spec.threads or spec.cores, spec.cores, spec)
    instances = None if spec.instances is None else cut("instances", spec.instances, threads, spec)
    return CpuBudget(threads, instances)


def cut(what: str, asked: int, limit: int, spec: LoadSpec) -> int:
    if asked > limit:
        logger.warning("%s: %d %s asked for, %d used: that is what the cores allow", spec.path, asked, what, limit)
    return max(1, min(asked, limit))
