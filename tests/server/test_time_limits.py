"""How long a client may take, and a request; and the limits of JSON as an operator sets them."""

from __future__ import annotations

import json
import select
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

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
    """Reads four bodies at a time, and has little patience."""
    flags = [
        f"--http-header-timeout-seconds={HEADER}",
        f"--http-body-timeout-seconds={BODY}",
        f"--request-timeout-seconds={REQUEST}",
        "--max-concurrent-requests=4",
        "--no-http-docs",
        "--max-json-nesting=6",
        "--max-json-keys=5",
        "--max-json-outputs=2",
        "--max-json-arrays=20",
    ]
    server = start_server(models, models.parent / f"{models.name}.log", *flags, env=third_party)
    yield server
    server.kill()


def connect(server: RunningServer) -> socket.socket:
    host, _, port = server.http.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=WAIT)


def rest_of(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(65536), b""))


# -- headers and bodies ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [b"", b"GET /v2 HTTP/1.1\r\nHo", b"GET /v2 HTTP/1.1\r\nHost: here\r\n\r\n"])
def test_a_client_that_sends_no_header_in_time_is_hung_up_on(hasty: RunningServer, sent: bytes) -> None:
    """Nothing at all, half of a header, and nothing after a request that was answered."""
    with connect(hasty) as connection:
        connection.sendall(sent)
        started = time.monotonic()
        reply = rest_of(connection)
        assert HEADER - 0.2 < time.monotonic() - started < HEADER + 5
        assert reply.startswith(b"HTTP/1.1 200 OK") == sent.endswith(b"\r\n\r\n")


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
    with connect(hasty) as connection:
        connection.sendall(HEAD + HALF[body])
        started = time.monotonic()
        reply = rest_of(connection).removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert BODY - 0.2 < time.monotonic() - started < BODY + 5
    assert reply.startswith(b"HTTP/1.1 408 ")
    assert b"application/json" in reply
    assert b"the body did not arrive within 0.4 s" in reply


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
    connections = [connect(hasty) for _ in range(60)]
    for connection in connections:
        connection.sendall(f"POST {path} HTTP/1.1\r\nHost: here\r\nContent-Length: 1000\r\n\r\n{{".encode())
    replies: list[bytes] = []
    end = time.monotonic() + WAIT
    while connections and time.monotonic() < end:
        for connection in select.select(connections, [], [], 0.05)[0]:
            with suppress(OSError):
                replies.append(connection.recv(1000)[:12])
            connections.remove(connection)
            connection.close()
        for connection in connections:
            with suppress(OSError):  # it has been answered, and closed, a moment ago
                connection.sendall(b" ")
    assert set(replies) <= {b"HTTP/1.1 408", b"HTTP/1.1 503"}
    assert replies.count(b"HTTP/1.1 408") >= 4
    assert hasty.request("GET", "/v2/health/live")[0] == 200
    body = json.dumps(PLAIN.document()).encode()
    wait_until(lambda: hasty.request("POST", PLAIN.path(), body)[0] == 200)  # a client hears before a place is free
    with hold_up(hasty, 3):
        assert hasty.request("POST", PLAIN.path(), body)[0] == 200, "fewer places than before"


def test_a_body_that_comes_in_pieces_is_in_time(hasty: RunningServer) -> None:
    body = json.dumps(PLAIN.document()).encode()
    with connect(hasty) as connection:
        connection.sendall(HEAD + f"Connection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode())
        for start in range(0, len(body), 20):
            connection.sendall(body[start : start + 20])
        assert rest_of(connection).startswith(b"HTTP/1.1 200 OK")


# -- requests --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_request_that_takes_too_long_is_answered(hasty: RunningServer, models: Path, protocol: str) -> None:
    """One that runs, and one that waits for the only instance."""
    with held(models / "slow" / "1"):
        started = time.monotonic()
        other = Background(refuse, hasty, protocol, SLOW, "DEADLINE_EXCEEDED")
        refusal = refuse(hasty, protocol, SLOW, "DEADLINE_EXCEEDED")
        assert REQUEST - 0.1 < time.monotonic() - started < REQUEST + 5
        for outcome in (refusal, other.outcome):
            assert outcome.message == "the deadline passed while the request waited or ran"
    assert answer(hasty, protocol, SLOW)["outputs"][0]["data"] == [2, 4]


def test_a_clients_earlier_deadline_counts(hasty: RunningServer, models: Path) -> None:
    with held(models / "slow" / "1"), grpc_stub(hasty) as stub:
        started = time.monotonic()
        refusal = refusal_of(lambda: stub.ModelInfer(SLOW.message(), timeout=REQUEST / 5))
        assert refusal.code == "DEADLINE_EXCEEDED"
        assert time.monotonic() - started < REQUEST
        refusal = refusal_of(lambda: stub.ModelInfer(SLOW.message(), timeout=REQUEST * 20))
        assert refusal.code == "DEADLINE_EXCEEDED"
        assert REQUEST < time.monotonic() - started < REQUEST * 10


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
    hasty: RunningServer, below: dict[str, Any], above: dict[str, Any], fault: str
) -> None:
    status, _, reply = hasty.request("POST", PLAIN.path(), json.dumps(below).encode())
    assert status == 200 or b"already exists in request" in reply
    refusal = rest_refusal(hasty, "POST", PLAIN.path(), above)
    assert refusal.code == "400"
    assert fault in refusal.message


@pytest.mark.parametrize("path", ["/docs", "/openapi.json", "/docs/start.js"])
def test_the_description_of_rest_can_be_left_out(hasty: RunningServer, path: str) -> None:
    assert rest_refusal(hasty, "GET", path).code == "404"
