"""What the OpenAI API sends over the wire: server-sent events, errors before and in them, and clients that leave."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_backend import fake_model, write_model
from running_server import ROOT, RunningServer, start_server
from tiny_chats import answer, messages
from waiting import wait_until

MODEL = "tiny_llm"
JSON = {"Content-Type": "application/json"}
ENDLESS: dict[str, Any] = {"n": 64, "temperature": 0, "ignore_eos": True, "max_tokens": 2000}
"""Takes a quarter of a minute at least; who waits for its end fails."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, third_party: dict[str, str]) -> Iterator[RunningServer]:
    """A server of a language model of which four sequences run at a time, and of a model of tensors."""
    root = tmp_path_factory.mktemp("streams")
    shutil.copytree(ROOT / "model_repository" / MODEL, root / MODEL)
    (root / MODEL / "config.yaml").write_text("generation: {max_num_seqs: 4}\nqueue: {max_requests: 3}\n")
    write_model(root / "tensors" / "1", fake_model("FP32", (-1, 2)))
    server = start_server(
        root, root.parent / "streams.log", "--max-request-bytes=64KiB", "--access-log", env=third_party
    )
    yield server
    server.kill()


def body(name: str = "capital", **asked: Any) -> bytes:
    return json.dumps({"model": MODEL, "messages": messages(name), "temperature": 0, **asked}).encode()


def post(
    server: RunningServer, text: bytes, path: str = "/v1/chat/completions", headers: dict[str, str] = JSON
) -> tuple[int, Any, bytes]:
    return server.request("POST", path, text, headers)


def connected(server: RunningServer, text: bytes, path: str = "/v1/chat/completions") -> socket.socket:
    """A connection on which a request was sent."""
    host, _, port = server.http.rpartition(":")
    connection = socket.create_connection((host, int(port)), timeout=30)
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n"
    connection.sendall(head.encode() + text)
    return connection


def read_until(connection: socket.socket, mark: bytes) -> bytes:
    read = b""
    while mark not in read:
        part = connection.recv(65536)
        assert part, read
        read += part
    return read


def cancelled(server: RunningServer) -> float:
    return server.counter("vintner_requests_total", model=MODEL, outcome="cancelled")


