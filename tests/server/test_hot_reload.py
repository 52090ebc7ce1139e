"""A repository that changes all the time, under clients that never stop: none of them notices, but by new answers.

Each revision of a model multiplies by a factor of its own, so an answer tells what gave it.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from threading import Lock

import pytest
from closed_loop import Client, stop
from infer_calls import wait_until
from model_builders import openvino_scaling
from running_server import RunningServer

Start = Callable[..., RunningServer]

CLIENTS = 16
CHANGES = 220
SETTLE = "--repository-settle-seconds=0.05"
CONFIG = "precision: f32\ninstances: 2\n"


class Repository:
    """One model, whose versions come, go, break and change. The server sees half-done things as they are done."""

    def __init__(self, root: Path, seed: int) -> None:
        self.model = root / "m"
        self._scratch = root.parent / "scratch"
        self._random = Random(seed)
        self._factors = itertools.count(2)
        self._lock = Lock()
        self._valid: dict[str, set[float]] = {}
        self.whole: dict[int, float] = {}
        """Versions that can be loaded, with their factors."""
        self.broken: set[int] = set()
        self.add()

    def right(self, version: str, factor: float) -> bool:
        with self._lock:
            return factor in self._valid.get(version, ())

    def _build(self, version: int) -> tuple[Path, float]:
        factor = float(next(self._factors))
        directory = self._scratch / f"{factor:g}"
        openvino_scaling(directory, factor)
        with self._lock:
            self._valid.setdefault(str(version), set()).add(factor)
        return directory, factor

    @property
    def _highest(self) -> int:
        return max((*self.whole, *self.broken), default=0)

    def add(self) -> None:
        """A new version, renamed into place."""
        version = self._highest + 1
        directory, factor = self._build(version)
        self.model.mkdir(parents=True, exist_ok=True)
        directory.rename(self.model / str(version))
        self.whole[version] = factor

    def add_slowly(self) -> None:
        """A new version, copied into place in pieces."""
        version = self._highest + 1
        directory, factor = self._build(version)
        target = self.model / str(version)
        target.mkdir()
        for file in sorted(directory.iterdir()):
            write_slowly(target / file.name, file.read_bytes())
        self.whole[version] = factor

    def add_broken(self) -> None:
        version = self._highest + 1
        directory, _ = self._build(version)
        (directory / "model.bin").write_bytes(b"")
        directory.rename(self.model / str(version))
        self.broken.add(version)

    def replace(self) -> None:
        """The files of the highest version, one after the other."""
        version = self._highest
        directory, factor = self._build(version)
        for file in sorted(directory.iterdir()):
            os.replace(file, self.model / str(version) / file.name)
        self.whole[version] = factor
        self.broken.discard(version)

    def remove_and_write(self) -> None:
        """The highest version, whose directory is not there for a moment."""
        version = self._highest
        directory, factor = self._build(version)
        shutil.rmtree(self.model / str(version))
        shutil.copytree(directory, self.model / str(version))
        self.whole[version] = factor
        self.broken.discard(version)

    def overwrite(self) -> None:
        """As `replace`, but in place and slowly."""
        version = self._highest
        directory, factor = self._build(version)
        for file in sorted(directory.iterdir()):
            write_slowly(self.model / str(version) / file.name, file.read_bytes())
        self.whole[version] = factor
        self.broken.discard(version)

    def break_files(self) -> None:
        version = self._highest
        if len(self.whole) > 1 or version not in self.whole:
            (self.model / str(version) / "model.xml").write_text("<net>no model</net>")
            self.whole.pop(version, None)
            self.broken.add(version)

    def remove(self) -> None:
        version = self._highest
        if len(self.whole) > 1 or version in self.broken:
            shutil.rmtree(self.model / str(version))
            self.whole.pop(version, None)
            self.broken.discard(version)

    def configure(self) -> None:
        config = CONFIG + self._random.choice(
            [
                "queue: {max_requests: 200}\n",
                "queue: {max_requests: 100, timeout_seconds: 20}\n",
                "batching: {preferred_batch_sizes: [4, 8]}\n",
                "batching: {max_batch_size: 16}\n",
                "version_policy: all\n",
                "version_policy: {latest: 2}\n",
                "instances: 1\n",
                "warmup: true\n",
                "",
            ]
        ).replace("instances: 1\n", "streams: 1\n")
        (self.model / "config.yaml").write_text(config)

    def break_configuration(self) -> None:
        (self.model / "config.yaml").write_text("instnces: 2\n")

    def change(self) -> None:
        """One of all that can happen."""
        kinds = [self.add, self.add_slowly, self.add_broken, self.replace, self.overwrite, self.break_files]
        kinds += [
            self.remove_and_write,
            self.remove,
            self.remove,
            self.remove,
            self.configure,
            self.configure,
            self.break_configuration,
        ]
        self._random.choice(kinds)()

    def heal(self) -> None:
        """Leaves only what can be loaded."""
        for version in sorted(self.broken):
            shutil.rmtree(self.model / str(version))
        self.broken.clear()
        (self.model / "config.yaml").write_text(CONFIG)


def write_slowly(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        for start in range(0, len(data), max(1, len(data) // 4)):
            file.write(data[start : start + max(1, len(data) // 4)])
            file.flush()
            time.sleep(0.005)


def index(server: RunningServer) -> dict[str, tuple[str, str]]:
    """State and reason of each version of the model."""
    entries = json.loads(server.request("POST", "/v2/repository/index", b"")[2])
    return {e["version"]: (e.get("state", ""), e.get("reason", "")) for e in entries if "version" in e}


@pytest.fixture
def clients() -> Iterator[list[Client]]:
    made: list[Client] = []
    yield made
    stop(made)


@pytest.mark.timeout(300)
def test_clients_that_name_no_version_notice_nothing_of_what_happens_to_the_repository(
    tmp_path: Path, start: Start, clients: list[Client]
) -> None:
    repository = Repository(tmp_path / "repository", seed=4)
    repository.heal()
    server = start(tmp_path / "repository", SETTLE)
    assert server.ready
    clients += [Client(server, number, repository.right) for number in range(CLIENTS)]
    for client in clients:
        client.start()

    def healed() -> bool:
        highest = max(repository.whole)
        state, reason = index(server).get(str(highest), ("", ""))
        return (state, reason) == ("READY", "") and asked(server) == (str(highest), repository.whole[highest])

    for number in range(1, CHANGES + 1):
        repository.change()
        time.sleep(Random(number).uniform(0, 0.15))  # the next change comes at any point of the last one's way
        if number % 20 == 0:
            repository.heal()
            wait_until(healed)
    stop(clients)
    wrong = [each for client in clients for each in client.wrong]
    assert not wrong, f"{len(wrong)}: {sorted(wrong)[:5]} ... {sorted(wrong)[-3:]}"
    assert min(client.answers for client in clients) > 20
    assert server.terminate() == 0
    assert "Traceback" not in server.log.read_text()


def asked(server: RunningServer) -> tuple[str, float]:
    """The version that answers now, and its factor."""
    body = {"inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 4], "data": [1, 1, 1, 1]}]}
    status, _, reply = server.request("POST", "/v2/models/m/infer", json.dumps(body).encode())
    assert status == 200, reply
    document = json.loads(reply)
    return document["model_version"], document["outputs"][0]["data"][0]
