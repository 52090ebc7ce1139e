"""How many CPU cores this process may use: its affinity, cut by the quotas of its cgroup and those above.

And which of them are meant by a text, and how a thread gives way to others.
"""

from __future__ import annotations

import ctypes
import os
import re
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vintner.errors import ConfigError

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


@contextmanager
def without_preempting() -> Iterator[None]:
    """Around what a thread does that is woken many times a second, and has time: it then waits for a core until the
    thread that woke it has blocked or used up its slice (SCHED_BATCH, see sched(7)).

    Woken as usual, it takes the core from the thread that woke it, finds that this one has the interpreter's lock, and
    gives the core back. But a thread that computes for long has to give way when it has woken others, or they wait for
    the end of its slice: the first token of a 90 M model was 28 ms later than the runtime's then, and 3 ms with
    `give_way` (one core, one stream); with `give_way` and the usual policy it was 10 ms.
    """
    usual = _scheduled("SCHED_OTHER", "SCHED_BATCH")
    try:
        yield
    finally:
        if usual:
            _scheduled("SCHED_BATCH", "SCHED_OTHER")


def _scheduled(before: str, after: str) -> bool:
    """Whether this thread had the one policy, and has the other now. Not every system has them, or allows it."""
    with suppress(AttributeError, OSError):
        if os.sched_getscheduler(0) == getattr(os, before):
            os.sched_setscheduler(0, getattr(os, after), os.sched_param(0))
            return True
    return False


def parse_cores(text: str, system: Path = Path("/"), allowed: Collection[int] | None = None) -> frozenset[int]:
    """The cores that `0-7`, `0,2-3` or `numa:0` means, or several of these with commas between.

    Of a NUMA node these are the ones that the process may use. Raises ConfigError for a text that is none of these, a
    node that is not there, and a core that the process may not use. Tests pass the root of a file system with
    `sys/devices/system/node`, and the cores allowed.
    """
    usable = frozenset(os.sched_getaffinity(0) if allowed is None else allowed)
    found: set[int] = set()
    for part in map(str.strip, text.split(",")):
        numa = re.fullmatch(r"numa:(\d+)", part, re.ASCII)
        found |= _node(int(numa[1]), system, usable) if numa else _interval(part, text, usable)
    return frozenset(found)


def write_cores(cores: Iterable[int]) -> str:
    """As `parse_cores` reads it, in order: `0-3,6`."""
    parts: list[list[int]] = []
    for core in sorted(cores):
        if parts and parts[-1][-1] == core - 1:
            parts[-1][1:] = [core]
        else:
            parts.append([core])
    return ",".join("-".join(map(str, part)) for part in parts)


def _interval(part: str, text: str, usable: frozenset[int]) -> frozenset[int]:
    match = re.fullmatch(r"(\d+)(?:-(\d+))?", part, re.ASCII)
    low, high = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
    if low > high:
        raise ConfigError(f"expected cores such as 0-7, 0,2-3 or numa:0, got {text[:60]!r}")
    for core in range(low, high + 1):  # ends soon, however many were asked for
        if core not in usable:
            raise ConfigError(
                f"core {core} of {text[:60]!r} is not available; this process may use {write_cores(usable)}"
            )
    return frozenset(range(low, high + 1))


def _node(number: int, system: Path, usable: frozenset[int]) -> frozenset[int]:
    nodes = system / "sys/devices/system/node"
    lines = _lines(nodes / f"node{number}/cpulist")
    if not lines:
        there = sorted(int(node.name.removeprefix("node")) for node in nodes.glob("node[0-9]*"))
        known = f"there are {', '.join(map(str, there))}" if there else "the system shows none"
        raise ConfigError(f"there is no NUMA node {number} here; {known}")
    bounds = (part.partition("-") for part in lines[0].split(",") if part)
    cores = usable.intersection(*[{core for low, _, high in bounds for core in range(int(low), int(high or low) + 1)}])
    if not cores:
        has = f"has the cores {lines[0]}" if lines[0] else "has no cores"
        raise ConfigError(f"NUMA node {number} {has}; this process may use {write_cores(usable)}")
    return cores


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
