"""Models that are loaded when somebody asks for them, put away when nobody does, and that make room for each other;
and loads that take long or hang."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from fake_backend import fake_model, write_model
from held_backend import held, held_loads
from infer_calls import ARRIVES, PROTOCOLS, Background, Inference, answer, grpc_stub, refusal_of, refuse, wait_until
from model_builders import onnx_mlp, openvino_scaling
from repository_calls import answering, index, loads, wait_for
from running_server import RunningServer

Start = Callable[..., RunningServer]

SETTLE = "--repository-settle-seconds=0.05"
ASLEEP = "not loaded; the first request for it loads it"
SLEEPS = ("UNAVAILABLE", ASLEEP)
M = Inference(model="m")


def put(root: Path, name: str, config: str, **document: Any) -> Path:
    """A model of the held backend; its version's directory."""
    version = write_model(root / name / "1", fake_model(shape=(-1, 2)) | document).parent
    (root / name / "config.yaml").write_text(config)
    return version


def values(reply: dict[str, Any]) -> list[float]:
    data: list[float] = reply["outputs"][0]["data"]
    return data


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "repository"


# -- the first request -----------------------------------------------------------------------------------------


def test_many_first_requests_wait_for_one_load(root: Path, start: Start) -> None:
    version = put(root, "m", "load: on_demand\n")
    server = start(root)
    assert server.ready
    assert index(server) == {"m/1": SLEEPS}
    assert loads(server) == (0, 0)
    with held_loads(version):
        calls = [Background(answer, server, protocol, M) for protocol in PROTOCOLS * 12]
        wait_for(server, "m/1", "LOADING", "loading for")
        described = Background(server.request, "GET", "/v2/models/m")
        assert server.request("GET", "/v2/health/ready")[0] == 200
        assert server.request("GET", "/v2/models/m/ready")[0] == 200
        assert all(call.is_alive() for call in calls)
    assert [values(call.outcome) for call in calls] == [[2, 4]] * 24
    assert described.outcome[0] == 200
    assert index(server) == {"m/1": ("READY", "")}
    assert loads(server) == (1, 0)


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_a_model_of_a_runtime_is_loaded_by_its_first_request(root: Path, start: Start, backend: str) -> None:
    if backend == "openvino":
        openvino_scaling(root / "m" / "1", 2)
    else:
        onnx_mlp(root / "m" / "1", 4, 4)
    (root / "m" / "config.yaml").write_text(f"load: on_demand\nbackend: {backend}\n")
    server = start(root)
    assert server.ready
    assert answering(server)[:2] == (200, "1")
    assert loads(server) == (1, 0)


def test_a_first_request_waits_no_longer_than_its_deadline(root: Path, start: Start) -> None:
    version = put(root, "m", "load: on_demand\n")
    server = start(root)
    with held_loads(version), grpc_stub(server) as stub:
        patient = Background(answer, server, "rest", M)
        refusal = refusal_of(lambda: stub.ModelInfer(M.message(), timeout=ARRIVES))
        assert refusal.code == "DEADLINE_EXCEEDED"
        wait_until(lambda: server.counter("vintner_rejected_requests_total") == 1)
    assert values(patient.outcome) == [2, 4]
    assert server.counter("vintner_requests_total", model="m") == 1, "nothing is run that nobody waits for"


def test_no_more_requests_wait_than_the_queue_takes(root: Path, start: Start) -> None:
    version = put(root, "m", "load: on_demand\nqueue: {max_requests: 3}\n")
    server = start(root)
    with held_loads(version):
        calls = [Background(answer, server, "grpc", M) for _ in range(8)]
        wait_until(lambda: sum(not call.is_alive() for call in calls) == 5)
        message = refuse(server, "rest", M, "UNAVAILABLE").message
        assert message == "Exceeds maximum queue size: 3 requests wait for model 'm' to load already"
    answered = [call.outcome for call in calls if isinstance(call.outcome, dict)]
    assert [values(reply) for reply in answered] == [[2, 4]] * 3


def test_who_waits_for_a_load_that_fails_is_told_why(root: Path, start: Start) -> None:
    version = put(root, "m", "load: on_demand\n", fail="the weights are missing")
    server = start(root, SETTLE)
    assert server.ready
    with held_loads(version):
        waiting = [Background(refuse, server, protocol, M, "UNAVAILABLE") for protocol in PROTOCOLS * 3]
        wait_for(server, "m/1", "LOADING", "loading for")
    assert all("the weights are missing" in call.outcome.message for call in waiting)
    for protocol in PROTOCOLS:
        assert "the weights are missing" in refuse(server, protocol, M, "UNAVAILABLE").message
    assert loads(server) == (0, 1), "it is not tried in a loop"
    write_model(version, fake_model(shape=(-1, 2)))
    wait_until(lambda: server.request("POST", "/v2/models/m/infer", json.dumps(M.document()).encode())[0] == 200)


# -- those that nobody uses ------------------------------------------------------------------------------------


def test_a_model_that_nobody_uses_is_put_away_and_comes_back(root: Path, start: Start) -> None:
    put(root, "m", "idle_unload_seconds: 0.3\n")
    version = put(root, "used", "idle_unload_seconds: 0.3\n")
    server = start(root)
    with held(version):
        busy = Background(answer, server, "grpc", Inference(model="used"))
        wait_until(lambda: index(server)["m/1"] == SLEEPS)
        wait_until(lambda: server.counter("vintner_requests_in_flight", model="used") == 1)
        before, _ = loads(server)
        for count, protocol in enumerate(PROTOCOLS, start=1):
            assert values(answer(server, protocol, M)) == [2, 4]
            wait_until(lambda: index(server)["m/1"] == SLEEPS)
            assert loads(server) == (before + count, 0)
        assert index(server)["used/1"] == ("READY", "")
        assert server.request("GET", "/v2/health/ready")[0] == 200
    assert values(busy.outcome) == [2, 4]
    wait_until(lambda: index(server)["used/1"] == SLEEPS)


