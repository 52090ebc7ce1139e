"""What the chart says of its pod holds for a real server: command line, probes, ports, test, first requests, end."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from deploy.helm_render import notes_helm4, render_helm3
from deploy.releases import Release, released
from deploy.rendered_pod import Standing, stand_up
from grpc_health.v1 import health_pb2, health_pb2_grpc
from running_server import ROOT
from waiting import wait_until

MODELS = ROOT / "model_repository"
FROM_VOLUME = {"modelRepository": {"type": "volume", "volume": {"hostPath": {"path": "/models"}}}}
LONG_DRAIN = {"server": {"drainSeconds": 1000}}
"""Longer than a test: it ends by a second signal."""
LINE = {"inputs": [{"name": "line", "datatype": "BYTES", "shape": [1], "data": ["one two"]}]}
SERVING = health_pb2.HealthCheckResponse.SERVING

StandUp = Callable[..., Standing]


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standing]:
    """The chart as it is, rendered by Helm 3; nothing may be left behind."""
    standing = stand_up(Release(render_helm3({})), tmp_path_factory.mktemp("default"))
    yield standing
    standing.server.kill()


@pytest.fixture
def stand(tmp_path: Path) -> Iterator[StandUp]:
    """Stands up releases of the test's own, and ends them."""
    running: list[Standing] = []

    def begin(values: dict[str, Any], directories: dict[str, Path] | None = None) -> Standing:
        running.append(stand_up(released(**values), tmp_path, directories))
        return running[-1]

    yield begin
    for each in running:
        each.server.kill()


def models_of(standing: Standing) -> dict[str, set[str]]:
    index = json.loads(standing.server.request("POST", "/v2/repository/index", b"{}")[2])
    return {state: {each["name"] for each in index if each["state"] == state} for state in {m["state"] for m in index}}


def probe(standing: Standing, name: str) -> bool:
    """What the kubelet would find."""
    handler = standing.release.server[name]
    if "grpc" not in handler:
        address = standing.behind_container(handler["httpGet"]["port"])
        return standing.server.request("GET", handler["httpGet"]["path"], port=address)[0] == 200
    assert isinstance(handler["grpc"]["port"], int), "Kubernetes takes no name of a port here"
    with grpc.insecure_channel(standing.behind_container(handler["grpc"]["port"])) as channel:
        asked = health_pb2.HealthCheckRequest(service=handler["grpc"].get("service", ""))
        return bool(health_pb2_grpc.HealthStub(channel).Check(asked, timeout=30).status == SERVING)


def check_server(standing: Standing, *further: str) -> subprocess.CompletedProcess[str]:
    """What the pod of `helm test` does, by this interpreter."""
    [container] = standing.release.one("Pod")["spec"]["containers"]
    assert container["command"] == ["python"]
    arguments = [standing.resolved(argument) for argument in container["args"]]
    return subprocess.run(
        [sys.executable, *arguments, *further], capture_output=True, text=True, timeout=90, check=False
    )


# -- a server that serves -------------------------------------------------------------------------------------


def test_the_rendered_command_line_starts_a_server_of_the_bundled_models(standing: Standing) -> None:
    assert standing.server.ready
    assert models_of(standing) == {"READY": {path.name for path in MODELS.iterdir() if path.is_dir()}}
    assert {path.name for path in MODELS.iterdir() if path.is_dir()} >= {"digits", "text_lines"}


def test_the_log_is_in_the_form_that_the_values_say(standing: Standing) -> None:
    lines = standing.server.log.read_text().splitlines()
    assert lines
    assert all(isinstance(json.loads(line), dict) for line in lines)


@pytest.mark.parametrize("probes", ["httpGet", "grpc"])
def test_each_probe_succeeds(standing: Standing, probes: str) -> None:
    asked = released(probes={"type": probes})
    assert asked.config == standing.release.config
    of_these = Standing(asked, standing.server, standing.addresses)
    assert ("grpc" in asked.server["readinessProbe"]) is (probes == "grpc")
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert probe(of_these, name), name


