"""What is counted, and its Prometheus text.

The hot path adds to plain integers and floats; label children are bound when a model is loaded, and the metric
families are built from them only when somebody scrapes. Label values come from the registry of loaded models, never
from what a client sent.

Invariant: a series lives as long as its model version is loaded, and never goes down while it does.
"""

from __future__ import annotations

import platform
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from threading import Lock
from typing import Final, Literal, Protocol, get_args

from vintner import __version__
from vintner.batching import Reason
from vintner.exposition import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    MetricFamily,
    exposition,
    label_pairs,
)
from vintner.response_metrics import ResponseMetrics

SECONDS: Final = (
    50e-6, 100e-6, 250e-6, 500e-6,
    1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 250e-3, 500e-3,
    1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip
"""Upper bounds of the latency buckets: 50 microseconds to a minute."""

ROWS: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)
"""Upper bounds of the batch size buckets."""

MOST_SIZES: Final = 256
"""Batch sizes that are counted apart: clients choose them."""

CUT_REASONS: Final[Sequence[Reason]] = get_args(Reason)

OUTCOMES: Final = (
    "ok", "invalid_argument", "not_found", "too_large", "unsupported", "queue_full", "queue_timeout", "unavailable",
    "not_ready", "stopping", "deadline_exceeded", "cancelled", "backend", "internal",
)  # fmt: skip


@cache
def _bound_names(bounds: tuple[float, ...]) -> tuple[str, ...]:
    """As Prometheus writes them."""
    return (*map(repr, bounds), "+Inf")


