"""What a gRPC client sees of ModelInfer is the same over the fast path and over grpcio's own server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from fake_backend import write_model
from grpc_health.v1 import health_pb2
from held_backend import held
from infer_calls import ARRIVES, wait_until
from running_server import RunningServer
from tritonclient.grpc import service_pb2 as pb

SERVICE = "/inference.GRPCInferenceService"
INFER = f"{SERVICE}/ModelInfer"
WAIT = 30.0
CLIENTS, EACH = 64, 25
IN_FLIGHT = 300
PLACES = 256
"""The default of --max-concurrent-requests: of 300 requests, the others are refused at once."""

CALLS_WITHOUT_END = """
import sys, grpc
address, method, data = sys.argv[1:]
call = grpc.insecure_channel(address).unary_unary(method)
for under_way in [call.future(bytes.fromhex(data)) for _ in range(20)]:
    under_way.result()
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "models"
    write_model(root / "m" / "1")
    return root


@pytest.fixture(params=["auto", "off"])
def begin(request: pytest.FixtureRequest, start: Any, repository: Path) -> Callable[..., RunningServer]:
    """Starts a server that takes one of the paths."""

    def begin(*arguments: str) -> RunningServer:
        server: RunningServer = start(repository, f"--grpc-fast-path={request.param}", *arguments)
        return server

    return begin


@pytest.fixture
def server(begin: Any) -> RunningServer:
    running: RunningServer = begin()
    return running


@contextmanager
def channel_to(server: RunningServer) -> Iterator[grpc.Channel]:
    """A connection of its own: grpcio shares those with the same address and options."""
    with grpc.insecure_channel(server.grpc, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        yield channel


@pytest.fixture
def channel(server: RunningServer) -> Iterator[grpc.Channel]:
    with channel_to(server) as channel:
        yield channel


def message(value: float = 1.0, model: str = "m", rows: int = 1) -> bytes:
    request = pb.ModelInferRequest(model_name=model, id=f"{value:g}")
    request.inputs.add(name="input", datatype="FP32", shape=[rows, 4])
    request.raw_input_contents.append(np.full((rows, 4), value, np.float32).tobytes())
    data: bytes = request.SerializeToString()
    return data


def call(channel: grpc.Channel, data: bytes, timeout: float = WAIT, **options: Any) -> Any:
    """The call under way; its result is the response's message."""
    method = channel.unary_unary(INFER, response_deserializer=pb.ModelInferResponse.FromString)
    return method.future(data, timeout=timeout, **options)


def value(response: Any) -> float:
    """The one value that all elements of the output have."""
    (found,) = set(np.frombuffer(response.raw_output_contents[0], np.float32).tolist())
    return float(found)


def code_of(under_way: Any) -> str:
    name: str = under_way.code().name
    return name


def inside(server: RunningServer) -> float:
    """Requests of the model that run or wait."""
    return server.counter("vintner_requests_in_flight", model="m")


def queued(server: RunningServer) -> float:
    return server.counter("vintner_queue_requests", model="m")


def alone(server: RunningServer) -> bool:
    """Whether one request runs: one that still waits to be begun would take those that come now along."""
    return inside(server) == 1 and queued(server) == 0


def healthy(channel: grpc.Channel) -> bool:
    check = channel.unary_unary("/grpc.health.v1.Health/Check")
    reply = health_pb2.HealthCheckResponse.FromString(check(b"", timeout=WAIT))
    return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)


@pytest.mark.parametrize(("choice", "logged"), [("auto", True), ("off", False)])
def test_the_option_decides_which_path_serves(start: Any, repository: Path, choice: str, logged: bool) -> None:
    server = start(repository, f"--grpc-fast-path={choice}")
    assert ("take the fast path" in server.log.read_text()) is logged


