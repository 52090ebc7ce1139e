"""What the server can do, whatever protocol asks: both front ends call only this.

Knows neither gRPC nor HTTP. What is asked about models, and what changes them, is here; `submit`, `infer`, `reject` and
`refuse_waiting` are those of `Inferences`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from threading import BoundedSemaphore, Event
from typing import Any

from vintner import __version__, ovms_view, statistics, trace_settings, triton_view
from vintner.control_parameters import Value
from vintner.errors import InvalidArgument, ModelNotReady, Unsupported, VintnerError
from vintner.inferences import Inferences, leased
from vintner.log_settings import LogSettings, Setting
from vintner.managed_model import IndexEntry
from vintner.manager import AwaitLoad, Manager
from vintner.model_control import ModelControl
from vintner.parking import PATIENCE
from vintner.prompts import Language
from vintner.reloading import Refresh, Reloading
from vintner.servable import Servable
from vintner.shared_memory import Regions
from vintner.types import TensorSpec

SERVER_NAME = "vintner"
EXTENSIONS = (
    "binary_tensor_data",
    "parameters",
    "statistics",
    "model_configuration",
    "schedule_policy",
    "classification",
    "logging",
)
"""Triton's tokens for what works here, and no others."""
CONTROL_EXTENSIONS = ("model_repository", "model_repository(unload_dependents)")
"""The same, for where clients may load and unload."""
SHARED_MEMORY_EXTENSION = "system_shared_memory"
"""The same, for where clients may register regions."""

MOST_STREAMS = 256
"""Streams that are open at the same time over one protocol: each keeps threads of its front end, even if it is idle, or
if its client takes nothing."""

CONTROL_THREADS = 32
"""Threads that a front end has beyond those that inferences can occupy, so that a health check always finds one. Half
of them may load and unload, a quarter wait for models to be loaded, an eighth read other bodies: some are left."""


@dataclass(frozen=True, slots=True)
class ServerMetadata:
    name: str
    version: str
    extensions: Sequence[str]


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    """`versions` are the ready ones, or the one that was asked for; `version` is the one that the rest is of."""

    name: str
    version: str
    versions: Sequence[str]
    platform: str
    inputs: Sequence[TensorSpec]
    outputs: Sequence[TensorSpec]


