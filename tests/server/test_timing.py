"""What a request with `timing: true` is told, over both protocols."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from fake_backend import fake_model, write_model
from held_backend import held
from infer_calls import PROTOCOLS as BOTH
from infer_calls import Background, Inference, refuse, wait_until
from running_server import RunningServer, start_server

PROTOCOLS = ("grpc", "http")
PARTS = ("timing_queue_us", "timing_assembly_us", "timing_compute_us", "timing_split_us")
NAMES = {*PARTS, "timing_total_us", "timing_batch_rows", "timing_batch_requests", "timing_cached"}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("timed")
    for name in ("slow", "kept"):
        write_model(root / name / "1", fake_model(shape=(-1, 2)))
    (root / "kept" / "config.yaml").write_text("response_cache: true\n")
    return root


@pytest.fixture(scope="module", params=["auto", "off"])
def server(
    request: pytest.FixtureRequest, models: Path, third_party: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    """With either way of serving inferences over gRPC."""
    log = tmp_path_factory.mktemp("log") / "log"
    running = start_server(models, log, f"--grpc-fast-path={request.param}", env=third_party)
    yield running
    running.kill()


def told(
    server: RunningServer, protocol: str, rows: int = 1, model: str = "slow", asked: bool | None = True
) -> tuple[dict[str, Any], float]:
    """The parameters of the response, and the microseconds that the client waited for it."""
    triton = triton_grpc if protocol == "grpc" else triton_http
    given = triton.InferInput("input", [rows, 2], "FP32")
    given.set_data_from_numpy(np.ones((rows, 2), np.float32))
    with triton.InferenceServerClient(getattr(server, protocol)) as client:
        started = monotonic()
        result = client.infer(model, [given], parameters=None if asked is None else {"timing": asked})
        waited = (monotonic() - started) * 1e6
    assert result.as_numpy("output").tolist() == [[2.0, 2.0]] * rows
    response = result.get_response()
    if protocol == "http":
        return response.get("parameters", {}), waited
    parameters = {key: getattr(each, each.WhichOneof("parameter_choice")) for key, each in response.parameters.items()}
    kinds = {key: each.WhichOneof("parameter_choice") for key, each in response.parameters.items()}
    assert all(kind == ("bool_param" if key == "timing_cached" else "int64_param") for key, kind in kinds.items())
    return parameters, waited


def is_plausible(parameters: dict[str, Any], waited: float) -> None:
    assert parameters.keys() == NAMES
    assert type(parameters["timing_cached"]) is bool
    assert all(type(value) is int and value >= 0 for key, value in parameters.items() if key != "timing_cached")
    assert sum(parameters[part] for part in PARTS) <= parameters["timing_total_us"] <= waited


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_request_alone_is_told_where_its_time_went(server: RunningServer, protocol: str) -> None:
    parameters, waited = told(server, protocol, rows=3)
    is_plausible(parameters, waited)
    assert (parameters["timing_batch_rows"], parameters["timing_batch_requests"]) == (3, 1)
    assert (parameters["timing_assembly_us"], parameters["timing_split_us"]) == (0, 0)
    assert parameters["timing_cached"] is False


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("asked", [None, False])
def test_who_does_not_ask_is_told_nothing(server: RunningServer, protocol: str, asked: bool | None) -> None:
    assert told(server, protocol, asked=asked)[0] == {}


def test_requests_that_ran_together_are_told_of_one_batch(server: RunningServer, models: Path) -> None:
    def in_flight() -> float:
        return server.counter("vintner_requests_in_flight", model="slow")

    histograms = [f"vintner_{stage}_duration_seconds_count" for stage in ("assembly", "split")]
    before = [server.counter(name, model="slow") for name in histograms]
    sent = []
    with held(models / "slow" / "1"):
        for protocol, rows, asked in (("grpc", 1, True), ("http", 2, True), ("grpc", 3, True), ("http", 1, None)):
            sent.append(Background(told, server, protocol, rows, "slow", asked))
            wait_until(lambda: in_flight() == len(sent))
        held_up = monotonic()
        wait_until(lambda: monotonic() > held_up + 0.05)
    (first, first_waited), *together, (untold, _) = [each.outcome for each in sent]
    is_plausible(first, first_waited)
    assert (first["timing_batch_rows"], first["timing_batch_requests"]) == (1, 1)
    assert first["timing_compute_us"] >= 50_000
    for parameters, waited in together:
        is_plausible(parameters, waited)
        assert (parameters["timing_batch_rows"], parameters["timing_batch_requests"]) == (6, 3)
        assert parameters["timing_queue_us"] >= 50_000
    assert together[0][0]["timing_compute_us"] == together[1][0]["timing_compute_us"]
    assert together[0][0]["timing_queue_us"] > together[1][0]["timing_queue_us"]
    assert untold == {}
    assert [server.counter(name, model="slow") for name in histograms] == [count + 1 for count in before]


def test_an_answer_from_the_cache_says_so(server: RunningServer) -> None:
    hits = server.counter("vintner_cache_hits_total", model="kept")
    for protocol, cached in (("grpc", False), ("http", True), ("grpc", True)):
        parameters, waited = told(server, protocol, rows=2, model="kept")
        is_plausible(parameters, waited)
        assert parameters["timing_cached"] is cached
        assert (parameters["timing_batch_rows"], parameters["timing_batch_requests"]) == ((0, 0) if cached else (2, 1))
    assert told(server, "grpc", rows=2, model="kept", asked=None)[0] == {}
    assert server.counter("vintner_cache_hits_total", model="kept") == hits + 3


@pytest.mark.parametrize("protocol", BOTH)
@pytest.mark.parametrize("value", [1, "true", 1.5])
def test_anything_but_a_boolean_is_refused(server: RunningServer, protocol: str, value: object) -> None:
    refusal = refuse(server, protocol, Inference("slow", parameters={"timing": value}), "INVALID_ARGUMENT")
    assert refusal.message == f"parameter 'timing': expected a boolean, got {value!r}"
