"""What is wanted of the models, who may lease what is served, and what there is to be said of both.

Takes in what scans find and what is asked for by name, and leaves what follows to `Steps`. Lookups take no lock.

Invariant: what works goes on until what is to take its place works, unless somebody asked for its end.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Condition, Event, Lock
from typing import Final

from vintner import memory, traffic_metrics
from vintner.backend import Backends
from vintner.catalogue import Catalogue
from vintner.core_shares import CORES
from vintner.errors import InvalidArgument, ModelNotReady, NotFound, VintnerError, nearest
from vintner.lifecycle import State
from vintner.loaders import Loaders
from vintner.loading import Loading, Opener
from vintner.managed_model import UNLOADED, IndexEntry, ManagedModel
from vintner.metrics import Dialect, Registry
from vintner.model_config import QueueConfig, TrafficConfig
from vintner.model_source import ModelSource, Scan, not_in_repository
from vintner.response_cache import ResponseCache
from vintner.router import Router
from vintner.servable import Servable
from vintner.steps import Steps
from vintner.turns import Threads
from vintner.turnstile import Turnstiles

logger = logging.getLogger(__name__)

UNLOAD_WAIT: Final = 30.0
"""Seconds for which a call that unloads a model waits for its last requests."""

MISSING: Final = "it is not in the model repository"
UNREAD: Final = "the model repository has not been read yet"


@dataclass(frozen=True, slots=True)
class Admission:
    """Which models are to be served. Unless it is `explicit`, those that are in the repository, as they change; else
    those in `names` (None: all), and what is asked for by `Manager.load`, as they were then."""

    explicit: bool = False
    names: Collection[str] | None = ()


class AwaitLoad(ModelNotReady):
    """The model will be there if it is waited for: see `Manager.wake`. A `refusal` says why it could not be loaded when
    that was tried last; it may be possible now."""

    def __init__(self, name: str, refusal: str = "") -> None:
        super().__init__(f"model '{name}' is not loaded{f': {refusal}' if refusal else ''}")
        self.refusal = refusal


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
        dialects: Sequence[Dialect] = (),
    ) -> None:
        """`resources` are what models share by `rate_limiter`, in units; `cores` is one of them unless it is given.
        `memory_budget` is in bytes."""
        resources = dict(resources or {})
        self.threads = threads or Threads(turnstiles=Turnstiles({CORES: cores, **resources}))
        self._catalogue = Catalogue()
        self.registry = Registry(
            self.versions_by_state,
            lambda: cache.size if cache is not None else (0, 0),
            lambda: traffic_metrics.families(list(self.routers.values())),
            dialects,
        )
        self._opener = Opener(backends, self.threads, cores, cache_dir, cache)
        self._admission = admission or Admission()
        self._unclaimed = resources.keys() - {CORES}
        self._lock = Condition(Lock())
        self._models: dict[str, ManagedModel] = {}
        self._steps = Steps(
            self._models,
            self._lock,
            Loading(self._opener, loaders or Loaders(load_threads), self.threads),
            self._catalogue,
            self.registry,
            self.threads,
            self._changed,
            explicit=self._admission.explicit,
            budget=memory_budget,
        )
        self._listeners: list[Callable[[], None]] = []
        self._aspired = False
        self._was_ready = False

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
            for model in changed:  # all under one lock: a first model must not find the others not even begun
                if model is not None:
                    self._steps.step(model)
            self._aspired = True  # not before: nothing holds a server up that has not begun
            self._steps.settle()  # there may be no model at all
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
            model.asleep = source.config.load == "on_demand" and not model.serves and not model.waiters
        model.refusal = ""
        model.take(source)
        self._steps.reconfigure(model)
        if model.serves and model.traffic != traffic:
            self._steps.publish(model)

    def _unusable(self, name: str, fault: str, unsettled: str = "") -> ManagedModel | None:
        """Takes in that a model cannot be tried, or not yet. What is served of it stays, if its files do."""
        model = self._model(name)
        if (fault, unsettled) == (model.fault, model.unsettled) and (model.source is None or unsettled):
            return None
        if fault and fault != model.fault:
            state = "goes on as it was" if model.serves else "is unavailable"
            logger.error("model '%s' %s: %s", name, state, fault, extra={"model": name})
            self.registry.load_failed()
        model.fault, model.unsettled = fault, unsettled
        if not self._admission.explicit:
            model.survive()
        return model

    def _missing(self, model: ManagedModel) -> ManagedModel | None:
        """Takes in that a model is not in the repository."""
        if model.admitted and model.source is None and self._admission.explicit:
            if model.fault != MISSING:
                logger.error("model '%s' is unavailable: %s", model.name, MISSING, extra={"model": model.name})
            model.latest, model.fault, model.unsettled = None, MISSING, ""
            return model
        if model.latest is None and not model.fault and not model.unsettled:
            return None
        given = model.source is not model.latest  # by a client, or it is of an earlier scan
        model.latest, model.fault, model.unsettled = None, "", ""
        if not self._admission.explicit or not (model.serves or given):
            model.take(None)
        return model

    def _share(self) -> None:
        """Divides the cores among what is wanted now. Needs the lock."""
        models = {each.name: (each.source.config, each.numbers) for each in self._models.values() if each.source}
        self._opener.share({name: wanted for name, wanted in models.items() if wanted[1]})
        claims = [config.rate_limiter.resources for config, _ in models.values() if config.rate_limiter]
        claimed = {name for resources in claims for name in resources}
        for name in self._unclaimed - claimed if not self._aspired else ():
            logger.warning("no model's rate_limiter names the resource '%s'%s", name, nearest(name, claimed))

    @property
    def settled(self) -> Event:
        """Set when nothing of what is wanted is still loading."""
        return self._steps.settled

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
                    self._steps.step(model)
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
            self._steps.step(model)
            self._wait(name, timeout)
            failures, refusal = model.failures, model.refusal
            unloaded = not model.admitted or model.source is None or self._steps.stopped
        self._changed()
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
            raise not_in_repository(name)
        return model.latest

    def unload(self, name: str, timeout: float = UNLOAD_WAIT) -> None:
        """Has a model served no longer, and waits until its last requests are answered and its memory is free, for at
        most `timeout` seconds. One that is not known is no error."""
        with self._lock:
            model = self._models.get(name)
            if model is None:
                return
            model.admitted, model.pin, model.directed = False, None, None
            model.take(model.latest)  # what a client gave is not kept beyond this
            model.forget()
            self._steps.step(model)
            self._lock.wait_for(lambda: model.admitted or not model.resident or self._steps.stopped, timeout)
        memory.trim()  # whoever asked may be about to load something else into it
        self._changed()

    def pin(self, name: str, version: int | None, timeout: float | None = None) -> None:
        """Has one version served and no other, whatever the policy says; None takes the pin away. Waits as `load`.

        Raises NotFound for a model or a version that is not there, InvalidArgument if the version could not be loaded;
        then what was served before goes on.
        """
        with self._lock:
            model = self._served(name)
            _check_there(model, () if version is None else (version,), "to pin")
            former, model.pin = model.pin, version
            model.retry()
            self._share()
            self._steps.step(model)
            self._wait(name, timeout)
            failures = model.failures
            if failures and model.pin == version is not None:
                model.pin = former
                self._share()
                self._steps.step(model)
        self._changed()
        _check_loaded(failures, f"model '{name}' goes on as before")

    def direct(self, name: str, traffic: TrafficConfig | None, timeout: float | None = None) -> None:
        """Splits a model's requests otherwise than its configuration says; None: as that says. Waits as `load`, for the
        versions that are wanted now.

        Raises NotFound for a model or a version that is not there, InvalidArgument if one that is wanted could not be
        loaded; its requests go to the default then.
        """
        with self._lock:
            model = self._served(name)
            _check_there(model, traffic.versions if traffic is not None else (), "for its traffic")
            model.directed = traffic
            self._catalogue.renew(name)
            self._steps.publish(model)
            self._share()
            self._steps.step(model)
            self._wait(name, timeout)
            failures = model.failures
        self._changed()
        _check_loaded(failures, f"model '{name}' takes its requests elsewhere for now")

    def _served(self, name: str) -> ManagedModel:
        """A model that is to be served, loaded or asleep. Needs the lock."""
        model = self._models.get(name)
        if model is None or model.source is None or not model.admitted:
            raise _unknown(name)
        return model

    def _wait(self, name: str, timeout: float | None) -> None:
        """Until nothing of a model is on its way. Needs the lock."""
        if not self._steps.wait(name, timeout):
            raise ModelNotReady(f"model '{name}' is still loading after {timeout:g} s")

    def wake(self, name: str, callback: Callable[[], None], version: str = "") -> None:
        """Has a model loaded for a request. Calls back once, from a thread that may run it, when the version is there,
        any for "", or will not be."""
        with self._lock:
            model = self._models.get(name)
            if model is None or self._steps.stopped:
                self.threads.workers.submit(callback)
            elif model.awaited:
                model.asleep = False
                model.waiters.append((version, callback))
                self._steps.step(model)
            else:
                self._steps.resume(model, callback)

    # -- questions -------------------------------------------------------------------------------------------

    def queue_limits(self, name: str) -> QueueConfig:
        """How much may wait for a model."""
        with self._lock:
            model = self._models.get(name)
            return model.source.config.queue if model is not None and model.source is not None else QueueConfig()

    def row_limit(self, name: str) -> int | None:
        """Rows above which requests to a model are refused, where its configuration says so."""
        with self._lock:
            model = self._models.get(name)
            return model.source.config.batching.row_limit if model is not None and model.source is not None else None

    def lease(self, name: str, version: str = "", request_id: str | None = None) -> Servable:
        """A ready version, held loaded until its `release`; "" asks for the default, the highest ready one.

        With a `request_id`, which may be "", it is for a request, which "" leaves to the model's traffic.
        Raises NotFound for an unknown model or version, AwaitLoad for one that will be ready if it is waited for, and
        ModelNotReady for one that is known but not ready.
        """
        servable = self._catalogue.lease(name, version, request_id)
        if servable is not None:
            return servable
        with self._lock:  # under which it is published, as it may have been since
            servable = self._catalogue.lease(name, version, request_id)
            if servable is None:
                raise self._absent(name, version)
            return servable

    @property
    def routers(self) -> Mapping[str, Router]:
        """Of the models that have `traffic`."""
        return self._catalogue.routers

    def ready_versions(self, name: str) -> list[str]:
        """In ascending order; empty for an unknown model."""
        return self._catalogue.versions(name)

    def ready(self, name: str = "") -> list[Servable]:
        """The ready versions of a model, or of all models, in order. They may be retired the next moment."""
        return self._catalogue.ready(name)

    def _absent(self, name: str, version: str) -> Exception:
        """Why a version cannot be leased. Needs the lock."""
        if version and not (version.isascii() and version.isdigit()):
            return InvalidArgument(f"model version '{version}' for '{name}' is not a positive integer")
        model = self._models.get(name)
        if model is None:
            return self._not_known(name)
        numbers = {*model.versions, *model.numbers}
        if model.awaited and not self._steps.stopped and (not version or version in map(str, model.numbers)):
            return AwaitLoad(name, model.refusal)
        if not numbers and (model.fault or model.unsettled):
            return ModelNotReady(f"model '{name}' is unavailable: {model.fault or model.unsettled}")
        if not version:
            described = model.describe() or UNLOADED
            return ModelNotReady(f"model '{name}' has no available versions: {described}")
        if version not in map(str, numbers):
            return NotFound(f"Request for unknown model: '{name}' version {version} is not found")
        return ModelNotReady(f"model '{name}' version {version} is not at ready state: {model.describe(version)}")

    def _not_known(self, name: str) -> VintnerError:
        """Needs the lock. What is not there may only not have been looked for: a client is not to give up on it."""
        if not self._aspired:
            return ModelNotReady(f"model '{name}' is not ready: {UNREAD}")
        return _unknown(name, nearest(name, self._models) if len(self._models) <= 20 else "")

    def labelled(self, name: str, label: str) -> str:
        """The version that has a label in its model's configuration, whether it is served or not. Raises NotFound."""
        with self._lock:
            model = self._models.get(name)
            if model is None:
                raise self._not_known(name)
            labels = model.source.config.version_labels if model.source is not None else {}
        if label not in labels:
            raise NotFound(f"model '{name}' has no version label '{label}'{nearest(label, labels)}")
        return str(labels[label])

    def index(self, name: str = "") -> list[IndexEntry]:
        """Every version that is known, by name and number, and every model with a fault; or those of one model."""
        with self._lock:
            models = [(name, self._models[name])] if name in self._models else []
            models = models if name else sorted(self._models.items())
            entries = [entry for _, model in models for entry in model.entries()]
        return [self._remarked(entry) for entry in entries]

    def _remarked(self, entry: IndexEntry) -> IndexEntry:
        remark = self._catalogue.remark(entry.name, entry.version)
        return replace(entry, reason="; ".join(filter(None, (entry.reason, remark)))) if remark else entry

    def versions_by_state(self) -> tuple[dict[str, int], list[tuple[str, str]]]:
        """How many versions are in each state, and the model and version of those with which something is wrong."""
        counts = {state.value: 0 for state in State}
        entries = self.index()
        for entry in entries:
            if entry.state is not None:
                counts[entry.state.value] += 1
        return counts, [(entry.name, entry.version) for entry in entries if entry.failed]

    def holdups(self, strict: bool) -> Iterator[str]:
        """Why the server is not ready, in no order; nothing once all that was wanted at the start is settled, for good.

        With `strict`, a model that failed at the start holds the server up until it is mended.
        """
        if self._was_ready:
            return
        if not self._aspired:
            yield UNREAD
            return
        held_up = False
        # First those that are likely to; then all, for what was busy may have come to its end since, well or badly.
        for names in (self._steps.busy, self._models if strict else self._steps.busy):
            for name in list(names):
                for reason in self._holdup(name):
                    held_up = True
                    yield reason
            if held_up:
                return
        self._was_ready = True

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
        return self._steps.stop(timeout)


def _unknown(name: str, hint: str = "") -> NotFound:
    return NotFound(f"Request for unknown model: '{name}' is not found{hint}")


def _check_there(model: ManagedModel, versions: Collection[int], purpose: str) -> None:
    for version in sorted(set(versions) - model.available.keys()):
        there = ", ".join(map(str, sorted(model.available)))
        raise NotFound(f"model '{model.name}' has no version {version} {purpose}; there is {there}")


def _check_loaded(failures: Mapping[int, str], outcome: str) -> None:
    if failures:
        reasons = "; ".join(f"version {version}: {reason}" for version, reason in failures.items())
        raise InvalidArgument(f"{outcome}: {reasons}")


def _knows(scan: Scan, name: str) -> bool:
    return name in scan.models or name in scan.faults or name in scan.unsettled
