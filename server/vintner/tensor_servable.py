"""One loaded version of a model from tensors to tensors: checks a request against its signature, runs it, and names
the results.

Invariant: a request that was admitted has exactly the model's inputs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping, Sequence

from vintner.backend import LoadedModel
from vintner.batcher import Batching
from vintner.batching import QueueLimits
from vintner.call import Arrays, Call, Result
from vintner.decoupled import is_decoupled, let_generate
from vintner.errors import BackendError, InvalidArgument, LoadError, Unsupported
from vintner.labels import Labels
from vintner.model_config import BatchingConfig, ModelConfig
from vintner.model_metrics import PoolState
from vintner.pools import Pool
from vintner.queue_policy import QueuePolicy, queue_limits
from vintner.ragged import boxed
from vintner.rate_limiter import Claim
from vintner.response_cache import CacheShare, ResponseCache
from vintner.scheduler import Health, Scheduler
from vintner.servable import Servable
from vintner.signature import Signature
from vintner.timing import Timing, asks
from vintner.turns import Threads, Turn
from vintner.types import Array, Request, Response

DERIVED_BATCH_ROWS = 64
"""Rows that are stacked at most where the configuration sets no `max_batch_size`."""


class TensorServable(Servable):
    """Its requests are run by a scheduler, in batches."""

    def __init__(
        self,
        name: str,
        version: int,
        model: LoadedModel,
        config: ModelConfig,
        threads: Threads | None = None,
        backend: str = "",
        pools: Sequence[Pool] = (),
        cache: ResponseCache | None = None,
        claim: Claim | None = None,
        labels: Labels | None = None,
    ) -> None:
        """Takes ownership of the model and of its pools, of which the first is the model itself. `labels` are of the
        outputs by their served names.

        Raises LoadError if the configuration contradicts it.
        """
        self._signature = Signature(name, model, config)
        signature = self._signature
        super().__init__(name, version, model.platform, config, backend, signature.inputs, signature.outputs, labels)
        self.decoupled = is_decoupled(model)
        self._row_limit = config.batching.row_limit
        self._batched = self._signature.has_batch_dimension and not self.decoupled
        self._ragged = [own for own, given in config.inputs.items() if given.ragged]
        self._one_signature = all(-1 not in spec.shape[1:] for spec in self.inputs)
        batching, limits, health = self._scheduling(config)
        self._scheduler = Scheduler(
            pools or [Pool(model.instances, config.device, model.close)],
            batching=batching,
            limits=limits,
            metrics=self.metrics.scheduler,
            threads=threads,
            health=health,
            claim=claim,
            name=self.title,
        )
        self._responses = cache
        self._share: CacheShare | None = None
        self._admit(config)

    def _take_on(self, config: ModelConfig) -> None:
        self._scheduler.reconfigure(*self._scheduling(config))
        self._admit(config)
        if self._share is not None and self._cache is None:
            self._share.close()  # what runs may keep its answer even so; that is let go of at the end, if not before

    def _scheduling(self, config: ModelConfig) -> tuple[Batching, QueueLimits, Health]:
        """Raises LoadError if the model cannot be batched as the configuration demands."""
        health = Health(config.reopen_after_failures, config.execution_timeout_seconds)
        return _batching(config.batching, self._max_rows(config)), queue_limits(config.queue), health

    def _admit(self, config: ModelConfig) -> None:
        """Sets what becomes of requests that come from now on, before they are queued."""
        self._refused_from = self._largest(config.batching)
        self._policy = QueuePolicy(config.queue)
        if config.response_cache and self._share is None and self._responses is not None:
            self._share = self._responses.share(self.metrics.cache)
        self._cache = self._share if config.response_cache and not self.decoupled else None
        self.metrics.cached = self.caches
        self.metrics.tag(config.metric_tags)

    @property
    def max_rows(self) -> int:
        return self._scheduler.max_rows

    @property
    def pools(self) -> Sequence[PoolState]:
        return self._scheduler.pools

    @property
    def faults(self) -> str:
        return self._scheduler.faults

    @property
    def remarks(self) -> str:
        unbatched = self._scheduler.unbatched
        return "; ".join(filter(None, (self.faults, unbatched and f"served unbatched: {unbatched}")))

    @property
    def down(self) -> bool:
        return self._scheduler.down

    @property
    def has_rows(self) -> bool:
        return self._signature.has_batch_dimension and not self._scheduler.unbatched

    @property
    def caches(self) -> bool:
        return self._cache is not None

    def _max_rows(self, config: ModelConfig) -> int:
        if self._row_limit is not None and not self._batched:
            shapes = ", ".join(f"{spec.name} {list(spec.shape)}" for spec in (*self.inputs, *self.outputs))
            raise LoadError(f"max_batch_size needs a dynamic first dimension in every tensor; the model has {shapes}")
        if not self._batched or not config.batching.enabled:
            return 1
        return self._row_limit or DERIVED_BATCH_ROWS

    def _largest(self, config: BatchingConfig) -> int | None:
        """Rows above which a request is refused."""
        refuses = config.larger_requests or ("refuse" if self._row_limit is not None else "run_alone")
        return (self._row_limit or DERIVED_BATCH_ROWS) if refuses == "refuse" and self._batched else None

    def _gauges(self) -> Mapping[str, float]:
        requests, size = self._scheduler.queued
        return {
            "queue_requests": requests,
            "queue_bytes": size,
            "queue_oldest": self._scheduler.longest_wait,
            "waiting": self._scheduler.awaiting_resources,
        }

    def serve_unbatched(self, reason: str) -> None:
        self._scheduler.serve_unbatched(reason)

    def _when_idle(self, callback: Callable[[], None]) -> None:
        self._scheduler.when_idle(callback)

    def close(self) -> None:
        self._scheduler.close()
        if self._share is not None:
            self._share.close()

    # -- inference -------------------------------------------------------------------------------------------

    def submit(self, request: Request, reply: Callable[[Response | Exception], None]) -> Turn | None:
        """An answer that is in the cache is given before this returns. Raises as `Scheduler.submit` does, too."""
        if request.asked is not None:
            raise InvalidArgument(f"model '{self.name}' is not a language model: it takes tensors")
        respond = request.on_response
        if self.decoupled and respond is None:
            raise Unsupported(
                f"one answer to a request doesn't support models with decoupled transaction policy, such as"
                f" '{self.name}'; use ModelStreamInfer, generate or generate_stream"
            )
        # A decoupled model's answer ends the request, and is empty.
        names = self._signature.requested(request) if not self.decoupled else ()
        identity = request.id
        timing = Timing(time.monotonic()) if request.parameters and asks(request.parameters) else None
        if timing is not None:
            reply = _timed(reply, timing)
        if request.visit is not None:
            timing = request.visit.timing = timing or Timing(time.monotonic())

        def done(result: Result) -> None:
            reply(result if isinstance(result, Exception) else self._response(identity, names, result))

        call = self._call(request, done)
        if respond is not None and self.decoupled:
            let_generate(call, request.parameters, self._responding(request, respond), self.metrics.responses)
        call.timing = timing
        cache = self._cache
        if cache is not None:
            key, outputs = cache.find(request, names)
            if outputs is not None:
                reply(Response(self.name, self.version, outputs, identity))
                return None
            reply = cache.keeping(key, reply)
        return self._scheduler.submit(call)

    def _response(self, identity: str, names: Sequence[str], outputs: Mapping[str, Array]) -> Response | Exception:
        """The outputs that were asked for, under the names that they are served by; an error if one is not there."""
        try:
            results = self._signature.results(names, outputs)
        except Exception as exc:
            return BackendError(f"the backend did not return the outputs of model '{self.name}': {exc!r}")
        return Response(self.name, self.version, results, identity)

    def _responding(self, request: Request, respond: Callable[[Response], None]) -> Callable[[Arrays], None]:
        """What takes a decoupled model's responses in its own names."""
        names = self._signature.requested(request)

        def take(outputs: Arrays) -> None:
            respond(Response(self.name, self.version, self._signature.some_results(names, outputs), request.id))

        return take

    def _call(self, request: Request, done: Callable[[Result], None]) -> Call:
        """The request in the model's own names, with what the scheduler needs to stack it."""
        arrays, size = self._signature.arrays(request.inputs)
        for own in self._ragged:
            arrays[own] = boxed(arrays[own])
        rows = self._rows(arrays) if self._batched else 1
        place = self._policy.place(request.parameters) if request.parameters else self._policy.usual
        return Call(
            arrays,
            rows,
            size,
            self._stackable(arrays),
            request.deadline,
            request.cancellation,
            done=done,
            level=place.level,
            timeout=None if place.timeout is None else time.monotonic() + place.timeout,
            postpones=place.postpones,
        )

    def _rows(self, arrays: Mapping[str, Array]) -> int:
        extents = {array.shape[0] for array in arrays.values()}
        rows: int = max(extents) if len(extents) > 1 else next(iter(extents))
        if self._row_limit is not None and len(extents) > 1:
            raise self._uneven(arrays)
        most = self._refused_from
        if most is not None and rows > most:
            raise InvalidArgument(f"inference request batch-size must be <= {most} for '{self.name}', got {rows}")
        return rows

    def _uneven(self, arrays: Mapping[str, Array]) -> InvalidArgument:
        rows = [array.shape[0] for array in arrays.values()]
        odd = next(spec.name for spec, extent in zip(self.inputs, rows, strict=True) if extent != rows[0])
        return InvalidArgument(
            f"input '{odd}' batch size does not match other inputs for '{self.name}': the inputs have {rows} rows"
        )

    def _stackable(self, arrays: Mapping[str, Array]) -> Hashable:
        """Requests with equal signatures can be stacked: equal shapes but for the batch, the same batch in each."""
        if self._one_signature and len(arrays) == 1:
            return None
        shapes = [array.shape for array in arrays.values()]
        uneven = len({shape[:1] for shape in shapes}) > 1
        # With different first extents it is not the batch that comes first: such a request is stacked with none.
        return object() if uneven else tuple(shape[1:] for shape in shapes)


def _timed(reply: Callable[[Response | Exception], None], timing: Timing) -> Callable[[Response | Exception], None]:
    """The reply that tells the response of its timing before it passes it on."""

    def tell(result: Response | Exception) -> None:
        if isinstance(result, Response):
            result.parameters = timing.parameters(time.monotonic())
        reply(result)

    return tell


def _batching(config: BatchingConfig, max_rows: int) -> Batching:
    return Batching(
        max_rows,
        config.preferred_batch_sizes,
        config.max_queue_delay_seconds,
        config.preserve_order,
        config.retry_failed,
    )
