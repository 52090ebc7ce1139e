"""How many CPU cores this process may use: its affinity, cut by the quotas of its cgroup and those above.

And how a thread gives way to others.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Iterator
from pathlib import Path

_sched_yield = getattr(ctypes.CDLL(None), "sched_yield", None)


def give_way() -> None:
    """Lets the threads go first that wait for the interpreter's lock and for this core.

    A thread that is about to lead a batch calls it, so that requests that came with its own can still join: on one
    core, with 32 in flight, it doubled the throughput of a tiny model and cost a lone request nothing. Called by
    ctypes, which releases the interpreter's lock, as `os.sched_yield` does not; `time.sleep(0)` sleeps 50 microseconds.
    """
    if _sched_yield is not None:
        _sched_yield()
    else:
        time.sleep(0)


def available_cores(system: Path = Path("/"), affinity: int | None = None) -> int:
    """At least 1. A quota of 1.5 cores counts as 1: a second busy thread would only be throttled.

    Tests pass the root of a file system that has `proc/self/cgroup` and `sys/fs/cgroup`, and the cores allowed.
    """
    allowed = affinity if affinity is not None else len(os.sched_getaffinity(0))
    return max(1, int(min([allowed, *_quotas(system)])))


def _quotas(system: Path) -> Iterator[float]:
    """Cores that each cgroup from ours up to the root allows, where it sets a limit."""
    mount = system / "sys/fs/cgroup"
    for line in _lines(system / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if not controllers:
            root, read = mount, _quota_v2
        elif "cpu" in controllers.split(","):
            root, read = mount / "cpu", _quota_v1
        else:
            continue
        group = root / path.lstrip("/")
        # Inside a container the path may be the host's; what is not there sets no limit.
        for directory in (group, *group.parents):
            quota = read(directory)
            if quota is not None:
                yield quota
            if directory == root:
                break


def _quota_v2(directory: Path) -> float | None:
    match " ".join(_lines(directory / "cpu.max")).split():
        case [quota, period] if quota != "max":
            return int(quota) / int(period)
    return None


def _quota_v1(directory: Path) -> float | None:
    quota = _lines(directory / "cpu.cfs_quota_us")
    period = _lines(directory / "cpu.cfs_period_us")
    if quota and period and int(quota[0]) > 0:
        return int(quota[0]) / int(period[0])
    return None


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except OSError:
        return []