class Service:
    """The operations of KServe v2. Threads: any."""

    def __init__(
        self,
        manager: Manager,
        *,
        strict_readiness: bool = True,
        max_concurrent_requests: int = 256,
        control: ModelControl | None = None,
        refresh: Refresh | None = None,
        request_timeout: float = 0.0,
        regions: Regions | None = None,
        log_settings: LogSettings | None = None,
    ) -> None:
        """Without `refresh` nothing can be reloaded, without `regions` clients may not use shared memory, without
        `log_settings` there are none. `request_timeout` is in seconds; 0 sets no bound."""
        self.regions = regions or Regions()
        self._inferences = Inferences(manager, max_concurrent_requests, request_timeout)
        self.submit = self._inferences.submit
        self.infer = self._inferences.infer
        self.reject = self._inferences.reject
        self.refuse_waiting = self._inferences.refuse_waiting
        self._manager = manager
        self._control = control or ModelControl(manager)
        self._reloading = Reloading(manager, refresh) if refresh is not None else None
        self._log_settings = log_settings
        self._strict = strict_readiness
        self._stopping = False
        manager.registry.ready = lambda: self.ready
        self.started = time.time()
        self._places = BoundedSemaphore(CONTROL_THREADS // 4)

    # -- health ----------------------------------------------------------------------------------------------

    def live(self) -> bool:
        return True

    def readiness(self) -> list[str]:
        """Why the server is not ready; empty if it is."""
        if self._stopping:
            return ["the server is stopping"]
        return sorted(self._manager.holdups(self._strict))

    @property
    def ready(self) -> bool:
        """Whether `readiness` has nothing to say, which is quicker to find out."""
        return not self._stopping and next(self._manager.holdups(self._strict), None) is None

    def announce_stop(self) -> None:
        """Turns readiness false. Requests are still served."""
        self._stopping = True

    def check_model(self, name: str, version: str = "", protocol: str | None = None) -> None:
        """Raises NotFound for an unknown model or version, ModelNotReady with the reason for one that is not ready.

        One that is loaded when it is asked for is ready, though it sleeps. With a `protocol` it counts as a question.
        """
        try:
            servable = self._lease(name, version)
        except AwaitLoad:
            return
        servable.release()
        if protocol is not None:
            servable.metrics.asked("ModelReady", protocol, not servable.down)
        if servable.down:
            raise ModelNotReady(f"model '{name}' has no instance in service: {servable.faults}")

    # -- metadata --------------------------------------------------------------------------------------------

    def server_metadata(self) -> ServerMetadata:
        more = CONTROL_EXTENSIONS if self._control.explicit else ()
        memory = (SHARED_MEMORY_EXTENSION,) if self.regions.allowed else ()
        return ServerMetadata(SERVER_NAME, __version__, (*EXTENSIONS, *more, *memory))

    def model_metadata(self, name: str, version: str = "", protocol: str | None = None) -> ModelMetadata:
        """Raises, and counts, as `check_model`."""
        servable = self._awaited(name, version)
        try:
            if protocol is not None:
                servable.metrics.asked("ModelMetadata", protocol, True)
            versions = [servable.version] if version else self._manager.ready_versions(name)
            return ModelMetadata(name, servable.version, versions, servable.platform, servable.inputs, servable.outputs)
        finally:
            servable.release()

    def statistics(self, name: str = "", version: str = "") -> dict[str, Any]:
        """Triton's document, of one model, one version of it, or all that are ready. Raises as `check_model`."""
        if name or version:
            self.check_model(name, version)
        servables = [one for one in self._manager.ready(name) if version in ("", one.version)]
        return statistics.document([one.metrics for one in servables])

    def model_config(self, name: str, version: str = "") -> dict[str, Any]:
        """Triton's ModelConfig of a loaded version, as a document. Raises as `check_model`."""
        servable = self._awaited(name, version)
        try:
            return triton_view.as_json(triton_view.model_config(servable))
        finally:
            servable.release()

    @contextmanager
    def language(self, name: str) -> Iterator[Language]:
        """What a loaded language model is, which stays so long. Raises as `check_model`, and InvalidArgument for a
        model of another kind."""
        servable = self._awaited(name, "")
        try:
            if servable.language is None:
                raise InvalidArgument(f"model '{name}' does not generate text", "model")
            yield servable.language
        finally:
            servable.release()

    def adapters(self, name: str) -> Sequence[str]:
        """The adapters of a language model, in order; none of a model that is not loaded."""
        try:
            servable = self._lease(name, "")
        except Exception:
            return ()
        servable.release()
        return sorted(servable.language.adapters) if servable.language is not None else ()

    def row_limit(self, name: str) -> int | None:
        """Rows above which requests to a model are refused, if its configuration says so; None for an unknown one."""
        return self._manager.row_limit(name)

    def repository_index(self, ready_only: bool = False) -> list[IndexEntry]:
        return [entry for entry in self._manager.index() if not ready_only or entry.state == "READY"]

    def one_control_call(self) -> AbstractContextManager[None]:
        """What a front end is in from where it reads a load or an unload on; raises QueueFull beyond a few of them."""
        return self._control.one_call()

    def load_model(self, name: str, parameters: Mapping[str, Value]) -> None:
        """Blocks until the model is loaded. Raises as `ModelControl.load`."""
        self._control.load(name, parameters)

    def unload_model(self, name: str, parameters: Mapping[str, Value]) -> None:
        """Blocks until the model is unloaded. Raises as `ModelControl.unload`."""
        self._control.unload(name, parameters)

    def version_states(self) -> dict[str, Any]:
        """OpenVINO Model Server's document, of every version that is known."""
        return ovms_view.document(self._manager.index())

    def model_states(self, name: str, version: str = "") -> dict[str, Any]:
        """The same of one model, or of one version of it: TensorFlow Serving's model status.

        Raises NotFound for a model or a version that is not known, InvalidArgument for a version that can be none.
        """
        entries = [entry for entry in self._manager.index(name) if version in ("", entry.version)]
        if not entries:
            self.check_model(name, version)
        return {"model_version_status": [], **ovms_view.document(entries).get(name, {})}

    def models_ready(self) -> list[str]:
        """The models that answer requests, in order; also those that are loaded for it."""
        return [name for name in dict.fromkeys(entry.name for entry in self._manager.index()) if self._answers(name)]

    def _answers(self, name: str) -> bool:
        try:
            self.check_model(name)
        except VintnerError:
            return False
        return True

    def version_of(self, name: str, label: str) -> str:
        """The version that has a label in its model's configuration. Raises NotFound."""
        return self._manager.labelled(name, label)

    def reload(self) -> bool:
        """Looks again at what is wanted and waits for it; whether anything changed. Raises as `Reloading.reload`."""
        if self._reloading is None:
            raise Unsupported("reloading is not allowed on this server")
        return self._reloading.reload()

    def log_settings(self, changes: Mapping[str, object]) -> Mapping[str, Setting]:
        """Triton's log settings, once these have been changed. Raises as `LogSettings.update`."""
        if self._log_settings is None:
            raise Unsupported("what is logged cannot be changed on this server")
        return self._log_settings.update(changes)

    def trace_settings(
        self, changes: Mapping[str, Sequence[str]], name: str = "", version: str = ""
    ) -> Mapping[str, Sequence[str]]:
        """Triton's trace settings, of a model or of all. Raises NotFound, or as `trace_settings.update`."""
        if name:
            with suppress(ModelNotReady):
                self.check_model(name, version)
        return trace_settings.update(changes)

    def metrics(self) -> bytes:
        """The Prometheus text."""
        return self._manager.registry.render()

    def is_decoupled(self, name: str, version: str) -> bool:
        """Whether a model may give several responses to a request; False for one that is not loaded."""
        try:
            servable = self._lease(name, version)
        except Exception:
            return False
        servable.release()
        return servable.decoupled

    def _lease(self, name: str, version: str) -> Servable:
        return leased(self._manager, name, version)

    def _awaited(self, name: str, version: str) -> Servable:
        """As `_lease`, but of a model that is yet to be loaded once that is done. Blocks."""
        try:
            return self._lease(name, version)
        except AwaitLoad:
            pass
        if not self._places.acquire(blocking=False):
            raise ModelNotReady(f"model '{name}' is not loaded, and too many calls wait for models already")
        try:
            loaded = Event()
            self._manager.wake(name, loaded.set, version)
            loaded.wait(PATIENCE)
        finally:
            self._places.release()
        return self._lease(name, version)
