"""One loaded version of a model, whatever it is a model of: its life, and what is known of it.

Knows neither tensors nor schedulers; the kinds of it do. Invariant: after `retire` no lease is given any more, and
`drained` is set once the last one has come back and nothing runs.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from threading import Event, Lock

from vintner.labels import Labels
from vintner.model_config import ModelConfig
from vintner.model_metrics import ModelMetrics, PoolState
from vintner.prompts import Language
from vintner.turns import Turn
from vintner.types import Request, Response, TensorSpec


class Servable(ABC):
    """A model version that answers requests. Threads: any, at any time."""

    decoupled = False
    """Whether it may give any number of responses to a request."""
    language: Language | None = None
    """What front ends need to know of a language model; None of any other."""

    def __init__(
        self,
        name: str,
        version: int,
        platform: str,
        config: ModelConfig,
        backend: str,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        labels: Labels | None = None,
    ) -> None:
        """`labels` are of the outputs by their served names."""
        self.name = name
        self.version = str(version)
        self.platform = platform
        self.backend = backend
        self.config = config
        self.labels = labels or {}
        self.inputs = inputs
        self.optional_inputs: Sequence[TensorSpec] = ()
        """Inputs that a request may leave out, and that metadata does not show."""
        self.outputs = outputs
        self.metrics = ModelMetrics(name, self.version, self._all_gauges, lambda: self.pools)
        self._lock = Lock()
        self._leases = 0
        self._retired = False
        self._then: Callable[[], None] | None = None
        self._opened = time.time()
        self.drained = Event()

    @property
    def title(self) -> str:
        """For the log."""
        return f"model '{self.name}' version {self.version}"

    def reconfigure(self, config: ModelConfig) -> None:
        """Takes on another configuration while requests wait and run, none of which is refused for it or moved.

        Raises ValueError for one that needs a load: `loading` must be what it was. Not to be called by two threads at a
        time.
        """
        if config.loading != self.config.loading:
            raise ValueError(f"model '{self.name}' has to be loaded anew for this configuration")
        self._take_on(config)
        self.config = config

    @abstractmethod
    def _take_on(self, config: ModelConfig) -> None:
        """As `reconfigure`, for what the kind knows."""

    # -- how it is -------------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def pools(self) -> Sequence[PoolState]: ...

    @property
    @abstractmethod
    def faults(self) -> str:
        """Why instances are out of service; empty if none is."""

    @property
    @abstractmethod
    def down(self) -> bool:
        """Whether no instance is in service."""

    @property
    def remarks(self) -> str:
        """What an operator should know of a version that is served; empty if all is well."""
        return self.faults

    @property
    def max_rows(self) -> int:
        """Rows of a batch, at most; 1 if nothing is stacked."""
        return 1

    @property
    def has_rows(self) -> bool:
        """Whether the first dimension of each of its tensors is the batch."""
        return False

    @property
    def caches(self) -> bool:
        """Whether answers are kept for requests that come again."""
        return False

    def serve_unbatched(self, reason: str) -> None:  # noqa: B027 - most kinds stack nothing anyway
        """For a model whose outputs turned out not to have the batch in front."""

    def _all_gauges(self) -> Mapping[str, float]:
        return {"in_flight": self._leases, **self._gauges()}

    @abstractmethod
    def _gauges(self) -> Mapping[str, float]:
        """`queue_requests`, `queue_bytes` and `waiting`, as the metrics have them."""

    @property
    def idle_seconds(self) -> float:
        """For how long it has answered nothing; 0 while somebody has a lease."""
        if self._leases:
            return 0.0
        return max(0.0, time.time() - max(self._opened, self._last_used))

    @property
    def _last_used(self) -> float:
        """Seconds since the epoch."""
        return max(self.metrics.scheduler.last, self.metrics.cache.last)

    # -- life ------------------------------------------------------------------------------------------------

    def acquire(self) -> bool:
        """Takes a lease, which keeps the version loaded until `release`. False if it has been retired."""
        with self._lock:
            if self._retired:
                return False
            self._leases += 1
            return True

    def release(self) -> None:
        with self._lock:
            self._leases -= 1
            last = self._retired and not self._leases
        if last:
            self._when_idle(self._drain)

    def retire(self, then: Callable[[], None] | None = None) -> None:
        """Gives out no more leases; when the last one has come back, and no instance runs, `drained` is set and `then`
        is called, from any thread.

        An instance may outlast the leases: a request whose deadline passes while it runs is answered then.
        """
        with self._lock:
            self._retired = True
            self._then = then or self._then
            last = not self._leases
        if last:
            self._when_idle(self._drain)

    @abstractmethod
    def _when_idle(self, callback: Callable[[], None]) -> None:
        """Has the callback called, from any thread, once nothing runs; perhaps more than once."""

    def _drain(self) -> None:
        with self._lock:
            then, self._then = self._then, None
        self.drained.set()
        if then is not None:
            then()

    def cut_short(self) -> None:  # noqa: B027 - most kinds have to finish what they have begun
        """Answers what runs with Stopping, where that can be done: the server is about to end."""

    @abstractmethod
    def close(self) -> None:
        """Unloads the model. To be called once, when drained."""

    # -- inference -------------------------------------------------------------------------------------------

    @abstractmethod
    def submit(self, request: Request, reply: Callable[[Response | Exception], None]) -> Turn | None:
        """Validates and queues a request; `reply` is called with its response, once, from any thread.

        Returns a turn that the caller has to run soon, if any. Raises InvalidArgument, or what says that nothing can be
        queued, and then `reply` is not called.
        """
