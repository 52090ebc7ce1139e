"""Starts a real `vintner serve` in a process of its own, for tests that talk to it over sockets."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
START = 90.0
STOP = 40.0
READY_LINE = re.compile(r"vintner \S+ (?P<state>ready|NOT ready) http=(\S+):(\d+) grpc=(\S+):(\d+) metrics=(\S+):(\d+)")


def vintner(
    *arguments: str, timeout: float = START, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs a command that ends by itself."""
    command = [sys.executable, "-m", "vintner", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=timeout, env={**os.environ, **(env or {})}, check=False
    )


@dataclass
class RunningServer:
    """A server that has printed its ready line; `log` is the file that its standard error goes to."""

    process: subprocess.Popen[str]
    log: Path
    ready_line: str
    ready: bool = field(init=False)
    http: str = field(init=False)
    grpc: str = field(init=False)
    metrics: str = field(init=False)

    def __post_init__(self) -> None:
        match = READY_LINE.match(self.ready_line)
        assert match, f"no ready line but {self.ready_line!r}; log: {self.log.read_text()}"
        self.ready = match["state"] == "ready"
        self.http, self.grpc, self.metrics = (f"127.0.0.1:{match[group]}" for group in (3, 5, 7))

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        port: str = "",
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and body of one HTTP request, whatever the status."""
        request = urllib.request.Request(
            f"http://{port or self.http}{path}", data=body, method=method, headers=dict(headers or {})
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as reply:
                return reply.status, reply.headers, reply.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers, error.read()

    def counter(self, name: str, /, **labels: str) -> float:
        """The sum of the series of a metric that have these labels."""
        total = 0.0
        for line in self.request("GET", "/metrics")[2].decode().splitlines():
            series, _, value = line.rpartition(" ")
            if series.partition("{")[0] == name and all(f'{key}="{text}"' in series for key, text in labels.items()):
                total += float(value)
        return total

    def terminate(self, signal_number: int = signal.SIGTERM) -> int:
        """Sends the signal and returns the exit code."""
        self.process.send_signal(signal_number)
        return self.process.wait(STOP)

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(STOP)
        assert self.process.stdout is not None
        self.process.stdout.close()


def start_server(
    repositories: Path | Sequence[Path], log: Path, *arguments: str, env: Mapping[str, str] | None = None
) -> RunningServer:
    """Starts a server on free ports of the loopback interface and returns when it has printed its ready line."""
    roots = [repositories] if isinstance(repositories, Path) else repositories
    flags = [word for root in roots for word in ("--model-repository", str(root))]
    ports = ["--host=127.0.0.1", "--http-port=0", "--grpc-port=0", "--metrics-port=0"]
    return start_command(log, "serve", *flags, *ports, *arguments, env=env)


def start_command(log: Path, *arguments: str, env: Mapping[str, str] | None = None) -> RunningServer:
    """Starts `vintner` with exactly these arguments and returns when it has printed its ready line."""
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "vintner", *arguments],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env={**os.environ, **(env or {})},
        )
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        code = process.wait(STOP)
        process.stdout.close()
        raise AssertionError(f"the server ended with {code}: {log.read_text()}")
    return RunningServer(process, log, line)
