"""Start, readiness, signals and exit codes of the real process."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from fake_backend import fake_model, write_model
from held_backend import held
from infer_calls import Background, wait_until
from running_server import RunningServer, vintner

WAIT = 30.0


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "models"
    write_model(root / "m" / "1")
    return root


def grpc_infer(server: RunningServer, value: float = 1.0) -> Any:
    with triton_grpc.InferenceServerClient(server.grpc) as client:
        given = triton_grpc.InferInput("input", [1, 4], "FP32")
        given.set_data_from_numpy(np.full((1, 4), value, np.float32))
        return client.infer("m", [given]).as_numpy("output")


def http_infer(server: RunningServer, value: float = 1.0) -> Any:
    with triton_http.InferenceServerClient(server.http, network_timeout=WAIT) as client:
        given = triton_http.InferInput("input", [1, 4], "FP32")
        given.set_data_from_numpy(np.full((1, 4), value, np.float32))
        return client.infer("m", [given]).as_numpy("output")


def wait_for_running(server: RunningServer, requests: int) -> None:
    """Until so many requests are in the model or its queue."""
    wait_until(lambda: server.counter("vintner_requests_in_flight", model="m") == requests)


def test_the_ready_line_says_what_was_bound(start: Any, repository: Path) -> None:
    server = start(repository)
    assert server.ready
    for port in (server.http, server.metrics):
        status, headers, body = server.request("GET", "/metrics", port=port)
        assert (status, headers["Content-Type"].split(";")[0]) == (200, "text/plain")
        assert b'vintner_model_versions{state="READY"} 1.0' in body
    assert grpc_infer(server).tolist() == [[2.0] * 4]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_an_idle_server_with_zero(start: Any, repository: Path, number: int) -> None:
    assert start(repository).terminate(number) == 0


@pytest.mark.parametrize("infer", [grpc_infer, http_infer])
def test_running_requests_are_answered_before_the_end(start: Any, repository: Path, infer: Any) -> None:
    server = start(repository)
    with held(repository / "m" / "1"):
        calls = [Background(infer, server, float(value)) for value in range(3)]
        wait_for_running(server, 3)
        server.process.send_signal(signal.SIGTERM)
        pause_until_logged(server, "stopping")
    assert [call.outcome[0, 0] for call in calls] == [0.0, 2.0, 4.0]
    assert server.process.wait(WAIT) == 0


def pause_until_logged(server: RunningServer, text: str) -> None:
    wait_until(lambda: text in server.log.read_text())


def test_a_body_that_is_held_back_does_not_hold_up_the_end(start: Any, repository: Path) -> None:
    server = start(repository)
    host, port = server.http.split(":")
    with ExitStack() as stack:
        for path in ("/v2/health/live", "/nothing"):
            connection = stack.enter_context(socket.create_connection((host, int(port)), WAIT))
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: here\r\nContent-Length: 9\r\n\r\n".encode())
            assert connection.recv(9) == b"HTTP/1.1 "
        with held(repository / "m" / "1"):
            call = Background(http_infer, server)
            wait_for_running(server, 1)
            server.process.send_signal(signal.SIGTERM)
            pause_until_logged(server, "stopping")
        assert call.outcome.tolist() == [[2.0] * 4]
        assert server.process.wait(WAIT) == 0
    assert "gave up" not in server.log.read_text()


def test_while_it_drains_the_server_is_not_ready_and_serves(start: Any, repository: Path) -> None:
    server = start(repository, "--drain-seconds=8")
    server.process.send_signal(signal.SIGTERM)
    pause_until_logged(server, "stopping")
    status, _, body = server.request("GET", "/v2/health/ready")
    assert (status, b'"ready":false' in body, b"stopping" in body) == (503, True, True)
    assert server.request("GET", "/v2/health/live")[0] == 200
    assert http_infer(server).tolist() == [[2.0] * 4]
    assert grpc_infer(server).tolist() == [[2.0] * 4]
    assert server.process.wait(WAIT) == 0


def test_a_second_signal_ends_the_server_at_once(start: Any, repository: Path) -> None:
    server = start(repository, "--drain-seconds=1000")
    server.process.send_signal(signal.SIGTERM)
    pause_until_logged(server, "stopping")
    assert server.terminate(signal.SIGINT) == 128 + signal.SIGINT


def test_work_that_does_not_end_is_given_up_after_the_grace_time(start: Any, repository: Path) -> None:
    server = start(repository, "--exit-timeout-seconds=0.5")
    with held(repository / "m" / "1"):
        call = Background(http_infer, server)
        wait_for_running(server, 1)
        assert server.terminate() == 1
    assert isinstance(call.outcome, Exception)
    assert "gave up on work that was still running" in server.log.read_text()


def test_a_broken_model_leaves_the_server_serving_but_not_ready(start: Any, repository: Path) -> None:
    write_model(repository / "broken" / "1", {**fake_model(), "fail": "the weights are missing"})
    server = start(repository)
    assert not server.ready
    status, _, body = server.request("GET", "/v2/health/ready")
    assert status == 503
    assert b"the weights are missing" in body
    assert http_infer(server).tolist() == [[2.0] * 4]
    assert "the weights are missing" in server.log.read_text()


def test_an_empty_repository_is_served_and_ends(start: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    server = start(tmp_path / "empty")
    assert server.ready
    assert server.terminate() == 0


def test_a_signal_that_finds_the_main_thread_elsewhere_ends_the_server(start: Any, tmp_path: Path) -> None:
    """It may come at any time, also just before that thread falls asleep; or in another thread, as here."""
    (tmp_path / "nothing").mkdir()
    server = start(tmp_path / "nothing")
    for _ in range(20):  # by then the main thread sleeps, and nothing else will wake it
        assert server.request("GET", "/v2/health/live")[0] == 200
    process = server.process.pid
    threads = [int(task.name) for task in Path(f"/proc/{process}/task").iterdir()]
    other = next(one for one in threads if one != process and not _blocks(process, one, signal.SIGTERM))
    assert ctypes.CDLL(None, use_errno=True).tgkill(process, other, signal.SIGTERM) == 0
    assert server.process.wait(WAIT) == 0


def _blocks(process: int, thread: int, number: int) -> bool:
    status = Path(f"/proc/{process}/task/{thread}/status").read_text()
    blocked = next(line.split()[1] for line in status.splitlines() if line.startswith("SigBlk"))
    return bool(int(blocked, 16) >> (number - 1) & 1)


def test_a_repository_of_faults_is_served_not_ready_and_ends(start: Any, tmp_path: Path) -> None:
    (tmp_path / "faulty" / "m").mkdir(parents=True)
    (tmp_path / "faulty" / "m" / "config.yaml").write_text("devise: CPU")
    server = start(tmp_path / "faulty")
    assert not server.ready
    assert server.terminate() == 0


def test_a_signal_that_comes_while_a_model_loads_ends_the_server(tmp_path: Path) -> None:
    """The model's file is a pipe that nobody writes to, so its load does not end."""
    (tmp_path / "models" / "m" / "1").mkdir(parents=True)
    pipe = tmp_path / "models" / "m" / "1" / "model.onnx"
    os.mkfifo(pipe)
    (tmp_path / "models" / "m" / "config.yaml").write_text("backend: onnxruntime")
    log = tmp_path / "server.log"
    ends: list[int] = []

    def is_read() -> bool:
        """Whether the server has opened the pipe; then it has an end to wait for until the test is over."""
        try:
            ends.append(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
        except OSError:
            return False
        return True

    ports = ["--http-port=0", "--grpc-port=0", "--metrics-port=0", "--host=127.0.0.1"]
    command = [sys.executable, "-m", "vintner", "serve", "--model-repository", str(tmp_path / "models"), *ports]
    with log.open("w") as stderr:
        process = subprocess.Popen([*command, "--exit-timeout-seconds=0.5"], stdout=stderr, stderr=stderr)
    wait_until(is_read)
    process.send_signal(signal.SIGTERM)
    assert process.wait(WAIT) == 1
    assert "stopping" in log.read_text()
    assert "ready http" not in log.read_text()
    for end in ends:
        os.close(end)


def test_a_signal_that_comes_while_the_server_is_made_has_no_model_loaded(tmp_path: Path) -> None:
    """The model's file is a pipe that nobody writes to: its load would not end in time."""
    (tmp_path / "models" / "m" / "1").mkdir(parents=True)
    os.mkfifo(tmp_path / "models" / "m" / "1" / "model.onnx")
    (tmp_path / "models" / "m" / "config.yaml").write_text("backend: onnxruntime")
    code = (
        "import os, signal, sys; from vintner import app, cli; check = app._check_dependencies;"
        "app._check_dependencies = lambda config: (os.kill(os.getpid(), signal.SIGTERM), check(config));"
        "sys.exit(cli.main(sys.argv[1:]))"
    )
    ports = ["--http-port=0", "--grpc-port=0", "--metrics-port=0", "--host=127.0.0.1"]
    command = [sys.executable, "-c", code, "serve", f"--model-repository={tmp_path / 'models'}", *ports]
    run = subprocess.run([*command, "--exit-timeout-seconds=0.5"], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (0, "")
    assert "stopping" in run.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_comes_before_the_server_is_there_ends_the_process(tmp_path: Path, number: int) -> None:
    """By a handler of its own: the kernel keeps what has none from process 1, which is what it is in a container."""
    (tmp_path / "yaml.py").write_text("import sys\nprint('imports', flush=True)\nsys.stdin.read()\n")
    command = [sys.executable, "-m", "vintner", "serve", "--model-repository", str(tmp_path)]
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"imports\n"
        process.send_signal(number)
        assert process.wait(WAIT) == 128 + number


def test_slow_uploads_do_not_hold_up_health_checks(start: Any, repository: Path) -> None:
    server = start(repository, "--max-concurrent-requests=4", "--exit-timeout-seconds=0.5")
    head = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{"
    address, port = server.http.split(":")
    with ExitStack() as stack:
        uploads = [stack.enter_context(socket.create_connection((address, int(port)))) for _ in range(60)]
        for upload in uploads:
            upload.sendall(head)
        answers: dict[socket.socket, bytes] = {}

        def are_answered() -> bool:
            waiting = [upload for upload in uploads if upload not in answers]
            answers.update((upload, upload.recv(1000)) for upload in select.select(waiting, [], [], 0.5)[0])
            return len(answers) >= len(uploads) - 4

        wait_until(are_answered)
        assert len(answers) == len(uploads) - 4
        assert all(answer.startswith(b"HTTP/1.1 503") for answer in answers.values())
        assert server.request("GET", "/v2/health/live")[0] == 200
    assert http_infer(server).tolist() == [[2.0] * 4]


@pytest.mark.parametrize("pair", [("--http-port", "--metrics-port"), ("--http-port", "--grpc-port")])
def test_two_ports_that_are_the_same_are_one_clear_line(
    repository: Path, third_party: dict[str, str], pair: tuple[str, str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    ports = {"--http-port": "0", "--grpc-port": "0", "--metrics-port": "0"} | dict.fromkeys(pair, str(port))
    flags = [f"{name}={value}" for name, value in ports.items()]
    run = vintner("serve", f"--model-repository={repository}", "--host=127.0.0.1", *flags, env=third_party)
    assert (run.returncode, run.stdout) == (1, "")
    assert f"127.0.0.1:{port}" in run.stderr
    assert "in use" in run.stderr
    assert "Traceback" not in run.stderr


def test_without_strict_readiness_a_broken_model_does_not_count(start: Any, repository: Path) -> None:
    write_model(repository / "broken" / "1", {**fake_model(), "fail": "the weights are missing"})
    server = start(repository, "--no-strict-readiness")
    assert server.ready
    assert server.request("GET", "/v2/health/ready")[0] == 200


@pytest.mark.parametrize("flag", ["--http-port", "--grpc-port", "--metrics-port"])
def test_a_port_in_use_is_one_clear_line(repository: Path, third_party: dict[str, str], flag: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ports = {"--http-port": "0", "--grpc-port": "0", "--metrics-port": "0", flag: str(port)}
        flags = [f"{name}={value}" for name, value in ports.items()]
        run = vintner("serve", f"--model-repository={repository}", "--host=127.0.0.1", *flags, env=third_party)
    assert run.returncode == 1
    assert f"127.0.0.1:{port}" in run.stderr
    assert "in use" in run.stderr
    assert "Traceback" not in run.stderr
    assert run.stdout == ""


def test_two_servers_do_not_share_a_port(start: Any, repository: Path, third_party: dict[str, str]) -> None:
    first = start(repository)
    port = first.grpc.partition(":")[2]
    ports = [f"--grpc-port={port}", "--http-port=0", "--metrics-port=0"]
    second = vintner("serve", f"--model-repository={repository}", "--host=127.0.0.1", *ports, env=third_party)
    assert second.returncode == 1
    assert "in use" in second.stderr
    assert grpc_infer(first).tolist() == [[2.0] * 4]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["serve", "--model-repository=/does/not/exist"], 1, "/does/not/exist"),
        (["serve"], 1, "--model-repository"),
        (["serve", "--model-repositry=x"], 2, "did you mean '--model-repository'"),
        (["serve", "--http-port=http"], 1, "--http-port"),
        (["validate", "/does/not/exist"], 1, "/does/not/exist"),
    ],
)
def test_a_mistake_of_the_operators_is_one_line(arguments: list[str], code: int, message: str) -> None:
    run = vintner(*arguments)
    assert run.returncode == code
    assert message in run.stderr
    assert len(run.stderr.splitlines()) == 1
    assert "Traceback" not in run.stderr


def test_the_log_is_json_if_asked(start: Any, repository: Path) -> None:
    import json

    server = start(repository, "--log-format=json")
    server.terminate()
    lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    assert any("is ready" in line["message"] for line in lines)


def test_nothing_is_written_beside_the_models(start: Any, repository: Path, tmp_path: Path) -> None:
    before = sorted(repository.rglob("*"))
    server = start(repository, f"--cache-dir={tmp_path / 'cache'}")
    assert server.terminate() == 0
    assert sorted(repository.rglob("*")) == before
