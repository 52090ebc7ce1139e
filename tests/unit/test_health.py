"""`vintner health` against listeners that answer well, badly, or not at all."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import pytest
from vintner import health
from vintner.cli import main


@contextmanager
def listener(answer: bytes, family: socket.AddressFamily = socket.AF_INET) -> Iterator[tuple[int, list[bytes]]]:
    """Its port, and what it was asked; it takes one connection, answers and closes it."""
    asked: list[bytes] = []
    with socket.socket(family) as server:
        server.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0))
        server.listen()

        def serve() -> None:
            connection = server.accept()[0]
            with connection:
                asked.append(connection.recv(1024))
                connection.sendall(answer)

        thread = Thread(target=serve)
        thread.start()
        yield server.getsockname()[1], asked
        thread.join()


ALIVE = b'HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n{"live":true}'


def test_a_server_that_answers_is_alive(capsys: pytest.CaptureFixture[str]) -> None:
    with listener(ALIVE) as (port, asked):
        assert main(["health", f"--http-port={port}"]) == 0
    assert asked[0].startswith(b"GET /v2/health/live HTTP/1.1\r\n")
    assert capsys.readouterr() == (f"alive: http://127.0.0.1:{port}/v2/health/live\n", "")


def test_the_port_is_also_the_environments_and_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with listener(ALIVE) as (port, _):
        monkeypatch.setenv("VINTNER_HTTP_PORT", str(port))
        assert main(["health"]) == 0
    monkeypatch.delenv("VINTNER_HTTP_PORT")
    with listener(ALIVE) as (port, _):
        (tmp_path / "options.yaml").write_text(f"http_port: {port}\ndrain_seconds: 5\n")
        assert main(["health", f"--config={tmp_path / 'options.yaml'}"]) == 0


def test_a_server_on_all_addresses_of_ipv6_is_asked_on_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    with listener(ALIVE, socket.AF_INET6) as (port, _):
        assert main(["health", "--host=::", f"--http-port={port}"]) == 0
    assert capsys.readouterr().out == f"alive: http://[::1]:{port}/v2/health/live\n"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", "answered 503 Service Unavailable"),
        (b"", "no answer: Remote end closed connection without response"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "no answer: SSH-2.0-OpenSSH_9.2"),
    ],
)
def test_any_other_answer_is_one_line_and_exit_code_1(
    answer: bytes, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with listener(answer) as (port, _):
        assert main(["health", f"--http-port={port}"]) == 1
    line = capsys.readouterr().err
    assert line.startswith(f"vintner: error: http://127.0.0.1:{port}/v2/health/live: {reason}")
    assert line.count("\n") == 1


def test_nobody_there_is_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:  # bound and not listening: refused, and given to nobody else meanwhile
        taken.bind(("127.0.0.1", 0))
        assert main(["health", f"--http-port={taken.getsockname()[1]}"]) == 1
    assert capsys.readouterr().err.endswith("/v2/health/live: no answer: Connection refused\n")


def test_a_server_that_hangs_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(health, "PATIENCE", 0.05)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        assert main(["health", f"--http-port={silent.getsockname()[1]}"]) == 1
    assert capsys.readouterr().err.endswith("no answer: timed out\n")


@pytest.mark.parametrize("before", ["vintner", "/usr/bin/python\0/opt/vintner/bin/vintner", "/sbin/init\0--\0vintner"])
def test_the_port_is_that_of_the_server_that_is_process_1(
    before: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "FIRST_PROCESS", tmp_path / "cmdline")
    with listener(ALIVE) as (port, _):
        (tmp_path / "cmdline").write_text(f"{before}\0serve\0--model_dir\0/mnt/models\0--http_port={port}\0")
        assert main(["health"]) == 0
    with listener(ALIVE) as (port, _):
        assert main(["health", f"--http-port={port}"]) == 0


@pytest.mark.parametrize("line", ["/sbin/init\0splash\0", "sh\0-c\0vintner serve --http-port=1\0", "vintner\0", ""])
def test_any_other_process_1_says_nothing(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "FIRST_PROCESS", tmp_path / "cmdline")
    assert health.servers_arguments() == []
    (tmp_path / "cmdline").write_text(line)
    assert health.servers_arguments() == []
