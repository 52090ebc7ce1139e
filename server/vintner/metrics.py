"""The metrics of the server, and their Prometheus text.

The families are built only when somebody scrapes, from what `model_metrics` counts of each loaded model and from what
is counted here. Label values come from the registry of loaded models, never from what a client sent.

Invariant: a series lives as long as its model version is loaded, and never goes down while it does.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from threading import Lock
from typing import Final, Protocol

from vintner import __version__, generation_families
from vintner.exposition import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    MetricFamily,
    exposition,
    label_pairs,
)
from vintner.histograms import Histogram
from vintner.model_metrics import PROTOCOLS, ModelMetrics, RequestMetrics

SLICE: Final = 0.001
"""Seconds for which a scrape keeps the interpreter to itself."""
PAUSE: Final = 0.00005
"""Seconds for which it lets go of it."""


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
        versions_by_state: Callable[[], tuple[Mapping[str, int], Sequence[tuple[str, str]]]] = lambda: ({}, ()),
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
        self.ready: Callable[[], bool] = lambda: True
        """Likewise: what the server says of its health."""
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
        yield from generation_families.families(models)
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
            "queue_oldest": (
                "vintner_queue_oldest_seconds",
                "For how long the request has waited for an instance that has done so longest.",
            ),
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
        by_state, faulty = self._versions_by_state()
        for state, number in by_state.items():
            versions.add_metric([state], number)
        yield versions
        yield GaugeMetricFamily(
            "vintner_model_faults",
            "Model versions that could not be loaded or changed, or do not work; not those that sleep.",
            value=len(faulty),
        )
        faults = GaugeMetricFamily(
            "vintner_model_faulty",
            "Which these are; always 1. There is no version where the whole model is wrong.",
            labels=["model", "version"],
        )
        for names in faulty:
            faults.add_metric(names, 1)
        yield faults
        yield CounterMetricFamily("vintner_model_loads", "Model versions loaded.", value=self.loads)
        yield CounterMetricFamily(
            "vintner_model_load_seconds", "Seconds that loads took, warm-up included.", value=self.load_seconds
        )
        yield CounterMetricFamily("vintner_model_load_failures", "Loads that failed.", value=self.load_failures)
        yield CounterMetricFamily("vintner_model_unloads", "Model versions unloaded.", value=self.unloads)
        yield GaugeMetricFamily("vintner_ready", "Whether the server says that it is ready.", value=self.ready())
        yield GaugeMetricFamily("vintner_start_time_seconds", "When the server started.", value=self._started)
        yield GaugeMetricFamily(
            "vintner_uptime_seconds", "For how long it has run since.", value=time.monotonic() - self._began
        )
        yield InfoMetricFamily(
            "vintner_build", "This build.", value={"version": __version__, "python": platform.python_version()}
        )