def test_with_a_grpcio_that_was_not_tested_the_ordinary_server_serves(
    start: Any, repository: Path, third_party: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text("import grpc\ngrpc.__version__ = '9.9.0'\n")
    server = start(repository, env={"PYTHONPATH": f"{tmp_path}{os.pathsep}{third_party['PYTHONPATH']}"})
    assert "without the fast path: it was not tested with grpcio 9.9.0" in server.log.read_text()
    with channel_to(server) as channel:
        assert value(call(channel, message()).result()) == 2.0


def test_each_of_many_clients_gets_its_own_answers(server: RunningServer) -> None:
    def client(number: int) -> None:
        with channel_to(server) as channel:
            for step in range(EACH):
                given = float(number * EACH + step)
                response = call(channel, message(given, rows=1 + step % 3)).result()
                assert (response.id, list(response.outputs[0].shape)) == (f"{given:g}", [1 + step % 3, 4])
                assert value(response) == 2 * given

    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(client, range(CLIENTS)))
    assert server.counter("vintner_requests_total", model="m", outcome="ok", protocol="grpc") == CLIENTS * EACH


def test_a_deadline_that_passes_in_the_queue_frees_the_place(
    server: RunningServer, repository: Path, channel: grpc.Channel
) -> None:
    with held(repository / "m" / "1"):
        running = call(channel, message())
        wait_until(lambda: alone(server))
        late = [call(channel, message(), timeout=ARRIVES) for _ in range(3)]
        wait_until(lambda: queued(server) == 3)
        assert [code_of(each) for each in late] == ["DEADLINE_EXCEEDED"] * 3
        wait_until(lambda: queued(server) == 0)
    assert value(running.result()) == 2.0


def test_a_deadline_that_passes_while_the_model_runs_does_no_harm(
    server: RunningServer, repository: Path, channel: grpc.Channel
) -> None:
    with held(repository / "m" / "1"):
        assert code_of(call(channel, message(), timeout=0.5)) == "DEADLINE_EXCEEDED"
    assert value(call(channel, message(3.0)).result()) == 6.0


def test_a_client_that_cancels_frees_its_place(server: RunningServer, repository: Path, channel: grpc.Channel) -> None:
    with held(repository / "m" / "1"):
        running = call(channel, message())
        wait_until(lambda: alone(server))
        waiting = [call(channel, message()) for _ in range(4)]
        wait_until(lambda: queued(server) == 4)
        for each in waiting[:3]:
            each.cancel()
        wait_until(lambda: queued(server) == 1)
    assert [value(each.result()) for each in (running, waiting[3])] == [2.0, 2.0]
    assert server.counter("vintner_requests_total", outcome="cancelled") == 3


@pytest.mark.parametrize(
    ("data", "code", "details"),
    [
        (message(model="nobody"), "NOT_FOUND", "nobody"),
        (message(model="ünknöwn %"), "NOT_FOUND", "ünknöwn %"),
        (message()[:-3], "INVALID_ARGUMENT", "no valid inference.ModelInferRequest"),
        (b"\xff\xff\xff", "INVALID_ARGUMENT", "no valid inference.ModelInferRequest"),
        (b"", "INVALID_ARGUMENT", "Model name cannot be empty"),
    ],
)
def test_an_error_has_its_status_and_details(channel: grpc.Channel, data: bytes, code: str, details: str) -> None:
    failed = call(channel, data)
    assert code_of(failed) == code
    assert details in failed.details()


def test_a_bug_is_internal_and_does_not_tell_its_text(
    server: RunningServer, repository: Path, channel: grpc.Channel
) -> None:
    (repository / "m" / "1" / ".poison").touch()
    failed = call(channel, message())
    assert code_of(failed) == "INTERNAL"
    assert "a bug in the backend" not in failed.details()
    assert "a bug in the backend" in server.log.read_text()
    (repository / "m" / "1" / ".poison").unlink()
    assert value(call(channel, message()).result()) == 2.0


def test_an_unknown_method_is_unimplemented(channel: grpc.Channel) -> None:
    assert code_of(channel.unary_unary(f"{SERVICE}/ModelInference").future(b"", timeout=WAIT)) == "UNIMPLEMENTED"


