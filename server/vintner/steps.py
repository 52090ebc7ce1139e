"""Carries out what the plans of models say: loads, swaps, unloads, and puts to sleep.

Knows neither why something is wanted nor who asks. Whatever happens to a model, a scan, the end of a load, a lease that
comes back, an alarm, ends in `step`. Threads: any, with the lock held where a method says so; it is never held while
something is loaded or closed.

Invariant: a servable is published only while it is ready; it is unpublished before it is retired, and closed once,
after its last lease has come back.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from functools import partial
from threading import Condition, Event
from typing import Final

from vintner.backend import close_anyway
from vintner.catalogue import Catalogue
from vintner.errors import OperatorError
from vintner.lifecycle import Revision
from vintner.loaders import Load
from vintner.loading import FilesChanged, Loading
from vintner.managed_model import UNLOADED, ManagedModel, VersionRecord
from vintner.memory_budget import make_room
from vintner.metrics import Registry
from vintner.model_source import ModelSource
from vintner.ovms_mapping import with_names
from vintner.reclaiming import Reclaimer
from vintner.servable import Servable
from vintner.settling import WRITTEN
from vintner.turns import Threads

logger = logging.getLogger(__name__)

RETRY: Final = 1.0
"""Seconds after which the files are looked at again that changed while they were loaded; then twice as long."""


class Steps:
    """Of all models of a server, which it shares with their manager, and the lock with them."""

    def __init__(
        self,
        models: dict[str, ManagedModel],
        lock: Condition,
        loading: Loading,
        catalogue: Catalogue,
        registry: Registry,
        threads: Threads,
        changed: Callable[[], None],
        *,
        explicit: bool = False,
        budget: int | None = None,
    ) -> None:
        """The condition is notified of each step, and `changed` called after it, without the lock.

        With `explicit`, models are loaded because somebody asked for them, and may evict others. The `budget` is in
        bytes.
        """
        self._models = models
        self._lock = lock
        self._loading = loading
        self._catalogue = catalogue
        self._registry = registry
        self._threads = threads
        self._changed = changed
        self._explicit = explicit
        self._budget = budget
        self.busy: set[str] = set()
        """Models of which something that is wanted is on its way."""
        self._short: set[str] = set()  # those that wait for memory
        self._retiring: set[Servable] = set()
        self._reclaimer = Reclaimer(threads)
        self.stopped = False
        self.settled = Event()
        """Set when no model is busy."""

    def reconfigure(self, model: ManagedModel) -> None:
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
        self._watch_idle(model)

    # -- the next step ---------------------------------------------------------------------------------------

    def step(self, model: ManagedModel) -> None:
        """Starts what the plan says is next for a model, unless it has been forgotten. Needs the lock."""
        if self.stopped or self._models.get(model.name) is not model:
            return
        self._cancel_queued(model)
        if any(record.loaded for record in model.versions.values()):
            self._swap(model)  # what it waited for may not be wanted any more
        self._short.discard(model.name)
        step = model.plan()
        if step.load and self._has_room(model, step.load):
            for version in step.load:
                self._begin_load(model, model.record(version))
        for version in step.unload:
            self._begin_unload(model, model.record(version))
        self._note(model)

    def _cancel_queued(self, model: ManagedModel) -> None:
        """Takes loads back that have not begun and are not of what is wanted by now. Needs the lock."""
        wanted = model.wanted
        for number, record in model.versions.items():
            if record.load is not None and record.tried != wanted.get(number) and self._loading.cancel(record.load):
                record.load, record.tried = None, record.serving

    def _note(self, model: ManagedModel) -> None:
        """Tells whoever waits how far a model is. Needs the lock."""
        short = model.name in self._short
        # What waits for a marker or the rest of an upload may wait for ever.
        due = model.unsettled == WRITTEN or model.loading or short or model.returning
        if due:
            self.busy.add(model.name)
        else:
            self.busy.discard(model.name)
        if model.waiters:
            over = not due or not model.admitted
            waiters, model.waiters = model.waiters, []
            for version, callback in waiters:
                if over or model.serving(version):
                    self.resume(model, callback)
                else:
                    model.waiters.append((version, callback))
        if model.empty and not short:
            self._models.pop(model.name, None)
            self._catalogue.drop(model.name)
        self.settle()
        self._lock.notify_all()

    def resume(self, model: ManagedModel, callback: Callable[[], None]) -> None:
        """Has a request go on that waited for a model, which does not count as idle until then. Needs the lock."""
        model.resuming += 1
        self._threads.workers.submit(self._resume, model, callback)

    def _resume(self, model: ManagedModel, callback: Callable[[], None]) -> None:
        try:
            callback()
        finally:
            with self._lock:
                model.resuming -= 1

    def wait(self, name: str, timeout: float | None) -> bool:
        """Waits until nothing of a model is on its way, or the server is stopped; needs the lock. False if that took
        longer than `timeout` seconds."""
        return self._lock.wait_for(lambda: name not in self.busy or self.stopped, timeout)

    def settle(self) -> None:
        """Says whether something is still loading. Needs the lock."""
        if self.busy:
            self.settled.clear()
        else:
            self.settled.set()

    # -- loading ---------------------------------------------------------------------------------------------

    def _begin_load(self, model: ManagedModel, record: VersionRecord) -> None:
        """Needs the lock."""
        assert model.source is not None
        record.tried = model.available[record.number]
        record.reason = ""
        urgent = bool(model.waiters) or model.serves
        done = partial(self._ended, model, record, model.source)
        record.load = self._loading.begin(model.source, record.number, done, urgent)

    def _ended(
        self,
        model: ManagedModel,
        record: VersionRecord,
        source: ModelSource,
        load: Load,
        result: Servable | BaseException,
    ) -> None:
        """Takes in what came of a load."""
        if isinstance(result, Servable):
            self._loaded(model, record, result)
        else:
            self._failed(model, record, source, result)
        self._changed()

    def _failed(self, model: ManagedModel, record: VersionRecord, source: ModelSource, error: BaseException) -> None:
        expected = isinstance(error, OperatorError)
        reason = str(error) if expected else f"{type(error).__name__}: {error}"
        what = f"model '{model.name}' version {record.number} failed to load: {reason}"
        logger.error("%s", what, exc_info=None if expected else error)
        with self._lock:
            record.load = None
            record.reason = reason
            self._registry.load_failed()
            if self.stopped:
                return  # what there is of the model is being closed
            if isinstance(error, FilesChanged):
                self._look_later(model, record, source, record.tried, RETRY)
            self._swap(model)
            self.step(model)

    def _look_later(
        self, model: ManagedModel, record: VersionRecord, source: ModelSource, tried: Revision, pause: float
    ) -> None:
        """Tries a version again whose files changed while it was loaded, once they are as they were: no scan may ever
        see that they were not."""

        def look() -> None:  # by a worker: the clock's thread must not wait for a disk
            self._threads.workers.submit(self._look_again, model, record, source, tried, pause)

        self._threads.alarms.set(time.monotonic() + pause, look)

    def _look_again(
        self, model: ManagedModel, record: VersionRecord, source: ModelSource, tried: Revision, pause: float
    ) -> None:
        unchanged = source.unchanged(record.number)
        with self._lock:
            if self.stopped or record.tried != tried or record.number not in model.failures:
                return  # it was changed for good, or is not wanted any more
            if not unchanged:
                self._look_later(model, record, source, tried, 2 * pause)
                return
            model.retry()
            self.step(model)
        self._changed()

    def _loaded(self, model: ManagedModel, record: VersionRecord, servable: Servable) -> None:
        with self._lock:
            stopped = self.stopped
            if not stopped:
                record.load, record.loaded = None, servable
                self._registry.loaded(servable.metrics.load_seconds)
                self._swap(model)
                self.step(model)
        if stopped:
            close_anyway(servable.close, servable.title)
        else:
            logger.info("%s is ready after %.2f s", servable.title, servable.metrics.load_seconds)

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
                self._registry.add(record.servable.metrics)
            else:
                retired.append(record.loaded)
                record.tried = record.serving
            record.loaded = None
        self.reconfigure(model)  # it may have changed since they began to load
        self.publish(model)
        for servable in retired:
            self._retire(servable, lambda: None)

    def publish(self, model: ManagedModel) -> None:
        """Publishes what is served of a model. Needs the lock."""
        if self.stopped:
            return
        served = {number: record.servable for number, record in model.versions.items() if record.servable is not None}
        revisions = {number: model.versions[number].serving for number in served}
        self._catalogue.publish(model.name, served, revisions, model.traffic)

    # -- unloading -------------------------------------------------------------------------------------------

    def _begin_unload(self, model: ManagedModel, record: VersionRecord) -> None:
        """Needs the lock."""
        servable = record.servable
        assert servable is not None
        record.servable, record.leaving = None, servable
        self.publish(model)
        self._retire(servable, partial(self._unloaded, model, record))

    def _retire(self, servable: Servable, then: Callable[[], None]) -> None:
        """Closes a servable that is not published any more, once its leases are back. Needs the lock."""
        self._retiring.add(servable)
        servable.retire(lambda: self._drained(servable, then))

    def _drained(self, servable: Servable, then: Callable[[], None]) -> None:
        """Called by whoever gave back the last lease, perhaps on the way to its next request."""
        self._threads.closers.submit(self._let_go, servable, then)

    def _let_go(self, servable: Servable, then: Callable[[], None]) -> None:
        with self._lock:
            if servable not in self._retiring:
                return  # the end of the server came first
            self._retiring.discard(servable)
        self._close(servable)
        self._registry.unloaded()
        self._reclaimer.unloaded()
        then()

    def _unloaded(self, model: ManagedModel, record: VersionRecord) -> None:
        with self._lock:
            record.leaving = record.serving = record.tried = None
            record.reason = UNLOADED
            model.take(model.source)
            self.step(model)
            short, self._short = self._short, set()
            for name in short & self._models.keys():
                self.step(self._models[name])
        logger.info("model '%s' version %d is unloaded", model.name, record.number)
        self._changed()

    def _close(self, servable: Servable) -> None:
        self._registry.remove(servable.metrics)
        close_anyway(servable.close, servable.title)

    # -- memory ----------------------------------------------------------------------------------------------

    def _watch_idle(self, model: ManagedModel) -> None:
        """Sees to it that a model that nobody uses is put to sleep. Needs the lock."""
        if model.idle_alarm is not None:
            self._threads.alarms.cancel(model.idle_alarm)
            model.idle_alarm = None
        limit = model.source.config.idle_unload_seconds if model.source else None
        if limit is not None and model.serves and not self.stopped:
            left = max(limit - model.idle_seconds, limit / 20)  # it may be idle for that long, and not quite at rest
            model.idle_alarm = self._threads.alarms.set(time.monotonic() + left, partial(self._look_idle, model, limit))

    def _look_idle(self, model: ManagedModel, limit: float) -> None:
        with self._lock:
            if model.idle_seconds < limit or model.loading:
                self._watch_idle(model)
                return
            logger.info("model '%s' was not used for %g s, and is unloaded until it is", model.name, limit)
            self.put_to_sleep(model)
        self._changed()

    def put_to_sleep(self, model: ManagedModel) -> None:
        """Needs the lock."""
        model.asleep = True
        self.step(model)

    def _has_room(self, model: ManagedModel, versions: Collection[int]) -> bool:
        """Whether versions may be loaded now, as far as memory goes. Others may have to go first, which then leads back
        here, or there may be no way; then the model says so. Needs the lock."""
        if self._budget is None:
            return True
        model.refusal = ""
        others = [other for other in self._models.values() if other is not model]
        need, beside = sum(map(model.size, versions)), model.tenant.size
        room = make_room(need, beside, self._budget, [other.tenant for other in others if other.resident])
        if room.free:
            return True
        asked_for = bool(model.waiters) or self._explicit or model.serves
        for name in room.evict if asked_for else ():
            logger.info("model '%s' is unloaded to make room for model '%s'", name, model.name)
            self.put_to_sleep(self._models[name])
        if model.unloading or any(other.unloading for other in others):
            self._short.add(model.name)  # and looked at again when they are gone
        elif room.never or model.serves:
            for record in map(model.record, versions):
                record.tried, record.reason = model.available[record.number], room.refusal
                self._registry.load_failed()
            logger.error("model '%s' is not loaded: %s", model.name, room.refusal)
            self.step(model)  # with what may be left to do without them
        else:
            model.asleep, model.refusal = True, room.refusal
        return False

    # -- the end ---------------------------------------------------------------------------------------------

    def stop(self, timeout: float) -> bool:
        """Unloads everything, waiting up to `timeout` seconds for leases and for loads. False if that was too short."""
        deadline = time.monotonic() + timeout
        with self._lock:
            self.stopped = True
            records = [record for model in self._models.values() for record in model.versions.values()]
            servables = {one for record in records for one in (record.servable, record.loaded) if one} | self._retiring
            self._retiring.clear()
            waiters = [callback for model in self._models.values() for _, callback in model.waiters]
            self._lock.notify_all()
        self._catalogue.clear()  # before what shadows have leases on is retired
        for callback in waiters:
            self._threads.workers.submit(callback)
        for servable in servables:
            servable.retire()
        drained = True
        for servable in servables:
            if servable.drained.wait(max(0.0, deadline - time.monotonic())):
                self._close(servable)
            else:
                drained = False
        return self._loading.stop(max(0.0, deadline - time.monotonic())) and drained
