"""Triton's names for what is counted."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from vintner.exposition import exposition
from vintner.host import Host
from vintner.metrics import Registry
from vintner.model_metrics import OUTCOMES, ModelMetrics
from vintner.triton_metrics import ALL_REASONS, TritonMetrics


def series(model: ModelMetrics, proc: Path) -> dict[str, float]:
    """Values, by name, or by name and reason."""
    text = exposition(TritonMetrics(Host(proc)).families([model])).decode()
    values: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = dict(sample.labels)
            reason = labels.pop("reason", "")
            assert labels == ({"model": "m", "version": "3"} if "nv_cpu" not in sample.name else {})
            key = f"{sample.name.removesuffix('_total')} {reason}".strip()  # which the parser puts to all counters
            assert key not in values
            values[key] = sample.value
    return values


@pytest.fixture
def model() -> ModelMetrics:
    return ModelMetrics("m", "3", lambda: {"in_flight": 9, "queue_requests": 5})


def test_everything_is_there_from_the_start(model: ModelMetrics, tmp_path: Path) -> None:
    model.load_seconds = 1.5
    values = series(model, tmp_path)
    assert {key: value for key, value in values.items() if value} == {
        "nv_inference_pending_request_count": 5.0,
        "nv_model_load_duration_secs": 1.5,
    }
    assert [f"nv_inference_request_failure {reason}" in values for reason in ALL_REASONS] == [True] * 4
    assert not any(key.startswith(("nv_cache", "nv_cpu")) for key in values), "there is neither a cache nor a /proc"


def test_runs_are_counted_by_rows_and_in_microseconds(model: ModelMetrics, tmp_path: Path) -> None:
    model.scheduler.ran(3, [0.25, 0.5], (0.001, 0.002, 0.004))
    model.scheduler.ran(4, [0.25], (0.0, 0.002, 0.0))
    values = series(model, tmp_path)
    assert values["nv_inference_count"] == 7
    assert values["nv_inference_exec_count"] == 2
    assert values["nv_inference_queue_duration_us"] == 1_000_000
    assert values["nv_inference_compute_input_duration_us"] == 2_000
    assert values["nv_inference_compute_infer_duration_us"] == 6_000
    assert values["nv_inference_compute_output_duration_us"] == 8_000


def test_only_requests_that_were_answered_well_take_time(model: ModelMetrics, tmp_path: Path) -> None:
    model.requests["grpc"].observe("ok", 0.5)
    model.requests["rest"].observe("ok", 0.25)
    model.requests["rest"].observe("backend", 10.0)
    values = series(model, tmp_path)
    assert values["nv_inference_request_success"] == 2
    assert values["nv_inference_request_duration_us"] == 750_000


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_every_outcome_but_success_is_a_failure_for_one_reason(
    model: ModelMetrics, outcome: str, tmp_path: Path
) -> None:
    expected = {
        "queue_full": "REJECTED", "queue_timeout": "REJECTED", "cancelled": "CANCELED", "deadline_exceeded": "CANCELED",
        "backend": "BACKEND", "internal": "BACKEND", "ok": None,
    }.get(outcome, "OTHER")  # fmt: skip
    model.requests["rest"].observe(outcome, 1.0)
    values = series(model, tmp_path)
    failures = {reason for reason in ALL_REASONS if values[f"nv_inference_request_failure {reason}"] == 1}
    assert failures == ({expected} if expected else set())


def test_the_cache_has_series_where_it_is_used(model: ModelMetrics, tmp_path: Path) -> None:
    model.cached = True
    model.cache.looked_up(True, 0.001)
    model.cache.looked_up(False, 0.002)
    model.cache.kept(0.003)
    values = series(model, tmp_path)
    assert values["nv_cache_num_hits_per_model"] == values["nv_cache_num_misses_per_model"] == 1
    assert values["nv_cache_hit_duration_per_model"] == 1_000
    assert values["nv_cache_miss_duration_per_model"] == 5_000


def test_tags_are_labels_of_all_series_of_the_model(model: ModelMetrics, tmp_path: Path) -> None:
    model.tag({"team": 'a "b"'})
    model.cached = True
    text = exposition(TritonMetrics(Host(tmp_path)).families([model])).decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    assert len(samples) == 18
    labels = {"model": "m", "version": "3", "_team": 'a "b"'}
    assert all(sample.labels.items() >= labels.items() for sample in samples)


def test_the_host_has_no_labels() -> None:
    families = {family.name: family for family in text_string_to_metric_families(
        exposition(TritonMetrics(Host()).families([])).decode()
    )}  # fmt: skip
    for name in ("nv_cpu_utilization", "nv_cpu_memory_total_bytes", "nv_cpu_memory_used_bytes"):
        assert families[name].type == "gauge"
        assert [sample.labels for sample in families[name].samples] == [{}]


def test_what_is_unloaded_has_no_series(model: ModelMetrics) -> None:
    registry = Registry(dialects=[TritonMetrics(Host())])
    registry.add(model)
    assert b'nv_inference_count{model="m",version="3"} 0.0\n' in registry.render()
    registry.remove(model)
    assert b'model="m"' not in registry.render()
