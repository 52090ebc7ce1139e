"""Statistics and configuration of models, as Triton's clients ask for them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from fake_backend import fake_model, write_model
from running_server import RunningServer, start_server
from tritonclient.utils import InferenceServerException

BATCHED = """
batching: {max_batch_size: 8}
queue: {priority_levels: 3, timeout_seconds: 1.5, levels: {3: {max_requests: 7, timeout_action: delay}}}
instances: 2
metric_tags: {shape: wide, dims: "8"}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, third_party: dict[str, str]) -> Iterator[RunningServer]:
    root = tmp_path_factory.mktemp("statistics")
    for version in ("1", "2"):
        write_model(root / "counted" / version, fake_model(shape=(-1, 2)))
    (root / "counted" / "config.yaml").write_text("version_policy: all\n")
    write_model(root / "batched" / "1", fake_model("BYTES", shape=(-1, 3)))
    (root / "batched" / "config.yaml").write_text(BATCHED)
    write_model(root / "failing" / "1", fake_model() | {"fail": "the weights are missing"})
    running = start_server(root, root.parent / "statistics.log", env=third_party)
    yield running
    running.kill()


def clients(server: RunningServer) -> list[Any]:
    return [triton_grpc.InferenceServerClient(server.grpc), triton_http.InferenceServerClient(server.http)]


def infer(server: RunningServer, client: Any, rows: int, columns: int = 2) -> None:
    triton = triton_grpc if isinstance(client, triton_grpc.InferenceServerClient) else triton_http
    given = triton.InferInput("input", [rows, columns], "FP32")
    given.set_data_from_numpy(np.zeros((rows, columns), np.float32))
    client.infer("counted", [given], model_version="2")


def of_version(statistics: Any, version: str) -> Any:
    return next(one for one in statistics["model_stats"] if one["version"] == version)


def test_requests_rows_and_executions_are_counted_alike_over_both_protocols(server: RunningServer) -> None:
    grpc, http = clients(server)
    before = of_version(http.get_inference_statistics("counted"), "2")
    started = time.time()
    for client in (grpc, http):
        for rows in (1, 3, 3):
            infer(server, client, rows)
        with pytest.raises(InferenceServerException):
            infer(server, client, 1, columns=5)
    after = of_version(http.get_inference_statistics("counted"), "2")
    assert after["inference_count"] - before["inference_count"] == 14
    assert after["execution_count"] - before["execution_count"] == 6
    assert started - 1 <= after["last_inference"] / 1000 <= time.time() + 1
    for name, more in (("success", 6), ("fail", 2), ("queue", 6), ("compute_infer", 6), ("compute_input", 6)):
        grown = after["inference_stats"][name]["count"] - before["inference_stats"][name]["count"]
        assert (name, grown) == (name, more)
    durations = after["inference_stats"]
    parts = sum(durations[name]["ns"] for name in ("queue", "compute_input", "compute_infer", "compute_output"))
    assert 0 < durations["compute_infer"]["ns"] <= parts <= durations["success"]["ns"]
    assert [batch["batch_size"] for batch in after["batch_stats"]] == [1, 3]
    assert sum(batch["compute_infer"]["count"] for batch in after["batch_stats"]) == after["execution_count"]

    message = grpc.get_inference_statistics("counted", "2", as_json=True)["model_stats"][0]
    assert int(message["inference_count"]) == after["inference_count"]
    assert int(message["inference_stats"]["fail"]["count"]) == durations["fail"]["count"]


def test_all_models_that_are_ready_are_told_of(server: RunningServer) -> None:
    grpc, http = clients(server)
    expected = [("batched", "1"), ("counted", "1"), ("counted", "2")]
    assert [(one["name"], one["version"]) for one in http.get_inference_statistics()["model_stats"]] == expected
    assert [(one.name, one.version) for one in grpc.get_inference_statistics().model_stats] == expected


@pytest.mark.parametrize("ask", ["get_inference_statistics", "get_model_config"])
@pytest.mark.parametrize(
    ("model", "version", "grpc_code", "status"),
    [
        ("nothing", "", "NOT_FOUND", "404"),
        ("counted", "9", "NOT_FOUND", "404"),
        ("failing", "", "UNAVAILABLE", "503"),
    ],
)
def test_what_is_not_there_is_an_error(
    server: RunningServer, ask: str, model: str, version: str, grpc_code: str, status: str
) -> None:
    for client, code in zip(clients(server), (grpc_code, status), strict=True):
        with pytest.raises(InferenceServerException) as caught:
            getattr(client, ask)(model, version)
        assert code in str(caught.value.status())


def test_the_configuration_in_effect_is_shown_as_tritons(server: RunningServer) -> None:
    grpc, http = clients(server)
    config = http.get_model_config("batched")
    assert (config["name"], config["backend"], config["platform"]) == ("batched", "held", "fake")
    assert config["max_batch_size"] == 8
    assert [(t["name"], t["data_type"], t["dims"]) for t in config["input"]] == [("input", "TYPE_STRING", [3])]
    assert [(t["name"], t["data_type"], t["dims"]) for t in config["output"]] == [("output", "TYPE_STRING", [3])]
    assert config["instance_group"][0]["count"] == 2
    batching = config["dynamic_batching"]
    assert (batching["priority_levels"], batching["default_priority_level"]) == (3, 2)
    assert batching["default_queue_policy"]["default_timeout_microseconds"] == 1_500_000
    assert batching["priority_queue_policy"]["3"]["timeout_action"] == "DELAY"
    assert config["metric_tags"] == {"shape": "wide", "dims": "8"}  # which are names of numbers elsewhere

    message = grpc.get_model_config("batched").config
    assert message.max_batch_size == 8
    assert message.dynamic_batching.priority_queue_policy[3].max_queue_size == 7
    assert message.input[0].dims == [3]
    assert message.metric_tags == config["metric_tags"]


def test_without_a_batch_limit_the_shapes_are_whole(server: RunningServer) -> None:
    grpc, http = clients(server)
    config = http.get_model_config("counted", "1")
    assert (config["max_batch_size"], config["input"][0]["dims"]) == (0, [-1, 2])
    assert "all" in config["version_policy"]
    assert grpc.get_model_config("counted").config.version_policy.HasField("all")


def test_what_is_served_can_be_written_and_read_as_a_configuration(server: RunningServer, tmp_path: Path) -> None:
    """The text of what is shown is a `config.pbtxt` that says the same."""
    from google.protobuf import text_format
    from vintner.triton_config import read_triton_config

    message = clients(server)[0].get_model_config("batched").config
    message.ClearField("platform")
    message.backend = "openvino"
    file = tmp_path / "config.pbtxt"
    file.write_text(text_format.MessageToString(message))
    config = read_triton_config(file)
    assert (config.name, config.batching.max_batch_size, config.instances) == ("batched", 8, 2)
    assert (config.queue.priority_levels, config.queue.timeout_seconds) == (3, 1.5)
    assert config.queue.levels[3].timeout_action == "delay"


def test_the_routes_are_only_for_get(server: RunningServer) -> None:
    for path in ("/v2/models/stats", "/v2/models/counted/stats", "/v2/models/counted/versions/1/config"):
        assert server.request("GET", path)[0] == 200
        status, headers, body = server.request("POST", path, b"{}")
        assert (status, headers["Allow"], json.loads(body)) == (405, "GET, HEAD", {"error": "Method Not Allowed"})
