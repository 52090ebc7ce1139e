"""Pools of instances, and what clients and operators see of instances that fail or hang."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from fake_backend import fake_model, write_model
from held_backend import held
from infer_calls import Background, wait_until
from model_builders import openvino_heavy
from running_server import ROOT, RunningServer, vintner
from tritonclient.utils import InferenceServerException

ONE = "batching: false\ninstances: 1\nreopen_after_failures: 2\n"


def model(root: Path, name: str, config: str) -> Path:
    """A model in memory of one row; the directory of its version."""
    version = root / name / "1"
    write_model(version, fake_model(shape=(-1, 1)))
    (root / name / "config.yaml").write_text(config)
    return version


def infer(server: RunningServer, name: str, value: float, protocol: str = "grpc", **options: Any) -> float:
    triton = triton_grpc if protocol == "grpc" else triton_http
    given = triton.InferInput("input", [1, 1], "FP32")
    given.set_data_from_numpy(np.full((1, 1), value, np.float32))
    with triton.InferenceServerClient(getattr(server, protocol)) as client:
        return float(client.infer(name, [given], **options).as_numpy("output")[0, 0])


def is_ready(server: RunningServer, name: str) -> bool:
    with triton_grpc.InferenceServerClient(server.grpc) as client:
        return bool(client.is_model_ready(name))


def remark(server: RunningServer, name: str) -> tuple[str, str]:
    """The state in the index, and the reason."""
    index = json.loads(server.request("POST", "/v2/repository/index")[2])
    [entry] = [entry for entry in index if entry["name"] == name]
    return entry["state"], entry.get("reason", "")


def test_a_model_runs_in_pools_that_the_metrics_and_its_configuration_show(start: Any, tmp_path: Path) -> None:
    """With a real runtime: the shipped network, once with each hint."""
    directory = tmp_path / "models" / "digits"
    (directory / "1").mkdir(parents=True)
    for file in (ROOT / "model_repository" / "digits" / "1").iterdir():
        shutil.copy(file, directory / "1")
    pools = "[{device: CPU, hint: latency, instances: 1}, {device: CPU, hint: throughput, instances: 1}]"
    (directory / "config.yaml").write_text(f"precision: f32\npools: {pools}\n")
    server = start(tmp_path / "models")
    assert server.counter("vintner_instances", model="digits", device="CPU") == 2
    image = np.random.default_rng(1).random((1, 1, 8, 8), np.float32)
    given = triton_grpc.InferInput("image", list(image.shape), "FP32")
    given.set_data_from_numpy(image)
    with triton_grpc.InferenceServerClient(server.grpc) as client:
        answers = [client.infer("digits", [given]).as_numpy("scores") for _ in range(20)]
        groups = client.get_model_config("digits").config.instance_group
    assert all(np.allclose(answer, answers[0], atol=1e-5) for answer in answers)
    assert [(group.name, group.count) for group in groups] == [("digits_0", 1), ("digits_1", 1)]


@pytest.mark.parametrize(
    ("pools", "problem"),
    [
        ("[]", "pools: "),
        ("[{device: CPU, hint: fast}]", "pools.0.hint: expected 'throughput' or 'latency', got 'fast'"),
        ("[{devise: CPU}]", "unknown key 'devise'; did you mean 'device'?"),
        ("[{device: CPU}, {device: GPU.7}]", "device 'GPU.7' is not available here"),
    ],
)
def test_a_pool_that_cannot_be_is_named(tmp_path: Path, pools: str, problem: str) -> None:
    directory = tmp_path / "digits"
    (directory / "1").mkdir(parents=True)
    for file in (ROOT / "model_repository" / "digits" / "1").iterdir():
        shutil.copy(file, directory / "1")
    (directory / "config.yaml").write_text(f"pools: {pools}\n")
    run = vintner("validate", str(tmp_path))
    assert run.returncode == 1
    assert problem in run.stdout + run.stderr


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_model_whose_only_instance_fails_is_not_ready_and_comes_back(
    start: Any, tmp_path: Path, protocol: str
) -> None:
    version = model(tmp_path / "models", "sick", ONE)
    server = start(tmp_path / "models")
    assert infer(server, "sick", 1.0, protocol) == 2.0
    (version / ".poison").touch()
    for _ in range(2):
        with pytest.raises(InferenceServerException):
            infer(server, "sick", 1.0, protocol)
    wait_until(lambda: not is_ready(server, "sick"))
    state, reason = remark(server, "sick")
    assert state == "UNAVAILABLE"
    assert "CPU: 2 runs in a row failed: a bug in the backend" in reason
    assert server.counter("vintner_instances", model="sick") == 0
    assert server.counter("vintner_instances_out", model="sick") == 1
    assert server.request("GET", "/v2/health/ready")[0] == 200, "a server that was ready stays so"
    with pytest.raises(InferenceServerException, match="no instance of the model is in service"):
        infer(server, "sick", 1.0, protocol)
    (version / ".poison").unlink()
    wait_until(lambda: is_ready(server, "sick"))
    assert infer(server, "sick", 3.0, protocol) == 6.0
    assert remark(server, "sick") == ("READY", "")
    assert server.counter("vintner_instances_out", model="sick") == 0


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_run_that_hangs_is_answered_and_the_model_goes_on(start: Any, tmp_path: Path, protocol: str) -> None:
    version = model(tmp_path / "models", "stuck", f"{ONE}execution_timeout_seconds: 4\n")
    server = start(tmp_path / "models")
    assert infer(server, "stuck", 1.0, protocol) == 2.0
    with held(version):
        with pytest.raises(InferenceServerException, match=r"execution timeout of 4 s"):
            infer(server, "stuck", 1.0, protocol)
        state, reason = remark(server, "stuck")
        assert state == "UNAVAILABLE"
        assert "CPU: a run took more than 4 s" in reason
    wait_until(lambda: is_ready(server, "stuck"))
    assert infer(server, "stuck", 3.0, protocol) == 6.0
    assert server.terminate() == 0


def test_a_request_larger_than_a_batch_is_refused_or_runs_alone_as_the_model_says(start: Any, tmp_path: Path) -> None:
    root = tmp_path / "models"
    model(root, "derived", "")
    model(root, "limited", "batching: {max_batch_size: 2}")
    model(root, "tolerant", "batching: {max_batch_size: 2, larger_requests: run_alone}")
    model(root, "strict", "batching: {larger_requests: refuse}")
    server = start(root)
    rows = {"derived": 65, "limited": 3, "tolerant": 3, "strict": 65}
    outcomes = {}
    for name, count in rows.items():
        given = triton_http.InferInput("input", [count, 1], "FP32")
        given.set_data_from_numpy(np.arange(count, dtype=np.float32)[:, None])
        with triton_http.InferenceServerClient(server.http) as client:
            try:
                outcomes[name] = client.infer(name, [given]).as_numpy("output")[:, 0].tolist()
            except InferenceServerException as exc:
                outcomes[name] = exc.message()
    assert outcomes["derived"] == [2.0 * row for row in range(65)]
    assert outcomes["tolerant"] == [0.0, 2.0, 4.0]
    assert "batch-size must be <= 2 for 'limited', got 3" in outcomes["limited"]
    assert "batch-size must be <= 64 for 'strict', got 65" in outcomes["strict"]


def test_the_process_ends_well_though_a_runtime_is_still_in_runs_that_were_given_up(tmp_path: Path, start: Any) -> None:
    """Threads that come back from OpenVINO when the interpreter is ending abort the process."""
    openvino_heavy(tmp_path / "models" / "heavy" / "1", layers=12)
    config = "batching: false\ninstances: 2\nexecution_timeout_seconds: 0.005\n"
    (tmp_path / "models" / "heavy" / "config.yaml").write_text(config)
    server = start(tmp_path / "models")
    given = triton_http.InferInput("input", [1, 64, 56, 56], "FP32")
    given.set_data_from_numpy(np.ones((1, 64, 56, 56), np.float32))

    def ask_until_the_end() -> None:
        with triton_http.InferenceServerClient(server.http) as client:
            while True:
                try:
                    with suppress(InferenceServerException):
                        client.infer("heavy", [given])
                except OSError:
                    return

    clients = [Background(ask_until_the_end) for _ in range(4)]
    wait_until(lambda: server.counter("vintner_requests_total", outcome="deadline_exceeded") >= 20)
    assert server.terminate() == 0, server.log.read_text()
    assert all(client.outcome is None for client in clients)