# -- memory ----------------------------------------------------------------------------------------------------


def test_models_make_room_for_each_other_and_the_budget_holds(root: Path, start: Start) -> None:
    versions = {name: put(root, name, "memory_bytes: 10MiB\n") for name in "abc"}
    put(root, "giant", "memory_bytes: 21MiB\nload: on_demand\n")
    server = start(root, "--model-memory-budget=20MiB")
    assert server.ready

    def resident() -> set[str]:
        return {entry[0] for entry, (state, _) in index(server).items() if state == "READY"}

    assert len(resident()) == 2, "there was no room for more at the start"
    assert server.counter("vintner_model_faults") == 0, "to sleep is no fault"
    for _ in range(3):
        for protocol in PROTOCOLS:
            for name in "abc":
                assert values(answer(server, protocol, Inference(model=name))) == [2, 4]
                assert name in resident()
                assert len(resident()) <= 2
    assert server.counter("vintner_model_bytes") <= 20 * 2**20
    for protocol in PROTOCOLS:
        message = refuse(server, protocol, Inference(model="giant"), "UNAVAILABLE").message
        assert "it needs 21.0 MiB of the 20.0 MiB for models (--model-memory-budget)" in message
    with ExitStack() as stack:
        for name in "ab":
            assert values(answer(server, "grpc", Inference(model=name))) == [2, 4]
            stack.enter_context(held(versions[name]))
        busy = [Background(answer, server, "grpc", Inference(model=name)) for name in "ab"]
        for name in "ab":
            wait_until(lambda name=name: server.counter("vintner_requests_in_flight", model=name) == 1)  # type: ignore[misc]
        for protocol in PROTOCOLS:
            message = refuse(server, protocol, Inference(model="c"), "UNAVAILABLE").message
            assert "it needs 10.0 MiB of the 20.0 MiB" in message
            assert "other models, which are in use, take the rest" in message
        assert server.counter("vintner_model_faults") == 1, "that of the giant, for which there never is room"
    assert [values(call.outcome) for call in busy] == [[2, 4]] * 2
    assert values(answer(server, "rest", Inference(model="c"))) == [2, 4]


# -- loads that take long --------------------------------------------------------------------------------------


def test_a_load_that_hangs_is_given_up_and_stops_no_other(root: Path, start: Start) -> None:
    stuck = put(root, "a", "load_timeout_seconds: 4\n")
    for name in "bcd":
        put(root, name, "")
    with held_loads(stuck):
        server = start(root, "--model-load-threads=1", SETTLE)
        given_up = "it was not loaded within 4 s and is given up"
        assert index(server) == {"a/1": ("UNAVAILABLE", given_up)} | dict.fromkeys(("b/1", "c/1", "d/1"), ("READY", ""))
        assert given_up in server.request("GET", "/v2/health/ready")[2].decode()
        for protocol in PROTOCOLS:
            assert given_up in refuse(server, protocol, Inference(model="a"), "UNAVAILABLE").message
            assert values(answer(server, protocol, Inference(model="b"))) == [2, 4]
    write_model(stuck, fake_model(shape=(-1, 2)) | {"changed": True})
    wait_for(server, "a/1", "READY")
    assert values(answer(server, "grpc", Inference(model="a"))) == [2, 4]
    assert server.terminate() == 0


def test_the_end_of_a_load_that_hangs_is_told_to_who_waits_for_it(root: Path, start: Start) -> None:
    version = put(root, "m", "load: on_demand\nload_timeout_seconds: 0.5\n")
    server = start(root)
    with held_loads(version):
        calls = [Background(refuse, server, protocol, M, "UNAVAILABLE") for protocol in PROTOCOLS]
        assert all("not loaded within 0.5 s" in call.outcome.message for call in calls)
    assert "Traceback" not in server.log.read_text()


def test_a_load_that_takes_long_says_so_in_the_index_and_the_log(root: Path, start: Start) -> None:
    put(root, "m", "")
    server = start(root, SETTLE)
    slow = put(root.parent, "slow", "")

    def seconds_of(entry: str) -> int:
        """For how long it says that it has been loading; 0 if it is not yet."""
        _, reason = index(server).get(entry, ("", ""))
        match = re.fullmatch(r"loading for (\d+) s", reason)
        return int(match[1]) if match else 0

    with held_loads(slow):
        began = time.monotonic()
        (root.parent / "slow").rename(root / "slow")
        wait_until(lambda: seconds_of("slow/1") >= 2)
        said = seconds_of("slow/1")
        assert said <= time.monotonic() - began + 0.5, "it is rounded"
        assert server.request("GET", "/v2/health/ready")[0] == 200
        message = refuse(server, "grpc", Inference(model="slow"), "UNAVAILABLE").message
        assert "version 1 is LOADING (loading for" in message
        wait_until(lambda: "model 'slow' version 1 has been loading for " in server.log.read_text())
        lasted = re.findall(r"model 'slow' version 1 has been loading for (\d+) s", server.log.read_text())
        assert 10 <= int(lasted[0]) <= time.monotonic() - began + 0.5
    wait_for(server, "slow/1", "READY")
