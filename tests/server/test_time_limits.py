"""How long a client may take, and a request; and the limits of JSON as an operator sets them."""

from __future__ import annotations

import json
import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from fake_backend import fake_model, write_model
from held_backend import held
from infer_calls import (
    PROTOCOLS,
    WAIT,
    Background,
    Inference,
    answer,
    grpc_stub,
    refusal_of,
    refuse,
    rest_refusal,
    wait_until,
)
from running_server import RunningServer, start_server

HEADER, BODY, REQUEST = 0.3, 0.4, 0.3
SLOW, PLAIN = Inference(model="slow"), Inference(model="plain")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("time")
    for name in ("plain", "slow"):
        write_model(root / name / "1", fake_model(shape=(-1, 2)))
    return root


@pytest.fixture(scope="module")
def hasty(models: Path, third_party: dict[str, str]) -> Iterator[RunningServer]:
    """Reads four bodies at a time, and has little patience with those who send them."""
    flags = [
        f"--http-header-timeout-seconds={HEADER}",
        f"--http-body-timeout-seconds={BODY}",
        "--max-concurrent-requests=4",
    ]
    server = start_server(models, models.parent / "hasty.log", *flags, env=third_party)
    yield server
    server.kill()


@pytest.fixture(scope="module")
def brisk(models: Path, third_party: dict[str, str]) -> Iterator[RunningServer]:
    """Has little patience with requests that wait or run."""
    flag = f"--request-timeout-seconds={REQUEST}"
    server = start_server(models, models.parent / "brisk.log", flag, env=third_party)
    yield server
    server.kill()


@pytest.fixture(scope="module")
def narrow(models: Path, third_party: dict[str, str]) -> Iterator[RunningServer]:
    """Takes small JSON only, and describes nothing."""
    flags = [
        "--no-http-docs",
        "--max-json-nesting=6",
        "--max-json-keys=5",
        "--max-json-outputs=2",
        "--max-json-arrays=20",
    ]
    server = start_server(models, models.parent / "narrow.log", *flags, env=third_party)
    yield server
    server.kill()


def connect(server: RunningServer) -> socket.socket:
    host, _, port = server.http.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=WAIT)


def rest_of(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(65536), b""))


def hung_up_on(server: RunningServer, sent: bytes) -> tuple[bytes, float]:
    """What comes of it until the server hangs up, and the seconds from before the connection was there."""
    started, reply = time.monotonic(), b""
    with suppress(ConnectionError), connect(server) as connection:
        connection.sendall(sent)
        reply = rest_of(connection)
    return reply, time.monotonic() - started


def if_in_time(attempt: Callable[[], bool]) -> bool:
    """Whether it succeeds once of several times: a machine that stalls may make this client, too, one that is late."""
    return any(attempt() for _ in range(10))


def status_of(server: RunningServer, *request: Any) -> int:
    """0 for a client that was hung up on."""
    with suppress(OSError):
        return server.request(*request)[0]
    return 0


# -- headers and bodies ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [b"", b"GET /v2 HTTP/1.1\r\nHo", b"GET /v2 HTTP/1.1\r\nHost: here\r\n\r\n"])
def test_a_client_that_sends_no_header_in_time_is_hung_up_on(hasty: RunningServer, sent: bytes) -> None:
    """Nothing at all, half of a header, and nothing after a request that was answered."""

    def is_hung_up_on() -> bool:
        reply, seconds = hung_up_on(hasty, sent)
        assert seconds >= HEADER
        return reply.startswith(b"HTTP/1.1 200 OK") == sent.endswith(b"\r\n\r\n")

    assert if_in_time(is_hung_up_on)


HEAD = f"POST {PLAIN.path()} HTTP/1.1\r\nHost: here\r\n".encode()
HALF = {
    "half of it": b"Content-Length: 100\r\n\r\n{",
    "nothing of it": b"Content-Length: 100\r\n\r\n",
    "no last chunk": b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n",
    "half of the JSON": b"Content-Length: 100\r\nInference-Header-Content-Length: 50\r\n\r\n{",
    "no tensor after the JSON": b"Content-Length: 100\r\nInference-Header-Content-Length: 2\r\n\r\n{}",
    "compressed": b"Content-Length: 100\r\nContent-Encoding: gzip\r\n\r\n\x1f",
    "after 100 Continue": b"Content-Length: 100\r\nExpect: 100-continue\r\n\r\n",
}


@pytest.mark.parametrize("body", HALF)
def test_a_client_that_sends_no_body_in_time_is_told_so_and_hung_up_on(hasty: RunningServer, body: str) -> None:
    def is_told_so() -> bool:
        reply, seconds = hung_up_on(hasty, HEAD + HALF[body])
        if not reply:  # its header was late
            return False
        reply = reply.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert seconds >= BODY
        assert reply.startswith(b"HTTP/1.1 408 ")
        assert b"application/json" in reply
        assert b"the body did not arrive within 0.4 s" in reply
        return True

    assert if_in_time(is_told_so)


@contextmanager
def hold_up(server: RunningServer, count: int) -> Iterator[None]:
    """So many bodies are being received, and none of them comes to its end, while the block runs."""
    with ExitStack() as opened:
        for _ in range(count):
            opened.enter_context(connect(server)).sendall(HEAD + HALF["nothing of it"])
        yield


