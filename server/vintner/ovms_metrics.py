"""The metrics by OpenVINO Model Server's names, `ovms_*`, for those who ask for them (`--ovms-metrics`).

Its histograms have bounds of their own, in microseconds, so what they count is counted besides; its calls for metadata
and readiness are counted only here. Labels come from loaded models. Invariant: every series is there from the moment a
model is loaded, with 0, until it is unloaded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from threading import Lock
from typing import Final
from weakref import WeakValueDictionary

from vintner.exposition import (
    GaugeMetricFamily,
    HistogramMetricFamily,
    MetricFamily,
    NamedCounterMetricFamily,
    label_pairs,
)
from vintner.histograms import Histogram
from vintner.metrics import unhurried
from vintner.model_metrics import PROTOCOLS, SECONDS, ModelMetrics, Question, RequestMetrics

MICROSECONDS: Final = tuple(10 * 9**i // 5**i for i in range(33))
"""Upper bounds of the buckets: 10 * 1.8^i, rounded down."""

NAMES: Final = (*map(str, MICROSECONDS), "+Inf")

INFERENCES: Final[Mapping[str, tuple[str, str, str]]] = {
    "grpc": ("KServe", "gRPC", "ModelInfer"),
    "rest": ("KServe", "REST", "ModelInfer"),
}
"""API, interface and method of the inferences that are counted under a protocol here."""

INFERENCE_LABELS: Final = {
    protocol: label_pairs(dict(zip(("api", "interface", "method"), call, strict=True)))
    for protocol, call in INFERENCES.items()
}
INTERFACES: Final[Mapping[str, str]] = {"grpc": "gRPC", "rest": "REST"}

TIMES: Final[Mapping[str, tuple[str, str]]] = {
    "compute": ("ovms_inference_time_us", "Time that a batch ran."),
    "wait": ("ovms_wait_for_infer_req_time_us", "Time that a request waited for its batch."),
}
GAUGES: Final[Mapping[str, str]] = {
    "ovms_streams": "Instances in service, which are what runs side by side.",
    "ovms_infer_req_queue_size": "Instances in service.",
    "ovms_infer_req_active": "Instances that run a batch.",
    "ovms_current_requests": "Requests that wait or run.",
}


class _Microseconds(Histogram):
    """A histogram with these bounds, of seconds."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__([bound / 1e6 for bound in MICROSECONDS])
        self.names = NAMES


class _Twofold(Histogram):
    """A histogram whose observations a `finer` one has, too."""

    __slots__ = ("finer",)

    def __init__(self, bounds: Sequence[float]) -> None:
        super().__init__(bounds)
        self.finer = _Microseconds()

    def observe(self, value: float) -> None:
        super().observe(value)
        self.finer.observe(value)


class _Requests(RequestMetrics):
    """Those that are answered well have their times in `finer`, too."""

    __slots__ = ("finer",)

    def __init__(self) -> None:
        super().__init__()
        self.finer = _Microseconds()

    def observe(self, outcome: str, seconds: float) -> None:
        super().observe(outcome, seconds)
        if outcome == "ok":
            with self._lock:
                self.finer.observe(seconds)


class _Calls:
    """Calls of one method, by protocol. Threads: any."""

    def __init__(self) -> None:
        self._lock = Lock()
        self.succeeded = dict.fromkeys(PROTOCOLS, 0)
        self.failed = dict.fromkeys(PROTOCOLS, 0)

    def count(self, protocol: str, well: bool) -> None:
        with self._lock:
            (self.succeeded if well else self.failed)[protocol] += 1


class _Asked:
    """Questions about a model version. Those for readiness are counted for all versions of a model together."""

    def __init__(self, ready: _Calls) -> None:
        self.calls: Mapping[Question, _Calls] = {"ModelMetadata": _Calls(), "ModelReady": ready}

    def __call__(self, question: Question, protocol: str, well: bool) -> None:
        self.calls[question].count(protocol, well)


