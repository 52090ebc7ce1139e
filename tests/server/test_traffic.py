"""Canaries and shadows over sockets: who answers, what is compared, what becomes of a canary that is bad."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
import yaml
from fake_backend import fake_model, write_model
from held_backend import held
from infer_calls import wait_until
from model_builders import onnx_value, save_onnx
from onnx import helper, numpy_helper
from running_server import RunningServer, start_server
from tritonclient.utils import InferenceServerException

Start = Callable[..., RunningServer]

PROTOCOLS = ("grpc", "http")
IDS = [f"user-{number}" for number in range(200)]


def write_versions(root: Path, model: str, traffic: dict[str, Any], **versions: dict[str, Any]) -> Path:
    """A model that doubles, in versions v1, v2, ... of which the documents have these keys besides."""
    for name, keys in versions.items():
        write_model(root / model / name[1:], {**fake_model(shape=(-1, 2)), **keys})
    config = {"traffic": traffic, "batching": False, "reopen_after_failures": 1000}
    (root / model / "config.yaml").write_text(yaml.safe_dump(config))
    return root / model


def write_affine(directory: Path, bias: Sequence[float]) -> None:
    """`scores` [rows, 3] is twice the input, and the bias."""
    constants = [
        numpy_helper.from_array(np.float32(2), "two"),
        numpy_helper.from_array(np.float32(bias), "bias"),
    ]
    nodes = [
        helper.make_node("Mul", ["input", "two"], ["doubled"]),
        helper.make_node("Add", ["doubled", "bias"], ["scores"]),
    ]
    shape = ("rows", 3)
    graph = helper.make_graph(
        nodes, "affine", [onnx_value("input", "FP32", shape)], [onnx_value("scores", "FP32", shape)], constants
    )
    save_onnx(directory, graph)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("traffic")
    split = {"default": 1, "canary": {"version": 3, "percent": 25}}
    write_versions(root, "split", split, v1={}, v2={}, v3={})
    write_versions(root, "other", split, v1={}, v3={})
    write_versions(root, "absent", {"default": 2, "canary": {"version": 3, "percent": 50}}, v1={}, v3={"fail": "no"})
    write_affine(root / "affine" / "1", [0, 0, 0])
    write_affine(root / "affine" / "2", [0.25, 0, -0.5])
    (root / "affine" / "config.yaml").write_text("backend: onnxruntime\ntraffic: {shadow: {version: 2}}\n")
    return root


@pytest.fixture(scope="module")
def server(root: Path, third_party: dict[str, str]) -> Iterator[RunningServer]:
    running = start_server(root, root.parent / f"{root.name}.log", "--no-strict-readiness", env=third_party)
    yield running
    running.kill()


class Client:
    """tritonclient over one protocol, with one connection."""

    def __init__(self, server: RunningServer, protocol: str) -> None:
        self._triton: Any = triton_grpc if protocol == "grpc" else triton_http
        self._client = self._triton.InferenceServerClient(getattr(server, protocol))
        self._grpc = protocol == "grpc"

    def ask(self, model: str, values: Any = ((1, 2),), **options: Any) -> tuple[str, Any]:
        """The version that answered, and what."""
        given = self._triton.InferInput("input", list(np.shape(values)), "FP32")
        given.set_data_from_numpy(np.asarray(values, np.float32))
        result = self._client.infer(model, [given], **options)
        reply = result.get_response()
        if self._grpc:
            return reply.model_version, result.as_numpy(reply.outputs[0].name)
        return reply["model_version"], result.as_numpy(reply["outputs"][0]["name"])

    def versions(self, model: str, ids: Sequence[str]) -> list[str]:
        return [self.ask(model, request_id=one)[0] for one in ids]


def reason_of(server: RunningServer, model: str, version: str) -> str:
    entries = json.loads(server.request("POST", "/v2/repository/index")[2])
    return next(e["reason"] for e in entries if (e["name"], e["version"]) == (model, version))


def test_an_id_has_its_version_over_either_protocol_and_in_every_server(
    server: RunningServer, root: Path, start: Start
) -> None:
    first = Client(server, "grpc").versions("split", IDS)
    assert Counter(first)["3"] == pytest.approx(50, abs=20)
    assert set(first) == {"1", "3"}
    assert Client(server, "http").versions("split", IDS) == first
    replica = start(root, "--no-strict-readiness")
    assert Client(replica, "http").versions("split", IDS) == first
    assert Client(server, "http").versions("other", IDS) != first


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_requests_without_an_id_are_split_by_percent(server: RunningServer, protocol: str) -> None:
    before = server.counter("vintner_traffic_requests_total", model="split", version="3", role="canary")
    versions = Counter(Client(server, protocol).versions("split", [""] * 80))
    assert versions["1"] + versions["3"] == 80
    assert versions["3"] == pytest.approx(20, abs=2)
    after = server.counter("vintner_traffic_requests_total", model="split", version="3", role="canary")
    assert after - before == versions["3"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_version_that_is_named_answers(server: RunningServer, protocol: str) -> None:
    client = Client(server, protocol)
    assert {client.ask("split", model_version="3", request_id=one)[0] for one in IDS[:20]} == {"3"}
    assert {client.ask("split", model_version="1", request_id=one)[0] for one in IDS[:20]} == {"1"}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_versions_that_are_absent_or_failed_leave_their_requests_to_another(
    server: RunningServer, protocol: str
) -> None:
    assert set(Client(server, protocol).versions("absent", IDS)) == {"1"}
    assert reason_of(server, "absent", "3") == "no"


def test_a_shadow_is_compared_with_what_was_served(server: RunningServer) -> None:
    rows = np.float32([[1, 0, 0], [0, 1, 0], [0.1, 0, 0.2], [0, 0, 2]])
    for protocol in PROTOCOLS:
        version, scores = Client(server, protocol).ask("affine", rows)
        assert version == "1"
        np.testing.assert_array_equal(scores, 2 * rows)
    labels = {"model": "affine", "version": "1", "shadow": "2"}
    wait_until(lambda: server.counter("vintner_shadow_requests_total", **labels, outcome="ok") == 2)
    assert server.counter("vintner_shadow_absolute_difference_count", **labels, output="scores") == 24
    assert server.counter("vintner_shadow_absolute_difference_sum", **labels) == pytest.approx(2 * 4 * 0.75)
    assert server.counter("vintner_shadow_absolute_difference_max", **labels) == 0.5
    assert server.counter("vintner_shadow_request_difference_bucket", **labels, le="1.0") == 2
    assert server.counter("vintner_shadow_request_difference_bucket", **labels, le="0.1") == 0
    assert server.counter("vintner_shadow_rows_total", **labels) == 8
    # Of the third row, [0.2, 0, 0.4] has become [0.45, 0, -0.1].
    assert server.counter("vintner_shadow_rows_agreed_total", **labels) == 6
    assert server.counter("vintner_shadow_mismatches_total", **labels) == 0
    assert server.counter("vintner_requests_total", model="affine", version="2") == 0
    assert server.counter("vintner_inferences_total", model="affine", version="2") == 8


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_canary_that_fails_is_rolled_back(tmp_path: Path, start: Start, protocol: str) -> None:
    canary = {"version": 2, "percent": 50, "min_requests": 10}
    model = write_versions(tmp_path / "models", "m", {"default": 1, "canary": canary}, v1={}, v2={})
    server = start(tmp_path / "models")
    client = Client(server, protocol)
    assert set(client.versions("m", [""] * 10)) == {"1", "2"}
    (model / "2" / ".poison").touch()
    failures = 0
    for _ in range(60):
        try:
            client.ask("m")
        except InferenceServerException:
            failures += 1
    assert 1 <= failures <= 6
    assert set(client.versions("m", IDS)) == {"1"}
    reason = reason_of(server, "m", "2")
    assert reason == f"canary rolled back: {failures} of 10 requests failed, more than 5 %"
    assert f"model 'm' version 2: {reason}" in server.log.read_text()
    assert server.counter("vintner_canary_rollbacks_total", model="m", version="2") == 1
    assert server.counter("vintner_canary_percent", model="m", version="2") == 0


def test_a_canary_that_is_slow_is_rolled_back(tmp_path: Path, start: Start) -> None:
    canary = {"version": 2, "percent": 50, "min_requests": 5, "max_p99_seconds": 0.05, "max_error_rate": 1}
    write_versions(tmp_path / "models", "m", {"default": 1, "canary": canary}, v1={}, v2={"seconds": 0.1})
    server = start(tmp_path / "models")
    assert Client(server, "grpc").versions("m", [""] * 20).count("2") == 5
    assert "5 of 5 requests took longer than 0.05 s, more than 1 %" in reason_of(server, "m", "2")
    assert Client(server, "grpc").ask("m", model_version="2")[0] == "2"


def test_a_shadow_that_hangs_holds_up_neither_requests_nor_the_end(tmp_path: Path, start: Start) -> None:
    model = write_versions(tmp_path / "models", "m", {"shadow": {"version": 2}}, v1={}, v2={"seconds": 1.5})
    server = start(tmp_path / "models", "--drain-seconds=0")
    clients = [Client(server, protocol) for protocol in PROTOCOLS]
    with held(model / "2"):
        for number in range(40):
            assert clients[number % 2].ask("m")[0] == "1"
        wait_until(lambda: server.counter("vintner_queue_requests", model="m", version="2") == 15)
        assert server.counter("vintner_shadow_skipped_total", model="m", shadow="2", reason="busy") == 24
    began = time.monotonic()
    assert server.terminate() == 0
    assert time.monotonic() - began < 12  # all sixteen would have taken 24