def test_each_port_of_the_service_leads_to_what_its_name_says(standing: Standing) -> None:
    ports = {each["name"]: each["port"] for each in standing.release.one("Service")["spec"]["ports"]}
    for name, address in (("http", standing.server.http), ("grpc", standing.server.grpc)):
        assert standing.behind_service(standing.release.one("Service"), ports[name]) == address
    metrics = standing.behind_service(standing.release.one("Service"), ports["metrics"])
    assert metrics == standing.server.metrics
    assert b"# TYPE vintner_" in standing.server.request("GET", "/metrics", port=metrics)[2]


def test_annotations_for_scrapes_lead_to_the_metrics(standing: Standing) -> None:
    annotations = released(metrics={"scrapeAnnotations": True}).template["metadata"]["annotations"]
    address = standing.behind_container(int(annotations["prometheus.io/port"]))
    status, _, body = standing.server.request("GET", annotations["prometheus.io/path"], port=address)
    assert (annotations["prometheus.io/scrape"], status) == ("true", 200)
    assert b"# TYPE vintner_" in body


def test_the_first_requests_of_the_notes_are_answered(standing: Standing) -> None:
    notes = notes_helm4()
    forwards = re.search(r"port-forward .* service/(\S+)((?: \d+:\d+)+)", notes)
    assert forwards
    service = standing.release.one("Service")
    assert forwards[1] == service["metadata"]["name"]
    answers = {}
    for line in re.findall(r"^ +(curl .*)$", notes, re.MULTILINE):
        command = line
        for local, port in (pair.split(":") for pair in forwards[2].split()):
            command = command.replace(f"localhost:{local}", standing.behind_service(service, int(port)))
        assert "localhost" not in command
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=True)
        answers[line] = done.stdout
    index, metadata, inference, metrics = answers.values()
    assert {"name": "digits", "version": "1", "state": "READY"} in json.loads(index)
    assert json.loads(metadata)["versions"] == ["1", "2"]
    assert json.loads(inference)["outputs"][0]["data"] == ["A GLASS OF RED"]
    assert "# TYPE vintner_" in metrics


def test_the_addresses_of_the_notes_are_those_of_the_services() -> None:
    values = {"service": {"headless": {"enabled": True}}, "server": {"ports": {"grpc": 9001}}}
    notes, release = notes_helm4(values), released(**values)
    addresses = re.findall(r"([\w-]+)\.(\w+):(\d+)", notes)
    assert len(addresses) == 4
    for name, namespace, port in addresses:
        service = release.one("Service", name)
        assert service["metadata"]["namespace"] == namespace
        assert int(port) in [each["port"] for each in service["spec"]["ports"]]
    headless = release.one("Service", "-headless")["spec"]["ports"]
    assert {each["name"]: each["port"] for each in headless} == {"http": 8000, "grpc": 9001}


# -- `helm test` ----------------------------------------------------------------------------------------------


def test_the_check_passes_and_says_what_it_saw(standing: Standing) -> None:
    before = standing.server.counter("vintner_requests_total", model="digits")
    done = check_server(standing)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "digits 1 READY" in done.stdout
    assert standing.server.counter("vintner_requests_total", model="digits") == before + 1


@pytest.mark.parametrize("wrong", ["--http=http://{closed}", "--grpc={closed}", "--metrics=http://{closed}"])
def test_the_check_fails_where_a_port_is_closed(standing: Standing, wrong: str) -> None:
    with socket.socket() as never_listening:
        never_listening.bind(("127.0.0.1", 0))
        closed = f"127.0.0.1:{never_listening.getsockname()[1]}"
        done = check_server(standing, wrong.format(closed=closed))
    assert done.returncode == 1
    assert re.search(rf"FAILED: \S*{re.escape(closed)}\S* cannot be reached", done.stderr)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("--metrics={http}/v2", "/v2/metrics answered 404"),
        ("--metrics={http}/docs?", "has no metric of the server"),
        ("--digits=digit", "answered 404: .*did you mean 'digits'"),
        ("--digits=text_lines", "answered 400: "),
        ("--grpc={metrics}", "does not speak HTTP/2"),
    ],
)
def test_the_check_fails_where_an_answer_is_wrong(standing: Standing, wrong: str, message: str) -> None:
    server = standing.server
    done = check_server(standing, wrong.format(http=f"http://{server.http}", metrics=server.metrics))
    assert done.returncode == 1
    assert re.search(f"FAILED: .*{message}", done.stderr)


