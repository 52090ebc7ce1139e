"""The access log, and what is logged of failures: over the fast path and grpcio's own server, and over REST."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from fake_backend import fake_model, write_model
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from held_backend import held
from infer_calls import (
    ARRIVES,
    PROTOCOLS,
    Background,
    Given,
    Inference,
    answer,
    grpc_stub,
    refusal_of,
    refuse,
    wait_until,
)
from running_server import RunningServer, start_server
from tritonclient.grpc import service_pb2 as pb

Line = dict[str, Any]
GOOD = Inference(model="m", inputs=[Given(shape=(1, 4), data=(1, 2, 3, 4))])
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection"
SERVICE = "/inference.GRPCInferenceService"
FORGERY = 'x\n{"logger": "vintner.access", "status": "OK"}\r\u202e'


@pytest.fixture(scope="module", params=["auto", "off"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, third_party: dict[str, str]
) -> Iterator[RunningServer]:
    root = tmp_path_factory.mktemp("access")
    write_model(root / "models" / "m" / "1")
    write_model(root / "models" / "breaks" / "1", fake_model() | {"decoupled": True, "fail_after": 1})
    options = ("--access-log", "--log-level=error", "--log-format=json", f"--grpc-fast-path={request.param}")
    running = start_server(root / "models", root / "log", *options, env=third_party)
    yield running
    running.kill()


@pytest.fixture
def logged(server: RunningServer) -> Callable[..., list[Line]]:
    """Waits for that many lines of the access log, or of errors, that this test has caused, reads of metrics aside."""
    seen = len(server.log.read_text())

    def lines(kind: str) -> list[Line]:
        whole = server.log.read_text()[seen:].rpartition("\n")[0]
        events = [json.loads(line) for line in whole.splitlines()]
        return [
            event for event in events if kind in event["logger"] + event["level"] and event.get("path") != "/metrics"
        ]

    def found(number: int = 1, kind: str = "access") -> list[Line]:
        wait_until(lambda: len(lines(kind)) >= number)
        assert len(lines(kind)) == number, lines(kind)
        return lines(kind)

    return found


def path_of(server: RunningServer) -> Path:
    """The directory of the model's version."""
    return Path(server.log.parent) / "models" / "m" / "1"


def told(line: Line, *names: str) -> list[Any]:
    return [line.get(name) for name in names]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_inference_is_a_line(server: RunningServer, logged: Any, protocol: str) -> None:
    answer(server, protocol, replace(GOOD, id="a-1"))
    (line,) = logged()
    assert told(line, "protocol", "message", "outcome", "request_id", "model", "version") == [
        protocol, "request", "ok", "a-1", "m", "1",
    ]  # fmt: skip
    if protocol == "grpc":
        assert told(line, "path", "status", "method") == [f"{SERVICE}/ModelInfer", "OK", None]
        assert line["received"] == replace(GOOD, id="a-1").message().ByteSize()
        assert line["peer"].startswith("ipv4:127.0.0.1:")
    else:
        assert told(line, "path", "status", "method", "peer") == ["/v2/models/m/infer", 200, "POST", "127.0.0.1"]
        assert line["received"] == len(json.dumps(GOOD.document() | {"id": "a-1"}))
    assert 0 <= line["queue_seconds"] + line["compute_seconds"] <= line["seconds"] < 30
    assert line["sent"] > 20


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("inference", "code", "outcome", "model", "version"),
    [
        (Inference(model="nobody", id="b"), "NOT_FOUND", "not_found", "nobody", None),
        (Inference(model="m", version="7", id="b"), "NOT_FOUND", "not_found", "m", "7"),
        (Inference(model="m", id="b"), "INVALID_ARGUMENT", "invalid_argument", "m", "1"),
    ],
)
def test_a_refused_inference_is_a_line(
    server: RunningServer, logged: Any, protocol: str, inference: Inference, code: str, outcome: str, model: str,
    version: str | None,
) -> None:  # fmt: skip
    status = refuse(server, protocol, inference, code).code
    (line,) = logged()
    assert str(line["status"]) == status
    assert told(line, "outcome", "request_id", "model", "version") == [outcome, "b", model, version]
    assert "queue_seconds" not in line


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_inference_that_cannot_be_decoded_is_a_line(server: RunningServer, logged: Any, protocol: str) -> None:
    refuse(server, protocol, Inference(model="m", inputs=[Given(datatype="FP33")]), "INVALID_ARGUMENT")
    (line,) = logged()
    assert told(line, "outcome", "model") == ["invalid_argument", "m"]


