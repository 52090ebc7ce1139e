"""What a scrape says after requests that Triton's clients sent, and that Prometheus can read it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from fake_backend import fake_model, write_model
from held_backend import HOLD_LOADS, held, held_loads
from infer_calls import ARRIVES, Background, wait_for_queued, wait_until
from prometheus_client.parser import text_string_to_metric_families
from running_server import ROOT, RunningServer, start_server
from tritonclient.utils import InferenceServerException

CLIENTS = {"grpc": tritonclient.grpc, "rest": tritonclient.http}
INTERFACES = {"grpc": "gRPC", "rest": "REST"}
CONFIGS = {
    "plain": "",
    "queued": "batching: false\nqueue: {max_requests: 1}\n",
    "impatient": "batching: false\n",
    "poisoned": "reopen_after_failures: 1000\n",
    "kept": "response_cache: true\n",
    "lazy": "load: on_demand\n",
    "leaving": "",
}
NAME = re.compile(r"\b(?:vintner|nv|ovms)_[a-z0-9_]*[a-z0-9]\b(?![*_])")
ROW = re.compile(r"^\| `(?P<name>\w+)` \| (?P<kind>counter|gauge|histogram) \|(?P<labels>[^|]*)\|", re.MULTILINE)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One model for each test, so that what it counts is exact."""
    root = tmp_path_factory.mktemp("metrics")
    for name, config in CONFIGS.items():
        write_model(root / name / "1", fake_model(shape=(-1, 2)))
        (root / name / "config.yaml").write_text(config)
    (root / "lazy" / "1" / HOLD_LOADS).touch()
    write_model(root / "tagged" / "1")
    (root / "tagged" / "config.pbtxt").write_text('metric_tags { key: "team" value: "vision" }\n')
    return root


@pytest.fixture(scope="module")
def server(models: Path, third_party: dict[str, str]) -> Iterator[RunningServer]:
    running = start_server(models, models.parent / "metrics.log", "--ovms-metrics", env=third_party)
    yield running
    running.kill()


def infer(server: RunningServer, protocol: str, model: str, rows: int = 1, columns: int = 2, **options: Any) -> Any:
    triton = CLIENTS[protocol]
    given = triton.InferInput("input", [rows, columns], "FP32")
    given.set_data_from_numpy(np.zeros((rows, columns), np.float32))
    with triton.InferenceServerClient(server.grpc if protocol == "grpc" else server.http) as client:
        return client.infer(model, [given], **options)


def refused(server: RunningServer, protocol: str, model: str, **options: Any) -> None:
    with pytest.raises(InferenceServerException):
        infer(server, protocol, model, **options)


def scrape(server: RunningServer) -> str:
    return server.request("GET", "/metrics", port=server.metrics)[2].decode()


def failures(server: RunningServer, model: str) -> dict[str, float]:
    labels = rf'model="{model}",version="1",reason="(\w+)"'
    found = re.findall(rf"nv_inference_request_failure{{{labels}}} (.*)", scrape(server))
    return {reason: float(number) for reason, number in found}


NONE = dict.fromkeys(("REJECTED", "CANCELED", "BACKEND", "OTHER"), 0.0)


