"""The metrics by Triton's names, `nv_*`, made of what is counted anyway when somebody scrapes.

Pure, but that it asks the host how busy it is. Sums of time are in microseconds, whole ones. The names are Triton's, so
counters have no `_total`. Invariant: each series is one that Triton would have for the model, and means the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from vintner.exposition import GaugeMetricFamily, MetricFamily, NamedCounterMetricFamily
from vintner.host import Host
from vintner.metrics import unhurried
from vintner.model_metrics import ModelMetrics

REASONS: Final[Mapping[str, str]] = {
    "queue_full": "REJECTED",
    "queue_timeout": "REJECTED",
    "cancelled": "CANCELED",
    "deadline_exceeded": "CANCELED",  # Triton is told of a client's deadline as of a cancellation
    "backend": "BACKEND",
    "internal": "BACKEND",  # an error that no backend of ours would raise, so it is some other backend's
}
"""Why a request failed, by its outcome here; any other is OTHER."""

ALL_REASONS: Final = ("REJECTED", "CANCELED", "BACKEND", "OTHER")

COUNTERS: Final[Mapping[str, str]] = {
    "nv_inference_request_success": "Requests answered.",
    "nv_inference_count": "Rows inferred.",
    "nv_inference_exec_count": "Batches run.",
    "nv_inference_request_duration_us": "Time that answered requests took, what the cache answered included.",
    "nv_inference_queue_duration_us": "Time that requests waited for their batch.",
    "nv_inference_compute_input_duration_us": "Time that the assembly of batches took, for each of their requests.",
    "nv_inference_compute_infer_duration_us": "Time that batches ran, for each of their requests.",
    "nv_inference_compute_output_duration_us": "Time that the splitting of outputs took, for each of their requests.",
}
CACHE_COUNTERS: Final[Mapping[str, str]] = {
    "nv_cache_num_hits_per_model": "Requests answered from the response cache.",
    "nv_cache_num_misses_per_model": "Requests not found in the response cache.",
    "nv_cache_hit_duration_per_model": "Time that lookups took which found an answer, in microseconds.",
    "nv_cache_miss_duration_per_model": "Time that other lookups took, and the keeping of their answers, likewise.",
}
GAUGES: Final[Mapping[str, str]] = {
    "nv_inference_pending_request_count": "Requests that wait for an instance.",
    "nv_model_load_duration_secs": "How long the load took, warm-up included.",
}


class TritonMetrics:
    """Of all loaded models, and of the host."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def attach(self, model: ModelMetrics) -> None:
        """Everything is counted already."""

    def families(self, models: Sequence[ModelMetrics]) -> Iterator[MetricFamily]:
        counters = {name: NamedCounterMetricFamily(name, text) for name, text in {**COUNTERS, **CACHE_COUNTERS}.items()}
        gauges = {name: GaugeMetricFamily(name, text) for name, text in GAUGES.items()}
        failures = NamedCounterMetricFamily("nv_inference_request_failure", "Requests that failed, by why.")
        for model in unhurried(models):
            labels = model.tagged
            for name, value in _counts(model).items():
                counters[name].add_labelled(labels, value)
            for reason, number in _failures(model).items():
                failures.add_labelled(f'{labels},reason="{reason}"', number)
            gauges["nv_inference_pending_request_count"].add_labelled(labels, model.gauges().get("queue_requests", 0))
            gauges["nv_model_load_duration_secs"].add_labelled(labels, model.load_seconds)
        yield from (*counters.values(), failures, *gauges.values())
        yield from self._of_host()

    def _of_host(self) -> Iterator[MetricFamily]:
        used = self._host.utilisation()
        if used is not None:
            yield GaugeMetricFamily(
                "nv_cpu_utilization", "Share of the host's processors that was used since the last scrape.", value=used
            )
        memory = self._host.memory()
        if memory is not None:
            yield GaugeMetricFamily("nv_cpu_memory_total_bytes", "Memory of the host.", value=memory[0])
            yield GaugeMetricFamily("nv_cpu_memory_used_bytes", "Memory of the host that is used.", value=memory[1])


def _counts(model: ModelMetrics) -> dict[str, int]:
    scheduler, requests, cache = model.scheduler, model.requests.values(), model.cache
    stages = scheduler.requests
    counts = {
        "nv_inference_request_success": sum(one.outcomes["ok"] for one in requests),
        "nv_inference_count": int(scheduler.rows.total),
        "nv_inference_exec_count": scheduler.executions,
        "nv_inference_request_duration_us": _microseconds(sum(one.succeeded_seconds for one in requests)),
        "nv_inference_queue_duration_us": _microseconds(scheduler.wait.total),
        "nv_inference_compute_input_duration_us": _microseconds(stages.input),
        "nv_inference_compute_infer_duration_us": _microseconds(stages.infer),
        "nv_inference_compute_output_duration_us": _microseconds(stages.output),
    }
    if model.cached:
        counts |= {
            "nv_cache_num_hits_per_model": cache.hits,
            "nv_cache_num_misses_per_model": cache.misses,
            "nv_cache_hit_duration_per_model": _microseconds(cache.hit_seconds),
            "nv_cache_miss_duration_per_model": _microseconds(cache.miss_seconds),
        }
    return counts


def _failures(model: ModelMetrics) -> dict[str, int]:
    failures = dict.fromkeys(ALL_REASONS, 0)
    for requests in model.requests.values():
        for outcome, number in requests.outcomes.items():
            if number and outcome != "ok":
                failures[REASONS.get(outcome, "OTHER")] += number
    return failures


def _microseconds(seconds: float) -> int:
    return int(seconds * 1e6)
