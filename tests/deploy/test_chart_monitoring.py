"""What the chart gives the Prometheus operator and Grafana: monitors, rules of each release, the dashboard."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from deploy.helm_render import NAMESPACE, RELEASE, ChartRefused, Values, render_helm4
from deploy.promtool_calls import check_rules, check_samples
from deploy.rendered_pod import Release
from running_server import ROOT

FILES = ROOT / "helm" / "vintner" / "files"
GROUPS = yaml.safe_load((FILES / "rules.yaml").read_text())["groups"]
JOBS = {"serviceMonitor": "{}-vintner", "podMonitor": f"{NAMESPACE}/{{}}-vintner"}
"""What the operator calls the job of a release: after the Service, or after the PodMonitor."""
LARGEST_CONFIG_MAP = 1024 * 1024


def rendered(metrics: Values, release: str = RELEASE) -> Release:
    return Release(render_helm4({"metrics": metrics}, release=release))


def rule_groups(monitor: str = "serviceMonitor", release: str = RELEASE, **given: Any) -> list[dict[str, Any]]:
    metrics = {monitor: {"enabled": True}, "prometheusRule": {"enabled": True, **given}}
    groups: list[dict[str, Any]] = rendered(metrics, release).one("PrometheusRule")["spec"]["groups"]
    return groups


@pytest.mark.parametrize("monitor", JOBS)
@pytest.mark.parametrize(("interval", "timeout"), [("30s", "10s"), ("1s", "900ms"), ("1m30s", "80s"), ("1d", "23h")])
def test_a_scrape_may_take_less_than_the_time_to_the_next(monitor: str, interval: str, timeout: str) -> None:
    given = {"enabled": True, "interval": interval, "scrapeTimeout": timeout}
    spec = rendered({monitor: given}).one(f"{monitor[0].upper()}{monitor[1:]}")["spec"]
    [endpoint] = spec.get("endpoints") or spec["podMetricsEndpoints"]
    assert (endpoint["interval"], endpoint["scrapeTimeout"]) == (interval, timeout)
    assert endpoint["honorLabels"] is True


@pytest.mark.parametrize("monitor", JOBS)
@pytest.mark.parametrize(("interval", "timeout"), [("10s", "10s"), ("1m", "61s"), ("900ms", "1s"), ("1h", "59m60s")])
def test_a_longer_scrape_is_refused(monitor: str, interval: str, timeout: str) -> None:
    with pytest.raises(ChartRefused, match=f"scrapeTimeout: expected less than interval, {interval}, got {timeout}"):
        rendered({monitor: {"enabled": True, "interval": interval, "scrapeTimeout": timeout}})


@pytest.mark.parametrize("monitor", JOBS)
def test_a_monitors_port_is_the_servers_port_of_metrics(monitor: str) -> None:
    release = rendered({monitor: {"enabled": True}})
    spec = release.one(f"{monitor[0].upper()}{monitor[1:]}")["spec"]
    [endpoint] = spec.get("endpoints") or spec["podMetricsEndpoints"]
    assert release.container_port(endpoint["port"]) == release.config["metrics_port"]


def test_the_annotations_of_a_scrape_are_the_servers_port_of_metrics() -> None:
    release = rendered({"scrapeAnnotations": True})
    annotations = release.template["metadata"]["annotations"]
    assert annotations["prometheus.io/scrape"] == "true"
    assert annotations["prometheus.io/path"] == "/metrics"
    assert int(annotations["prometheus.io/port"]) == release.config["metrics_port"]
    assert not any(name.startswith("prometheus.io") for name in rendered({}).template["metadata"]["annotations"])


@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        (
            {"serviceMonitor": {"enabled": True}, "podMonitor": {"enabled": True}},
            "false, because metrics.serviceMonitor.enabled is true",
        ),
        (
            {"prometheusRule": {"enabled": True}},
            "expected metrics.serviceMonitor.enabled or metrics.podMonitor.enabled",
        ),
    ],
)
def test_what_would_not_be_told_apart_is_refused(metrics: Values, words: str) -> None:
    with pytest.raises(ChartRefused, match=words):
        rendered(metrics)


@pytest.mark.parametrize("monitor", JOBS)
def test_all_of_a_rule_but_its_series_comes_through_unchanged(monitor: str, tmp_path: Path) -> None:
    groups = rule_groups(monitor)
    check_rules(groups, tmp_path)
    assert [group["name"] for group in groups] == [group["name"] for group in GROUPS]
    for ours, theirs in zip(groups, GROUPS, strict=True):
        for rule, file in zip(ours["rules"], theirs["rules"], strict=True):
            labels = file.get("labels", {}) | ({"release": RELEASE} if "alert" in file else {})
            assert rule == file | {"expr": rule["expr"]} | ({"labels": labels} if labels else {})


def test_every_series_of_the_server_in_a_rule_is_told_by_its_release() -> None:
    """Each name is followed by the selector, whatever stands around it."""
    selector = f'{{namespace="{NAMESPACE}",job="{JOBS["serviceMonitor"].format(RELEASE)}"'
    for ours, theirs in zip(rule_groups(), GROUPS, strict=True):
        for rule, file in zip(ours["rules"], theirs["rules"], strict=True):
            names = file["expr"].count("vintner_") + file["expr"].count("vintner:")
            assert rule["expr"].count(selector) == names > 0, rule["expr"]


@pytest.mark.parametrize("monitor", JOBS)
def test_two_releases_record_and_alert_each_for_itself(monitor: str, tmp_path: Path) -> None:
    """Series of both, and the rules of one: it knows nothing of the other."""
    jobs = [JOBS[monitor].format(release) for release in (RELEASE, "other")]
    series = {}
    for job in jobs:
        labels = f'namespace="{NAMESPACE}",job="{job}",pod="{job}-0",instance="{job}"'
        requests = f'vintner_requests_total{{{labels},model="digits",version="1",protocol="grpc",outcome="internal"}}'
        series |= {requests: "0+150x80", f"vintner_build_info{{{labels}}}": "1x80", f"up{{{labels}}}": "0x80"}
    own, alert = f'namespace="{NAMESPACE}",job="{jobs[0]}"', 'alertname="VintnerErrors",severity="critical"'
    expected = {
        "vintner:requests:rate5m": {f'vintner:requests:rate5m{{{own},model="digits",version="1"}}': 10.0},
        "vintner:request_errors:ratio5m": {f'vintner:request_errors:ratio5m{{{own},model="digits",version="1"}}': 1.0},
        'count by (alertname, job, release) (ALERTS{alertname="VintnerDown"})': {
            f'{{alertname="VintnerDown",job="{jobs[0]}",release="{RELEASE}"}}': 1.0
        },
        f"count by (job, release) (ALERTS{{{alert}}})": {f'{{job="{jobs[0]}",release="{RELEASE}"}}': 1.0},
    }
    check_samples(tmp_path, series, expected, rule_groups(monitor), at="15m")


def test_further_groups_come_through_as_they_are() -> None:
    text = "{{ $labels.model }} has {{ $value | humanize }}"
    group = {"name": "own", "rules": [{"alert": "Own", "expr": "vintner_model_faults > 0", "annotations": {"s": text}}]}
    assert rule_groups(additionalGroups=[group])[-1] == group


def test_rules_and_dashboards_of_two_releases_do_not_collide() -> None:
    names = {release: rendered({"dashboard": {"enabled": True}}, release) for release in (RELEASE, "other")}
    maps = [release.one("ConfigMap", "-dashboard") for release in names.values()]
    assert maps[0]["metadata"]["name"] != maps[1]["metadata"]["name"]
    assert maps[0]["data"] == maps[1]["data"], "Grafana's sidecar puts both into one file"


def test_the_dashboard_is_the_file_and_small_enough() -> None:
    map_ = rendered({"dashboard": {"enabled": True}}).one("ConfigMap", "-dashboard")
    assert map_["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(map_["data"]["vintner.json"]) == json.loads((FILES / "dashboard.json").read_text())
    assert len(json.dumps(map_)) < LARGEST_CONFIG_MAP
