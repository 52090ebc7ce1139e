"""Models by name, version and revision on the in-memory backend, a manager over them and a service."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import yaml
from fake_backend import FakeBackend, fake_model, write_model
from vintner.backend import Backends
from vintner.manager import Manager
from vintner.model_config import ModelConfig
from vintner.model_source import ModelSource, Scan
from vintner.service import Service
from vintner.types import Request, Response, Tensor
from waiting import wait_until

WAIT = 10.0


class World:
    """Models by name, version and revision, a manager over them and a service. A revision is a document's file."""

    def __init__(self, root: Path, **options: Any) -> None:
        self.root = root
        self.backend = FakeBackend()
        self.manager = Manager(Backends(made={"fake": self.backend}), **options)
        self.service = Service(self.manager)
        self.sources: dict[str, ModelSource] = {}
        self.faults: dict[str, str] = {}
        self.manager.subscribe(self._tell)
        self._changed = threading.Condition()

    def _tell(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def until(self, condition: Callable[[], object]) -> None:
        """Waits for what a change of the manager's state brings about."""
        with self._changed:
            assert self._changed.wait_for(condition, WAIT), self.states()

    def until_closed(self, count: int) -> None:
        """Waits until so many models were loaded and all are closed, of which nobody may be told."""
        loaded = self.backend.loaded
        wait_until(lambda: len(loaded) >= count and all(model.closed for model in loaded))

    def put(self, name: str, *versions: int, config: str = "", bad: bool = False, size: int = 0) -> None:
        """Writes versions, all of them wanted, with new files."""
        paths = {version: self.root / name / str(version) for version in versions}
        for path in paths.values():
            write_model(path, {**fake_model(), **({"fail": "it is bad"} if bad else {}), "padding": "x" * size})
        stamp = time.monotonic_ns()
        settings = ModelConfig.model_validate(eval_yaml(config))
        former = self.sources.get(name)
        signatures = dict(former.signatures) if former else {}
        signatures |= dict.fromkeys(versions, stamp)
        self.sources[name] = ModelSource(name, self.root / name, settings, paths, paths, signatures)

    def configure(self, name: str, config: str) -> None:
        self.sources[name] = replace(self.sources[name], config=ModelConfig.model_validate(eval_yaml(config)))

    def aspire(self) -> None:
        self.manager.aspire(Scan(dict(self.sources), dict(self.faults)))

    def settle(self) -> None:
        self.aspire()
        assert self.manager.settled.wait(WAIT)

    def states(self) -> dict[str, str]:
        return {f"{entry.name}/{entry.version}": str(entry.state) for entry in self.manager.index()}

    def reason(self, name: str) -> str:
        return next(entry.reason for entry in self.manager.index() if entry.name == name)

    def submit(self, name: str, version: str = "", **request: Any) -> SimpleQueue[Response | Exception]:
        answers: SimpleQueue[Response | Exception] = SimpleQueue()
        inputs = {"input": Tensor("FP32", np.ones((1, 4), np.float32))}
        turn = self.service.submit(Request(name, version, inputs, **request), "grpc", answers.put)
        if turn is not None:
            turn.run()
        return answers

    def infer(self, name: str, **request: Any) -> Response | Exception:
        return self.submit(name, **request).get(timeout=WAIT)


def eval_yaml(text: str) -> Any:
    return yaml.safe_load(text) or {}


def stop_clock(manager: Manager, name: str, seconds: float) -> None:
    """Has the one load of a model been running for so long, however long it takes to ask."""
    model = manager._models[name]
    [load] = [record.load for record in model.versions.values() if record.load is not None]
    assert load.started is not None
    now = load.started + seconds
    model.clock = lambda: now


def held(world: World, name: str) -> tuple[threading.Event, threading.Event]:
    """Holds up loads of a model. Returns what says that one has begun, and what lets it go on."""
    begun, gate = threading.Event(), threading.Event()
    load = world.backend.load

    def slow(spec: Any) -> Any:
        if spec.path.parent.parent.name == name:
            begun.set()
            assert gate.wait(WAIT)
        return load(spec)

    world.backend.load = slow  # type: ignore[method-assign]
    return begun, gate
