"""Keeps the loaded versions equal to the wanted ones, and hands out leases on them.

The manager carries out what `lifecycle.plan` says, in a few loader threads. Lookups take no lock: the map of published
models is replaced as a whole whenever a version becomes ready or goes.

Invariant: a servable is published only while it is ready; it is unpublished before it is retired, and closed once,
after its last lease has come back.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock

from vintner import traffic_metrics
from vintner.backend import Backends, close_anyway
from vintner.core_shares import CORES, CoreShares, divide_cores
from vintner.errors import InvalidArgument, ModelNotReady, NotFound, OperatorError, nearest
from vintner.lifecycle import State, Status, plan
from vintner.metrics import Registry
from vintner.model_config import TrafficConfig
from vintner.opening import open_servable
from vintner.repository import ModelSource, Scan
from vintner.response_cache import ResponseCache
from vintner.router import Router, Routers
from vintner.servable import Servable
from vintner.traffic import default_version
from vintner.turns import Threads
from vintner.turnstile import Turnstiles

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Published:
    """The ready versions of one model; the `router` of one that has `traffic` says who gets requests for none."""

    versions: Mapping[str, Servable]
    default: Servable
    router: Router | None = None


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One line of the repository index; a model with a fault in its layout or configuration has no version."""

    name: str
    version: str
    state: State
    reason: str


