"""Affinity and cgroup quotas, on made-up file systems."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from vintner.cores import available_cores


def system(root: Path, membership: str, files: dict[str, str]) -> Path:
    for name, text in {"proc/self/cgroup": membership, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("membership", "files", "cores"),
    [
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "max 100000\n"}, 8),
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "250000 100000\n"}, 2),
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),
        ("0::/a/b\n", {"sys/fs/cgroup/a/b/cpu.max": "max 100000\n", "sys/fs/cgroup/a/cpu.max": "300000 100000\n"}, 3),
        ("0::/kubepods/of/the/host\n", {"sys/fs/cgroup/cpu.max": "400000 100000\n"}, 4),
        ("3:cpu,cpuacct:/x\n0::/\n", {"sys/fs/cgroup/cpu/x/cpu.cfs_quota_us": "200000\n",
                                      "sys/fs/cgroup/cpu/x/cpu.cfs_period_us": "100000\n"}, 2),
        ("3:cpu,cpuacct:/x\n", {"sys/fs/cgroup/cpu/x/cpu.cfs_quota_us": "-1\n",
                                "sys/fs/cgroup/cpu/x/cpu.cfs_period_us": "100000\n"}, 8),
        ("", {}, 8),
    ],
)  # fmt: skip
def test_the_least_quota_on_the_way_up_counts(
    tmp_path: Path, membership: str, files: dict[str, str], cores: int
) -> None:
    assert available_cores(system(tmp_path, membership, files), affinity=8) == cores


def test_the_affinity_counts_where_there_is_no_quota(tmp_path: Path) -> None:
    assert available_cores(tmp_path) == len(os.sched_getaffinity(0))