def test_every_other_rpc_is_a_line(server: RunningServer, logged: Any) -> None:
    with grpc_stub(server) as stub:
        stub.ServerLive(pb.ServerLiveRequest())
        stub.ModelReady(pb.ModelReadyRequest(name="m", version="1"))
        refusal_of(lambda: stub.ModelMetadata(pb.ModelMetadataRequest(name="nobody")))
        refusal_of(lambda: stub.CudaSharedMemoryStatus(pb.CudaSharedMemoryStatusRequest()))
    with grpc.insecure_channel(server.grpc) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        health.Check(health_pb2.HealthCheckRequest())
        refusal_of(lambda: health.Check(health_pb2.HealthCheckRequest(service="nobody")))
        watch = health.Watch(health_pb2.HealthCheckRequest())
        next(watch)
        watch.cancel()
        refusal_of(lambda: channel.unary_unary(f"{SERVICE}/Nothing")(b""))
        ProtoReflectionDescriptorDatabase(channel).get_services()
        lines = logged(9)
    (reflection,) = (line for line in lines if line["path"].startswith(REFLECTION))
    assert reflection["status"] in ("OK", "CANCELLED")  # that client takes one answer and lets go of the call
    lines.remove(reflection)
    names = ("path", "status", "outcome", "model", "version")
    assert sorted((told(line, *names) for line in lines), key=str) == [
        ["/grpc.health.v1.Health/Check", "NOT_FOUND", "not_found", None, None],
        ["/grpc.health.v1.Health/Check", "OK", "ok", None, None],
        ["/grpc.health.v1.Health/Watch", "CANCELLED", "cancelled", None, None],
        [f"{SERVICE}/CudaSharedMemoryStatus", "UNIMPLEMENTED", "unsupported", None, None],
        [f"{SERVICE}/ModelMetadata", "NOT_FOUND", "not_found", "nobody", None],
        [f"{SERVICE}/ModelReady", "OK", "ok", "m", "1"],
        [f"{SERVICE}/Nothing", "UNIMPLEMENTED", "unsupported", None, None],
        [f"{SERVICE}/ServerLive", "OK", "ok", None, None],
    ]  # fmt: skip


def test_every_other_route_is_a_line(server: RunningServer, logged: Any) -> None:
    asked = (("GET", "/v2"), ("GET", "/v2/models/m/ready"), ("PUT", "/v2"), ("GET", "/nothing/%C3%BC?secret=1"))
    for method, path in asked:
        server.request(method, path)
    server.request("GET", "/metrics", port=server.metrics)
    lines = logged(4)
    assert [told(line, "method", "path", "status", "outcome", "model") for line in lines] == [
        ["GET", "/v2", 200, "ok", None],
        ["GET", "/v2/models/m/ready", 200, "ok", "m"],
        ["PUT", "/v2", 405, "invalid_argument", None],
        ["GET", "/nothing/ü", 404, "not_found", None],
    ]
    assert '"path": "/metrics"' in server.log.read_text()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_client_can_forge_no_line(server: RunningServer, logged: Any, protocol: str) -> None:
    long = FORGERY * 1000
    refuse(server, protocol, Inference(model="m", id=long), "INVALID_ARGUMENT")
    (line,) = logged()
    assert line["request_id"] == long[:128] + "…"
    assert line["outcome"] == "invalid_argument"


