"""Keeps the loaded versions equal to the wanted ones, and hands out leases on them.

The manager carries out what `lifecycle.plan` says: loads in a few loader threads, and everything else in whichever
thread comes along. Lookups take no lock: the map of published models is replaced as a whole whenever a version becomes
ready or goes.

Invariant: a servable is published only while it is ready; it is unpublished before it is retired, and closed once,
after its last lease has come back.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from threading import Condition, Event, Lock
from typing import Final

from vintner import traffic_metrics
from vintner.backend import Backends, close_anyway
from vintner.closings import Closings
from vintner.contents import Signature
from vintner.core_shares import CORES, CoreShares, divide_cores
from vintner.errors import InvalidArgument, LoadError, ModelNotReady, NotFound, OperatorError, nearest
from vintner.lifecycle import State
from vintner.loaders import Load, Loaders
from vintner.managed_model import UNLOADED, IndexEntry, ManagedModel, VersionRecord
from vintner.memory_budget import Tenant, in_words, room_for
from vintner.metrics import Registry
from vintner.model_config import QueueConfig, TrafficConfig
from vintner.opening import open_servable
from vintner.ovms_mapping import with_names
from vintner.reclaiming import Reclaimer
from vintner.repository import ModelSource, Scan, bytes_of
from vintner.response_cache import ResponseCache
from vintner.router import Router, Routers
from vintner.servable import Servable
from vintner.traffic import default_version
from vintner.turns import Threads
from vintner.turnstile import Turnstiles

logger = logging.getLogger(__name__)

FIRST_PROGRESS: Final = 10.0
"""Seconds after which the log says that a model is still loading; then after twice as long, and so on."""

LENT_AFTER: Final = 30.0
"""Seconds after which the place of a load goes to another model: it may hang."""

RETRY: Final = 1.0
"""Seconds after which a version is tried again whose files changed while it was loaded."""

UNLOAD_WAIT: Final = 30.0
"""Seconds for which a call that unloads a model waits for its last requests."""


@dataclass(frozen=True, slots=True)
class Published:
    """The ready versions of one model; the `router` of one that has `traffic` says who gets requests for none."""

    versions: Mapping[str, Servable]
    default: Servable
    router: Router | None = None


@dataclass(frozen=True, slots=True)
class Admission:
    """Which models are to be served. Unless it is `explicit`, those that are in the repository, as they change; else
    those in `names` (None: all), and what is asked for by `Manager.load`, as they were then."""

    explicit: bool = False
    names: Collection[str] | None = ()


class FilesChanged(LoadError):
    """What was loaded may be half of one thing and half of another."""


class AwaitLoad(ModelNotReady):
    """The model will be there if it is waited for: see `Manager.wake`."""


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
        admission: Admission | None = None,
        memory_budget: int | None = None,
        threads: Threads | None = None,
        loaders: Loaders | None = None,
    ) -> None:
        """`resources` are what models share by `rate_limiter`, in units; `cores` is one of them unless it is given.
        `memory_budget` is in bytes."""
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
        self._admission = admission or Admission()
        self._budget = memory_budget
        self._shares = CoreShares()
        self.threads = threads or Threads(turnstiles=Turnstiles({CORES: cores, **self._resources}))
        self._loaders = loaders or Loaders(load_threads)
        self._closings = Closings(self.threads.workers)
        self._reclaimer = Reclaimer(self.threads)
        self._lock = Lock()
        self._rested = Condition(self._lock)
        self._models: dict[str, ManagedModel] = {}
        self._published: Mapping[str, Published] = {}
        self._busy: set[str] = set()  # models of which something wanted is loading, or not yet settled
        self._short: set[str] = set()  # those that wait for memory
        self._retiring: set[Servable] = set()
        self._listeners: list[Callable[[], None]] = []
        self._aspired = False
        self._was_ready = False
        self._stopped = False
        self.settled = Event()
        """Set when nothing of what is wanted is still loading."""

    # -- wanted ----------------------------------------------------------------------------------------------

    def aspire(self, scan: Scan) -> None:
        """Makes what a scan found the wanted state, and starts on what is new of it. Returns at once."""
        with self._lock:
            changed = [*map(self._found, scan.models.values())]
            changed += [self._unusable(name, reason) for name, reason in scan.faults.items()]
            changed += [self._unusable(name, "", reason) for name, reason in scan.unsettled.items()]
            changed += [self._missing(model) for name, model in self._models.items() if not _knows(scan, name)]
            if not self._aspired:
                changed += [
                    self._missing(self._model(name)) for name in self._admission.names or () if not _knows(scan, name)
                ]
            self._share()
            self._aspired = True
            for model in changed:  # all under one lock: a first model must not find the others not even begun
                if model is not None:
                    self._step(model)
            self._settle()  # there may be no model at all
        self._changed()

    def _model(self, name: str) -> ManagedModel:
        model = self._models.get(name)
        if model is None:
            names = self._admission.names
            admitted = not self._admission.explicit or (not self._aspired and (names is None or name in names))
            model = self._models[name] = ManagedModel(name, admitted=admitted)
        return model

    def _found(self, source: ModelSource) -> ManagedModel | None:
        """Takes in what a scan found of a model. None if that is nothing new."""
        model = self._model(source.name)
        if source is model.latest and not model.fault:
            return None
        model.latest, model.fault, model.unsettled = source, "", ""
        if not self._admission.explicit or model.source is None:
            self._take(model, source)
        return model

    def _take(self, model: ManagedModel, source: ModelSource) -> None:
        """Makes a source the one in effect."""
        traffic = model.traffic
        if source.config.load != (model.source.config.load if model.source else "at_start"):
            model.asleep = source.config.load == "on_demand" and not model.serves
        model.refusal = ""
        model.take(source)
        self._reconfigure(model)
        if model.serves and model.traffic != traffic:
            self._publish(model)

    def _reconfigure(self, model: ManagedModel) -> None:
        """Applies what of a changed configuration needs no other load to what is served. Needs the lock."""
        if model.source is None:
            return
        model.mismatch = ""
        for number, record in model.versions.items():
            servable = record.servable
            if servable is None or record.serving != model.available.get(number):
                continue
            try:
                config = with_names(model.source.config, model.source.path(number))
                if servable.config == config:
                    continue
                servable.reconfigure(config)
            except OperatorError as exc:
                model.mismatch = f"its changed configuration is not used: {exc}"
                logger.error("model '%s' version %d: %s", model.name, number, model.mismatch)
            else:
                logger.info("model '%s' version %d goes on with its changed configuration", model.name, number)

    def _unusable(self, name: str, fault: str, unsettled: str = "") -> ManagedModel | None:
        """Takes in that a model cannot be tried, or not yet. What is served of it stays, if its files do."""
        model = self._model(name)
        if (fault, unsettled) == (model.fault, model.unsettled) and (model.source is None or unsettled):
            return None
        if fault and fault != model.fault:
            logger.error("model '%s' is unavailable: %s", name, fault)
            self.registry.loaded(None)
        model.fault, model.unsettled = fault, unsettled
        if not self._admission.explicit:
            model.survive()
        return model

    def _missing(self, model: ManagedModel) -> ManagedModel | None:
        """Takes in that a model is not in the repository."""
        if not self._aspired and model.admitted and self._admission.explicit:
            model.fault = "it is not in the model repository"
            logger.error("model '%s' is unavailable: %s", model.name, model.fault)
            return model
        if model.latest is None and not model.fault and not model.unsettled:
            return None
        model.latest, model.fault, model.unsettled = None, "", ""
        if not self._admission.explicit or not model.serves:
            model.take(None)
        return model

    def _share(self) -> None:
        """Decides what each version that is loaded from now on gets of the cores. Needs the lock."""
        models = [(each.name, each.source.config, each.numbers) for each in self._models.values() if each.source]
        shares = divide_cores(self._cores, {name: (config, numbers) for name, config, numbers in models if numbers})
        if shares.cores and shares != self._shares:
            parts = [f"{name} version {version}: {cores}" for (name, version), cores in shares.cores.items()]
            turns = ", which more versions than cores use in turns" if shares.in_turns else ""
            logger.info("%d cores by weight%s: %s", self._cores, turns, ", ".join(parts))
        self._shares = shares
        if self._aspired or not self._resources:
            return
        claimed = {name for _, config, _ in models if config.rate_limiter for name in config.rate_limiter.resources}
        for name in self._resources.keys() - claimed - {CORES}:
            logger.warning("no model's rate_limiter names the resource '%s'%s", name, nearest(name, claimed))

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Calls back, from any thread, after each change of state. The listener must be quick and not raise."""
        self._listeners.append(listener)

    def _changed(self) -> None:
        for listener in self._listeners:
            listener()

    def adopt(self) -> None:
        """Puts what the last scan found of all models that are served into effect, where that is not done by itself."""
        with self._lock:
            for model in list(self._models.values()):
                if model.admitted and model.latest is not None and model.latest is not model.source:
                    self._take(model, model.latest)
                    self._step(model)
        self._changed()

    # -- control by name -------------------------------------------------------------------------------------

    def load(self, name: str, source: ModelSource | None = None, timeout: float | None = None) -> None:
        """Has a model served as it is in the repository now, or as `source` says, and waits until it is.

        A model that is served already and did not change stays as it is; what failed is tried again. Raises NotFound
        for a model that is not in the repository, InvalidArgument with the reasons if a version could not be loaded,
        and ModelNotReady if it takes longer than `timeout` seconds.
        """
        with self._lock:
            source = source or self._latest(name)
            model = self._model(name)
            model.admitted = True
            self._take(model, source)
            model.asleep = False
            model.retry()
            self._share()
            self._step(model)
            rested = self._rested.wait_for(lambda: name not in self._busy or self._stopped, timeout)
            failures, refusal = model.failures, model.refusal
            unloaded = not model.admitted or self._stopped
        self._changed()
        if not rested:
            raise ModelNotReady(f"model '{name}' is still loading after {timeout:g} s")
        if unloaded:
            raise ModelNotReady(f"model '{name}' was unloaded before it was loaded")
        if failures or refusal:
            reasons = [f"version {version} is at UNAVAILABLE state: {reason};" for version, reason in failures.items()]
            raise InvalidArgument(f"load failed for model '{name}': {' '.join(reasons) or refusal}")

    def _latest(self, name: str) -> ModelSource:
        """What the last scan found of a model. Needs the lock."""
        model = self._models.get(name)
        if model is not None and model.fault:
            raise InvalidArgument(f"load failed for model '{name}': {model.fault}")
        if model is None or model.latest is None:
            raise NotFound(f"failed to load '{name}', failed to poll from model repository")
        return model.latest

    def unload(self, name: str, timeout: float = UNLOAD_WAIT) -> None:
        """Has a model served no longer, and waits until its last requests are answered and it is closed, for at most
        `timeout` seconds. One that is not known is no error."""
        with self._lock:
            model = self._models.get(name)
            if model is None:
                return
            model.admitted, model.pin = False, None
            model.take(model.latest)  # what a client gave is not kept beyond this
            model.forget()
            self._step(model)
            self._rested.wait_for(lambda: model.admitted or not model.resident, timeout)
        self._changed()

    def pin(self, name: str, version: int | None, timeout: float | None = None) -> None:
        """Has one version served and no other, whatever the policy says; None takes the pin away. Waits as `load`.

        Raises NotFound for a model or a version that is not there, InvalidArgument if the version could not be loaded;
        then what was served before goes on.
        """
        with self._lock:
            model = self._models.get(name)
            if model is None or model.source is None or not model.admitted:
                raise NotFound(f"Request for unknown model: '{name}' is not found")
            if version is not None and version not in model.available:
                there = ", ".join(map(str, sorted(model.available)))
                raise NotFound(f"model '{name}' has no version {version} to pin; there is {there}")
            model.pin = version
            model.retry()
            self._share()
            self._step(model)
            rested = self._rested.wait_for(lambda: name not in self._busy or self._stopped, timeout)
            failures = model.failures
        self._changed()
        if not rested:
            raise ModelNotReady(f"model '{name}' is still loading after {timeout:g} s")
        if failures:
            reasons = "; ".join(f"version {version}: {reason}" for version, reason in failures.items())
            raise InvalidArgument(f"model '{name}' goes on as before: {reasons}")

    def direct(self, name: str, traffic: TrafficConfig | None, timeout: float | None = None) -> None:
        """Splits a model's requests otherwise than its configuration says; None: as that says. Waits as `load`, for the
        versions that are wanted now.

        Raises NotFound for a model that is not there.
        """
        with self._lock:
            model = self._models.get(name)
            if model is None or model.source is None or not model.admitted:
                raise NotFound(f"Request for unknown model: '{name}' is not found")
            model.directed = traffic
            if name in self.routers:
                self.routers[name].renew()
            self._publish(model)
            self._share()
            self._step(model)
            rested = self._rested.wait_for(lambda: name not in self._busy or self._stopped, timeout)
        self._changed()
        if not rested:
            raise ModelNotReady(f"model '{name}' is still loading after {timeout:g} s")

    def wake(self, name: str, callback: Callable[[], None]) -> None:
        """Has a model loaded for a request. Calls back once, from a thread that may run it, when the model is there or
        will not be."""
        with self._lock:
            model = self._models.get(name)
            if model is not None and model.awaited:
                model.asleep = False
                model.waiters.append(callback)
                self._step(model)
                return
        self.threads.workers.submit(callback)

    # -- the next step ---------------------------------------------------------------------------------------

    def _step(self, model: ManagedModel) -> None:
        """Starts what the plan says is next for a model. Needs the lock."""
        if self._stopped:
            return
        self._cancel_queued(model)
        step = model.plan()
        if step.load and self._has_room(model, step.load):
            for version in step.load:
                self._begin_load(model, model.record(version))
        for version in step.unload:
            self._begin_unload(model, model.record(version))
        self._note(model)

    def _cancel_queued(self, model: ManagedModel) -> None:
        """Takes loads back that have not begun and are not wanted any more. Needs the lock."""
        wanted = model.wanted
        for number, record in model.versions.items():
            if record.load is not None and number not in wanted and self._loaders.cancel(record.load):
                record.load, record.tried = None, record.serving

    def _note(self, model: ManagedModel) -> None:
        """Tells whoever waits how far a model is. Needs the lock."""
        due = bool(model.unsettled) or model.loading or model.name in self._short
        due = due or (model.unload_first and model.unloading and bool(model.wanted))
        if due:
            self._busy.add(model.name)
        else:
            self._busy.discard(model.name)
        if model.waiters and (model.serves or not due):
            for callback in model.waiters:
                self.threads.workers.submit(callback)
            model.waiters.clear()
        if model.empty:
            self._models.pop(model.name, None)
        self._settle()
        self._rested.notify_all()

    def _settle(self) -> None:
        """Says whether something is still loading. Needs the lock."""
        if self._busy:
            self.settled.clear()
        else:
            self.settled.set()

    # -- loading ---------------------------------------------------------------------------------------------

    def _begin_load(self, model: ManagedModel, record: VersionRecord) -> None:
        """Needs the lock."""
        source = model.source
        assert source is not None
        source = replace(source, versions={**source.available, **source.versions})  # one that is pinned is available
        record.tried = model.available[record.number]
        record.reason = ""
        record.load = self._loaders.submit(
            partial(self._load, model, record, source), urgent=bool(model.waiters) or model.serves
        )

    def _load(self, model: ManagedModel, record: VersionRecord, source: ModelSource, load: Load) -> None:
        self._watch(model, record, source, load, FIRST_PROGRESS)
        try:
            servable = self._open_unchanged(source, record.number)
            servable.metrics.load_seconds = load.seconds(time.monotonic())
            servable.metrics.size = _size(source, record.number)
        except BaseException as exc:
            self._failed(model, record, load, exc)
        else:
            self._loaded(model, record, load, servable)
        self._changed()

    def _watch(self, model: ManagedModel, record: VersionRecord, source: ModelSource, load: Load, pause: float) -> None:
        """Says after a while that a load goes on, lends its place, and gives it up when its time is over."""
        limit = source.config.load_timeout_seconds

        def look() -> None:
            seconds = load.seconds(time.monotonic())
            if record.load is not load:
                return
            if limit is not None and seconds >= limit:
                self._loaders.lend(load)
                self._failed(model, record, load, LoadError(f"it was not loaded within {limit:g} s and is given up"))
                self._changed()
                return
            if seconds >= LENT_AFTER:
                self._loaders.lend(load)
            logger.info("model '%s' version %d has been loading for %.0f s", model.name, record.number, seconds)
            self._watch(model, record, source, load, 2 * pause)

        assert load.started is not None
        at = load.started + pause
        if limit is not None and pause > limit:
            at = load.started + limit
        self.threads.alarms.set(at, look)

    def _open_unchanged(self, source: ModelSource, version: int) -> Servable:
        """As `_open`, of files that nobody changed meanwhile: what was read of others may be anything."""
        try:
            servable = self._open(source, version)
        except Exception as exc:
            if source.unchanged(version):
                raise
            raise FilesChanged(f"its files changed while it was loaded: {exc}") from exc
        if source.unchanged(version):
            return servable
        close_anyway(servable.close, _title(servable))
        raise FilesChanged("its files changed while it was loaded")

    def _open(self, source: ModelSource, version: int) -> Servable:
        cores = self._shares.cores.get((source.name, version), self._cores)
        claim = self._shares.claim(source.name, version, source.config)
        servable = open_servable(
            source, version, self._backends, cores, self._cache_dir, self.threads, self._cache, claim
        )
        if source.config.response_cache and not servable.caches:
            logger.warning(
                "model '%s' version %d: response_cache has no effect, for the server has no memory for it"
                " (--response-cache-bytes 0)",
                source.name,
                version,
            )
        return servable

    def _failed(self, model: ManagedModel, record: VersionRecord, load: Load, error: BaseException) -> None:
        expected = isinstance(error, OperatorError)
        reason = str(error) if expected else f"{type(error).__name__}: {error}"
        with self._lock:
            if record.load is not load:
                return  # it was given up before
            record.load = None
            record.reason = reason
            self.registry.loaded(None)
            self._proceed(model)
            if isinstance(error, FilesChanged):  # they may be again as they were when nobody looked
                self.threads.alarms.set(time.monotonic() + RETRY, partial(self._retry, model))
        logger.error(
            "model '%s' version %d failed to load: %s",
            model.name,
            record.number,
            reason,
            exc_info=None if expected else error,
        )

    def _retry(self, model: ManagedModel) -> None:
        with self._lock:
            model.retry()
            self._step(model)
        self._changed()

    def _loaded(self, model: ManagedModel, record: VersionRecord, load: Load, servable: Servable) -> None:
        seconds = servable.metrics.load_seconds
        with self._lock:
            welcome = record.load is load and not self._stopped
            if welcome:
                record.load = None
                record.loaded = servable
                self.registry.loaded(seconds)
                self._proceed(model)
        if not welcome:
            close_anyway(servable.close, _title(servable))
            return
        logger.info("model '%s' version %d is ready after %.2f s", model.name, record.number, seconds)

    def _proceed(self, model: ManagedModel) -> None:
        """Goes on after the end of a load. Needs the lock."""
        self._swap(model)
        self._step(model)

    def _swap(self, model: ManagedModel) -> None:
        """Serves what is loaded, all at once, unless some of what is wanted is still loading. Needs the lock.

        A model that does not serve yet begins with what it has.
        """
        wanted = model.wanted
        waits = any(record.load is not None for number, record in model.versions.items() if number in wanted)
        if model.serves and waits and wanted:
            return
        retired: list[Servable] = []
        for record in model.versions.values():
            if record.loaded is None:
                continue
            if model.numbers and not model.asleep and (record.number in wanted or not model.serves):
                retired += [record.servable] if record.servable else []
                record.servable, record.serving = record.loaded, record.tried
                record.good = record.tried
                record.reason = ""
                self.registry.add(record.servable.metrics)
            else:
                retired.append(record.loaded)
                record.tried = record.serving
            record.loaded = None
        self._reconfigure(model)  # it may have changed since they began to load
        self._publish(model)
        for servable in retired:
            self._retire(servable, lambda: None)
        self._watch_idle(model)

    def _publish(self, model: ManagedModel) -> None:
        """Replaces the published versions of one model. Needs the lock."""
        versions = {n: record.servable for n, record in sorted(model.versions.items()) if record.servable is not None}
        by_name = {str(number): servable for number, servable in versions.items()}
        revisions = {number: model.versions[number].serving for number in versions}
        router = self._routers.direct(model.name, model.traffic, by_name, revisions)
        published = dict(self._published)
        published.pop(model.name, None)
        if versions:
            default = default_version(versions, model.traffic)
            published[model.name] = Published(by_name, versions[default], router)
        self._published = published

    # -- unloading -------------------------------------------------------------------------------------------

    def _begin_unload(self, model: ManagedModel, record: VersionRecord) -> None:
        """Needs the lock."""
        servable = record.servable
        assert servable is not None
        record.servable, record.leaving = None, servable
        self._publish(model)
        self._retire(servable, partial(self._unloaded, model, record))

    def _retire(self, servable: Servable, then: Callable[[], None]) -> None:
        """Closes a servable that is not published any more, once its leases are back. Needs the lock."""
        self._retiring.add(servable)
        servable.retire(lambda: self._drained(servable, then))

    def _drained(self, servable: Servable, then: Callable[[], None]) -> None:
        """Called by whoever gave back the last lease, perhaps on the way to its next request."""
        self._closings.submit(partial(self._let_go, servable, then))

    def _let_go(self, servable: Servable, then: Callable[[], None]) -> None:
        with self._lock:
            if servable not in self._retiring:
                return  # the end of the server came first
            self._retiring.discard(servable)
        self._close(servable)
        self.registry.unloaded()
        self._reclaimer.unloaded()
        then()

    def _unloaded(self, model: ManagedModel, record: VersionRecord) -> None:
        with self._lock:
            record.leaving = record.serving = record.tried = None
            record.reason = UNLOADED
            model.take(model.source)
            self._step(model)
            short, self._short = self._short, set()
            for name in short & self._models.keys():
                self._step(self._models[name])
        logger.info("model '%s' version %d is unloaded", model.name, record.number)
        self._changed()

    def _close(self, servable: Servable) -> None:
        self.registry.remove(servable.metrics)
        close_anyway(servable.close, _title(servable))

    # -- memory ----------------------------------------------------------------------------------------------

    def _watch_idle(self, model: ManagedModel) -> None:
        """Sees to it that a model that nobody uses is put to sleep. Needs the lock."""
        if model.idle_alarm is not None:
            self.threads.alarms.cancel(model.idle_alarm)
            model.idle_alarm = None
        limit = model.source.config.idle_unload_seconds if model.source else None
        if limit is not None and model.serves and not self._stopped:
            left = max(limit - model.idle_seconds, limit / 20)  # it may be idle for that long, and not quite at rest
            model.idle_alarm = self.threads.alarms.set(time.monotonic() + left, partial(self._look_idle, model, limit))

    def _look_idle(self, model: ManagedModel, limit: float) -> None:
        with self._lock:
            if model.idle_seconds < limit or model.loading:
                self._watch_idle(model)
                return
            logger.info("model '%s' was not used for %g s, and is unloaded until it is", model.name, limit)
            self._put_to_sleep(model)
        self._changed()

    def _put_to_sleep(self, model: ManagedModel) -> None:
        """Needs the lock."""
        model.asleep = True
        self._step(model)

    def _has_room(self, model: ManagedModel, versions: Collection[int]) -> bool:
        """Whether versions may be loaded now, as far as memory goes. Others may have to go first, which then leads back
        here, or there may be no way; then the model says so. Needs the lock."""
        if self._budget is None or model.source is None:
            return True
        need = sum(_size(model.source, version) for version in versions)
        tenants = [_tenant(other) for other in self._models.values() if other is not model and other.resident]
        own = _tenant(model).size
        evicted = room_for(need + own, self._budget, tenants)
        if evicted == []:
            return True
        asked_for = bool(model.waiters) or self._admission.explicit or model.serves
        for name in evicted or () if asked_for else ():
            logger.info("model '%s' is unloaded to make room for model '%s'", name, model.name)
            self._put_to_sleep(self._models[name])
        if any(other.unloading for other in self._models.values() if other is not model):
            self._short.add(model.name)  # and looked at again when they are gone
            return False
        self._refuse_memory(model, versions, need, beside=own)
        return False

    def _refuse_memory(self, model: ManagedModel, versions: Collection[int], need: int, beside: int) -> None:
        """Says why a model cannot be loaded. Needs the lock."""
        assert self._budget is not None
        never = need + beside > self._budget
        reason = f"it needs {in_words(need)} of the {in_words(self._budget)} for models (--model-memory-budget)"
        if beside:
            reason += f" beside the {in_words(beside)} of what is served (resource_preserving would unload that first)"
        if not never:
            reason += ", and other models, which are in use, take the rest"
        if never or model.serves:
            for record in map(model.record, versions):
                record.tried, record.reason = model.available[record.number], reason
        else:
            model.asleep, model.refusal = True, reason
        logger.warning("model '%s' is not loaded: %s", model.name, reason)

    # -- questions -------------------------------------------------------------------------------------------

    def queue_limits(self, name: str) -> QueueConfig:
        """How much may wait for a model."""
        with self._lock:
            model = self._models.get(name)
            return model.source.config.queue if model is not None and model.source is not None else QueueConfig()

    def lease(self, name: str, version: str = "", request_id: str | None = None) -> Servable:
        """A ready version, held loaded until its `release`; "" asks for the default, the highest ready one.

        With a `request_id`, which may be "", it is for a request, which "" leaves to the model's traffic.
        Raises NotFound for an unknown model or version, AwaitLoad for one that will be ready if it is waited for, and
        ModelNotReady for one that is known but not ready.
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
        published = self._published.get(name)
        return list(published.versions) if published else []

    def ready(self, name: str = "") -> list[Servable]:
        """The ready versions of a model, or of all models, in order. They may be retired the next moment."""
        published = self._published
        names = [name] if name else sorted(published)
        return [servable for each in names if each in published for servable in published[each].versions.values()]

    def _absent(self, name: str, version: str) -> Exception:
        if version and not (version.isascii() and version.isdigit()):
            return InvalidArgument(f"model version '{version}' for '{name}' is not a positive integer")
        with self._lock:
            model = self._models.get(name)
            if model is None:
                hint = nearest(name, self._models) if len(self._models) <= 20 else ""
                return NotFound(f"Request for unknown model: '{name}' is not found{hint}")
            numbers = {*model.versions, *model.numbers}
            if model.awaited and (not version or int(version) in model.numbers):
                return AwaitLoad(f"model '{name}' is not loaded{f': {model.refusal}' if model.refusal else ''}")
            if not numbers and (model.fault or model.unsettled):
                return ModelNotReady(f"model '{name}' is unavailable: {model.fault or model.unsettled}")
            if not version:
                described = model.describe() or UNLOADED
                return ModelNotReady(f"model '{name}' has no available versions: {described}")
            if int(version) not in numbers or version != str(int(version)):
                return NotFound(f"Request for unknown model: '{name}' version {version} is not found")
            return ModelNotReady(f"model '{name}' version {version} is not at ready state: {model.describe(version)}")

    def index(self) -> list[IndexEntry]:
        """Every version that is known, by name and number, and every model with a fault."""
        with self._lock:
            models = sorted(self._models.items())
            return [self._remarked(entry) for _, model in models for entry in model.entries()]

    def _remarked(self, entry: IndexEntry) -> IndexEntry:
        """With what its router has to say of a version, such as that it is a canary no more."""
        router = self.routers.get(entry.name)
        remark = router.remark(entry.version) if router is not None else ""
        return replace(entry, reason="; ".join(filter(None, (entry.reason, remark)))) if remark else entry

    def versions_by_state(self) -> dict[str, int]:
        counts = {state.value: 0 for state in State}
        for entry in self.index():
            if entry.state is not None:
                counts[entry.state.value] += 1
        return counts

    def holdups(self, strict: bool) -> Iterator[str]:
        """Why the server is not ready, in no order; nothing once all that was wanted at the start is settled, for good.

        With `strict`, a model that failed at the start holds the server up until it is mended.
        """
        if self._was_ready:
            return
        if not self._aspired:
            yield "the model repository has not been read yet"
            return
        held_up = False
        for name in list(self._busy or (self._models if strict else ())):
            for reason in self._holdup(name):
                held_up = True
                yield reason
        self._was_ready = not held_up

    def _holdup(self, name: str) -> list[str]:
        """Why one model is not ready, though it is to be."""
        with self._lock:
            model = self._models.get(name)
            if model is None or not model.admitted or model.asleep:
                return []
            return [
                f"model '{name}'{f' version {entry.version}' if entry.version else ''} is {entry.state}"
                f"{f': {entry.reason}' if entry.reason else ''}"
                for entry in model.entries()
                if entry.state is State.LOADING or (entry.state is State.UNAVAILABLE and entry.failed)
            ]

    # -- end -------------------------------------------------------------------------------------------------

    def stop(self, timeout: float) -> bool:
        """Unloads everything, waiting up to `timeout` seconds for leases and for loads. False if that was too short."""
        deadline = time.monotonic() + timeout
        with self._lock:
            self._stopped = True
            records = [record for model in self._models.values() for record in model.versions.values()]
            servables = {one for record in records for one in (record.servable, record.loaded) if one} | self._retiring
            self._retiring.clear()
            self._published = {}
            self._rested.notify_all()
        self._routers.close()  # before what shadows have leases on is retired
        for servable in servables:
            servable.retire()
        drained = True
        for servable in servables:
            if servable.drained.wait(max(0.0, deadline - time.monotonic())):
                self._close(servable)
            else:
                drained = False
        return self._loaders.stop(max(0.0, deadline - time.monotonic())) and drained


def _knows(scan: Scan, name: str) -> bool:
    return name in scan.models or name in scan.faults or name in scan.unsettled


def _title(servable: Servable) -> str:
    return f"model '{servable.name}' version {servable.version}"


def _size(source: ModelSource, version: int) -> int:
    """Bytes that a version is expected to take."""
    if source.config.memory_bytes is not None:
        return source.config.memory_bytes
    signature = source.signatures.get(version)
    # Asked for every model at once, and under the lock: files are looked at only where nobody has done so before.
    size = signature.size if isinstance(signature, Signature) else bytes_of(source.path(version))
    return size * len(source.config.in_pools())


def _tenant(model: ManagedModel) -> Tenant:
    occupied = [record.number for record in model.versions.values() if record.servable or record.held.busy]
    size = sum(_size(model.source, number) for number in occupied if number in model.available) if model.source else 0
    return Tenant(model.name, size, -model.idle_seconds, model.idle_seconds > 0 and not model.loading)
