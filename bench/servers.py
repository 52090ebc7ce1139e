"""The servers that are measured, each started on the server's core, asked how many requests it served, and stopped.

What differs between them is here: the command, how it says that it is ready, and where its count of successes is.
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import onnx

from bench import models
from bench.process import Process, ProcessError

ROOT = Path(__file__).resolve().parents[1]
BENCH = Path(__file__).parent
PROGRAMS = Path(sys.executable).parent
KEEP_FREED_BUFFERS = {
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(256 * 2**20),
    "MALLOC_ARENA_MAX": "1",
}
"""For the echoes: the settings of glibc's allocator that Vintner makes for itself, so that neither is ahead by them."""


@dataclass(frozen=True, slots=True)
class Site:
    """Where servers run and where files go."""

    cores: str
    """The cores of a server, as taskset takes them; one, but where a row is about more."""

    directory: Path

    def log(self, name: str) -> Path:
        return self.directory / f"{name}.log"


@dataclass(frozen=True, slots=True)
class Server:
    """A running server. An address is `host:port`, and empty where there is none."""

    process: Process
    served: Callable[[], int]
    """Requests answered with success so far, by the server's own count."""
    grpc: str = ""
    http: str = ""
    metrics: str = ""


@contextmanager
def vintner(site: Site, repository: Path, name: str = "vintner", *flags: str) -> Iterator[Server]:
    """As shipped: no flags but the repository, free ports, and those that a row is about."""
    with _vintner([str(PROGRAMS / "vintner")], site, repository, name, *flags) as server:
        yield server


@contextmanager
def fixed_delay(site: Site, repository: Path, seconds: float, name: str) -> Iterator[Server]:
    """Vintner, but every batch waits for others until its oldest request is that old."""
    with _vintner([sys.executable, "-m", "bench.fixed_delay", str(seconds)], site, repository, name) as server:
        yield server


def refusal(repository: Path) -> str | None:
    """The first reason why Vintner would not serve a repository; None if it would."""
    command = [str(PROGRAMS / "vintner"), "validate", str(repository)]
    done = subprocess.run(command, capture_output=True, text=True)
    return (done.stdout + done.stderr).strip().partition(";")[0] if done.returncode else None


def batches(server: Server) -> tuple[int, int]:
    """Rows that a Vintner inferred so far, and the runs that it took."""
    rows, runs = (
        _sum_samples(server.metrics, rf"vintner_{count}_total\{{.*\}}") for count in ("inferences", "executions")
    )
    return rows, runs


def loads(server: Server) -> int:
    """Model versions that a Vintner has loaded so far."""
    return _sum_samples(server.metrics, "vintner_model_loads_total")


@contextmanager
def _vintner(program: Sequence[str], site: Site, repository: Path, name: str, *flags: str) -> Iterator[Server]:
    ports = [f"--{kind}-port=0" for kind in ("http", "grpc", "metrics")]
    command = [
        *program,
        "serve",
        f"--model-repository={repository}",
        "--host=127.0.0.1",
        *ports,
        *flags,
    ]
    with Process(command, site.cores, site.log(name), directory=ROOT) as process:
        line = process.wait_for(r"http=\S+.*grpc=.*\n")[0]
        http, grpc, metrics = (_address(line, kind) for kind in ("http", "grpc", "metrics"))
        succeeded = r'vintner_requests_total\{.*outcome="ok".*\}'
        yield Server(process, lambda: _sum_samples(metrics, succeeded), grpc, http, metrics)


@contextmanager
def grpc_echo(site: Site, output: str) -> Iterator[Server]:
    """`output` is the name in its replies of the one output."""
    command = [sys.executable, "-m", "bench.grpc_echo", output]
    with Process(command, site.cores, site.log("grpc-echo"), KEEP_FREED_BUFFERS, ROOT) as process:
        grpc = _address(process.wait_for(r"ready .*\n")[0], "grpc")

        def served() -> int:
            process.say("served")
            return int(process.wait_for(r"served (\d+)\n")[1])

        yield Server(process, served, grpc)


@contextmanager
def http_echo(site: Site, reply: bytes) -> Iterator[Server]:
    """Answers every request with `reply`."""
    file = site.directory / "http-echo.reply"
    file.write_bytes(reply)
    http = f"127.0.0.1:{_free_port()}"
    command = [sys.executable, "-m", "bench.http_echo", http.rpartition(":")[2], str(file)]
    with Process(command, site.cores, site.log("http-echo"), KEEP_FREED_BUFFERS, ROOT) as process:
        _wait_until_answers(process, f"http://{http}/served")
        yield Server(process, lambda: int(_get(f"http://{http}/served")), http=http)


@contextmanager
def bare_openvino(site: Site, model: Path) -> Iterator[tuple[Process, Callable[[int], float]]]:
    """The runtime alone, and a function that runs the model so many times and returns the seconds it took."""
    command = [sys.executable, "-m", "bench.bare_openvino", str(model)]
    with Process(command, site.cores, site.log("bare-openvino"), directory=ROOT) as process:
        process.wait_for(r"ready\n")

        def seconds(runs: int) -> float:
            process.say(str(runs))
            return float(process.wait_for(rf"ran {runs} in (\S+)\n", timeout=300)[1])

        yield process, seconds


