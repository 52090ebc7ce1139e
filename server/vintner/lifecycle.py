"""The states of a model version, and the policy that says what to load and what to unload next.

Pure: the manager carries it out. The policy puts availability first: everything new is loaded before anything old is
unloaded, and nothing old is unloaded if none of what is wanted could be loaded.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """The strings that the repository index returns."""

    LOADING = "LOADING"
    READY = "READY"
    UNLOADING = "UNLOADING"
    UNAVAILABLE = "UNAVAILABLE"


@dataclass(frozen=True, slots=True)
class Status:
    """State of one version, with the reason where it is not ready."""

    state: State
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """Versions to load and to unload now, in ascending order."""

    load: tuple[int, ...] = ()
    unload: tuple[int, ...] = ()


def plan(wanted: Collection[int], actual: Mapping[int, Status]) -> Plan:
    """The next step from actual to wanted versions of one model; an empty plan means that there is none.

    A version that failed to load stays UNAVAILABLE and is not tried again by itself: its files have to change first.
    """
    load = tuple(sorted(version for version in wanted if version not in actual))
    loading = any(actual[version].state is State.LOADING for version in wanted if version in actual)
    if load or loading:
        return Plan(load=load)
    covered = not wanted or any(actual[version].state is State.READY for version in wanted)
    surplus = (v for v, status in actual.items() if v not in wanted and status.state is State.READY)
    return Plan(unload=tuple(sorted(surplus)) if covered else ())