def test_a_call_whose_deadline_passes_in_the_queue_is_a_line(server: RunningServer, logged: Any) -> None:
    with held(path_of(server)):
        running = Background(answer, server, "grpc", GOOD)
        wait_until(lambda: server.counter("vintner_requests_in_flight", model="m") == 1)
        with grpc_stub(server) as stub:
            assert refusal_of(lambda: stub.ModelInfer(GOOD.message(), timeout=ARRIVES)).code == "DEADLINE_EXCEEDED"
        (late,) = logged()
        assert told(late, "status", "outcome") == ["DEADLINE_EXCEEDED", "deadline_exceeded"]
        assert told(late, "model", "version") == ["m", "1"]
        assert late["seconds"] >= 0.25
    assert running.outcome["outputs"]
    assert logged(2)[1]["outcome"] == "ok"


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("poison", "outcome", "said"),
    [
        ("", "internal", "an inference failed: a bug of the server's, or of a backend's"),
        ("the device is gone", "backend", "an inference failed: the device is gone"),
    ],
)
def test_a_failure_of_the_servers_is_logged_once_with_what_it_was_about(
    server: RunningServer, logged: Any, protocol: str, poison: str, outcome: str, said: str
) -> None:
    answer(server, protocol, GOOD)  # or too many runs in a row would fail, and the instance be replaced
    (path_of(server) / ".poison").write_text(poison)
    try:
        refusal = refuse(server, protocol, replace(GOOD, id="c-1"), "INTERNAL")
    finally:
        (path_of(server) / ".poison").unlink()
    assert refusal.message == (poison or "internal error; the server's log has the details")
    (error,) = logged(1, "error")
    about = ["request_id", "model", "version"]
    assert told(error, "level", "message", *about) == ["error", said, "c-1", "m", "1"]
    assert ("a bug in the backend" in error.get("exception", "")) == (not poison)
    line = logged(2)[1]
    assert told(line, "outcome", *about) == [outcome, "c-1", "m", "1"]


def test_access_is_not_logged_unless_that_is_asked_for(doubling: RunningServer) -> None:
    for protocol in PROTOCOLS:
        answer(doubling, protocol, Inference())
    assert "vintner.access" not in doubling.log.read_text()


def test_the_other_routes_that_run_models_say_who_answered(
    server: RunningServer, logged: Callable[..., list[Line]]
) -> None:
    calls = {
        "/v2/models/m/generate": {"input": [1, 2, 3, 4], "id": "7"},
        "/v2/models/m/generate_stream": {"input": [1, 2, 3, 4], "id": "7"},
        "/v1/models/m:predict": {"instances": [[1, 2, 3, 4]]},
    }
    sizes = [len(server.request("POST", path, json.dumps(body).encode())[2]) for path, body in calls.items()]
    lines = logged(3)
    assert [line["path"] for line in lines] == list(calls)
    assert [line["sent"] for line in lines] == sizes
    assert [line.get("request_id") for line in lines] == ["7", "7", None]
    for line in lines:
        assert (line["model"], line["version"], line["status"], line["outcome"]) == ("m", "1", 200, "ok")
        assert 0 <= line["compute_seconds"] <= line["seconds"]


def test_a_stream_is_one_line(server: RunningServer, logged: Callable[..., list[Line]]) -> None:
    with grpc_stub(server) as stub:
        assert len(list(stub.ModelStreamInfer(iter([GOOD.message()] * 3), timeout=30))) == 3
    (line,) = logged()
    assert (line["path"], line["status"]) == (f"{SERVICE}/ModelStreamInfer", "OK")


def test_a_stream_over_rest_that_began_well_has_the_outcome_that_it_ended_with(
    server: RunningServer, logged: Callable[..., list[Line]]
) -> None:
    body = json.dumps({"input": [1, 2, 3, 4], "repeat": 2}).encode()
    assert b"failed after 1" in server.request("POST", "/v2/models/breaks/generate_stream", body)[2]
    (line,) = logged()
    assert (line["status"], line["outcome"]) == (200, "backend")
