"""What the manager knows of one model: what is wanted of it, and what there is of each of its versions.

Holds no lock and starts nothing: the manager guards it and acts on its `plan`. Invariant: a servable is in one place
at a time, as served, as loaded and not yet served, or as leaving.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from vintner.alarms import Alarm
from vintner.lifecycle import Held, Plan, Revision, State, plan
from vintner.loaders import Load
from vintner.memory_budget import Tenant
from vintner.model_config import TrafficConfig
from vintner.model_source import ModelSource
from vintner.servable import Servable

UNLOADED = "unloaded"
ASLEEP = "not loaded; the first request for it loads it"


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One line of the repository index. A model that cannot even be tried has no version; one that was never asked to
    be loaded has no state either."""

    name: str
    version: str
    state: State | None
    reason: str
    failed: bool = False
    """Whether something is wrong: it, or a change of it, could not be loaded, or no instance of it works."""


class VersionRecord:
    """What there is of one version."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.servable: Servable | None = None
        """What is served."""
        self.loaded: Servable | None = None
        """What is to be served once the other versions are loaded too."""
        self.leaving: Servable | None = None
        """What is being unloaded."""
        self.load: Load | None = None
        self.serving: Revision | None = None
        self.tried: Revision | None = None
        self.good: Revision | None = None
        self.reason = ""
        """Why the last load failed, or that it was unloaded."""

    @property
    def held(self) -> Held:
        busy = self.load is not None or self.loaded is not None or self.leaving is not None
        return Held(self.serving, self.tried, self.good, busy)

    @property
    def failed(self) -> bool:
        """Whether the last load failed, or what is served does not work."""
        if self.servable is not None and self.servable.down:
            return True
        return self.tried != self.serving and not self.held.busy

    def describe(self, now: float) -> tuple[State, str]:
        """State and reason, as the index shows them."""
        if self.servable is not None:
            change = self._progress(now, "a change of it is ") if self.load or self.loaded else self._failed_change
            reason = "; ".join(filter(None, (self.servable.remarks, change)))
            return (State.UNAVAILABLE if self.servable.down else State.READY), reason
        if self.load is not None or self.loaded is not None:
            return State.LOADING, self._progress(now)
        if self.leaving is not None:
            return State.UNLOADING, ""
        return State.UNAVAILABLE, self.reason or UNLOADED

    @property
    def _failed_change(self) -> str:
        return f"a change of it failed to load, so the former one is served: {self.reason}" if self.reason else ""

    def _progress(self, now: float, what: str = "") -> str:
        if self.load is None:
            return f"{what}loaded, and waits for other versions"
        if self.load.started is None:
            return f"{what}waiting for other models to load"
        return f"{what}loading for {self.load.seconds(now):.0f} s"


@dataclass(slots=True)
class ManagedModel:
    """One model. `latest` is what the last scan found, `source` what is in effect: where changes are not picked up by
    themselves, they differ."""

    name: str
    latest: ModelSource | None = None
    source: ModelSource | None = None
    fault: str = ""
    """Why `latest` cannot be had, or cannot be tried."""
    unsettled: str = ""
    """Why a model that was not known before is not tried yet."""
    admitted: bool = False
    """Whether it is to be served, loaded or asleep."""
    asleep: bool = False
    """Whether it is left unloaded until a request for it comes."""
    mismatch: str = ""
    """Why the configuration in effect is not that of `source`."""
    refusal: str = ""
    """Why there is no memory for it."""
    pin: int | None = None
    versions: dict[int, VersionRecord] = field(default_factory=dict)
    available: Mapping[int, Revision] = field(default_factory=dict)
    directed: TrafficConfig | None = None
    """How requests are split, instead of what the configuration says."""
    idle_alarm: Alarm | None = None
    waiters: list[tuple[str, Callable[[], None]]] = field(default_factory=list)
    """Called once, when a version is served, "" for any, or nothing more is to come."""
    resuming: int = 0
    """Waiters that are being called, and have no lease yet."""
    clock: Callable[[], float] = time.monotonic
    """By which the index says for how long a version has been loading."""

    # -- wanted ----------------------------------------------------------------------------------------------

    def take(self, source: ModelSource | None) -> None:
        """Makes a source the one in effect."""
        self.source = source
        self.available = _revisions(source) if source is not None else {}
        self._forget_what_is_gone()

    def survive(self) -> None:
        """Goes on with the versions in effect whose files are still there, for `latest` cannot be tried."""
        if self.source is None:
            return
        there = {v: path for v, path in (self.source.available or self.source.versions).items() if path.is_dir()}
        if len(there) < len(self.available):
            wanted = self.source.config.wanted_versions(there)
            self.take(replace(self.source, versions={v: there[v] for v in wanted}, available=there))

    @property
    def numbers(self) -> tuple[int, ...]:
        """The versions that are to be served, whether asleep or not."""
        if self.source is None or not self.admitted:
            return ()
        if self.pin is not None and self.pin in self.available:
            return (self.pin,)
        if self.directed is not None:
            config = self.source.config.model_copy(update={"traffic": self.directed})
            return tuple(config.wanted_versions(tuple(self.available)))
        return tuple(self.source.versions)

    @property
    def traffic(self) -> TrafficConfig | None:
        """How requests are split that name no version. A pinned version gets them all, once it is served."""
        pinned = self.versions.get(self.pin) if self.pin is not None else None
        if self.source is None or (pinned is not None and pinned.servable is not None):
            return None
        return self.directed or self.source.config.traffic

    @property
    def wanted(self) -> dict[int, Revision]:
        """The versions that are to be loaded."""
        return {} if self.asleep else {version: self.available[version] for version in self.numbers}

    @property
    def unload_first(self) -> bool:
        return self.source is not None and self.source.config.resource_preserving

    def plan(self) -> Plan:
        held = {number: record.held for number, record in self.versions.items()}
        return plan(self.wanted, self.available, held, self.unload_first)

    def forget(self) -> None:
        """As if nothing had been tried of what is not served."""
        self.retry()
        for record in self.versions.values():
            if record.servable is None and not record.held.busy:
                record.reason = UNLOADED

    def retry(self) -> None:
        """Has what failed tried again, though nothing of it changed."""
        for record in self.versions.values():
            if record.serving != record.tried and not record.held.busy:
                record.tried = record.serving

    def _forget_what_is_gone(self) -> None:
        for number in [n for n in self.versions if n not in self.available]:
            record = self.versions[number]
            if record.servable is None and not record.held.busy:
                del self.versions[number]

    # -- actual ----------------------------------------------------------------------------------------------

    def record(self, version: int) -> VersionRecord:
        return self.versions.setdefault(version, VersionRecord(version))

    @property
    def serves(self) -> bool:
        return any(record.servable is not None for record in self.versions.values())

    def serving(self, version: str) -> bool:
        """Whether that version is served, "" for any."""
        return any(
            record.servable is not None and version in ("", str(number)) for number, record in self.versions.items()
        )

    @property
    def loading(self) -> bool:
        """Whether a version is being loaded, or waits for others that are."""
        return any(record.load is not None or record.loaded is not None for record in self.versions.values())

    @property
    def unloading(self) -> bool:
        return any(record.leaving is not None for record in self.versions.values())

    @property
    def returning(self) -> bool:
        """Whether what is wanted can be loaded only when something has been unloaded."""
        wanted = self.wanted
        leaving = {number for number, record in self.versions.items() if record.leaving is not None}
        return bool(wanted and leaving) and (self.unload_first or not leaving.isdisjoint(wanted))

    @property
    def resident(self) -> bool:
        """Whether it takes memory, or is about to."""
        return self.serves or self.loading or self.unloading

    def size(self, version: int) -> int:
        """Bytes that a version counts for in the memory budget."""
        return self.source.size(version) if self.source is not None and version in self.available else 0

    @property
    def tenant(self) -> Tenant:
        """It as the memory budget sees it."""
        occupied = [number for number, record in self.versions.items() if record.servable or record.held.busy]
        idle = self.idle_seconds
        return Tenant(self.name, sum(map(self.size, occupied)), -idle, idle > 0 and not self.loading)

    @property
    def idle_seconds(self) -> float:
        """For how long nobody has used it; 0 while somebody does, and for a model that does not serve."""
        if self.resuming:
            return 0.0
        served = [record.servable for record in self.versions.values() if record.servable is not None]
        return min((servable.idle_seconds for servable in served), default=0.0)

    @property
    def empty(self) -> bool:
        """Whether nothing is left of a model that is not in the repository: it may never have been, and sleep."""
        gone = self.latest is None and not self.fault and not self.unsettled
        sleeps = self.asleep and self.admitted and self.source is not None
        return gone and not self.resident and not sleeps

    @property
    def awaited(self) -> bool:
        """Whether a request that finds nothing to serve it may wait: what it needs is asleep or will soon be back."""
        if self.source is None or not self.admitted:
            return False
        if self.asleep or self.waiters or self.returning:
            return True
        return self.loading and (self.unload_first or self.source.config.load == "on_demand")

    @property
    def failures(self) -> dict[int, str]:
        """Of the versions that are to be loaded, why those that failed did."""
        wanted = self.wanted
        return {
            version: record.reason
            for version, record in sorted(self.versions.items())
            if version in wanted and record.tried == wanted[version] != record.serving and not record.held.busy
        }

    # -- the index -------------------------------------------------------------------------------------------

    def entries(self) -> list[IndexEntry]:
        now = self.clock()
        numbers = sorted({*self.versions, *(self.numbers if self.asleep else ())})
        entries = [self._entry(number, now) for number in numbers]
        if entries:
            return entries
        if self.fault:
            return [IndexEntry(self.name, "", State.UNAVAILABLE, self.fault, failed=True)]
        if self.unsettled:
            return [IndexEntry(self.name, "", State.LOADING, self.unsettled)]
        return [IndexEntry(self.name, "", None, "")]

    def _entry(self, number: int, now: float) -> IndexEntry:
        record = self.versions.get(number)
        state, reason = record.describe(now) if record else (State.UNAVAILABLE, "")
        if state is State.UNAVAILABLE and self.asleep and number in self.numbers:
            reason = self.refusal or ASLEEP
        if state is State.READY:
            fault = f"its change is not used: {self.fault}" if self.fault else self.mismatch
            reason = "; ".join(filter(None, (reason, fault)))
        # One that sleeps for want of room does what it is to do: the next request for it makes room, or is refused.
        failed = bool(self.fault or self.mismatch) or (record is not None and record.failed)
        return IndexEntry(self.name, str(number), state, reason, failed)

    def describe(self, version: str = "") -> str:
        """In words, what there is of all versions, or of one."""
        parts = [
            f"version {entry.version} is {entry.state}{f' ({entry.reason})' if entry.reason else ''}"
            for entry in self.entries()
            if entry.version and version in ("", entry.version)
        ]
        return "; ".join(parts)


def _revisions(source: ModelSource) -> dict[int, Revision]:
    loading = source.config.loading
    paths = {**source.versions, **source.available}
    return {version: (str(path), source.signatures.get(version), loading) for version, path in paths.items()}
