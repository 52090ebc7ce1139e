"""What the chart's autoscalers ask for is what its recording rule gives: through KEDA's query, and through the adapter.

No autoscaler runs here; the queries are evaluated by promtool, over series as a Prometheus with the operator has them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from deploy.helm_render import NAMESPACE, RELEASE, ChartRefused, Values, render_helm4
from deploy.promtool_calls import check_query, check_samples
from deploy.rendered_pod import Release
from observability import recorded, rules
from running_server import ROOT

ADAPTER = yaml.safe_load((ROOT / "deploy/prometheus-adapter/values.yaml").read_text())["rules"]["custom"]
QUEUE_TIME = "vintner:queue_seconds:mean1m"
RECORDING = [{"name": "queue", "rules": [rule for rule in rules() if rule.get("record") == QUEUE_TIME]}]
BY_QUEUE = {"autoscaling": {"enabled": True, "targetCPUUtilizationPercentage": None, "queueTime": {"enabled": True}}}
BY_KEDA: dict[str, Any] = {"keda": {"enabled": True, "prometheusAddress": "http://prometheus.monitoring:9090"}}
REQUESTS = {"type": "external-push", "metadata": {"scalerAddress": "interceptor.keda:9090"}}
"""A trigger that does not need a pod."""


def rendered(values: Values, release: str = RELEASE) -> Release:
    return Release(render_helm4(values, release=release))


def rounded(query: str) -> str:
    """To whole milliseconds, for sums of fractions are not exact."""
    return f"round({query}, 0.001)"


def keda_trigger(values: Values, release: str = RELEASE) -> dict[str, Any]:
    trigger: dict[str, Any] = rendered(BY_KEDA | values, release).one("ScaledObject")["spec"]["triggers"][0]
    return trigger


def waits(pod: str, milliseconds: int, namespace: str = NAMESPACE, job: str = "cellar-vintner") -> dict[str, str]:
    """The scraped series of a pod with 4 requests a second, each of which waits so long."""
    labels = f'namespace="{namespace}",job="{job}",pod="{pod}",instance="{pod}",model="digits",version="1"'
    per_scrape = 60 * milliseconds / 1000
    return {
        f"vintner_queue_duration_seconds_sum{{{labels}}}": f"0+{per_scrape}x80",
        f"vintner_queue_duration_seconds_count{{{labels}}}": "0+60x80",
    }


def idle(pod: str) -> dict[str, str]:
    labels = f'namespace="{NAMESPACE}",job="cellar-vintner",pod="{pod}",instance="{pod}"'
    return {
        f"vintner_uptime_seconds{{{labels}}}": "0+15x80",
        f'vintner_queue_duration_seconds_sum{{{labels},model="digits",version="1"}}': "0x80",
        f'vintner_queue_duration_seconds_count{{{labels},model="digits",version="1"}}': "0x80",
    }


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet"])
@pytest.mark.parametrize(("values", "scaler"), [(BY_QUEUE, "HorizontalPodAutoscaler"), (BY_KEDA, "ScaledObject")])
def test_autoscalers_scale_the_workload_which_then_says_no_number(kind: str, values: Values, scaler: str) -> None:
    release = rendered({**values, "kind": kind})
    target = release.one(scaler)["spec"]["scaleTargetRef"]
    workload = release.workload
    assert target == {key: workload[key] for key in ("apiVersion", "kind")} | {"name": workload["metadata"]["name"]}
    assert "replicas" not in workload["spec"]


@pytest.mark.parametrize(
    ("given", "metrics"),
    [
        ({}, ["Resource"]),
        ({"queueTime": {"enabled": True}}, ["Resource", "Pods"]),
        ({"queueTime": {"enabled": True}, "targetCPUUtilizationPercentage": None}, ["Pods"]),
    ],
)
def test_the_autoscaler_has_the_metrics_that_are_asked_for(given: dict[str, Any], metrics: list[str]) -> None:
    spec = rendered({"autoscaling": {"enabled": True, **given}}).one("HorizontalPodAutoscaler")["spec"]
    assert [each["type"] for each in spec["metrics"]] == metrics


def test_targets_and_bounds_are_those_of_the_values() -> None:
    queue = {"enabled": True, "targetAverageValue": "80m"}
    given = {
        "enabled": True,
        "minReplicas": 2,
        "maxReplicas": 9,
        "targetCPUUtilizationPercentage": 60,
        "queueTime": queue,
    }
    spec = rendered({"autoscaling": given}).one("HorizontalPodAutoscaler")["spec"]
    cpu, waiting = spec["metrics"]
    assert (spec["minReplicas"], spec["maxReplicas"]) == (2, 9)
    assert cpu["resource"]["target"] == {"type": "Utilization", "averageUtilization": 60}
    assert waiting["pods"]["target"] == {"type": "AverageValue", "averageValue": "80m"}


def test_the_adapters_rule_gives_the_metric_that_the_autoscaler_asks_for() -> None:
    [metric] = rendered(BY_QUEUE).one("HorizontalPodAutoscaler")["spec"]["metrics"]
    names = [
        re.sub(rule["name"]["matches"], rule["name"]["as"], record)
        for rule in ADAPTER
        for record in recorded()
        if re.search(rule["name"]["matches"], record)
    ]
    assert names == [metric["pods"]["metric"]["name"]]


def test_the_adapters_queries_give_the_wait_of_each_pod(tmp_path: Path) -> None:
    """With the templates replaced by what the adapter puts there."""
    [rule] = ADAPTER
    check_query(rule["seriesQuery"], tmp_path)
    query = rule["metricsQuery"].replace("<<.Series>>", QUEUE_TIME).replace("<<.GroupBy>>", "pod")
    query = query.replace("<<.LabelMatchers>>", f'namespace="{NAMESPACE}",pod=~"a|b"')
    series = waits("a", 20) | waits("b", 60) | waits("c", 5000)
    check_samples(tmp_path, series, {rounded(query): {'{pod="a"}': 0.02, '{pod="b"}': 0.06}}, RECORDING)
    resources = {label: each["resource"] for label, each in rule["resources"]["overrides"].items()}
    assert resources == {"namespace": "namespace", "pod": "pod"}


@pytest.mark.parametrize(
    ("values", "release", "own", "others"),
    [
        ({}, "cellar", "cellar-vintner-{}-x7k2p", ["cellar-vintner-gpu-6d5f8-x7k2p", "cellar-vintner-0", "other"]),
        (
            {"kind": "StatefulSet"},
            "cellar",
            "cellar-vintner-{}",
            ["cellar-vintner-6d5f8-x7k2p", "cellar-vintner-gpu-0"],
        ),
        ({"fullnameOverride": "v" * 52}, "cellar", "v" * 52 + "-6d5f8{}2p", ["v" * 51 + "-6d5f8-x7k2p"]),
    ],
)
def test_kedas_query_is_the_mean_wait_over_the_pods_of_the_release(
    values: Values, release: str, own: str, others: list[str], tmp_path: Path
) -> None:
    series = waits(own.format(1), 20) | waits(own.format(2), 100) | waits(own.format(1), 5000, namespace="elsewhere")
    for other in others:
        series |= waits(other, 5000)
    query = keda_trigger(values, release)["metadata"]["query"]
    check_samples(tmp_path, series, {rounded(query): {"{}": 0.06}}, RECORDING)


def test_the_query_counts_an_idle_pod_as_no_wait(tmp_path: Path) -> None:
    """Of two pods that share the load, one that gets none of it halves the mean."""
    series = waits("cellar-vintner-6d5f8-aaaaa", 80) | idle("cellar-vintner-6d5f8-bbbbb")
    check_samples(tmp_path, series, {rounded(keda_trigger({})["metadata"]["query"]): {"{}": 0.04}}, RECORDING)


def test_the_rules_of_the_release_give_what_its_trigger_asks_for(tmp_path: Path) -> None:
    metrics = {"serviceMonitor": {"enabled": True}, "prometheusRule": {"enabled": True}}
    groups = rendered({"metrics": metrics}).one("PrometheusRule")["spec"]["groups"]
    series = waits("cellar-vintner-6d5f8-aaaaa", 80)
    check_samples(tmp_path, series, {rounded(keda_trigger({})["metadata"]["query"]): {"{}": 0.08}}, groups)


def test_keda_compares_the_mean_as_it_is() -> None:
    trigger = keda_trigger({"keda": BY_KEDA["keda"] | {"queueTimeThreshold": "0.2"}})
    assert (trigger["type"], trigger["metricType"]) == ("prometheus", "Value")
    assert trigger["metadata"]["serverAddress"] == BY_KEDA["keda"]["prometheusAddress"]
    assert trigger["metadata"]["threshold"] == "0.2"


@pytest.mark.parametrize(("least", "ignored"), [(1, "false"), (0, "true")])
def test_lost_series_are_an_error_unless_there_may_be_no_pods(least: int, ignored: str) -> None:
    keda = BY_KEDA["keda"] | {"minReplicas": least, "triggers": [REQUESTS]}
    assert keda_trigger({"keda": keda})["metadata"]["ignoreNullValues"] == ignored


def test_keda_gets_further_triggers_and_the_behavior() -> None:
    behavior = {"scaleDown": {"stabilizationWindowSeconds": 600}}
    spec = rendered({"keda": BY_KEDA["keda"] | {"triggers": [REQUESTS], "behavior": behavior}}).one("ScaledObject")[
        "spec"
    ]
    assert [each["type"] for each in spec["triggers"]] == ["prometheus", "external-push"]
    assert spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"] == behavior
    alone = rendered({"keda": {"enabled": True, "triggers": [REQUESTS]}}).one("ScaledObject")["spec"]
    assert alone["triggers"] == [REQUESTS]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (BY_QUEUE | BY_KEDA, "false, because autoscaling.enabled is true"),
        ({"keda": {"enabled": True}}, "keda.enabled: expected something to scale by: keda.prometheusAddress"),
        ({"keda": BY_KEDA["keda"] | {"minReplicas": 0}}, "keda.minReplicas: expected at least 1, or a trigger"),
        (
            {"keda": BY_KEDA["keda"] | {"minReplicas": 5}},
            "keda.minReplicas: expected at most keda.maxReplicas, 4, got 5",
        ),
        (
            {"autoscaling": {"enabled": True, "minReplicas": 5}},
            "autoscaling.minReplicas: expected at most autoscaling.maxReplicas, 4, got 5",
        ),
        (
            {"autoscaling": {"enabled": True, "targetCPUUtilizationPercentage": None}},
            "autoscaling.enabled: expected something to scale by",
        ),
        (
            {"autoscaling": {"enabled": True}, "resources": {"requests": {"cpu": None}}},
            "share of the requested CPU, so expected resources.requests.cpu",
        ),
    ],
)
def test_what_cannot_scale_is_refused_with_a_reason(values: Values, words: str) -> None:
    with pytest.raises(ChartRefused, match=words):
        render_helm4(values)