def test_requests_rows_and_runs_are_counted_exactly_by_all_names(server: RunningServer) -> None:
    for rows in (1, 2, 3):
        infer(server, "grpc", "plain", rows)
    for rows in (4, 5):
        infer(server, "rest", "plain", rows)
    refused(server, "rest", "plain", columns=3)
    triton = {"model": "plain", "version": "1"}
    assert server.counter("nv_inference_request_success", **triton) == 5
    assert server.counter("nv_inference_count", **triton) == 15
    assert server.counter("nv_inference_exec_count", **triton) == 5
    assert server.counter("nv_inference_pending_request_count", **triton) == 0
    assert server.counter("nv_model_load_duration_secs", **triton) > 0
    assert failures(server, "plain") == NONE | {"OTHER": 1.0}
    parts = ("queue", "compute_input", "compute_infer", "compute_output")
    spent = sum(server.counter(f"nv_inference_{part}_duration_us", **triton) for part in parts)
    assert 0 < spent <= server.counter("nv_inference_request_duration_us", **triton)

    for interface, succeeded, failed in (("gRPC", 3, 0), ("REST", 2, 1)):
        labels = {"api": "KServe", "interface": interface, "method": "ModelInfer", "name": "plain", "version": "1"}
        assert server.counter("ovms_requests_success", **labels) == succeeded
        assert server.counter("ovms_requests_fail", **labels) == failed
        times = {"interface": interface, "name": "plain", "version": "1"}
        assert server.counter("ovms_request_time_us_count", **times) == succeeded
        assert server.counter("ovms_request_time_us_bucket", le="+Inf", **times) == succeeded
    assert server.counter("ovms_inference_time_us_count", name="plain") == 5
    assert server.counter("ovms_wait_for_infer_req_time_us_count", name="plain") == 5
    own = server.counter("vintner_compute_duration_seconds_sum", model="plain")
    assert server.counter("ovms_inference_time_us_sum", name="plain") == pytest.approx(own * 1e6)


def test_the_mean_of_a_histogram_by_their_bounds_is_within_the_bucket(server: RunningServer) -> None:
    """The bucket in which all of the observations of one request are is the one that its own sum belongs to."""
    infer(server, "grpc", "leaving")
    (total,) = re.findall(r'ovms_inference_time_us_sum{name="leaving",version="1"} (.*)', scrape(server))
    buckets = re.findall(r'ovms_inference_time_us_bucket{name="leaving",version="1",le="(\d+)"} (.*)', scrape(server))
    assert len(buckets) == 33
    for bound, count in buckets:
        assert float(count) == (float(total) <= float(bound))


@pytest.mark.parametrize("protocol", INTERFACES)
def test_questions_about_a_model_are_counted(server: RunningServer, protocol: str) -> None:
    labels = {"api": "KServe", "interface": INTERFACES[protocol], "name": "plain"}
    with CLIENTS[protocol].InferenceServerClient(server.grpc if protocol == "grpc" else server.http) as client:
        assert client.is_model_ready("plain")
        assert client.is_model_ready("plain", "1")
        client.get_model_metadata("plain")
    assert server.counter("ovms_requests_success", method="ModelReady", **labels) == 2
    assert server.counter("ovms_requests_success", method="ModelMetadata", version="1", **labels) == 1
    (series,) = re.findall(rf".*success{{.*{INTERFACES[protocol]}.*ModelReady.*plain.*", scrape(server))
    assert "version" not in series


def test_what_waits_is_pending_and_what_finds_no_place_is_rejected(server: RunningServer, models: Path) -> None:
    call = partial(infer, server, "grpc", "queued")
    with held(models / "queued" / "1"):
        running = Background(call)
        wait_for_queued(server, "queued", running=1, waiting=0)
        waiting = Background(call)
        wait_for_queued(server, "queued", running=1, waiting=1)
        refused(server, "grpc", "queued")
        refused(server, "rest", "queued")
        assert server.counter("nv_inference_pending_request_count", model="queued") == 1
        assert server.counter("ovms_current_requests", name="queued") == 2
        assert server.counter("ovms_infer_req_active", name="queued") == 1
        assert server.counter("ovms_infer_req_queue_size", name="queued") == 1
    assert [isinstance(each.outcome, Exception) for each in (running, waiting)] == [False, False]
    wait_until(lambda: server.counter("ovms_current_requests", name="queued") == 0)
    assert server.counter("nv_inference_pending_request_count", model="queued") == 0
    assert server.counter("nv_inference_request_success", model="queued") == 2
    assert failures(server, "queued") == NONE | {"REJECTED": 2.0}


