"""A real Prometheus scrapes a real server as docs/metrics.md says, with the rules loaded, while it is asked things."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from observability import RULES, RUNBOOK, metric_names, promtool, queries, recorded, rules, substituted
from running_prometheus import RunningPrometheus, start_prometheus
from running_server import ROOT, RunningServer, start_server
from waiting import wait_until

CONFIGS = {
    "digits": "version_policy: all\nprecision: f32\ntraffic: {canary: {version: 2, percent: 50}}\n",
    "digits_onnx": "backend: onnxruntime\nresponse_cache: true\n",
    "tiny_llm": "generation: {kv_cache_size: 4MiB}\n",
}
OF_OTHERS = {
    "up": "made by Prometheus of each target",
    "ALERTS": "made by Prometheus of the alerts that are pending or fire",
    "container_memory_working_set_bytes": "cAdvisor's, which is in every kubelet",
    "kube_pod_container_resource_limits": "of kube-state-metrics",
}
"""What rules and dashboard ask for that no server exports."""
SILENT = {
    "vintner_model_faulty": "nothing is wrong with any model",
    "vintner_parked_requests": "all models are loaded",
    "vintner_instances_out": "no instance failed",
    "vintner_instances_waiting": "the models share no resources",
    "vintner_assembly_duration_seconds_count": "no request met another one",
    "vintner_split_duration_seconds_count": "likewise",
}
"""Of what the dashboard shows nothing as long as all is well and nobody is in a hurry."""
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = BLOCK.findall((ROOT / "docs" / "metrics.md").read_text())
QUESTIONS = [line for language, text in BLOCKS if language == "promql" for line in text.splitlines()
             if line and not line.startswith("#")]  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    root = tmp_path_factory.mktemp("scraped")
    for name, config in CONFIGS.items():
        shutil.copytree(ROOT / "model_repository" / name, root / "models" / name)
        (root / "models" / name / "config.yaml").write_text(config)
    running = start_server(root / "models", root / "log")
    yield running
    running.kill()


@pytest.fixture(scope="module")
def prometheus(server: RunningServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPrometheus]:
    """One that has scraped the server before and after it was asked something."""
    directory = tmp_path_factory.mktemp("prometheus")
    running = start_prometheus(configured(server, directory / "prometheus.yml"), directory)
    try:
        wait_until(lambda: running.query("vintner:queue_seconds:mean1m") and running.query("vintner_requests_total"))
        ask(server)
        answered = 'count(vintner_requests_total{model=~"digits|digits_onnx|tiny_llm",outcome="ok"} > 0) >= 4'
        wait_until(lambda: running.query(answered))
        yield running
    finally:
        running.kill()


def configured(server: RunningServer, path: Path) -> Path:
    """The configuration in the docs, for this server, and quicker."""
    (shown,) = (text for language, text in BLOCKS if language == "yaml" and "scrape_configs" in text)
    for told, here in (
        ("localhost:8002", server.metrics), ("helm/vintner/files/rules.yaml", str(RULES)),
        ("scrape_interval: 15s", "scrape_interval: 500ms"), ("evaluation_interval: 15s", "evaluation_interval: 500ms"),
    ):  # fmt: skip
        assert shown.count(told) == 1, told
        shown = shown.replace(told, here)
    path.write_text(shown)
    return path


def ask(server: RunningServer) -> None:
    """Of all models something, and of some what they refuse."""
    image = {"name": "image", "datatype": "FP32", "shape": [1, 1, 8, 8], "data": [0.0] * 64}
    small = {**image, "shape": [1, 1, 2, 2], "data": [0.0] * 4}
    for model in ("digits", "digits", "digits", "digits", "digits_onnx", "digits_onnx"):
        assert infer(server, model, image) == 200
    assert infer(server, "digits", small) == 400
    assert infer(server, "nobody", image) == 404
    for tokens in (5, 20):
        asked = {"messages": [{"role": "user", "content": "Hello!"}], "max_tokens": tokens, "ignore_eos": True}
        body = json.dumps({"model": "tiny_llm", **asked}).encode()
        assert server.request("POST", "/v1/chat/completions", body)[0] == 200


def infer(server: RunningServer, model: str, tensor: dict[str, object]) -> int:
    return server.request("POST", f"/v2/models/{model}/infer", json.dumps({"inputs": [tensor]}).encode())[0]


def scrape(server: RunningServer) -> str:
    return server.request("GET", "/metrics", port=server.metrics)[2].decode()


def exported(server: RunningServer) -> set[str]:
    """All names of series that there are, or may be."""
    names = set()
    for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", scrape(server), re.MULTILINE):
        names |= {f"{name}_{part}" for part in ("bucket", "sum", "count")} if kind == "histogram" else {name}
    return names


def test_all_targets_are_up_and_of_the_job_in_the_docs(prometheus: RunningPrometheus) -> None:
    def health() -> Sequence[str]:
        """Not up for the moment if this machine was too busy for a scrape."""
        targets = prometheus.get("targets")["activeTargets"]
        assert [target["labels"]["job"] for target in targets] == ["vintner"]
        return [target["health"] for target in targets]

    wait_until(lambda: health() == ["up"])
    wait_until(lambda: prometheus.query("vintner_ready == 1"))


def test_the_rules_that_are_loaded_are_ours_and_all_well(prometheus: RunningPrometheus) -> None:
    def states() -> Sequence[tuple[str, str]]:
        groups = prometheus.get("rules")["groups"]
        return [(rule["name"], rule["health"]) for group in groups for rule in group["rules"]]

    wait_until(lambda: all(health != "unknown" for _, health in states()))
    assert sorted(states()) == sorted((rule.get("record") or rule["alert"], "ok") for rule in rules())


@pytest.mark.parametrize("name", recorded())
def test_a_recording_rule_gives_values_after_traffic(prometheus: RunningPrometheus, name: str) -> None:
    wait_until(lambda: prometheus.query(name))
    expected = {"__name__", "job", "instance"} if name.endswith("mean1m") else {"__name__", "job", "model", "version"}
    for labels, value in prometheus.query(name):
        assert labels.keys() == expected
        assert value >= 0


def test_what_was_recorded_is_what_was_asked(prometheus: RunningPrometheus, server: RunningServer) -> None:
    ask(server)  # anew: what is recorded of the last minute may be past
    for name in ("requests:rate5m", "prompt_tokens:rate5m", "generated_tokens:rate5m", "first_token_seconds:p95_5m"):
        wait_until(lambda name=name: prometheus.query(f'vintner:{name}{{model="tiny_llm"}} > 0'))
    wait_until(lambda: prometheus.query('vintner:queue_seconds:mean1m{job="vintner"} > 0'))
    assert {labels["version"] for labels, _ in prometheus.query('vintner:request_seconds:p99_5m{model="digits"}')} == {
        "1",
        "2",
    }
    assert [value for _, value in prometheus.query("max(vintner:request_errors:ratio5m)")] == [0], "400 is no error"


def test_no_alert_is_pending_or_fires(prometheus: RunningPrometheus) -> None:
    """That Prometheus knew of no server before it asked one is over at once."""
    host = 'alertname!="VintnerHostMemoryFull"'  # the machine's own affair
    wait_until(lambda: not prometheus.query(f"ALERTS{{{host}}}"))


def test_every_metric_in_rules_and_dashboard_is_exported_or_recorded(server: RunningServer) -> None:
    asked = {name for _, query in queries() for name in metric_names(substituted(query))}
    asked |= {name for rule in rules() for name in metric_names(rule["expr"])}
    known = exported(server) | recorded().keys() | OF_OTHERS.keys()
    assert asked - known == set()
    assert OF_OTHERS.keys() <= asked, "an exception that is not needed"


@pytest.mark.parametrize("query", [query for _, query in queries()], ids=[title for title, _ in queries()])
def test_a_panel_shows_something_of_a_server_that_was_asked(prometheus: RunningPrometheus, query: str) -> None:
    if metric_names(substituted(query)) & SILENT.keys():
        assert prometheus.query(substituted(query)) == []
    else:
        wait_until(lambda: prometheus.query(substituted(query)))


def test_the_runbook_names_only_metrics_that_there_are(server: RunningServer) -> None:
    named = set(re.findall(r"\b(?:vintner|nv)[_:][a-z0-9_:]+\b", RUNBOOK.read_text()))
    families = set(re.findall(r"^# TYPE (\S+)", scrape(server), re.MULTILINE))
    assert len(named) > 15
    assert named - families - exported(server) - recorded().keys() == set()


def test_what_is_chosen_is_what_is_shown(prometheus: RunningPrometheus) -> None:
    written = dict(queries())["Requests"]
    for chosen, models in ({"model": "digits", "version": "2"}, {("digits", "2")}), ({"job": "nobody"}, set()):
        found = prometheus.query(substituted(written, chosen))
        assert {(labels["model"], labels["version"]) for labels, _ in found} == models


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_question_in_the_docs_is_answered(prometheus: RunningPrometheus, question: str) -> None:
    wait_until(lambda: prometheus.query(question))


def test_what_the_runbook_says_to_ask_can_be_asked(prometheus: RunningPrometheus, server: RunningServer) -> None:
    for language, text in BLOCK.findall(RUNBOOK.read_text()):
        if language == "promql":
            prometheus.query(text)
            known = exported(server) | recorded().keys() | OF_OTHERS.keys()
            assert metric_names(text) <= known
        else:
            command, _, output = text.removeprefix("$ ").partition("\n")
            command = command.replace("localhost:8000", server.http)
            run = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
            assert (language, run.stdout.rstrip("\n")) == ("console", output.rstrip("\n"))


def test_prometheus_finds_nothing_amiss_with_our_names(server: RunningServer) -> None:
    own = [line for line in scrape(server).splitlines(keepends=True) if re.match(r"(# \w+ )?vintner_", line)]
    assert len(own) > 500
    assert promtool("check", "metrics", text="".join(own)) == ""
