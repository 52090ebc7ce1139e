"""The core with neither network nor runtime: service, manager, servable and scheduler over a model that does nothing.

Says `ready`, then for each line `THREADS REQUESTS` on its standard input makes so many requests of one row from so
many threads, each of which waits for its answer before the next, and says `THREADS ran REQUESTS in SECONDS`. With no
threads it calls the instance itself, which is what is left to pay without a core. Run by `servers.py`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Barrier

import numpy as np
from vintner.backend import Backends, Device, Instance, LoadSpec
from vintner.manager import Manager
from vintner.repository import scan
from vintner.service import Service
from vintner.types import Array, Request, Tensor, TensorSpec

MODEL = "nothing"
_LOADING_SECONDS = 30


class Nothing:
    """A backend, and the one model that it has, and its one instance: answers with its input."""

    platform = "nothing"
    inputs: Sequence[TensorSpec] = (TensorSpec("x", "FP32", (-1, 16)),)
    outputs: Sequence[TensorSpec] = (TensorSpec("y", "FP32", (-1, 16)),)

    @property
    def instances(self) -> Sequence[Instance]:
        return (self,)

    def find(self, directory: Path) -> Path | None:
        path = directory / "model"
        return path if path.exists() else None

    def load(self, spec: LoadSpec) -> Nothing:
        return self

    def devices(self) -> Sequence[Device]:
        return (Device("none", "nothing runs on it"),)

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        return {"y": inputs["x"]}

    def close(self) -> None:
        """Holds nothing."""


class Core:
    """The parts that every request passes, put together as the server does."""

    def __init__(self, root: Path) -> None:
        (root / MODEL / "1").mkdir(parents=True)
        (root / MODEL / "1" / "model").touch()
        backends = Backends(made={"nothing": Nothing()})
        manager = Manager(backends)
        manager.aspire(scan([root], backends))
        if not manager.settled.wait(_LOADING_SECONDS):
            raise TimeoutError(f"the model did not load in {_LOADING_SECONDS} s")
        self._service = Service(manager)
        self._instance = Nothing()
        self._values = np.zeros((1, 16), np.float32)

    def seconds(self, threads: int, requests: int) -> float:
        """How long that many took, shared out among the threads."""
        if not threads:
            return self._bare(requests)
        begin = Barrier(threads + 1)
        counts = [requests // threads + (number < requests % threads) for number in range(threads)]
        with ThreadPoolExecutor(threads) as workers:
            done = [workers.submit(self._infer, begin, count) for count in counts]
            start = time.perf_counter()  # before they begin: on one core they may be done when this thread runs again
            begin.wait()
            for one in done:
                one.result()
            return time.perf_counter() - start

    def _infer(self, begin: Barrier, requests: int) -> None:
        begin.wait()
        for _ in range(requests):
            self._service.infer(Request(MODEL, "", {"x": Tensor("FP32", self._values)}), "grpc")

    def _bare(self, requests: int) -> float:
        start = time.perf_counter()
        for _ in range(requests):
            self._instance.run({"x": self._values})
        return time.perf_counter() - start


def main() -> None:
    with TemporaryDirectory() as directory:
        core = Core(Path(directory))
        print("ready", flush=True)
        for line in sys.stdin:
            threads, requests = map(int, line.split())
            print(f"{threads} ran {requests} in {core.seconds(threads, requests)}", flush=True)


if __name__ == "__main__":
    main()
