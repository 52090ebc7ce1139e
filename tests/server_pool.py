"""Several real servers, alike, each with models and ports of its own that it keeps when it starts again.

Knows nothing of what is in front of them. The models: `double`, `slow` and `rows` of the held backend, and `tiny_llm`
where it is wanted. `slow` is as `double`, but its runs always take a while; `rows` is decoupled.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from fake_backend import fake_model, write_model
from held_backend import install
from running_server import ROOT, RunningServer, start_server

DOUBLE, SLOW, ROWS, LANGUAGE = "double", "slow", "rows", "tiny_llm"


class ServerPool:
    def __init__(self, directory: Path, size: int, *arguments: str, language: bool = False) -> None:
        self._directory = directory
        self._arguments = arguments
        site = directory / "third-party"
        site.mkdir()
        self.environment = {"PYTHONPATH": os.pathsep.join([str(install(site)), os.environ.get("PYTHONPATH", "")])}
        for number in range(size):
            _write_models(self.models(number), language)
        with ThreadPoolExecutor(size) as starters:
            self.servers = list(starters.map(self._started, range(size)))

    def models(self, number: int) -> Path:
        return self._directory / f"models-{number}"

    def _started(self, number: int, *ports: str) -> RunningServer:
        log = self._directory / f"server-{number}.log"
        return start_server(self.models(number), log, *self._arguments, *ports, env=self.environment)

    def start_again(self, number: int) -> RunningServer:
        """A server that has ended, on the ports that it had."""
        old = self.servers[number]
        old.kill()
        addresses = {"http": old.http, "grpc": old.grpc, "metrics": old.metrics}
        ports = (f"--{name}-port={address.rpartition(':')[2]}" for name, address in addresses.items())
        self.servers[number] = self._started(number, *ports)
        return self.servers[number]

    def answered(self, model: str = DOUBLE, outcome: str = "ok") -> list[float]:
        """How many requests each server has answered so."""
        return [server.counter("vintner_requests_total", model=model, outcome=outcome) for server in self.servers]

    def under_way(self, model: str) -> list[float]:
        return [server.counter("vintner_requests_in_flight", model=model) for server in self.servers]

    def kill(self) -> None:
        for server in self.servers:
            server.kill()


@contextmanager
def server_pool(directory: Path, size: int, *arguments: str, language: bool = False) -> Iterator[ServerPool]:
    pool = ServerPool(directory, size, *arguments, language=language)
    try:
        yield pool
    finally:
        pool.kill()


def more(before: Sequence[float], after: Sequence[float]) -> list[float]:
    """What each server has answered meanwhile."""
    return [now - then for then, now in zip(before, after, strict=True)]


def _write_models(root: Path, language: bool) -> None:
    write_model(root / DOUBLE / "1", fake_model("FP32", (-1, 2)))
    (root / DOUBLE / "config.yaml").write_text("instances: 4\n")
    write_model(root / SLOW / "1", {**fake_model("FP32", (-1, 2)), "seconds": 0.05})
    write_model(root / ROWS / "1", fake_model("INT32", (-1, 1)) | {"decoupled": True})
    (root / ROWS / "config.yaml").write_text("instances: 4\n")
    if language:
        shutil.copytree(ROOT / "model_repository" / LANGUAGE, root / LANGUAGE)