@contextmanager
def bare_embeddings(
    site: Site, model: Path, texts: Path, batch: int
) -> Iterator[tuple[Process, Callable[[int], float]]]:
    """OpenVINO GenAI's pipeline alone, and a function that embeds so many texts and returns the seconds it took."""
    command = [sys.executable, "-m", "bench.bare_embeddings", str(model), str(texts), str(batch)]
    with Process(command, site.cores, site.log("bare-embeddings"), directory=ROOT) as process:
        process.wait_for(r"ready\n")

        def seconds(texts: int) -> float:
            process.say(str(texts))
            return float(process.wait_for(rf"ran {texts} in (\S+)\n", timeout=300)[1])

        yield process, seconds


@contextmanager
def hot_path(site: Site) -> Iterator[Callable[[int, int], float]]:
    """The core alone: a function that makes so many requests from so many threads, and returns the seconds."""
    command = [sys.executable, "-m", "bench.hot_path"]
    with Process(command, site.cores, site.log("hot-path"), KEEP_FREED_BUFFERS, ROOT) as process:
        process.wait_for(r"ready\n")

        def seconds(threads: int, requests: int) -> float:
            process.say(f"{threads} {requests}")
            return float(process.wait_for(rf"{threads} ran {requests} in (\S+)\n", timeout=300)[1])

        yield seconds


@contextmanager
def mlserver(site: Site) -> Iterator[Server]:
    """MLServer with the MLP, and without its worker processes, which halve its rate on one core."""
    programs = _mlserver_environment(site.directory.parent / "mlserver-venv") / "bin"
    http, grpc, metrics = (_free_port() for _ in range(3))
    directory = site.directory / "mlserver"
    _write_mlserver_settings(directory, http, grpc, metrics)
    with Process([str(programs / "mlserver"), "start", str(directory)], site.cores, site.log("mlserver")) as process:
        _wait_until_answers(process, f"http://127.0.0.1:{http}/v2/models/mlp/ready")
        count = r"model_infer_request_success_total\{.*\}"
        address = f"127.0.0.1:{metrics}"
        yield Server(process, lambda: _sum_samples(address, count), f"127.0.0.1:{grpc}", f"127.0.0.1:{http}")


def _mlserver_environment(directory: Path) -> Path:
    """A virtual environment with MLServer, made when it is not there or made from other requirements."""
    requirements = BENCH / "mlserver_requirements.txt"
    installed = directory / "requirements.txt"
    if not installed.exists() or installed.read_text() != requirements.read_text():
        print(f"installing MLServer in {directory} …", file=sys.stderr, flush=True)
        for command in (
            [sys.executable, "-m", "venv", "--clear", str(directory)],
            [str(directory / "bin" / "pip"), "install", "--quiet", "--requirement", str(requirements)],
        ):
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise ProcessError(f"MLServer cannot be installed:\n{done.stderr[-2000:]}")
        installed.write_text(requirements.read_text())
    return directory


def _write_mlserver_settings(directory: Path, http: int, grpc: int, metrics: int) -> None:
    folder = directory / "mlp"
    folder.mkdir(parents=True, exist_ok=True)
    onnx_file = folder / "model.onnx"
    onnx.save(models.mlp(), onnx_file)
    (folder / "mlserver_model.py").write_text((BENCH / "mlserver_model.py").read_text())
    settings = {
        "host": "127.0.0.1",
        "http_port": http,
        "grpc_port": grpc,
        "metrics_port": metrics,
        "debug": False,
        "parallel_workers": 0,
    }
    model = {"name": "mlp", "implementation": "mlserver_model.Mlp", "parameters": {"uri": str(onnx_file.resolve())}}
    (directory / "settings.json").write_text(json.dumps(settings))
    (folder / "model-settings.json").write_text(json.dumps(model))


def _address(line: str, kind: str) -> str:
    match = re.search(rf"\b{kind}=(?:https?://)?([^\s/,]+)", line)
    if not match:
        raise ProcessError(f"no {kind} address in {line!r}")
    return match[1]


def _sum_samples(address: str, series: str) -> int:
    """Sum of the samples, in Prometheus's text format, whose name and labels match the whole pattern."""
    return sum(int(float(value)) for value in re.findall(rf"(?m)^{series} (\S+)", _get(f"http://{address}/metrics")))


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as response:
        return str(response.read().decode())


def _wait_until_answers(process: Process, url: str, timeout: float = 60.0) -> None:
    end = time.monotonic() + timeout
    while True:
        try:
            _get(url)
            return
        except OSError:
            if not process.running or time.monotonic() > end:
                raise ProcessError(f"{process} does not answer at {url}:\n{process.log.read_text()[-2000:]}") from None
            time.sleep(0.05)


def _free_port() -> int:
    """For servers that cannot say which port they got. Another process may take it first; the row fails then."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