class Histogram:
    """Counts per bucket, and the sum. Not synchronised: its owner's lock guards it.

    `names` are the bounds as they are shown.
    """

    __slots__ = ("_bounds", "counts", "names", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.names = _bound_names(tuple(bounds))
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    def cumulative(self) -> list[tuple[str, float]]:
        """Prometheus's buckets: (upper bound, observations at or below it), the last one `+Inf`."""
        return list(zip(self.names, map(float, accumulate(self.counts)), strict=True))

    def add_to(self, family: HistogramMetricFamily, pairs: str, scale: float = 1.0) -> None:
        """Adds it to a family, with labels that `label_pairs` has written; `scale` is what the sum is shown by."""
        family.add_counts(pairs, self.names, accumulate(self.counts), self.total * scale)


class Stages:
    """How long executions were assembled, run and split, summed up. `count` of them."""

    __slots__ = ("count", "infer", "input", "output")

    def __init__(self) -> None:
        self.count = 0
        self.input = 0.0
        self.infer = 0.0
        self.output = 0.0

    def add(self, count: int, stages: tuple[float, float, float]) -> None:
        self.count += count
        self.input += count * stages[0]
        self.infer += count * stages[1]
        self.output += count * stages[2]


class SchedulerMetrics:
    """Executions of one model version, and why their batches were cut. `ran` is called under the scheduler's lock."""

    __slots__ = ("assembly", "by_rows", "compute", "cuts", "executions", "last", "requests", "rows", "split", "wait")

    def __init__(self) -> None:
        self.wait = Histogram(SECONDS)
        self.compute = Histogram(SECONDS)
        self.assembly = Histogram(SECONDS)
        self.split = Histogram(SECONDS)
        self.rows = Histogram(ROWS)
        self.cuts = dict.fromkeys(CUT_REASONS, 0)
        self.executions = 0
        self.requests = Stages()
        """Each execution counted for each of its requests: what they waited for it."""
        self.by_rows: dict[int, Stages] = {}
        self.last = 0.0
        """Seconds since the epoch."""

    def ran(self, rows: int, waits: Sequence[float], stages: tuple[float, float, float]) -> None:
        """Counts one execution: its rows, how long each member had waited, the seconds of its stages."""
        self.executions += 1
        self.last = time.time()
        self.rows.observe(rows)
        self.compute.observe(sum(stages))
        for wait in waits:
            self.wait.observe(wait)
        if len(waits) > 1:  # a request alone is neither assembled nor split
            self.assembly.observe(stages[0])
            self.split.observe(stages[2])
        self.requests.add(len(waits), stages)
        by_rows = self.by_rows.get(rows)
        if by_rows is None:
            if len(self.by_rows) >= MOST_SIZES:
                return
            by_rows = self.by_rows[rows] = Stages()
        by_rows.add(1, stages)


@dataclass(frozen=True, slots=True)
class PoolState:
    """For the metrics. `instances` are in service, `out` are not."""

    device: str
    busy: int
    instances: int
    out: int


class RequestMetrics:
    """Requests to one model version over one protocol."""

    __slots__ = ("_lock", "duration", "outcomes", "succeeded_seconds")

    def __init__(self) -> None:
        self._lock = Lock()
        self.duration = Histogram(SECONDS)
        self.outcomes = dict.fromkeys(OUTCOMES, 0)
        self.succeeded_seconds = 0.0

    def observe(self, outcome: str, seconds: float) -> None:
        with self._lock:
            self.outcomes[outcome] += 1
            self.duration.observe(seconds)
            if outcome == "ok":
                self.succeeded_seconds += seconds


class CacheMetrics:
    """Lookups of one model version in the response cache; the seconds of a miss include the keeping of its answer."""

    __slots__ = ("_lock", "hit_seconds", "hits", "last", "miss_seconds", "misses")

    def __init__(self) -> None:
        self._lock = Lock()
        self.hits = 0
        self.misses = 0
        self.hit_seconds = 0.0
        self.miss_seconds = 0.0
        self.last = 0.0
        """Seconds since the epoch."""

    def looked_up(self, hit: bool, seconds: float) -> None:
        with self._lock:
            self.last = time.time()
            if hit:
                self.hits += 1
                self.hit_seconds += seconds
            else:
                self.misses += 1
                self.miss_seconds += seconds

    def kept(self, seconds: float) -> None:
        with self._lock:
            self.miss_seconds += seconds


PROTOCOLS: Final = ("grpc", "rest")

Question = Literal["ModelMetadata", "ModelReady"]
"""What a client may ask about a model that is counted, if anybody wants it."""


def _not_counted(question: Question, protocol: str, well: bool) -> None:
    """Nobody wants it."""


SLICE: Final = 0.001
"""Seconds for which a scrape keeps the interpreter to itself."""
PAUSE: Final = 0.00005
"""Seconds for which it lets go of it."""


class ModelMetrics:
    """The series of one loaded model version."""

    def __init__(
        self,
        model: str,
        version: str,
        gauges: Callable[[], Mapping[str, float]] = dict,
        pools: Callable[[], Sequence[PoolState]] = tuple,
    ) -> None:
        """At scrape time `gauges` is asked for the current `in_flight`, `queue_requests` and `queue_bytes`, and
        `pools` for the instances."""
        self.model = model
        self.version = version
        self.labels = label_pairs({"model": model, "version": version})
        """As the series have them."""
        self.tagged = self.labels
        """As those by Triton's names have them."""
        self.gauges = gauges
        self.pools = pools
        self.load_seconds = 0.0
        self.cached = False
        """Whether answers are looked up in the response cache."""
        self.asked: Callable[[Question, str, bool], None] = _not_counted
        """Told of a question about this version, by which protocol it came and whether it was answered well."""
        self.size = 0
        """Bytes that the version is expected to take."""
        self.scheduler = SchedulerMetrics()
        self.cache = CacheMetrics()
        self.responses = ResponseMetrics()
        """Of a decoupled model."""
        self.requests: Mapping[str, RequestMetrics] = {protocol: RequestMetrics() for protocol in PROTOCOLS}

    def tag(self, tags: Mapping[str, str]) -> None:
        """Sets the labels that the configuration adds to Triton's; each has an underscore before it, as there."""
        tagged = {f"_{name}": text for name, text in tags.items()}
        self.tagged = label_pairs({"model": self.model, "version": self.version, **tagged})


class Dialect(Protocol):
    """What other servers call what is counted."""

    def attach(self, model: ModelMetrics) -> None:
        """Called before a model's first request."""
        ...

    def families(self, models: Sequence[ModelMetrics]) -> Iterator[MetricFamily]: ...


def unhurried(models: Iterable[ModelMetrics]) -> Iterator[ModelMetrics]:
    """Lets requests go first every millisecond: the text of 1,000 models takes 0.2 s, and the interpreter lets them
    wait 5 ms at a time. By a sleep, for whoever yields a busy core gets it back only after all others had their share.
    """
    began = time.monotonic()
    for model in models:
        if time.monotonic() - began >= SLICE:
            time.sleep(PAUSE)
            began = time.monotonic()
        yield model


class Registry:
    """All series of the server. Models come and go; what belongs to no loaded model is counted without a name."""

    def __init__(
        self,
        versions_by_state: Callable[[], tuple[Mapping[str, int], int]] = lambda: ({}, 0),
        cache_size: Callable[[], tuple[int, int]] = lambda: (0, 0),
        others: Callable[[], Iterable[MetricFamily]] = tuple,
        dialects: Sequence[Dialect] = (),
    ) -> None:
        """All are asked at scrape time; `cache_size` for entries and bytes of the response cache, `others` for families
        that are counted elsewhere, `dialects` for what other servers call these."""
        self._lock = Lock()
        self._models: dict[tuple[str, str], ModelMetrics] = {}
        self._versions_by_state = versions_by_state
        self._cache_size = cache_size
        self._others = others
        self._dialects = dialects
        self._started = time.time()
        self._began = time.monotonic()
        self.rejected = {protocol: RequestMetrics() for protocol in PROTOCOLS}
        self.parked: Callable[[], Mapping[str, tuple[int, int]]] = dict
        """Requests and bytes that wait for a model to be loaded, by model; asked at scrape time, too."""
        self.loads = 0
        self.load_seconds = 0.0
        self.load_failures = 0
        self.unloads = 0

    def add(self, metrics: ModelMetrics) -> None:
        """To be called before the first request."""
        with self._lock:
            for dialect in self._dialects:
                dialect.attach(metrics)
            self._models[metrics.model, metrics.version] = metrics

    def remove(self, metrics: ModelMetrics) -> None:
        with self._lock:
            if self._models.get((metrics.model, metrics.version)) is metrics:
                del self._models[metrics.model, metrics.version]

    def unloaded(self) -> None:
        with self._lock:
            self.unloads += 1

    def loaded(self, seconds: float) -> None:
        with self._lock:
            self.loads += 1
            self.load_seconds += seconds

    def load_failed(self) -> None:
        with self._lock:
            self.load_failures += 1

    def render(self) -> bytes:
        """The Prometheus text exposition, version 0.0.4."""
        return exposition(self.collect())

    def collect(self) -> Iterator[MetricFamily]:
        """Builds the families."""
        with self._lock:
            models = list(self._models.values())
        yield from self._requests(models)
        yield from self._executions(models)
        yield from self._cache(models)
        yield from self._gauges(models)
        yield from self._instances(models)
        yield from self._parked()
        yield from self._loads(models)
        yield from self._others()
        yield from self._server()
        for dialect in self._dialects:
            yield from dialect.families(models)

    def _requests(self, models: Iterable[ModelMetrics]) -> Iterator[MetricFamily]:
        labels = ["model", "version", "protocol"]
        count = CounterMetricFamily(
            "vintner_requests", "Inference requests answered, by outcome.", labels=[*labels, "outcome"]
        )
        duration = HistogramMetricFamily(
            "vintner_request_duration_seconds", "From the decoded request to its answer.", labels=labels
        )
        for model in unhurried(models):
            for protocol, requests in model.requests.items():
                values = [model.model, model.version, protocol]
                for outcome, number in list(requests.outcomes.items()):
                    count.add_metric([*values, outcome], number)
                requests.duration.add_to(duration, f'{model.labels},protocol="{protocol}"')
        yield count
        yield duration
        rejected = CounterMetricFamily(
            "vintner_rejected_requests",
            "Inference requests answered before they reached a loaded model, by outcome.",
            labels=["protocol", "outcome"],
        )
        for protocol, requests in self.rejected.items():
            for outcome, number in list(requests.outcomes.items()):
                if outcome != "ok":
                    rejected.add_metric([protocol, outcome], number)
        yield rejected

    def _executions(self, models: Sequence[ModelMetrics]) -> Iterator[MetricFamily]:
        labels = ["model", "version"]
        executions = CounterMetricFamily("vintner_executions", "Batches run.", labels=labels)
        rows = CounterMetricFamily("vintner_inferences", "Rows inferred.", labels=labels)
        histograms = {
            "wait": HistogramMetricFamily(
                "vintner_queue_duration_seconds", "From the arrival of a request to the start of its batch.",
                labels=labels,
            ),
            "compute": HistogramMetricFamily(
                "vintner_compute_duration_seconds", "Run time of a batch, assembly and splitting included.",
                labels=labels,
            ),
            "assembly": HistogramMetricFamily(
                "vintner_assembly_duration_seconds", "Assembly of a batch of several requests.", labels=labels
            ),
            "split": HistogramMetricFamily(
                "vintner_split_duration_seconds", "Splitting of the outputs of a batch of several requests.",
                labels=labels,
            ),
            "rows": HistogramMetricFamily("vintner_batch_rows", "Rows of a batch.", labels=labels),
        }  # fmt: skip
        for model in unhurried(models):
            values = [model.model, model.version]
            executions.add_metric(values, model.scheduler.executions)
            rows.add_metric(values, model.scheduler.rows.total)
            for name, family in histograms.items():
                histogram: Histogram = getattr(model.scheduler, name)
                histogram.add_to(family, model.labels)
        yield executions
        yield rows
        yield from histograms.values()
        cuts = CounterMetricFamily(
            "vintner_batch_cuts", "Batches, by why they held no more.", labels=[*labels, "reason"]
        )
        for model in unhurried(models):
            for reason, number in model.scheduler.cuts.items():
                cuts.add_metric([model.model, model.version, reason], number)
        yield cuts

    def _cache(self, models: Sequence[ModelMetrics]) -> Iterator[MetricFamily]:
        labels = ["model", "version"]
        hits = CounterMetricFamily("vintner_cache_hits", "Requests answered from the response cache.", labels=labels)
        misses = CounterMetricFamily("vintner_cache_misses", "Requests not found in the response cache.", labels=labels)
        for model in unhurried(models):
            hits.add_metric([model.model, model.version], model.cache.hits)
            misses.add_metric([model.model, model.version], model.cache.misses)
        yield hits
        yield misses
        entries, size = self._cache_size()
        yield GaugeMetricFamily("vintner_cache_entries", "Answers in the response cache.", value=entries)
        yield GaugeMetricFamily("vintner_cache_bytes", "Bytes that the response cache takes.", value=size)

    def _gauges(self, models: Sequence[ModelMetrics]) -> Iterator[MetricFamily]:
        families = {
            "in_flight": ("vintner_requests_in_flight", "Requests that wait or run."),
            "queue_requests": ("vintner_queue_requests", "Requests that wait for an instance."),
            "queue_bytes": ("vintner_queue_bytes", "Bytes of input that wait for an instance."),
            "waiting": ("vintner_instances_waiting", "Instances that wait for resources that other models hold."),
        }
        gauges = {key: GaugeMetricFamily(name, text) for key, (name, text) in families.items()}
        for model in unhurried(models):
            values = model.gauges()
            for key, family in gauges.items():
                if key in values:
                    family.add_labelled(model.labels, values[key])
        yield from gauges.values()

    def _instances(self, models: Sequence[ModelMetrics]) -> Iterator[MetricFamily]:
        families = {
            "busy": GaugeMetricFamily("vintner_instances_busy", "Instances that run a batch."),
            "instances": GaugeMetricFamily("vintner_instances", "Instances in service."),
            "out": GaugeMetricFamily(
                "vintner_instances_out", "Instances that failed or hang, until they are opened anew."
            ),
        }
        for model in unhurried(models):
            pools = model.pools()
            for device in dict.fromkeys(pool.device for pool in pools):
                labels = f"{model.labels},{label_pairs({'device': device})}"
                for key, family in families.items():
                    family.add_labelled(labels, sum(getattr(pool, key) for pool in pools if pool.device == device))
        yield from families.values()

    def _parked(self) -> Iterator[MetricFamily]:
        requests = GaugeMetricFamily(
            "vintner_parked_requests", "Requests that wait for their model to be loaded.", labels=["model"]
        )
        size = GaugeMetricFamily("vintner_parked_bytes", "Bytes of input that wait for that.", labels=["model"])
        for model, (number, taken) in self.parked().items():
            requests.add_metric([model], number)
            size.add_metric([model], taken)
        yield requests
        yield size

    def _loads(self, models: Sequence[ModelMetrics]) -> Iterator[MetricFamily]:
        labels = ["model", "version"]
        seconds = GaugeMetricFamily(
            "vintner_model_load_duration_seconds", "How long the load took, warm-up included.", labels=labels
        )
        size = GaugeMetricFamily(
            "vintner_model_bytes",
            "What the version counts in the memory budget: its files, or memory_bytes.",
            labels=labels,
        )
        for model in unhurried(models):
            seconds.add_metric([model.model, model.version], model.load_seconds)
            size.add_metric([model.model, model.version], model.size)
        yield seconds
        yield size

    def _server(self) -> Iterator[MetricFamily]:
        versions = GaugeMetricFamily("vintner_model_versions", "Model versions, by state.", labels=["state"])
        by_state, failed = self._versions_by_state()
        for state, number in by_state.items():
            versions.add_metric([state], number)
        yield versions
        yield GaugeMetricFamily(
            "vintner_model_faults",
            "Model versions that could not be loaded or changed, or do not work; not those that sleep.",
            value=failed,
        )
        yield CounterMetricFamily("vintner_model_loads", "Model versions loaded.", value=self.loads)
        yield CounterMetricFamily(
            "vintner_model_load_seconds", "Seconds that loads took, warm-up included.", value=self.load_seconds
        )
        yield CounterMetricFamily("vintner_model_load_failures", "Loads that failed.", value=self.load_failures)
        yield CounterMetricFamily("vintner_model_unloads", "Model versions unloaded.", value=self.unloads)
        yield GaugeMetricFamily("vintner_start_time_seconds", "When the server started.", value=self._started)
        yield GaugeMetricFamily(
            "vintner_uptime_seconds", "For how long it has run since.", value=time.monotonic() - self._began
        )
        yield InfoMetricFamily(
            "vintner_build", "This build.", value={"version": __version__, "python": platform.python_version()}
        )