def test_what_waits_too_long_is_rejected_and_what_its_client_gives_up_is_cancelled(
    server: RunningServer, models: Path
) -> None:
    with held(models / "impatient" / "1"):
        running = Background(partial(infer, server, "grpc", "impatient"))
        wait_for_queued(server, "impatient", running=1, waiting=0)
        refused(server, "rest", "impatient", timeout=50_000)
        assert failures(server, "impatient") == NONE | {"REJECTED": 1.0}
        refused(server, "grpc", "impatient", client_timeout=ARRIVES)
        wait_until(lambda: failures(server, "impatient")["CANCELED"] == 1.0)
    assert not isinstance(running.outcome, Exception)
    assert server.counter("nv_inference_request_success", model="impatient") == 1
    assert failures(server, "impatient") == NONE | {"REJECTED": 1.0, "CANCELED": 1.0}


def test_an_error_of_the_backend_is_its_own(server: RunningServer, models: Path) -> None:
    poison = models / "poisoned" / "1" / ".poison"
    poison.touch()
    refused(server, "grpc", "poisoned")
    refused(server, "rest", "poisoned")
    poison.unlink()
    assert failures(server, "poisoned") == NONE | {"BACKEND": 2.0}
    assert server.counter("nv_inference_request_success", model="poisoned") == 0


def test_the_cache_has_tritons_series_where_it_is_used(server: RunningServer) -> None:
    for _ in range(3):
        infer(server, "grpc", "kept")
    assert server.counter("nv_cache_num_hits_per_model", model="kept") == 2
    assert server.counter("nv_cache_num_misses_per_model", model="kept") == 1
    assert server.counter("nv_cache_miss_duration_per_model", model="kept") > 0
    assert server.counter("nv_inference_request_success", model="kept") == 3
    assert server.counter("nv_inference_exec_count", model="kept") == 1
    assert 'nv_cache_num_hits_per_model{model="plain"' not in scrape(server)


def test_requests_that_wait_for_a_load_are_parked(server: RunningServer, models: Path) -> None:
    with held_loads(models / "lazy" / "1"):
        waiting = Background(partial(infer, server, "rest", "lazy"))
        wait_until(lambda: server.counter("vintner_parked_requests", model="lazy") == 1)
        assert server.counter("vintner_parked_bytes", model="lazy") == 8
        assert 'nv_inference_count{model="lazy"' not in scrape(server)
    assert not isinstance(waiting.outcome, Exception)
    assert "vintner_parked_requests{" not in scrape(server)
    assert server.counter("nv_inference_count", model="lazy") == 1


def test_what_is_unloaded_has_no_series_by_any_name(server: RunningServer, models: Path) -> None:
    infer(server, "grpc", "leaving")
    before = scrape(server)
    for series in ('vintner_inferences_total{model="leaving"', 'nv_inference_count{model="leaving"'):
        assert series in before
    assert 'ovms_streams{name="leaving"' in before
    shutil.rmtree(models / "leaving")
    assert server.request("POST", "/v1/config/reload")[0] == 201
    wait_until(lambda: '"leaving"' not in scrape(server))


def test_the_tags_of_a_model_are_labels_by_tritons_names_alone(server: RunningServer) -> None:
    assert 'nv_inference_count{model="tagged",version="1",_team="vision"} 0.0\n' in scrape(server)
    assert server.counter("nv_inference_request_failure", model="tagged", _team="vision", reason="OTHER") == 0
    assert 'vintner_inferences_total{model="tagged",version="1"} 0.0\n' in scrape(server)


def test_the_host_is_watched(server: RunningServer) -> None:
    assert 0 <= server.counter("nv_cpu_utilization") <= 1
    assert 0 < server.counter("nv_cpu_memory_used_bytes") < server.counter("nv_cpu_memory_total_bytes")


def test_an_unknown_name_makes_no_series(server: RunningServer) -> None:
    with pytest.raises(InferenceServerException):
        infer(server, "grpc", "never-heard-of")
    assert server.request("GET", "/v2/models/never-heard-of/ready")[0] == 404
    assert "never-heard-of" not in scrape(server)


def test_openvino_model_servers_names_are_only_there_if_asked(doubling: RunningServer) -> None:
    text = scrape(doubling)
    assert "ovms_" not in text
    assert 'nv_inference_count{model="pair",version="3"}' in text


