"""OpenVINO Model Server's names for what is counted, and what is counted for them alone."""

from __future__ import annotations

import gc
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from vintner.metrics import Registry
from vintner.model_metrics import PROTOCOLS, ModelMetrics, PoolState
from vintner.ovms_metrics import INFERENCES, INTERFACES, MICROSECONDS, OvmsMetrics


def loaded(registry: Registry, model: str = "m", version: str = "1") -> ModelMetrics:
    metrics = ModelMetrics(
        model, version, lambda: {"in_flight": 4}, lambda: [PoolState("CPU", 1, 2, 0), PoolState("GPU", 1, 3, 1)]
    )
    registry.add(metrics)
    return metrics


def value(registry: Registry, metric: str, /, **labels: str) -> float:
    """Of the one sample that has these labels and no others."""
    (found,) = [
        sample.value
        for family in text_string_to_metric_families(registry.render().decode())
        for sample in family.samples
        if sample.name.removesuffix("_total") == metric and sample.labels == labels  # the parser's, of all counters
    ]
    return found


@pytest.fixture
def registry() -> Registry:
    return Registry(dialects=[OvmsMetrics()])


MODEL = {"name": "m", "version": "1"}
INFER = {"api": "KServe", "method": "ModelInfer", **MODEL}


def test_every_protocol_has_names() -> None:
    assert set(INFERENCES) == set(INTERFACES) == set(PROTOCOLS)


def test_the_bounds_are_those_of_the_formula() -> None:
    assert tuple(math.floor(10 * 1.8**i) for i in range(33)) == MICROSECONDS
    assert MICROSECONDS[:5] == (10, 18, 32, 58, 104)


@pytest.mark.parametrize("interface", ["gRPC", "REST"])
def test_every_series_is_there_from_the_start(registry: Registry, interface: str) -> None:
    loaded(registry)
    called = {"api": "KServe", "interface": interface}
    for metric in ("ovms_requests_success", "ovms_requests_fail"):
        assert value(registry, metric, method="ModelInfer", **called, **MODEL) == 0
        assert value(registry, metric, method="ModelMetadata", **called, **MODEL) == 0
        assert value(registry, metric, method="ModelReady", **called, name="m") == 0
    assert value(registry, "ovms_request_time_us_count", interface=interface, **MODEL) == 0
    for metric in ("ovms_inference_time_us", "ovms_wait_for_infer_req_time_us"):
        assert value(registry, f"{metric}_count", **MODEL) == 0


def test_requests_are_counted_by_interface_and_whether_they_succeed(registry: Registry) -> None:
    model = loaded(registry)
    model.requests["grpc"].observe("ok", 0.1)
    model.requests["rest"].observe("ok", 0.1)
    model.requests["rest"].observe("backend", 0.1)
    model.requests["rest"].observe("queue_full", 0.1)
    assert value(registry, "ovms_requests_success", interface="gRPC", **INFER) == 1
    assert value(registry, "ovms_requests_fail", interface="gRPC", **INFER) == 0
    assert value(registry, "ovms_requests_success", interface="REST", **INFER) == 1
    assert value(registry, "ovms_requests_fail", interface="REST", **INFER) == 2


def test_the_time_of_a_request_counts_if_it_succeeds(registry: Registry) -> None:
    model = loaded(registry)
    model.requests["grpc"].observe("ok", 20e-6)
    model.requests["grpc"].observe("backend", 5.0)
    assert value(registry, "ovms_request_time_us_count", interface="gRPC", **MODEL) == 1
    assert value(registry, "ovms_request_time_us_sum", interface="gRPC", **MODEL) == pytest.approx(20)
    assert value(registry, "ovms_request_time_us_bucket", interface="gRPC", le="18", **MODEL) == 0
    assert value(registry, "ovms_request_time_us_bucket", interface="gRPC", le="32", **MODEL) == 1
    assert model.requests["grpc"].duration.counts[0] == 1, "our own histogram has it, too"
    assert sum(model.requests["grpc"].duration.counts) == 2


@given(st.lists(st.integers(0, 3 * 10**9)))
def test_runs_and_waits_are_in_microseconds_and_in_our_own_histograms_too(times: list[int]) -> None:
    registry = Registry(dialects=[OvmsMetrics()])
    model = loaded(registry)
    for time in times:
        model.scheduler.ran(1, [time / 1e6], (0.0, time / 1e6, 0.0))
    families = {family.name: family for family in text_string_to_metric_families(registry.render().decode())}
    for name in ("ovms_inference_time_us", "ovms_wait_for_infer_req_time_us"):
        found = {sample.labels["le"]: sample.value for sample in families[name].samples if "le" in sample.labels}
        expected = {str(bound): sum(time <= bound for time in times) for bound in MICROSECONDS}
        assert found == expected | {"+Inf": len(times)}
        (total,) = (sample.value for sample in families[name].samples if sample.name == f"{name}_sum")
        assert total == pytest.approx(sum(times))
    assert sum(model.scheduler.compute.counts) == sum(model.scheduler.wait.counts) == len(times)


def test_gauges_are_of_all_devices_together(registry: Registry) -> None:
    loaded(registry)
    assert value(registry, "ovms_streams", **MODEL) == value(registry, "ovms_infer_req_queue_size", **MODEL) == 5
    assert value(registry, "ovms_infer_req_active", **MODEL) == 2
    assert value(registry, "ovms_current_requests", **MODEL) == 4


READY = {"api": "KServe", "interface": "REST", "method": "ModelReady", "name": "m"}


def test_questions_for_readiness_are_of_all_versions_and_survive_a_swap(registry: Registry) -> None:
    old, new = loaded(registry), loaded(registry, version="2")
    old.asked("ModelReady", "rest", True)
    new.asked("ModelReady", "rest", True)
    new.asked("ModelReady", "rest", False)
    for _ in range(2):
        assert value(registry, "ovms_requests_success", **READY) == 2
        assert value(registry, "ovms_requests_fail", **READY) == 1
        registry.remove(old)
        del old
        gc.collect()
        old = loaded(registry)
    registry.remove(old)
    registry.remove(new)
    del old, new
    gc.collect()
    loaded(registry)
    assert value(registry, "ovms_requests_success", **READY) == 0, "the model was unloaded, and begins anew"


def test_questions_for_metadata_are_of_a_version(registry: Registry) -> None:
    old, new = loaded(registry), loaded(registry, version="2")
    new.asked("ModelMetadata", "grpc", True)
    labels = {"api": "KServe", "interface": "gRPC", "method": "ModelMetadata", "name": "m"}
    assert value(registry, "ovms_requests_success", **labels, version=old.version) == 0
    assert value(registry, "ovms_requests_success", **labels, version=new.version) == 1


def test_without_the_dialect_questions_are_not_counted() -> None:
    registry = Registry()
    loaded(registry).asked("ModelReady", "rest", True)
    assert b"ovms" not in registry.render()