def test_a_stream_is_of_events_and_ends_with_done(server: RunningServer) -> None:
    status, headers, sent = post(server, body(stream=True))
    assert status == 200
    assert headers["Content-Type"] == "text/event-stream; charset=utf-8"
    events = sent.decode().split("\n\n")
    assert events.pop() == ""
    assert events.pop() == "data: [DONE]"
    chunks = [json.loads(event.removeprefix("data: ")) for event in events if not event.startswith(":")]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert {chunk["model"] for chunk in chunks} == {MODEL}
    assert not any("usage" in chunk for chunk in chunks)
    choices = [chunk["choices"][0] for chunk in chunks]
    assert choices[0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(choice["delta"].get("content", "") for choice in choices) == answer("capital")
    assert [choice["finish_reason"] for choice in choices] == [None] * (len(choices) - 1) + ["stop"]


@pytest.mark.parametrize(
    ("text", "headers", "status", "message"),
    [
        (b"{", JSON, 400, "malformed JSON"),
        (b"[]", JSON, 400, "must be a JSON object"),
        (b"", JSON, 400, "malformed JSON"),
        (b"{}", JSON, 400, "'model' is missing"),
        (body(), {**JSON, "Content-Encoding": "br"}, 415, "'br'"),
        (b" " * (65 << 10), JSON, 413, "65536 bytes"),
        (b'{"a":' * 200 + b"1" + b"}" * 200, JSON, 400, "nesting"),
    ],
)
def test_a_body_that_is_none_is_refused_in_the_shape_of_openai(
    server: RunningServer, text: bytes, headers: dict[str, str], status: int, message: str
) -> None:
    for path in ("/v1/chat/completions", "/openai/v1/completions", "/v3/tokenize"):
        answered, told, sent = post(server, text, path, headers)
        assert answered == status
        assert told["Content-Type"] == "application/json"
        error = json.loads(sent)["error"]
        assert message in error["message"]
        assert error["type"] == "invalid_request_error"


def test_the_wrong_method_is_refused_in_the_shape_of_openai(server: RunningServer) -> None:
    status, headers, sent = server.request("GET", "/v1/chat/completions")
    assert (status, headers["Allow"]) == (405, "POST")
    assert json.loads(sent)["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("stream", [False, True])
def test_a_model_that_does_not_generate_text_says_so(server: RunningServer, stream: bool) -> None:
    status, _, sent = post(server, body(model="tensors", stream=stream))
    error = json.loads(sent)["error"]
    assert (status, error["param"]) == (400, "model")
    assert "does not generate text" in error["message"]


def begun(server: RunningServer, stream: bool) -> socket.socket:
    """A connection on which an endless answer is being generated."""
    connection = connected(server, body(**ENDLESS, stream=stream))
    if stream:
        read_until(connection, b'"content":"')
    return connection


@pytest.mark.parametrize("leave", ["in the middle", "while it waits"])
def test_a_client_that_goes_away_frees_its_place(server: RunningServer, leave: str) -> None:
    before = cancelled(server)
    first = begun(server, stream=True)
    if leave == "while it waits":
        second = connected(server, body(**ENDLESS, stream=True))
        read_until(second, b": still here")  # it has waited for a second
        second.close()
        wait_until(lambda: cancelled(server) == before + 1)
        before += 1
    first.close()
    wait_until(lambda: cancelled(server) == before + 1)
    assert post(server, body())[0] == 200


def test_a_stream_that_waits_is_kept_alive_and_answered_later(server: RunningServer) -> None:
    first = begun(server, stream=True)
    second = connected(server, body(stream=True))
    begin = read_until(second, b": still here")
    assert b"200 OK" in begin
    assert b"data:" not in begin
    first.close()
    rest = read_until(second, b"[DONE]")
    assert b'"finish_reason":"stop"' in rest
    second.close()


def test_what_goes_wrong_later_is_an_event_of_its_own(start: Callable[..., RunningServer], tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    shutil.copytree(ROOT / "model_repository" / MODEL, repository / MODEL)
    server = start(repository, "--request-timeout-seconds=3")
    connection = connected(server, body(**ENDLESS, stream=True))
    sent = read_until(connection, b"[DONE]")
    connection.close()
    error = next(json.loads(line[6:]) for line in sent.decode().splitlines() if line.startswith('data: {"error"'))
    assert error["error"]["code"] == "deadline_exceeded"
    assert b'"finish_reason":"' not in sent.partition(b'data: {"error"')[2]
    status, _, whole = post(server, body(**ENDLESS))
    assert (status, json.loads(whole)["error"]["type"]) == (504, "server_error")


def test_a_full_queue_is_told_with_when_to_try_again(server: RunningServer) -> None:
    connections = [begun(server, stream=True)]
    connections += [connected(server, body(**ENDLESS, stream=True)) for _ in range(3)]
    for connection in connections[1:]:
        read_until(connection, b": still here")
    for stream in (False, True):
        status, headers, sent = post(server, body(stream=stream))
        assert (status, headers["Retry-After"]) == (503, "1")
        assert json.loads(sent)["error"]["code"] == "queue_full"
    before = cancelled(server)
    for connection in connections:
        connection.close()
    wait_until(lambda: cancelled(server) == before + 4)


def test_the_access_log_has_the_model_and_the_id_of_an_answer(server: RunningServer) -> None:
    sent = json.loads(post(server, body())[2])
    wait_until(lambda: sent["id"] in server.log.read_text())
    line = next(line for line in server.log.read_text().splitlines() if sent["id"] in line)
    assert f"model={MODEL}" in line
    assert "outcome=ok" in line
