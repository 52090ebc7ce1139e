"""What `grpc.health.v1` says once several threads have announced that the readiness may have changed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread

import pytest
from grpc_health.v1 import health_pb2
from model_world import WAIT, World
from vintner.grpc_server import GrpcServer
from vintner.service import Service

A_WHILE = 0.2
"""Seconds; whoever does not wait its turn is through by then."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[GrpcServer]:
    server = GrpcServer(World(tmp_path).service, host="127.0.0.1", port=0, threads=1, max_message_bytes=1 << 20)
    yield server
    server.stop(0)


def test_who_looked_first_does_not_have_the_last_word(server: GrpcServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """As two models that are ready in the same moment, the last two."""
    ready, looked, gate = Event(), Event(), Event()

    def look(_: Service) -> bool:
        found = ready.is_set()
        if not found:
            looked.set()
            assert gate.wait(WAIT)
        return found

    monkeypatch.setattr(Service, "ready", property(look))
    first, second = Thread(target=server.announce_readiness), Thread(target=server.announce_readiness)
    first.start()
    assert looked.wait(WAIT)
    ready.set()
    second.start()
    second.join(A_WHILE)
    gate.set()
    for thread in (first, second):
        thread.join(WAIT)
    request = health_pb2.HealthCheckRequest()
    assert server._health.Check(request, None).status == health_pb2.HealthCheckResponse.SERVING
