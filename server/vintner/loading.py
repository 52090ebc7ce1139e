"""Loads versions in loader threads, and looks after those that take long.

Knows no other versions and no states. Invariant: of each load that has begun the caller is told once, with what was
opened or why it failed; what comes of a load that was given up is closed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Final

from vintner.alarms import Alarm
from vintner.backend import Backends, close_anyway
from vintner.core_shares import CoreShares, divide_cores
from vintner.errors import LoadError
from vintner.loaders import Load, Loaders
from vintner.model_config import ModelConfig
from vintner.model_source import ModelSource
from vintner.opening import open_servable
from vintner.response_cache import ResponseCache
from vintner.servable import Servable
from vintner.turns import Threads

logger = logging.getLogger(__name__)

FIRST_PROGRESS: Final = 10.0
"""Seconds after which the log says that a model is still loading; then after twice as long, and so on."""

LENT_AFTER: Final = 30.0
"""Seconds after which the place of a load goes to another model: it may hang."""

Done = Callable[[Load, Servable | BaseException], None]


class FilesChanged(LoadError):
    """What was loaded may be half of one thing and half of another."""


class Opener:
    """Opens versions, each with its part of the cores and of what models share."""

    def __init__(
        self,
        backends: Backends,
        threads: Threads,
        cores: int = 1,
        cache_dir: Path | None = None,
        cache: ResponseCache | None = None,
    ) -> None:
        self._backends = backends
        self._threads = threads
        self._cores = cores
        self._cache_dir = cache_dir
        self._cache = cache
        self._shares = CoreShares()

    def share(self, models: Mapping[str, tuple[ModelConfig, tuple[int, ...]]]) -> None:
        """Decides what each version that is opened from now on gets of the cores; all that are wanted are given."""
        shares = divide_cores(self._cores, models)
        if shares.cores and shares != self._shares:
            parts = [f"{name} version {version}: {cores}" for (name, version), cores in shares.cores.items()]
            turns = ", which more versions than cores use in turns" if shares.in_turns else ""
            logger.info("%d cores by weight%s: %s", self._cores, turns, ", ".join(parts))
        self._shares = shares

    def open(self, source: ModelSource, version: int) -> Servable:
        """A version whose files nobody changed meanwhile: what was read of others may be anything.

        Raises FilesChanged, or as `open_servable`.
        """
        try:
            servable = self._open(source, version)
        except Exception as exc:
            if source.unchanged(version):
                raise
            raise FilesChanged(f"its files changed while it was loaded: {exc}") from exc
        if source.unchanged(version):
            return servable
        close_anyway(servable.close, servable.title)
        raise FilesChanged("its files changed while it was loaded")

    def _open(self, source: ModelSource, version: int) -> Servable:
        shares = self._shares
        cores = shares.cores.get((source.name, version), self._cores)
        claim = shares.claim(source.name, version, source.config)
        servable = open_servable(
            source, version, self._backends, cores, self._cache_dir, self._threads, self._cache, claim
        )
        if source.config.response_cache and not servable.caches:
            logger.warning(
                "%s: response_cache has no effect, for the server has no memory for it (--response-cache-bytes 0)",
                servable.title,
            )
        return servable


class Loading:
    """The loads of a server."""

    def __init__(self, opener: Opener, loaders: Loaders, threads: Threads) -> None:
        self._opener = opener
        self._loaders = loaders
        self._alarms = threads.alarms
        self._lock = Lock()
        self._under_way: dict[Load, Alarm | None] = {}  # with the alarm by which it is looked after

    def begin(self, source: ModelSource, version: int, done: Done, urgent: bool = False) -> Load:
        """Queues a load, an urgent one before the others. `done` is called with it from a thread that may wait."""
        source = replace(source, versions={**source.available, **source.versions})  # one that is pinned is available
        return self._loaders.submit(partial(self._run, source, version, done), urgent)

    def cancel(self, load: Load) -> bool:
        """Takes back a load that has not begun, of which nothing is told then. False if it has."""
        return self._loaders.cancel(load)

    def stop(self, timeout: float) -> bool:
        """Begins no more, and waits for what runs. False if that took longer than `timeout` seconds."""
        return self._loaders.stop(timeout)

    def _run(self, source: ModelSource, version: int, done: Done, load: Load) -> None:
        with self._lock:
            self._under_way[load] = None
        self._watch(source, version, done, load, FIRST_PROGRESS)
        result: Servable | BaseException
        try:
            result = self._opener.open(source, version)
            result.metrics.load_seconds = load.seconds(time.monotonic())
            result.metrics.size = source.size(version)
        except BaseException as exc:
            result = exc
        if self._end(load):
            done(load, result)
        elif isinstance(result, Servable):
            about = {"model": source.name, "version": version}
            logger.info("%s is closed, for its load was given up", result.title, extra=about)
            close_anyway(result.close, result.title)
        del result  # an error knows this frame: a circle, which would keep the files of an upload that failed

    def _end(self, load: Load) -> bool:
        """True for the first who calls it."""
        with self._lock:
            first = load in self._under_way
            alarm = self._under_way.pop(load, None)
        if alarm is not None:
            self._alarms.cancel(alarm)  # which holds the source, and so the files of an upload
        return first

    def _watch(self, source: ModelSource, version: int, done: Done, load: Load, pause: float) -> None:
        """Looks after a load when it has lasted for `pause` seconds, or when its time is over."""
        assert load.started is not None
        limit = source.config.load_timeout_seconds
        after = pause if limit is None else min(pause, limit)
        with self._lock:
            if load in self._under_way:
                look = partial(self._look, source, version, done, load, pause)
                self._under_way[load] = self._alarms.set(load.started + after, look)

    def _look(self, source: ModelSource, version: int, done: Done, load: Load, pause: float) -> None:
        """Gives a load up, or lends its place and says that it goes on."""
        seconds, limit = load.seconds(time.monotonic()), source.config.load_timeout_seconds
        if load not in self._under_way:
            return
        if limit is not None and seconds >= limit:
            self._loaders.give_up(load)
            if self._end(load):
                done(load, LoadError(f"it was not loaded within {limit:g} s and is given up"))
            return
        if seconds >= LENT_AFTER:
            self._loaders.lend(load)
        about = {"model": source.name, "version": version, "seconds": round(seconds, 3)}
        logger.info("model '%s' version %d has been loading for %.0f s", source.name, version, seconds, extra=about)
        self._watch(source, version, done, load, 2 * pause)