def test_the_check_fails_where_there_is_no_model_and_where_the_server_has_stopped(
    stand: StandUp, tmp_path: Path
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    standing = stand({**FROM_VOLUME, "server": {"drainSeconds": 0}}, {"/models": empty})
    assert standing.server.ready
    done = check_server(standing)
    assert (done.returncode, done.stderr) == (1, "FAILED: the repository has no model\n")
    assert standing.server.terminate() == 0
    done = check_server(standing)
    assert done.returncode == 1
    assert f"FAILED: http://{standing.server.http}/v2/health/ready cannot be reached" in done.stderr


# -- other repositories, and the end --------------------------------------------------------------------------


def test_a_directory_of_a_volume_with_a_single_model_is_served_by_its_name(stand: StandUp, tmp_path: Path) -> None:
    shutil.copytree(MODELS / "digits_onnx" / "1", tmp_path / "volume" / "lines" / "today")
    values = {
        "modelRepository": {**FROM_VOLUME["modelRepository"], "subPath": "lines/today", "modelName": "numbers"},
        "cache": {"type": "none"},
        "server": {"config": {"max_json_keys": 3}, "extraArgs": ["--max-json-nesting", "5"]},
    }
    standing = stand(values, {"/models": tmp_path / "volume"})
    assert models_of(standing) == {"READY": {"numbers"}}
    many, deep = b'{"a": 1, "b": 1, "c": 1, "d": 1}', b'{"inputs": [[[[[[]]]]]]}'
    assert b"at most 3 are allowed" in standing.server.request("POST", "/v2/models/numbers/infer", many)[2]
    assert b"allowed limit (5)" in standing.server.request("POST", "/v2/models/numbers/infer", deep)[2]
    assert check_server(standing).returncode == 0


def test_a_config_map_becomes_a_repository(stand: StandUp, tmp_path: Path) -> None:
    """As the kubelet lays its keys out, each at its path: behind a link that it swaps when the ConfigMap changes."""
    items = [{"key": "lines.onnx", "path": "text_lines/1/model.onnx"}, {"key": "c", "path": "text_lines/config.yaml"}]
    values = {"modelRepository": {"type": "configMap", "configMap": {"name": "models", "items": items}}}
    release = released(**values)
    assert release.volume("models") == {"configMap": {"name": "models", "items": items}}
    keys = {"lines.onnx": MODELS / "text_lines/1/model.onnx", "c": MODELS / "text_lines/config.yaml"}
    volume = tmp_path / "volume"
    for item in release.volume("models")["configMap"]["items"]:
        place = volume / "..2026_1" / item["path"]
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(keys[item["key"]], place)
    (volume / "..data").symlink_to("..2026_1")
    (volume / "text_lines").symlink_to("..data/text_lines")
    standing = stand(values, {"/models": volume})
    assert models_of(standing) == {"READY": {"text_lines"}}
    assert standing.server.request("POST", "/v2/models/text_lines/infer", json.dumps(LINE).encode())[0] == 200


@pytest.mark.parametrize("probes", ["httpGet", "grpc"])
def test_a_pod_that_is_told_to_stop_is_not_ready_but_lives_and_serves(
    stand: StandUp, tmp_path: Path, probes: str
) -> None:
    shutil.copytree(MODELS / "text_lines", tmp_path / "models" / "text_lines")
    standing = stand({**FROM_VOLUME, **LONG_DRAIN, "probes": {"type": probes}}, {"/models": tmp_path / "models"})
    assert probe(standing, "readinessProbe")
    standing.server.process.terminate()
    wait_until(lambda: not probe(standing, "readinessProbe"))
    assert probe(standing, "livenessProbe")
    assert standing.server.request("POST", "/v2/models/text_lines/infer", json.dumps(LINE).encode())[0] == 200
    done = check_server(standing)
    assert done.returncode == 1
    assert "/v2/health/ready answered 503: " in done.stderr
    assert standing.server.process.poll() is None
