"""What one client may not take from the others: threads, memory, time."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from infer_calls import WAIT
from running_server import RunningServer
from vintner.http_routes import MOST_OTHERS


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
