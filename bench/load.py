"""Load on a server: h2load for what it can bear, one real client for what a caller waits.

h2load calls any HTTP 200 a success, gRPC errors included, so nothing here says how many requests succeeded: the
server is asked for that (`measure.py`).
"""

from __future__ import annotations

import re
import statistics
import subprocess
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.messages import Message

_PATIENCE_SECONDS = 120


class LoadError(RuntimeError):
    """h2load is not installed, or did not finish its requests."""


@dataclass(frozen=True, slots=True)
class Load:
    """One request, repeated by h2load with `connections` x `streams` of them in flight."""

    address: str
    message: Message
    connections: int
    streams: int
    http1: bool = False

    @property
    def in_flight(self) -> int:
        return self.connections * self.streams

    def seconds(self, requests: int) -> float:
        """How long that many took, from the first connection to the last reply. Raises LoadError."""
        output = self._run(requests)
        done, rate = re.search(r"(\d+) done", output), re.search(r"finished in .*?, ([\d.]+) req/s", output)
        if not done or not rate or int(done[1]) != requests:
            raise LoadError(f"h2load was to make {requests} requests, and said:\n{output}")
        return requests / float(rate[1])

    def median_latency(self, requests: int, log: Path) -> float:
        """Median time from request to end of reply, in seconds, of that many requests."""
        log.unlink(missing_ok=True)
        self._run(requests, f"--log-file={log}")
        return statistics.median(int(line.split("\t")[2]) for line in log.read_text().splitlines()) / 1e6

    def _run(self, requests: int, *more: str) -> str:
        shape = [f"--requests={requests}", f"--clients={self.connections}", f"--max-concurrent-streams={self.streams}"]
        headers = [f"--header={header}" for header in self.message.headers]
        command = ["h2load", *shape, *headers, *more, f"--data={self.message.body}", *(["--h1"] if self.http1 else [])]
        try:
            done = subprocess.run(
                [*command, f"http://{self.address}{self.message.path}"],
                capture_output=True,
                text=True,
                timeout=_PATIENCE_SECONDS,
            )
        except FileNotFoundError:
            raise LoadError("h2load is not installed (on Debian: apt-get install nghttp2-client)") from None
        except subprocess.TimeoutExpired:
            raise LoadError(f"{self.address} left h2load waiting for more than {_PATIENCE_SECONDS} s") from None
        if done.returncode:
            raise LoadError(f"h2load failed: {done.stdout}{done.stderr}")
        return done.stdout


def fetch(address: str, message: Message) -> bytes:
    """The body of the reply to one REST request."""
    headers = dict(header.split(": ", 1) for header in message.headers)
    request = urllib.request.Request(f"http://{address}{message.path}", message.body.read_bytes(), headers)
    with urllib.request.urlopen(request, timeout=30) as response:
        return bytes(response.read())


def median_call(call: Callable[[], object], requests: int) -> float:
    """Median time of a call, in seconds, made that often, one after the other, after a tenth as many to warm up."""
    for _ in range(requests // 10):
        call()
    times = []
    for _ in range(requests):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)