@pytest.mark.parametrize("path", [PLAIN.path(), "/v2/repository/index"])
def test_slow_bodies_hold_no_places(hasty: RunningServer, path: str) -> None:
    """More of them than are read at the same time, each a byte now and then."""
    head = f"POST {path} HTTP/1.1\r\nHost: here\r\nContent-Length: 1000\r\n\r\n{{".encode()

    def are_refused() -> bool:
        replies = replies_to_slow_bodies(hasty, head)
        if b"" in replies:  # a header was late
            return False
        assert set(replies) <= {b"HTTP/1.1 408", b"HTTP/1.1 503"}
        return replies.count(b"HTTP/1.1 408") >= 4

    def has_places() -> bool:
        with hold_up(hasty, 3):
            return status_of(hasty, "POST", PLAIN.path(), body) == 200

    assert if_in_time(are_refused)
    assert if_in_time(lambda: status_of(hasty, "GET", "/v2/health/live") == 200)
    body = json.dumps(PLAIN.document()).encode()
    wait_until(lambda: status_of(hasty, "POST", PLAIN.path(), body) == 200)  # a client hears before a place is free
    assert if_in_time(has_places), "fewer places than before"


def replies_to_slow_bodies(server: RunningServer, head: bytes) -> list[bytes]:
    """The beginning of what each of many is told; nothing for one that was hung up on."""
    connections = []
    for _ in range(60):
        connections.append(connect(server))
        with suppress(ConnectionError):
            connections[-1].sendall(head)
    replies: list[bytes] = []
    end = time.monotonic() + WAIT
    while connections and time.monotonic() < end:
        for connection in select.select(connections, [], [], 0.05)[0]:
            try:
                replies.append(connection.recv(1000)[:12])
            except OSError:
                replies.append(b"")
            connections.remove(connection)
            connection.close()
        for connection in connections:
            with suppress(OSError):  # it has been answered, and closed, a moment ago
                connection.sendall(b" ")
    return replies


def test_a_body_that_comes_in_pieces_is_in_time(hasty: RunningServer) -> None:
    body = json.dumps(PLAIN.document()).encode()

    def is_answered() -> bool:
        with suppress(ConnectionError), connect(hasty) as connection:
            connection.sendall(HEAD + f"Connection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode())
            for start in range(0, len(body), 20):
                connection.sendall(body[start : start + 20])
            return rest_of(connection).startswith(b"HTTP/1.1 200 OK")
        return False

    assert if_in_time(is_answered)


# -- requests --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_request_that_takes_too_long_is_answered(brisk: RunningServer, models: Path, protocol: str) -> None:
    """One that runs, and one that waits for the only instance."""
    with held(models / "slow" / "1"):
        started = time.monotonic()
        other = Background(refuse, brisk, protocol, SLOW, "DEADLINE_EXCEEDED")
        refusal = refuse(brisk, protocol, SLOW, "DEADLINE_EXCEEDED")
        assert time.monotonic() - started >= REQUEST
        for outcome in (refusal, other.outcome):
            assert outcome.message == "the deadline passed while the request waited or ran"

    def is_answered() -> bool:
        with suppress(AssertionError, grpc.RpcError):
            return answer(brisk, protocol, SLOW)["outputs"][0]["data"] == [2, 4]
        return False

    assert if_in_time(is_answered)


def test_a_clients_earlier_deadline_counts(brisk: RunningServer, models: Path) -> None:
    with held(models / "slow" / "1"), grpc_stub(brisk) as stub:

        def seconds_until_refused(timeout: float) -> float:
            started = time.monotonic()
            refusal = refusal_of(lambda: stub.ModelInfer(SLOW.message(), timeout=timeout))
            assert refusal.code == "DEADLINE_EXCEEDED"
            return time.monotonic() - started

        assert if_in_time(lambda: seconds_until_refused(REQUEST / 5) < REQUEST)
        assert REQUEST <= seconds_until_refused(WAIT) < WAIT / 2


# -- JSON ------------------------------------------------------------------------------------------------------


def nested(depth: int) -> dict[str, Any]:
    inner: Any = []
    for _ in range(depth - 2):
        inner = [inner]
    return PLAIN.document() | {"deep": inner}


def of_arrays(count: int) -> dict[str, Any]:
    text = json.dumps(PLAIN.document())
    return PLAIN.document() | {"more": [[]] * (count - 1 - text.count("[") - text.count("{"))}


@pytest.mark.parametrize(
    ("below", "above", "fault"),
    [
        (nested(6), nested(7), "JSON nesting depth exceeds maximum allowed limit (6)"),
        (
            PLAIN.document() | dict.fromkeys("abcd"[: 5 - len(PLAIN.document())]),
            PLAIN.document() | dict.fromkeys("abcde"),
            "keys, at most 5 are allowed",
        ),
        (
            PLAIN.document() | {"outputs": [{"name": "output"}, {"name": "output"}]},
            PLAIN.document() | {"outputs": [{"name": name} for name in "abc"]},
            "the request lists 3 outputs, at most 2 are allowed",
        ),
        (of_arrays(20), of_arrays(21), "the JSON has 21 arrays and objects, at most 20 are allowed"),
    ],
    ids=["nesting", "keys", "outputs", "arrays"],
)
def test_the_limits_of_json_are_as_set(
    narrow: RunningServer, below: dict[str, Any], above: dict[str, Any], fault: str
) -> None:
    status, _, reply = narrow.request("POST", PLAIN.path(), json.dumps(below).encode())
    assert status == 200 or b"already exists in request" in reply
    refusal = rest_refusal(narrow, "POST", PLAIN.path(), above)
    assert refusal.code == "400"
    assert fault in refusal.message


@pytest.mark.parametrize("path", ["/docs", "/openapi.json", "/docs/start.js"])
def test_the_description_of_rest_can_be_left_out(narrow: RunningServer, path: str) -> None:
    assert rest_refusal(narrow, "GET", path).code == "404"
