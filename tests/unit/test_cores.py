"""Affinity, cgroup quotas and NUMA nodes, on made-up file systems."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vintner.cores import available_cores, parse_cores, without_preempting, write_cores
from vintner.errors import ConfigError


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


@pytest.fixture
def two_nodes(tmp_path: Path) -> Path:
    return system(
        tmp_path,
        "",
        {
            f"sys/devices/system/node/node{node}/cpulist": text
            for node, text in ((0, "0-3,8-11\n"), (1, "4-7\n"), (2, "\n"))
        },
    )


@pytest.mark.parametrize(
    ("text", "cores"),
    [
        ("0", {0}),
        ("0-3", {0, 1, 2, 3}),
        ("0,2-3", {0, 2, 3}),
        (" 1 , 1 ,0-1", {0, 1}),
        ("numa:0", {0, 1, 2, 3, 8}),
        ("numa:1", {4, 5}),
        ("numa:1,8", {4, 5, 8}),
    ],
)
def test_cores_are_named_by_number_or_by_node(two_nodes: Path, text: str, cores: set[int]) -> None:
    assert parse_cores(text, two_nodes, allowed=(0, 1, 2, 3, 4, 5, 8)) == cores


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0-7", "core 3 of '0-7' is not available; this process may use 0-2,5"),
        ("2-99999999999999", "core 3 of '2-99999999999999' is not available; this process may use 0-2,5"),
        ("numa:3", "there is no NUMA node 3 here; there are 0, 1, 2"),
        ("numa:2", "NUMA node 2 has no cores; this process may use 0-2,5"),
        *((text, f"expected cores such as 0-7, 0,2-3 or numa:0, got {text!r}")
          for text in ("", "all", "3-1", "-1", "0-", "0,,1", "0..1", "numa:", "numa:x", "٣")),
    ],
)  # fmt: skip
def test_cores_that_cannot_be_used_are_refused(two_nodes: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_cores(text, two_nodes, allowed={0, 1, 2, 5})
    assert str(raised.value) == message


def test_a_node_of_which_no_core_may_be_used_is_refused(two_nodes: Path) -> None:
    with pytest.raises(ConfigError, match="NUMA node 1 has the cores 4-7; this process may use 0-1"):
        parse_cores("numa:1", two_nodes, allowed={0, 1})


def test_a_system_that_shows_no_nodes_is_said_to(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no NUMA node 0 here; the system shows none"):
        parse_cores("numa:0", tmp_path, allowed={0})


def test_the_affinity_of_the_process_decides() -> None:
    mine = os.sched_getaffinity(0)
    assert parse_cores(write_cores(mine)) == mine
    with pytest.raises(ConfigError, match="is not available"):
        parse_cores(str(max(mine) + 1))


@given(st.frozensets(st.integers(0, 200), min_size=1))
def test_what_is_written_is_read(cores: frozenset[int]) -> None:
    assert parse_cores(write_cores(cores), allowed=cores) == cores


def test_a_thread_that_does_not_preempt_is_as_before_in_the_end() -> None:
    assert os.sched_getscheduler(0) == os.SCHED_OTHER
    with without_preempting():
        assert os.sched_getscheduler(0) == os.SCHED_BATCH
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_a_policy_that_somebody_chose_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[int] = []
    monkeypatch.setattr(os, "sched_getscheduler", lambda thread: os.SCHED_IDLE)
    monkeypatch.setattr(os, "sched_setscheduler", lambda thread, policy, parameters: chosen.append(policy))
    with without_preempting():
        pass
    assert not chosen
