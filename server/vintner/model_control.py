"""Loading and unloading that somebody asks for: what is allowed in which mode, and what is to be loaded.

Knows neither the protocols nor how a version is loaded. Invariant: a request is understood and allowed as a whole
before anything is done about it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from threading import Semaphore
from typing import Final, Literal, Protocol

from vintner.control_parameters import LoadParameters, Value, read_load, read_unload
from vintner.errors import (
    ConfigError,
    InvalidArgument,
    ModelNotReady,
    PermissionDenied,
    QueueFull,
    Unavailable,
)
from vintner.model_config import TrafficConfig, parse_traffic
from vintner.model_source import ModelSource, Scan, not_in_repository
from vintner.overrides import read_config, reconfigured, uploaded
from vintner.repository import check_model_name
from vintner.uploads import Uploads

logger = logging.getLogger(__name__)

ControlMode = Literal["none", "poll", "explicit"]
"""Who decides what is loaded: the repository as it is at the start, or as it becomes, or the clients."""

MOST_CALLS: Final = 16
"""Calls that may wait for a load at once: half of the threads that are there for more than inferences."""

NOT_EXPLICIT: Final = "explicit model load / unload is not allowed if polling is enabled"


class Models(Protocol):
    """What has to be done to models; the manager does it."""

    def load(self, name: str, source: ModelSource | None = None) -> None: ...
    def unload(self, name: str) -> None: ...
    def pin(self, name: str, version: int | None) -> None: ...
    def direct(self, name: str, traffic: TrafficConfig | None) -> None: ...


class ModelControl:
    """The operations, for any number of threads; each blocks until its models are settled."""

    def __init__(
        self,
        models: Models,
        mode: ControlMode = "poll",
        refresh: Callable[[], Scan] | None = None,
        uploads: Uploads | None = None,
    ) -> None:
        """`refresh` reads the repository anew, for the manager too; without `uploads` nobody may upload."""
        self._models = models
        self._refresh = refresh
        self._uploads = uploads
        self._calls = Semaphore(MOST_CALLS)
        self.explicit = mode == "explicit"

    @contextmanager
    def one_call(self) -> Iterator[None]:
        """Bounds the threads, and the uploads in memory, that loading takes. Raises QueueFull."""
        if not self._calls.acquire(blocking=False):
            raise QueueFull(f"Exceeds maximum queue size: {MOST_CALLS} loads and unloads are under way already")
        try:
            yield
        finally:
            self._calls.release()

    def load(self, name: str, parameters: Mapping[str, Value]) -> None:
        """Loads a model, or says which of its versions answers; decisions are the parameters'.

        Raises InvalidArgument for parameters that are wrong, and for a model that cannot be loaded; NotFound for one
        that nobody has; Unavailable where the mode does not let it; PermissionDenied for files that are not allowed.
        """
        _check_name(name)
        asked = read_load(parameters)
        traffic = parse_traffic(asked.traffic) if asked.traffic else None
        if asked.loads:
            self._check_explicit()
            self._models.load(name, self._source(name, asked))
        if asked.pin_version is not None:
            self._models.pin(name, asked.pin_version or None)
        if asked.traffic is not None:
            self._models.direct(name, traffic)

    def unload(self, name: str, parameters: Mapping[str, Value]) -> None:
        """Unloads a model; one that is unknown is as good as unloaded. Raises as `load`."""
        _check_name(name)
        read_unload(parameters)
        self._check_explicit()
        self._models.unload(name)

    def _check_explicit(self) -> None:
        if not self.explicit:
            raise Unavailable(NOT_EXPLICIT)

    def _source(self, name: str, asked: LoadParameters) -> ModelSource | None:
        """What is to be loaded; None: what the repository has."""
        if asked.config is None:
            self._scan()
            return None
        config = read_config(asked.config, name)
        if not asked.files:
            return reconfigured(_found(name, self._scan()), config)
        if self._uploads is None:
            raise PermissionDenied("model upload is disabled; start the server with --allow-model-upload to enable it")
        return uploaded(name, config, self._uploads.keep(asked.files))

    def _scan(self) -> Scan:
        assert self._refresh is not None
        try:
            return self._refresh()
        except ConfigError as exc:
            logger.error("a load failed: %s", exc)
            raise Unavailable("the model repository cannot be read; the server's log has the details") from exc


def _found(name: str, scan: Scan) -> ModelSource:
    if name in scan.unsettled:
        raise ModelNotReady(f"model '{name}' is not loaded yet: {scan.unsettled[name]}")
    if name in scan.faults:
        raise InvalidArgument(f"load failed for model '{name}': {scan.faults[name]}")
    if name not in scan.models:
        raise not_in_repository(name)
    return scan.models[name]


def _check_name(name: str) -> None:
    if not name.strip():
        raise InvalidArgument("Model name cannot be empty")
    try:
        check_model_name(name)
    except ConfigError as exc:
        raise InvalidArgument(str(exc)) from exc
