"""The Prometheus text, read by the parser of prometheus_client."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample
from vintner.exposition import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    MetricFamily,
    NamedCounterMetricFamily,
    SummaryMetricFamily,
    exposition,
    label_pairs,
)
from vintner.histograms import Histogram
from vintner.metrics import Registry
from vintner.model_metrics import ModelMetrics, PoolState


def parsed(*families: MetricFamily) -> dict[str, tuple[str, str, list[Sample]]]:
    """By name: the type, the help and the samples."""
    text = exposition(families).decode()
    return {one.name: (one.type, one.documentation, one.samples) for one in text_string_to_metric_families(text)}


@given(st.lists(st.tuples(st.text(), st.text()), unique=True), st.floats(allow_nan=False))
def test_labels_and_values_come_through_whatever_they_are(labels: list[tuple[str, str]], value: float) -> None:
    family = GaugeMetricFamily("g", "A gauge.", labels=["model", "version"])
    for pair in labels:
        family.add_metric(pair, value)
    [(kind, text, samples)] = parsed(family).values()
    assert (kind, text) == ("gauge", "A gauge.")
    assert [(one.labels["model"], one.labels["version"]) for one in samples] == labels
    assert all(one.value == value for one in samples)


def test_a_value_that_is_no_number_is_written_as_such() -> None:
    [(_, _, [sample])] = parsed(GaugeMetricFamily("g", "", value=math.nan)).values()
    assert math.isnan(sample.value)


def test_help_keeps_its_lines_and_backslashes() -> None:
    assert parsed(CounterMetricFamily("c", 'a\\n"b"\nc', value=1)) == {
        "c": ("counter", 'a\\n"b"\nc', [Sample("c_total", {}, 1.0)])
    }


def test_a_summary_has_a_count_and_a_sum() -> None:
    family = SummaryMetricFamily("s", "A summary.", labels=["model"])
    family.add_metric(["m"], 3, 1.5)
    [(kind, _, samples)] = parsed(family).values()
    labels = {"model": "m"}
    assert (kind, samples) == ("summary", [Sample("s_count", labels, 3.0), Sample("s_sum", labels, 1.5)])


def test_an_info_has_its_texts_as_labels() -> None:
    [(kind, _, samples)] = parsed(InfoMetricFamily("build", "", {"version": "1", "python": "3"})).values()
    assert (kind, samples) == ("gauge", [Sample("build_info", {"version": "1", "python": "3"}, 1.0)])


@given(st.lists(st.floats(0, 10)))
def test_buckets_count_what_is_at_or_below_their_bounds(values: list[float]) -> None:
    bounds = (0.5, 1.0, 5.0)
    histogram = Histogram(bounds)
    for value in values:
        histogram.observe(value)
    family = HistogramMetricFamily("h", "", labels=["model"])
    family.add_metric(["m"], histogram.cumulative(), histogram.total)
    [(kind, _, samples)] = parsed(family).values()
    found = {(one.name, one.labels.get("le")): one.value for one in samples}
    assert kind == "histogram"
    assert all(one.labels["model"] == "m" for one in samples)
    expected = {("h_bucket", repr(bound)): float(sum(value <= bound for value in values)) for bound in bounds}
    assert found == expected | {
        ("h_bucket", "+Inf"): len(values),
        ("h_count", None): len(values),
        ("h_sum", None): pytest.approx(sum(values)),
    }


@given(st.dictionaries(st.sampled_from(["model", "version", "_tag"]), st.text(), min_size=1))
def test_labels_that_are_written_once_come_through_whatever_they_are(labels: dict[str, str]) -> None:
    gauge, histogram = GaugeMetricFamily("g", ""), HistogramMetricFamily("h", "")
    gauge.add_labelled(label_pairs(labels), 1.0)
    histogram.add_counts(label_pairs(labels), ("0.5", "+Inf"), [1, 2], 3.0)
    found = parsed(gauge, histogram)
    assert found["g"][2] == [Sample("g", labels, 1.0)]
    assert [(one.name, {**one.labels}, one.value) for one in found["h"][2]] == [
        ("h_bucket", labels | {"le": "0.5"}, 1.0),
        ("h_bucket", labels | {"le": "+Inf"}, 2.0),
        ("h_count", labels, 2.0),
        ("h_sum", labels, 3.0),
    ]


def test_a_histogram_needs_no_labels() -> None:
    family = HistogramMetricFamily("h", "")
    family.add_metric((), [("0.5", 1), ("+Inf", 2)], 3.0)
    [(_, _, samples)] = parsed(family).values()
    assert [(one.name, one.labels, one.value) for one in samples] == [
        ("h_bucket", {"le": "0.5"}, 1.0),
        ("h_bucket", {"le": "+Inf"}, 2.0),
        ("h_count", {}, 2.0),
        ("h_sum", {}, 3.0),
    ]


def test_a_counter_may_keep_another_servers_name() -> None:
    text = exposition([NamedCounterMetricFamily("nv_count", "Runs.", value=2)])
    assert text == b"# HELP nv_count Runs.\n# TYPE nv_count counter\nnv_count 2.0\n"


def test_every_series_of_the_server_is_read() -> None:
    registry = Registry(lambda: ({"READY": 1}, [("torn", "3"), ("untried", "")]), lambda: (2, 3))
    registry.add(ModelMetrics('a "model"', "1", lambda: {"in_flight": 4}, lambda: [PoolState("CPU", 0, 2, 0)]))
    registry.loaded(1.5)
    registry.loaded(0.5)
    registry.parked = lambda: {"lazy": (2, 64)}
    families = list(text_string_to_metric_families(registry.render().decode()))
    names = [family.name for family in families]
    assert len(names) == len(set(names)), "the samples of a metric are in one group"
    assert all(family.documentation and family.type != "unknown" for family in families)
    samples = {one.name: one for family in families for one in family.samples}
    assert samples["vintner_requests_in_flight"] == Sample(
        "vintner_requests_in_flight", {"model": 'a "model"', "version": "1"}, 4.0
    )
    assert samples["vintner_instances"].value == 2
    assert samples["vintner_cache_bytes"].value == 3
    assert samples["vintner_model_faults"].value == 2
    assert {tuple(one.labels.values()) for family in families for one in family.samples if "faulty" in one.name} == {
        ("torn", "3"),
        ("untried", ""),
    }
    assert samples["vintner_ready"].value == 1
    assert samples["vintner_model_loads_total"].value == 2
    assert samples["vintner_model_load_seconds_total"].value == 2.0
    assert samples["vintner_parked_requests"] == Sample("vintner_parked_requests", {"model": "lazy"}, 2.0)
    assert samples["vintner_parked_bytes"].value == 64
    assert 0 <= samples["vintner_uptime_seconds"].value < 60
