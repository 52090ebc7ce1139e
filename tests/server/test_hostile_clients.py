"""What one client may not take from the others: threads, memory, time."""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from queue import SimpleQueue

import grpc
import pytest
from fake_backend import fake_model, write_model
from grpc_health.v1 import health_pb2, health_pb2_grpc
from infer_calls import WAIT, wait_until
from running_server import RunningServer, start_server
from tritonclient.grpc import service_pb2, service_pb2_grpc
from vintner.http_routes import MOST_OTHERS
from vintner.server_reflection import MOST_CALLS
from vintner.service import MOST_STREAMS

SERVING = health_pb2.HealthCheckResponse.SERVING


def connect(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=WAIT)


@contextmanager
def silent(address: str, path: str, count: int) -> Iterator[list[socket.socket]]:
    """So many clients that announce a body and send nothing of it."""
    with ExitStack() as opened:
        connections = [opened.enter_context(connect(address)) for _ in range(count)]
        for connection in connections:
            connection.sendall(f"POST {path} HTTP/1.1\r\nHost: here\r\nContent-Length: 9\r\n\r\n".encode())
        yield connections


def test_clients_of_the_metrics_port_that_send_no_body_do_not_keep_it_from_others(doubling: RunningServer) -> None:
    with silent(doubling.metrics, "/metrics", 10) as connections:
        assert {connection.recv(12) for connection in connections} == {b"HTTP/1.1 405"}
        assert doubling.request("GET", "/metrics", port=doubling.metrics)[0] == 200


@pytest.mark.parametrize("path", ["/v2/repository/index", "/v2/logging", "/v2/trace/setting"])
def test_few_threads_wait_for_the_bodies_of_what_runs_no_model(doubling: RunningServer, path: str) -> None:
    """Each of them would be one that a health check does not find."""
    with silent(doubling.http, path, MOST_OTHERS + 3) as connections:
        waiting = list(connections)
        while len(waiting) > MOST_OTHERS:
            answered = select.select(waiting, [], [], WAIT)[0]
            assert answered, "more are read than that"
            assert {connection.recv(12) for connection in answered} == {b"HTTP/1.1 503"}
            waiting = [connection for connection in waiting if connection not in answered]
        assert doubling.request("GET", "/v2/health/live")[0] == 200


# -- gRPC ------------------------------------------------------------------------------------------------------

SERVICE = "/inference.GRPCInferenceService"
REFLECTION = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, third_party: dict[str, str]) -> Iterator[RunningServer]:
    """A server with about as few threads as there can be, and one model."""
    root = tmp_path_factory.mktemp("small")
    write_model(root / "plain" / "1", fake_model(shape=(-1, 2)))
    server = start_server(root, root.parent / "small.log", "--max-concurrent-requests=1", env=third_party)
    yield server
    server.kill()


async def ask_while_half_open(address: str, method: str, count: int) -> None:
    """Probes, while there are so many calls that send nothing."""
    async with grpc.aio.insecure_channel(address) as channel:
        calls = [channel.stream_stream(method)() for _ in range(count)]
        await asyncio.sleep(0)  # they are sent, before what comes after them on the same connection
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        health = health_pb2_grpc.HealthStub(channel)
        assert (await health.Check(health_pb2.HealthCheckRequest(), timeout=WAIT)).status == SERVING
        assert (await stub.ServerLive(service_pb2.ServerLiveRequest(), timeout=WAIT)).live
        assert (await stub.ServerReady(service_pb2.ServerReadyRequest(), timeout=WAIT)).ready
        assert (await stub.ModelReady(service_pb2.ModelReadyRequest(name="plain"), timeout=WAIT)).ready
        for call in calls:
            call.cancel()


@pytest.mark.parametrize("method", ["ServerLive", "ServerMetadata", "ModelInfer", "ModelStreamInfer"])
def test_probes_are_answered_however_many_calls_send_no_message(small: RunningServer, method: str) -> None:
    """More of them than the server has threads for calls."""
    asyncio.run(ask_while_half_open(small.grpc, f"{SERVICE}/{method}", 300 + MOST_STREAMS))


def test_few_calls_of_reflection_are_open_at_a_time(small: RunningServer) -> None:
    with grpc.insecure_channel(small.grpc) as channel:
        reflect = channel.stream_stream(REFLECTION)
        held = [reflect(iter(SimpleQueue().get, None)) for _ in range(MOST_CALLS)]
        wait_until(lambda: _refused(reflect))
        for call in held:
            call.cancel()
        wait_until(lambda: not _refused(reflect))


def _refused(reflect: Callable[..., Iterator[bytes]]) -> bool:
    try:
        list(reflect(iter([])))
    except grpc.RpcError as error:
        return error.code() is grpc.StatusCode.UNAVAILABLE
    return False