# -- the text ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("port", ["http", "metrics"])
def test_the_text_is_what_prometheus_expects(server: RunningServer, port: str) -> None:
    status, headers, body = server.request("GET", "/metrics?name[]=up", port=getattr(server, port))
    assert status == 200
    assert headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    text = body.decode()
    for kind in ("HELP", "TYPE"):
        named = re.findall(rf"^# {kind} (\S+) .+$", text, re.MULTILINE)
        assert set(Counter(named).values()) == {1}
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert len({line.rpartition(" ")[0] for line in lines}) == len(lines)
    families = list(text_string_to_metric_families(text))
    assert sum(len(family.samples) for family in families) == len(lines)
    assert all(family.type in ("counter", "gauge", "histogram", "summary") for family in families)
    assert all(family.documentation for family in families)


def promtool(*arguments: str, given: str = "") -> str:
    """What it says; nothing, if all is well. `make test` installs it."""
    beside = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    tool = shutil.which("promtool", path=beside)
    assert tool, "promtool is not there: `make test` installs it"
    run = subprocess.run([tool, *arguments], input=given, capture_output=True, text=True, check=False)
    return run.stderr + (run.stdout if run.returncode else "")


def test_prometheus_finds_nothing_amiss_with_our_own_names(server: RunningServer) -> None:
    """It would with the others', which are not ours to choose."""
    own = [line for line in scrape(server).splitlines() if re.match(r"(# \w+ )?vintner_", line)]
    assert len(own) > 1000
    assert promtool("check", "metrics", given="\n".join(own) + "\n") == ""
    assert "no help text" in promtool("check", "metrics", given='vintner_unheard_of{model="m"} 1\n')


# -- docs/metrics.md -----------------------------------------------------------------------------------------

PAGE = (ROOT / "docs" / "metrics.md").read_text()


def families_of(server: RunningServer) -> dict[str, str]:
    """Types, by name."""
    return dict(re.findall(r"^# TYPE (\S+) (\S+)$", scrape(server), re.MULTILINE))


def test_the_docs_name_all_families_and_no_others(server: RunningServer) -> None:
    families = families_of(server)
    in_tables = {row["name"]: row["kind"] for row in ROW.finditer(PAGE)}
    traffic = set(NAME.findall((ROOT / "docs" / "traffic.md").read_text()))
    assert in_tables == {name: kind for name, kind in families.items() if name not in traffic - in_tables.keys()}
    histograms = [name for name, kind in families.items() if kind == "histogram"]
    assert set(NAME.findall(PAGE)) <= families.keys() | {
        f"{name}_{end}" for name in histograms for end in ("bucket", "sum", "count")
    }


def test_the_labels_are_those_of_the_docs(server: RunningServer) -> None:
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(scrape(server)):
        for sample in family.samples:
            if "_team" in sample.labels:
                continue
            name = sample.name if family.type == "counter" else family.name
            found.setdefault(name, set()).update(sample.labels.keys() - {"le"})
    before: set[str] = set()
    for row in ROW.finditer(PAGE):
        labels = before if row["labels"].strip() == "likewise" else set(re.findall(r"`(\w+)`", row["labels"]))
        name = row["name"] if row["name"] in found or row["kind"] != "counter" else f"{row['name']}_total"
        if name in found:  # nothing is parked now
            assert found[name] == labels, name
        before = labels


def test_the_expressions_in_the_docs_are_valid(tmp_path: Path) -> None:
    shown = "".join(re.findall(r"^```promql\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
    expressions = [line for line in shown.splitlines() if line and not line.startswith("#")]
    rules = [f"  - record: shown:{number}\n    expr: '{text}'\n" for number, text in enumerate(expressions)]
    file = tmp_path / "rules.yaml"
    file.write_text("groups:\n- name: shown\n  rules:\n" + "".join(rules))
    assert len(expressions) > 5
    assert promtool("check", "rules", str(file)) == ""
