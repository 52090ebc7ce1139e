"""Models that share resources, through a real server and Triton's clients."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from fake_backend import fake_model, write_model
from held_backend import JOURNAL, held
from infer_calls import Background, wait_for_queued, wait_until
from running_server import RunningServer, vintner

PROTOCOLS = ("grpc", "http")
REQUESTS = 12
PBTXT = """
instance_group {{ count: 1 kind: KIND_CPU
  rate_limiter {{ resources {{ name: "licence" count: 1 }} priority: {priority} }} }}
"""


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Two models that need a licence, one with twice the turns, and one that needs none; they share a journal."""
    root = tmp_path / "models"
    configs = {
        "first": ("config.yaml", "batching: false\nrate_limiter: {resources: {licence: 1}}\n"),
        "second": ("config.pbtxt", PBTXT.format(priority=2)),
        "blocker": ("config.yaml", "rate_limiter: {resources: {licence: 1}}\n"),
        "free": ("config.yaml", ""),
    }
    journal = tmp_path / JOURNAL
    journal.touch()
    for name, (file, text) in configs.items():
        write_model(root / name / "1", fake_model(shape=(-1, 1)))
        (root / name / file).write_text(text)
        os.link(journal, root / name / "1" / JOURNAL)
    return root


@pytest.fixture
def server(models: Path, start: Any) -> Iterator[RunningServer]:
    return start(models)


def order(models: Path) -> list[float]:
    return [float(line) for line in (models / "first" / "1" / JOURNAL).read_text().splitlines()]


def infer(server: RunningServer, protocol: str, model: str, value: float) -> float:
    triton = triton_grpc if protocol == "grpc" else triton_http
    given = triton.InferInput("input", [1, 1], "FP32")
    given.set_data_from_numpy(np.full((1, 1), value, np.float32))
    with triton.InferenceServerClient(getattr(server, protocol)) as client:
        return float(client.infer(model, [given]).as_numpy("output")[0, 0])


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_models_that_share_one_unit_never_run_at_the_same_time(
    server: RunningServer, models: Path, protocol: str
) -> None:
    with held(models / "first" / "1"):
        running = Background(infer, server, protocol, "first", 1.0)
        wait_for_queued(server, "first", running=1, waiting=0)
        waiting = Background(infer, server, protocol, "second", 2.0)
        wait_until(lambda: server.counter("vintner_instances_waiting", model="second") == 1)
        assert infer(server, protocol, "free", 3.0) == 6.0
        assert order(models) == [1.0, 3.0]
        wait_for_queued(server, "second", running=0, waiting=1)
    assert (running.outcome, waiting.outcome) == (2.0, 4.0)
    assert order(models) == [1.0, 3.0, 2.0]
    wait_until(lambda: server.counter("vintner_instances_waiting") == 0)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_model_of_priority_2_gets_half_as_many_turns(server: RunningServer, models: Path, protocol: str) -> None:
    with held(models / "blocker" / "1"):
        blocker = Background(infer, server, protocol, "blocker", 0.0)
        wait_for_queued(server, "blocker", running=1, waiting=0)
        calls = [
            Background(infer, server, protocol, name, value)
            for name, value in (("first", 1.0), ("second", 2.0))
            for _ in range(REQUESTS)
        ]
        for name in ("first", "second"):
            wait_for_queued(server, name, running=0, waiting=REQUESTS)
    assert blocker.outcome == 0.0
    assert [call.outcome for call in calls] == [2.0] * REQUESTS + [4.0] * REQUESTS
    both_had_work = order(models)[1 : 1 + REQUESTS]
    assert abs(both_had_work.count(1.0) - 2 * REQUESTS / 3) <= 1


def test_there_are_as_many_units_as_the_server_is_told(models: Path, start: Any) -> None:
    server = start(models, "--rate-limit-resource=licence:2")
    with held(models / "first" / "1"):
        running = Background(infer, server, "grpc", "first", 1.0)
        wait_for_queued(server, "first", running=1, waiting=0)
        assert infer(server, "grpc", "second", 2.0) == 4.0
    assert running.outcome == 2.0


def test_a_model_that_asks_for_more_units_than_there_are_is_unavailable(models: Path, start: Any) -> None:
    (models / "first" / "config.yaml").write_text("rate_limiter: {resources: {licence: 3}}")
    server = start(models, "--rate-limit-resource", "licence:2", "--no-strict-readiness")
    with triton_http.InferenceServerClient(server.http) as client:
        reasons = {each["name"]: each["reason"] for each in client.get_model_repository_index() if "reason" in each}
    assert reasons == {"first": "a run needs 3 of the resource 'licence', of which there are 2"}


def test_tritons_configuration_of_a_model_shows_its_claim(server: RunningServer) -> None:
    with triton_http.InferenceServerClient(server.http) as client:
        group = client.get_model_config("second")["instance_group"][0]
    assert group["rate_limiter"] == {
        "resources": [{"name": "licence", "global": True, "count": 1}],
        "priority": 2,
    }


def test_a_resource_that_is_given_twice_is_refused(models: Path) -> None:
    run = vintner("serve", "--model-repository", str(models), *["--rate-limit-resource", "licence:2"] * 2)
    assert run.returncode == 1
    assert "--rate-limit-resource: 'licence' is given twice" in run.stderr
