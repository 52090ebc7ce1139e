"""How many CPU cores this process may use: its affinity, cut by the cgroup's quota."""

from __future__ import annotations

import os
from pathlib import Path


def available_cores(cgroup: Path = Path("/sys/fs/cgroup"), affinity: int | None = None) -> int:
    """At least 1. A quota of 1.5 cores counts as 1: a second busy thread would only be throttled."""
    allowed = affinity if affinity is not None else len(os.sched_getaffinity(0))
    quota = _quota(cgroup)
    return allowed if quota is None else max(1, min(allowed, int(quota)))


def _quota(cgroup: Path) -> float | None:
    """Cores by cgroup v2's `cpu.max` or v1's `cpu.cfs_*`; None if unlimited or not there."""
    unified = _words(cgroup / "cpu.max")
    if len(unified) == 2 and unified[0] != "max":
        return int(unified[0]) / int(unified[1])
    quota, period = _words(cgroup / "cpu" / "cpu.cfs_quota_us"), _words(cgroup / "cpu" / "cpu.cfs_period_us")
    if quota and period and int(quota[0]) > 0:
        return int(quota[0]) / int(period[0])
    return None


def _words(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:
        return []