class OvmsMetrics:
    """Of all loaded models."""

    def __init__(self) -> None:
        # As long as a version of the model is loaded, or a swap would begin the count anew.
        self._ready: WeakValueDictionary[str, _Calls] = WeakValueDictionary()

    def attach(self, model: ModelMetrics) -> None:
        """Has everything counted of a model that is about to be served. Not to be called by two threads at a time."""
        model.requests = {protocol: _Requests() for protocol in PROTOCOLS}
        model.scheduler.compute, model.scheduler.wait = _Twofold(SECONDS), _Twofold(SECONDS)
        model.asked = _Asked(self._ready.setdefault(model.model, _Calls()))

    def families(self, models: Sequence[ModelMetrics]) -> Iterator[MetricFamily]:
        """Of models that were attached."""
        yield from _calls(models)
        yield from _request_times(models)
        yield from _times(models)
        yield from _gauges(models)


def _calls(models: Sequence[ModelMetrics]) -> Iterator[MetricFamily]:
    succeeded = NamedCounterMetricFamily("ovms_requests_success", "Calls that were answered well.")
    failed = NamedCounterMetricFamily("ovms_requests_fail", "Calls that failed.")
    seen = set()
    for model in unhurried(models):
        for protocol, requests in model.requests.items():
            labels = f"{INFERENCE_LABELS[protocol]},{_named(model)}"
            answered = requests.outcomes["ok"]
            succeeded.add_labelled(labels, answered)
            failed.add_labelled(labels, sum(requests.outcomes.values()) - answered)
        asked = model.asked
        assert isinstance(asked, _Asked), "it was attached"
        for question, calls in asked.calls.items():
            if question == "ModelReady" and model.model in seen:
                continue
            named = _named(model, versioned=question != "ModelReady")
            for protocol, interface in INTERFACES.items():
                labels = f'api="KServe",interface="{interface}",method="{question}",{named}'
                succeeded.add_labelled(labels, calls.succeeded[protocol])
                failed.add_labelled(labels, calls.failed[protocol])
        seen.add(model.model)
    yield succeeded
    yield failed


def _request_times(models: Sequence[ModelMetrics]) -> Iterator[MetricFamily]:
    family = HistogramMetricFamily("ovms_request_time_us", "From a decoded request to its answer.")
    for model in unhurried(models):
        for protocol, interface in INTERFACES.items():
            requests = model.requests[protocol]
            assert isinstance(requests, _Requests), "it was attached"
            requests.finer.add_to(family, f'interface="{interface}",{_named(model)}', 1e6)
    yield family


def _times(models: Sequence[ModelMetrics]) -> Iterator[MetricFamily]:
    for attribute, (name, text) in TIMES.items():
        family = HistogramMetricFamily(name, text)
        for model in unhurried(models):
            histogram = getattr(model.scheduler, attribute)
            assert isinstance(histogram, _Twofold), "it was attached"
            histogram.finer.add_to(family, _named(model), 1e6)
        yield family


def _gauges(models: Sequence[ModelMetrics]) -> Iterator[MetricFamily]:
    families = {name: GaugeMetricFamily(name, text) for name, text in GAUGES.items()}
    for model in unhurried(models):
        pools = model.pools()
        instances = sum(pool.instances for pool in pools)
        values = {
            "ovms_streams": instances,
            "ovms_infer_req_queue_size": instances,
            "ovms_infer_req_active": sum(pool.busy for pool in pools),
            "ovms_current_requests": model.gauges().get("in_flight", 0),
        }
        for name, value in values.items():
            families[name].add_labelled(_named(model), value)
    yield from families.values()


def _named(model: ModelMetrics, versioned: bool = True) -> str:
    """The labels of a model, which has another name for its name here."""
    return label_pairs({"name": model.model} | ({"version": model.version} if versioned else {}))