def test_a_call_without_a_message_is_unimplemented(channel: grpc.Channel) -> None:
    assert code_of(channel.stream_unary(INFER).future(iter(()), timeout=WAIT)) == "UNIMPLEMENTED"


def test_a_message_over_the_limit_is_refused(begin: Any) -> None:
    with channel_to(begin("--max-message-bytes=1KiB")) as channel:
        assert code_of(call(channel, message(rows=100))) == "RESOURCE_EXHAUSTED"
        assert value(call(channel, message()).result()) == 2.0


def test_a_compressed_request_is_understood(channel: grpc.Channel) -> None:
    for algorithm in (grpc.Compression.Gzip, grpc.Compression.Deflate):
        assert value(call(channel, message(5.0, rows=5000), compression=algorithm).result()) == 10.0


def test_a_large_message_arrives_whole(channel: grpc.Channel) -> None:
    response = call(channel, message(7.0, rows=200_000)).result()
    assert (value(response), len(response.raw_output_contents[0])) == (14.0, 3_200_000)


def test_metadata_of_the_client_does_no_harm(channel: grpc.Channel) -> None:
    metadata = [("x-request-id", "1"), ("trace-bin", b"\x00\xff"), ("x-long", "y" * 4000)]
    assert value(call(channel, message(), metadata=metadata).result()) == 2.0


def test_what_runs_at_the_signal_is_answered_and_new_calls_are_refused(
    server: RunningServer, repository: Path, channel: grpc.Channel
) -> None:
    with held(repository / "m" / "1"):
        calls = [call(channel, message(float(number))) for number in range(4)]
        wait_until(lambda: inside(server) == 4)
        server.process.send_signal(signal.SIGTERM)
        with channel_to(server) as other:
            wait_until(lambda: code_of(call(other, message(), timeout=2.0)) == "UNAVAILABLE")
    assert [value(each.result()) for each in calls] == [0.0, 2.0, 4.0, 6.0]
    assert server.process.wait(WAIT) == 0


def test_work_that_outlasts_the_grace_time_is_cancelled(begin: Any, repository: Path) -> None:
    server = begin("--exit-timeout-seconds=0.5")
    with held(repository / "m" / "1"), channel_to(server) as channel:
        calls = [call(channel, message()) for _ in range(3)]
        wait_until(lambda: inside(server) == 3)
        assert server.terminate() == 1
        assert {code_of(each) for each in calls} <= {"CANCELLED", "UNAVAILABLE"}


def test_an_idle_server_with_open_connections_ends_at_once(server: RunningServer, channel: grpc.Channel) -> None:
    assert value(call(channel, message()).result()) == 2.0
    assert server.terminate() == 0


def test_health_is_answered_while_every_place_is_taken(begin: Any, repository: Path) -> None:
    server = begin()
    with channel_to(server) as channel, channel_to(server) as other:
        with held(repository / "m" / "1"):
            calls = [call(channel, message()) for _ in range(IN_FLIGHT)]
            wait_until(lambda: inside(server) == PLACES)
            assert healthy(channel)
            assert healthy(other)
            assert code_of(call(other, message())) == "UNAVAILABLE"
        codes = [code_of(each) for each in calls]
    assert (codes.count("OK"), codes.count("UNAVAILABLE")) == (PLACES, IN_FLIGHT - PLACES)


def test_a_client_that_is_killed_leaves_nothing_behind(server: RunningServer, repository: Path) -> None:
    with held(repository / "m" / "1"):
        command = [sys.executable, "-c", CALLS_WITHOUT_END, server.grpc, INFER, message().hex()]
        client = subprocess.Popen(command)
        wait_until(lambda: inside(server) == 20)
        client.kill()
        client.wait(WAIT)
        wait_until(lambda: queued(server) == 0)
    wait_until(lambda: inside(server) == 0)
    with channel_to(server) as channel:
        assert value(call(channel, message()).result()) == 2.0