class Manager:
    """Wanted versus actual versions of all models. Threads: any; loads run in threads of its own."""

    def __init__(
        self,
        backends: Backends,
        *,
        cores: int = 1,
        cache_dir: Path | None = None,
        load_threads: int = 4,
        cache: ResponseCache | None = None,
        resources: Mapping[str, int] | None = None,
    ) -> None:
        """`resources` are what models share by `rate_limiter`, in units; `cores` is one of them unless it is given."""
        self._cache = cache
        self._routers = Routers()
        self.routers: Mapping[str, Router] = self._routers.all
        """Of the models that have `traffic`."""
        self.registry = Registry(
            self.versions_by_state,
            lambda: cache.size if cache is not None else (0, 0),
            lambda: traffic_metrics.families(list(self.routers.values())),
        )
        self._backends = backends
        self._cores = cores
        self._cache_dir = cache_dir
        self._resources = dict(resources or {})
        self._shares = CoreShares()
        self._threads = Threads(turnstiles=Turnstiles({CORES: cores, **self._resources}))
        self._loaders = ThreadPoolExecutor(load_threads, thread_name_prefix="vintner-load")
        self._lock = Lock()
        self._sources: dict[str, ModelSource] = {}
        self._statuses: dict[str, dict[int, Status]] = {}
        self._faults: Mapping[str, str] = {}
        self._published: Mapping[str, Published] = {}
        self._tasks: set[Future[None]] = set()
        self._listeners: list[Callable[[], None]] = []
        self._aspired = False
        self._was_ready = False
        self._stopped = False
        self.settled = Event()
        """Set when nothing of what is wanted is still loading."""

    # -- wanted ----------------------------------------------------------------------------------------------

    def aspire(self, scan: Scan) -> None:
        """Makes what a scan found the wanted state, and starts on it. Returns at once."""
        with self._lock:
            former, self._sources = self._sources, dict(scan.models)
            for name in [*self._published]:
                if _traffic(former.get(name)) != _traffic(self._sources.get(name)):
                    self._publish(name, self._versions(name))
            self._share(scan)
            self._faults = dict(scan.faults)
            for name in scan.models:
                self._statuses.setdefault(name, {})
            self._aspired = True
            for name in self._statuses:  # all under one lock: a first model must not find the others not even begun
                self._step(name)
            self._settle()  # there may be no model at all
        for name, reason in scan.faults.items():
            logger.error("model '%s' is unavailable: %s", name, reason)
            self.registry.loaded(None)
        self._changed()

    def _share(self, scan: Scan) -> None:
        """Decides what each version that is loaded from now on gets of the cores. Needs the lock."""
        models = scan.models.values()
        shares = divide_cores(self._cores, {each.name: (each.config, tuple(each.versions)) for each in models})
        if shares.cores and shares != self._shares:
            parts = [f"{name} version {version}: {cores}" for (name, version), cores in shares.cores.items()]
            turns = ", which more versions than cores use in turns" if shares.in_turns else ""
            logger.info("%d cores by weight%s: %s", self._cores, turns, ", ".join(parts))
        self._shares = shares
        claimed = {name for each in models if each.config.rate_limiter for name in each.config.rate_limiter.resources}
        for name in self._resources.keys() - claimed - {CORES}:
            logger.warning("no model's rate_limiter names the resource '%s'%s", name, nearest(name, claimed))

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Calls back, from any thread, after each change of state. The listener must be quick and not raise."""
        self._listeners.append(listener)

    def _changed(self) -> None:
        for listener in self._listeners:
            listener()

    def _advance(self, name: str) -> None:
        """Starts the next step of the plan for one model."""
        with self._lock:
            self._step(name)

    def _step(self, name: str) -> None:
        """As `_advance`. Needs the lock."""
        if self._stopped:
            return
        source = self._sources.get(name)
        statuses = self._statuses[name]
        step = plan(source.versions if source else (), statuses)
        for version in step.load:
            statuses[version] = Status(State.LOADING)
            assert source is not None
            self._start(self._load, source, version)
        for version in step.unload:
            statuses[version] = Status(State.UNLOADING)
            self._start(self._unload, name, version)
        self._settle()

    def _settle(self) -> None:
        """Says whether something is still loading. Needs the lock."""
        if not any(status.state is State.LOADING for _, _, status in self._all()):
            self.settled.set()
        else:
            self.settled.clear()

    def _start(self, task: Callable[..., None], *args: object) -> None:
        future = self._loaders.submit(task, *args)
        self._tasks.add(future)
        future.add_done_callback(self._tasks.discard)

    # -- actual ----------------------------------------------------------------------------------------------

    def _load(self, source: ModelSource, version: int) -> None:
        started = time.monotonic()
        try:
            servable = self._open(source, version)
        except BaseException as exc:
            expected = isinstance(exc, OperatorError)
            reason = str(exc) if expected else f"{type(exc).__name__}: {exc}"
            logger.error(
                "model '%s' version %d failed to load: %s", source.name, version, reason, exc_info=not expected
            )
            self.registry.loaded(None)
            self._set(source.name, version, Status(State.UNAVAILABLE, reason))
        else:
            seconds = time.monotonic() - started
            with self._lock:
                stopped = self._stopped
                if not stopped:
                    self._publish(source.name, {**self._versions(source.name), servable.version: servable})
                    self._statuses[source.name][version] = Status(State.READY)
            if stopped:
                close_anyway(servable.close, f"model '{servable.name}' version {servable.version}")
                return
            self.registry.loaded(seconds)
            self.registry.add(servable.metrics)
            logger.info("model '%s' version %d is ready after %.2f s", source.name, version, seconds)
        self._advance(source.name)
        self._changed()

    def _open(self, source: ModelSource, version: int) -> Servable:
        cores = self._shares.cores.get((source.name, version), self._cores)
        claim = self._shares.claim(source.name, version, source.config)
        servable = open_servable(
            source, version, self._backends, cores, self._cache_dir, self._threads, self._cache, claim
        )
        if source.config.response_cache and not servable.caches:
            logger.warning(
                "model '%s' version %d: response_cache has no effect, for the server has no memory for it"
                " (--response-cache-bytes 0)",
                source.name,
                version,
            )
        return servable

    def _unload(self, name: str, version: int) -> None:
        servable = self._unpublish(name, version)
        if servable is not None:
            servable.retire()
            servable.drained.wait()
            self._close(servable)
        self._set(name, version, Status(State.UNAVAILABLE, "unloaded"))
        logger.info("model '%s' version %d is unloaded", name, version)
        self._advance(name)
        self._changed()

    def _unpublish(self, name: str, version: int) -> Servable | None:
        with self._lock:
            versions = dict(self._versions(name))
            servable = versions.pop(str(version), None)
            self._publish(name, versions)
            return servable

    def _close(self, servable: Servable) -> None:
        self.registry.remove(servable.metrics)
        close_anyway(servable.close, f"model '{servable.name}' version {servable.version}")

    def _versions(self, name: str) -> Mapping[str, Servable]:
        published = self._published.get(name)
        return published.versions if published else {}

    def _publish(self, name: str, versions: Mapping[str, Servable]) -> None:
        """Replaces the published versions of one model. Needs the lock."""
        published = {other: model for other, model in self._published.items() if other != name}
        source = self._sources.get(name)
        traffic = _traffic(source)
        router = self._routers.direct(name, traffic, versions, source.signatures if source else {})
        if versions:
            ordered = dict(sorted(versions.items(), key=lambda item: int(item[0])))
            default = str(default_version(map(int, ordered), traffic))
            published[name] = Published(ordered, ordered[default], router)
        self._published = published

    def _set(self, name: str, version: int, status: Status) -> None:
        with self._lock:
            self._statuses[name][version] = status

    # -- questions -------------------------------------------------------------------------------------------

    def lease(self, name: str, version: str = "", request_id: str | None = None) -> Servable:
        """A ready version, held loaded until its `release`; "" asks for the default, the highest ready one.

        With a `request_id`, which may be "", it is for a request, which "" leaves to the model's traffic.
        Raises NotFound for an unknown model or version, ModelNotReady for one that is known but not ready.
        """
        while True:
            published = self._published.get(name)
            if published is None:
                raise self._absent(name, version)
            if version:
                servable = published.versions.get(version)
            elif published.router is None or request_id is None:
                servable = published.default
            else:
                servable = published.versions.get(published.router.choose(request_id), published.default)
            if servable is None:
                raise self._absent(name, version)
            if servable.acquire():
                return servable
            # It was retired since the lookup, so the map has been replaced since: look again.

    def ready_versions(self, name: str) -> list[str]:
        """In ascending order; empty for an unknown model."""
        return list(self._versions(name))

    def ready(self, name: str = "") -> list[Servable]:
        """The ready versions of a model, or of all models, in order. They may be retired the next moment."""
        published = self._published
        names = [name] if name else sorted(published)
        return [servable for each in names if each in published for servable in published[each].versions.values()]

    def _absent(self, name: str, version: str) -> Exception:
        with self._lock:
            statuses = dict(self._statuses.get(name, {}))
            known = [*self._statuses, *self._faults]
        if version and not (version.isascii() and version.isdigit()):
            return InvalidArgument(f"model version '{version}' for '{name}' is not a positive integer")
        if name in self._faults:
            return ModelNotReady(f"model '{name}' is unavailable: {self._faults[name]}")
        if name not in known:
            hint = nearest(name, known) if len(known) <= 20 else ""
            return NotFound(f"Request for unknown model: '{name}' is not found{hint}")
        if not version:
            return ModelNotReady(f"model '{name}' has no available versions: {_describe(statuses)}")
        status = next((status for number, status in statuses.items() if str(number) == version), None)
        if status is None:
            return NotFound(f"Request for unknown model: '{name}' version {version} is not found")
        return ModelNotReady(
            f"model '{name}' version {version} is not at ready state: {_describe({int(version): status})}"
        )

    def _all(self) -> Iterator[tuple[str, int, Status]]:
        for name, statuses in self._statuses.items():
            for version, status in statuses.items():
                yield name, version, status

    def index(self) -> list[IndexEntry]:
        """Every version that is known, by name and number, and every model with a fault."""
        with self._lock:
            entries = [
                IndexEntry(name, str(version), s.state, s.reason or self._faults_of(name, version))
                for name, version, s in self._all()
            ]
            faults = [IndexEntry(name, "", State.UNAVAILABLE, reason) for name, reason in self._faults.items()]
        return sorted(entries + faults, key=lambda entry: (entry.name, int(entry.version or 0)))

    def _faults_of(self, name: str, version: int) -> str:
        """Why instances of a version are out of service, why it is served unbatched, why it is a canary no more."""
        servable = self._versions(name).get(str(version))
        router = self.routers.get(name)
        remarks = (servable.remarks if servable else "", router.remark(str(version)) if router else "")
        return "; ".join(filter(None, remarks))

    def versions_by_state(self) -> dict[str, int]:
        counts = {state.value: 0 for state in State}
        for entry in self.index():
            counts[entry.state.value] += 1
        return counts

    def holdups(self, strict: bool) -> list[str]:
        """Why the server is not ready; empty once everything wanted at the start has been settled, for good.

        With `strict`, a model that failed at the start holds the server up until it is mended.
        """
        if self._was_ready:
            return []
        if not self._aspired:
            return ["the model repository has not been read yet"]
        blocking = {State.LOADING, State.UNAVAILABLE} if strict else {State.LOADING}
        reasons = [
            f"model '{entry.name}'{f' version {entry.version}' if entry.version else ''} is {entry.state.value}"
            f"{f': {entry.reason}' if entry.reason else ''}"
            for entry in self.index()
            if entry.state in blocking
        ]
        self._was_ready = not reasons
        return reasons

    # -- end -------------------------------------------------------------------------------------------------

    def stop(self, timeout: float) -> bool:
        """Unloads everything, waiting up to `timeout` seconds for leases and for loads. False if that was too short."""
        deadline = time.monotonic() + timeout
        with self._lock:
            self._stopped = True
            servables = [servable for model in self._published.values() for servable in model.versions.values()]
            self._published = {}
        self._routers.close()
        self._loaders.shutdown(wait=False, cancel_futures=True)
        for servable in servables:
            servable.retire()
        drained = True
        for servable in servables:
            if servable.drained.wait(max(0.0, deadline - time.monotonic())):
                self._close(servable)
            else:
                drained = False
        _, unfinished = wait(set(self._tasks), max(0.0, deadline - time.monotonic()))
        return drained and not unfinished


def _traffic(source: ModelSource | None) -> TrafficConfig | None:
    return source.config.traffic if source is not None else None


def _describe(statuses: Mapping[int, Status]) -> str:
    parts = [
        f"version {version} is {status.state.value}{f' ({status.reason})' if status.reason else ''}"
        for version, status in sorted(statuses.items())
    ]
    return "; ".join(parts) or "it has none"
