"""The states of a model version, and the policy that says what to load and what to unload next.

Pure: the manager carries it out. The policy puts availability first. What is new is loaded beside what is old, and
nothing old is given up before all that is wanted is there, with two exceptions: a version whose files are gone goes as
soon as another one can serve, and a model that is to be unloaded first is.

A revision stands for what a version is loaded from: its files and its configuration. Revisions are only ever compared.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from enum import StrEnum

Revision = Hashable


class State(StrEnum):
    """The strings that the repository index returns."""

    LOADING = "LOADING"
    READY = "READY"
    UNLOADING = "UNLOADING"
    UNAVAILABLE = "UNAVAILABLE"


@dataclass(frozen=True, slots=True)
class Held:
    """What there is of one version. With `busy` it is being loaded or unloaded, and left alone meanwhile."""

    serving: Revision | None = None
    """The revision that is served."""
    tried: Revision | None = None
    """The one that was loaded last, or failed to."""
    good: Revision | None = None
    """The one that was served last."""
    busy: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """Versions to load and to unload now, in ascending order."""

    load: tuple[int, ...] = ()
    unload: tuple[int, ...] = ()


NOTHING = Held()


def plan(
    wanted: Mapping[int, Revision],
    available: Mapping[int, Revision],
    held: Mapping[int, Held],
    unload_first: bool = False,
) -> Plan:
    """The next step for one model; an empty plan means that there is none, or that something has to end before.

    `available` are the versions that are there, wanted or not. A revision that failed to load is not tried again by
    itself: the files or the configuration have to change. With `unload_first` the old makes room before the new is
    loaded; if then nothing of the new can be loaded, what was served before is loaded again if it is still there.
    """
    idle = [version for version, each in held.items() if not each.busy]
    load = tuple(sorted(v for v in wanted if _idle(v, held) and held.get(v, NOTHING).tried != wanted[v]))
    serving = sorted(v for v in idle if held[v].serving is not None)
    surplus = [v for v in serving if v not in wanted]
    if load and unload_first:
        in_the_way = tuple(v for v in serving if v in load or v in surplus)
        if in_the_way or any(each.busy and each.serving is not None for each in held.values()):
            return Plan(unload=in_the_way)
    if load:
        return Plan(load=load)
    if any(v in wanted and each.busy for v, each in held.items()):
        return Plan()
    if unload_first and wanted and not any(each.serving is not None for each in held.values()):
        return Plan(load=_former(available, held))
    return Plan(unload=tuple(_dispensable(surplus, wanted, available, held)))


def _idle(version: int, held: Mapping[int, Held]) -> bool:
    return not held.get(version, NOTHING).busy


def _former(available: Mapping[int, Revision], held: Mapping[int, Held]) -> tuple[int, ...]:
    """The highest version that was served before and is still as it was."""
    free = {version: each for version, each in held.items() if not each.busy and each.good is not None}
    unchanged = [version for version, each in free.items() if each.good == available.get(version) != each.tried]
    return (max(unchanged),) if unchanged else ()


def _dispensable(
    surplus: list[int], wanted: Mapping[int, Revision], available: Mapping[int, Revision], held: Mapping[int, Held]
) -> list[int]:
    served = [v for v in wanted if held.get(v, NOTHING).serving is not None]
    if all(held[v].serving == wanted[v] for v in served) and len(served) == len(wanted):
        return surplus
    return [v for v in surplus if v not in available] if served else []
