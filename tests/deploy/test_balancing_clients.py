"""Without a proxy: what one gRPC channel does with several servers, and what lets it reach all of them."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from balanced_calls import grpc_calls
from relay import Relay
from running_server import ROOT
from server_pool import ServerPool, more, server_pool
from steady_load import steady_load
from waiting import wait_until

ENDS = 40.0
PAGE = ROOT / "docs" / "deploy.md"
SERVICE_CONFIG = re.compile(r'^SERVICE_CONFIG = """(.*?)"""$', re.MULTILINE | re.DOTALL)
PROGRAM = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerPool]:
    """Both servers are there at the beginning of each test."""
    with server_pool(tmp_path_factory.mktemp("pool"), 2, "--drain-seconds=1") as pool:
        yield pool


@pytest.fixture(autouse=True)
def _both(pool: ServerPool) -> None:
    for number, server in enumerate(pool.servers):
        if server.process.poll() is not None:
            pool.start_again(number)


class Connections(Relay):
    """Balances connections, as a Service of Kubernetes does: here, each goes to the next server."""

    def __init__(self, pool: ServerPool) -> None:
        self._servers = itertools.cycle(server.grpc.rpartition(":") for server in pool.servers)
        super().__init__(pool.servers[0].grpc)

    @property
    def _target(self) -> tuple[str, int]:  # type: ignore[override]
        host, _, port = next(self._servers)
        return host, int(port)

    @_target.setter
    def _target(self, _: object) -> None:
        """All servers are."""


@pytest.fixture
def service(pool: ServerPool) -> Iterator[Connections]:
    connections = Connections(pool)
    yield connections
    connections.close()


def several(pool: ServerPool) -> str:
    """What `dns:///` finds for a headless Service."""
    return "ipv4:" + ",".join(server.grpc for server in pool.servers)


def round_robin(pool: ServerPool) -> Callable[[], None]:
    """With the page's own configuration, on a channel that soon looks again for a server that was away."""
    (found,) = SERVICE_CONFIG.findall(PAGE.read_text())
    return grpc_calls(several(pool), options=[("grpc.service_config", found), ("grpc.max_reconnect_backoff_ms", 100)])


def test_one_channel_stays_with_one_server(pool: ServerPool, service: Connections) -> None:
    call, before = grpc_calls(service.address), pool.answered()
    for _ in range(40):
        call()
    assert sorted(more(before, pool.answered())) == [0, 40]


def test_a_channel_that_knows_all_servers_uses_one_unless_it_is_told_otherwise(pool: ServerPool) -> None:
    call, before = grpc_calls(several(pool)), pool.answered()
    for _ in range(40):
        call()
    assert sorted(more(before, pool.answered())) == [0, 40]


def test_a_channel_with_round_robin_uses_all(pool: ServerPool) -> None:
    call = round_robin(pool)

    def calls_both() -> bool:
        """The second connection may not be there at the first call."""
        before = pool.answered()
        for _ in range(40):
            call()
        return more(before, pool.answered()) == [20, 20]

    wait_until(calls_both)


@pytest.mark.parametrize("how", ["told to stop", "killed"])
def test_a_channel_with_round_robin_loses_no_call_with_a_server(pool: ServerPool, how: str) -> None:
    calls = [round_robin(pool) for _ in range(4)]
    with steady_load(calls) as load:
        wait_until(lambda: min(pool.answered()) > 20)
        if how == "killed":
            pool.servers[0].process.kill()
        else:
            pool.servers[0].process.terminate()
        pool.servers[0].process.wait(ENDS)
        load.wait_for_more()
        pool.start_again(0)
        wait_until(lambda: pool.answered()[0] > 20)
    assert load.errors() == []


def test_connections_of_a_certain_age_end_so_that_a_channel_finds_other_servers(tmp_path: Path) -> None:
    """A call may be lost with each that ends, where this machine holds the client up just then."""
    with server_pool(tmp_path, 2, "--grpc-max-connection-age-seconds=0.5") as pool:
        service = Connections(pool)
        with steady_load([grpc_calls(service.address)]) as load:
            wait_until(lambda: min(pool.answered()) > 20)
        service.close()
    errors = load.errors()
    others = [each for each in errors if getattr(each, "status", lambda: "")() != "StatusCode.UNAVAILABLE"]
    assert others == []
    assert len(errors) < service.connections, errors
    assert len(load.outcomes) - len(errors) > 40


def test_the_program_in_the_docs_uses_all_servers(pool: ServerPool) -> None:
    (program,) = PROGRAM.findall(PAGE.read_text())
    program, changed = re.subn(r"dns:///[\w.:-]+", several(pool), program)
    assert changed == 1

    def uses_both() -> bool:
        """On a busy machine the second connection may not be there before the last call."""
        before = pool.answered()
        run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=ENDS, check=False)
        assert run.returncode == 0, run.stderr
        return min(more(before, pool.answered())) > 0

    wait_until(uses_both)
