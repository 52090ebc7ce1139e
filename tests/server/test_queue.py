"""Priorities and time-outs as Triton's clients ask for them, over both protocols."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from fake_backend import fake_model, write_model
from held_backend import JOURNAL, held
from infer_calls import Background, wait_until
from running_server import RunningServer, start_server
from tritonclient.utils import InferenceServerException

LEVELS = (
    "config.yaml",
    """
batching: false
queue:
  priority_levels: 3
  levels: {3: {max_requests: 1}}
""",
)
IMPATIENT = (
    "config.pbtxt",
    "dynamic_batching { default_queue_policy { default_timeout_microseconds: 300000 } }",
)
DELAYING = ("config.yaml", "batching: false\nqueue: {timeout_seconds: 0.2, timeout_action: delay}\n")
PROTOCOLS = ("grpc", "http")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of each model one request runs at a time, and a journal says in which order."""
    root = tmp_path_factory.mktemp("queues")
    configs = {"levels": LEVELS, "impatient": IMPATIENT, "delaying": DELAYING}
    for name, (file, text) in configs.items():
        write_model(root / name / "1", fake_model(shape=(-1, 1)))
        (root / name / file).write_text(text)
        (root / name / "1" / JOURNAL).touch()
    return root


@pytest.fixture(scope="module")
def server(models: Path, third_party: dict[str, str]) -> Iterator[RunningServer]:
    running = start_server(models, models.parent / f"{models.name}.log", env=third_party)
    yield running
    running.kill()


@pytest.fixture(autouse=True)
def empty_journals(models: Path) -> None:
    for journal in models.glob(f"*/1/{JOURNAL}"):
        journal.write_text("")


def order(models: Path, model: str) -> list[float]:
    return [float(line) for line in (models / model / "1" / JOURNAL).read_text().splitlines()]


def infer(server: RunningServer, protocol: str, model: str, value: float, **options: Any) -> float:
    triton = triton_grpc if protocol == "grpc" else triton_http
    given = triton.InferInput("input", [1, 1], "FP32")
    given.set_data_from_numpy(np.full((1, 1), value, np.float32))
    with triton.InferenceServerClient(getattr(server, protocol)) as client:
        return float(client.infer(model, [given], **options).as_numpy("output")[0, 0])


class Line:
    """Requests to a model that is held up, sent one after the other."""

    def __init__(self, server: RunningServer, protocol: str, model: str) -> None:
        self._server = server
        self._protocol = protocol
        self._model = model
        self._sent: list[Background] = []

    def send(self, value: float, **options: Any) -> Background:
        """Returns when the request has reached the model."""
        before = self._in_flight()
        self._sent.append(Background(partial(infer, **options), self._server, self._protocol, self._model, value))
        wait_until(lambda: self._in_flight() > before)
        return self._sent[-1]

    def outcomes(self) -> list[Any]:
        return [sent.outcome for sent in self._sent]

    def _in_flight(self) -> float:
        return self._server.counter("vintner_requests_in_flight", model=self._model)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_higher_priority_runs_first_and_its_own_level_in_order(
    server: RunningServer, models: Path, protocol: str
) -> None:
    line = Line(server, protocol, "levels")
    with held(models / "levels" / "1"):
        for value, priority in ((0, 2), (1, 3), (2, 0), (3, 1), (4, 2), (5, 1)):
            line.send(float(value), priority=priority)
    assert line.outcomes() == [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]
    assert order(models, "levels") == [0.0, 3.0, 5.0, 2.0, 4.0, 1.0]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_level_that_is_full_refuses_only_its_own(server: RunningServer, models: Path, protocol: str) -> None:
    line = Line(server, protocol, "levels")
    with held(models / "levels" / "1"):
        line.send(0.0)
        assert server.counter("vintner_queue_oldest_seconds", model="levels") == 0
        line.send(1.0, priority=3)
        assert server.counter("vintner_queue_oldest_seconds", model="levels") > 0
        with pytest.raises(InferenceServerException, match="Exceeds maximum queue size: 1 requests of priority 3"):
            infer(server, protocol, "levels", 2.0, priority=3)
        line.send(3.0, priority=2)
    assert line.outcomes() == [0.0, 2.0, 6.0]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_request_that_waits_longer_than_its_timeout_is_unavailable(
    server: RunningServer, models: Path, protocol: str
) -> None:
    label = "grpc" if protocol == "grpc" else "rest"
    before = server.counter("vintner_requests_total", protocol=label, outcome="queue_timeout")
    line = Line(server, protocol, "levels")
    with held(models / "levels" / "1"):
        line.send(0.0)
        with pytest.raises(InferenceServerException, match="Request timeout expired") as caught:
            infer(server, protocol, "levels", 1.0, timeout=50_000)
        patient = line.send(2.0, timeout=60_000_000)
    assert ("UNAVAILABLE" if protocol == "grpc" else "503") in str(caught.value.status())
    assert line.outcomes() == [0.0, 4.0]
    assert patient.outcome == 4.0
    assert order(models, "levels") == [0.0, 2.0]
    assert server.counter("vintner_requests_total", protocol=label, outcome="queue_timeout") == before + 1


def test_a_refusal_over_rest_says_when_to_try_again(server: RunningServer, models: Path) -> None:
    line = Line(server, "http", "impatient")
    body = b'{"inputs":[{"name":"input","datatype":"FP32","shape":[1,1],"data":[1]}]}'
    with held(models / "impatient" / "1"):
        line.send(0.0)
        status, headers, answer = server.request("POST", "/v2/models/impatient/infer", body)
    assert (status, answer) == (503, b'{"error":"Request timeout expired"}')
    assert int(headers["Retry-After"]) > 0


def test_a_timeout_that_ends_while_the_request_runs_is_a_deadline(server: RunningServer, models: Path) -> None:
    """The first to come runs at once, so it can no longer be taken out of the queue."""
    with held(models / "levels" / "1"), pytest.raises(InferenceServerException) as caught:
        infer(server, "http", "levels", 0.0, timeout=100_000)
    assert "504" in str(caught.value.status())


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_tritons_configuration_bounds_the_wait_and_forbids_to_change_that(
    server: RunningServer, models: Path, protocol: str
) -> None:
    line = Line(server, protocol, "impatient")
    with held(models / "impatient" / "1"):
        line.send(0.0)
        with pytest.raises(InferenceServerException, match="Request timeout expired"):
            infer(server, protocol, "impatient", 1.0, timeout=60_000_000)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_timeout_may_only_send_a_request_to_the_end(server: RunningServer, models: Path, protocol: str) -> None:
    line = Line(server, protocol, "delaying")
    with held(models / "delaying" / "1"):
        line.send(0.0)
        line.send(1.0)
        threading.Event().wait(0.4)
        line.send(2.0, timeout=60_000_000)
    assert line.outcomes() == [0.0, 2.0, 4.0]
    assert order(models, "delaying") == [0.0, 2.0, 1.0]


@pytest.mark.parametrize("parameters", ['{"priority":-1}', '{"timeout":"soon"}', '{"timeout":1.5}'])
def test_what_is_no_number_is_refused(server: RunningServer, parameters: str) -> None:
    inputs = '[{"name":"input","datatype":"FP32","shape":[1,1],"data":[1]}]'
    body = f'{{"parameters":{parameters},"inputs":{inputs}}}'.encode()
    status, _, answer = server.request("POST", "/v2/models/levels/infer", body)
    assert status == 400
    assert b"expected a whole number" in answer
