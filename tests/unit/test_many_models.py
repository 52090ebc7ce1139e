"""What many models must not cost, by what is called how often."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from fake_backend import FakeBackend, fake_model, write_model
from hand_clock import HandClock, threads_by
from vintner import metrics, model_source
from vintner import steps as steps_module
from vintner.backend import Backends
from vintner.host import Host
from vintner.manager import Manager
from vintner.model_source import Scan, bytes_of
from vintner.ovms_metrics import OvmsMetrics
from vintner.reclaiming import LATEST, Reclaimer
from vintner.service import Service
from vintner.tracking import Repository
from vintner.triton_metrics import TritonMetrics
from vintner.turns import MOST_CLOSERS
from waiting import wait_until

MODELS = 60
WAIT = 10.0


class World:
    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch, memory_budget: int | None = None) -> None:
        self.returned = threading.Semaphore(0)
        self.clock = HandClock()
        reclaimer = partial(Reclaimer, give_back=self.returned.release, clock=self.clock.monotonic)
        monkeypatch.setattr(steps_module, "Reclaimer", reclaimer)
        self.root = root
        self.backends = Backends(made={"fake": FakeBackend()})
        self.repository = Repository([root], self.backends)
        dialects = [TritonMetrics(Host()), OvmsMetrics()]
        self.manager = Manager(
            self.backends, memory_budget=memory_budget, dialects=dialects, threads=threads_by(self.clock)
        )
        for number in range(MODELS):
            write_model(root / f"m{number:02d}" / "1", fake_model())

    def scan(self) -> Scan:
        return self.repository.scan(time.monotonic(), settle=False)

    def settle(self) -> None:
        self.manager.aspire(self.scan())
        assert self.manager.settled.wait(WAIT)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, monkeypatch)


def test_models_that_are_removed_together_share_few_threads_and_one_return_of_memory(world: World) -> None:
    world.settle()
    world.manager.aspire(Scan({}, {}))
    wait_until(lambda: world.manager.registry.unloads == MODELS and not world.manager.threads.closers._under_way)
    world.clock.forward(LATEST)
    assert world.returned.acquire(timeout=WAIT)
    assert len(world.manager.threads.closers._threads) <= MOST_CLOSERS
    assert len(world.manager.threads.workers._threads) == 1, "which returns the memory"
    assert world.manager.registry.unloads == MODELS
    assert world.manager.index() == []
    world.clock.forward(2 * LATEST)
    wait_until(lambda: not world.manager.threads.workers._under_way)
    assert not world.returned.acquire(blocking=False)
    world.manager.stop(WAIT)


def test_room_is_found_without_a_look_at_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path, monkeypatch)
    size = bytes_of(tmp_path / "m00" / "1")
    world.manager = Manager(world.backends, memory_budget=size * 10)
    monkeypatch.setattr(model_source, "bytes_of", None)
    world.settle()
    assert {one.metrics.size for one in world.manager.ready()} == {size}
    assert len(world.manager.ready()) == 10
    world.manager.stop(WAIT)


@pytest.mark.parametrize(("step", "least", "most"), [(0.0, 0, 0), (2 * metrics.SLICE, 13 * MODELS, 20 * MODELS)])
def test_a_scrape_pauses_whenever_a_slice_of_time_is_over(
    world: World, monkeypatch: pytest.MonkeyPatch, step: float, least: int, most: int
) -> None:
    """Also on its way through other servers' names: where each model takes a slice, each loop over them pauses."""
    world.settle()
    clock = itertools.count()
    pauses = Counter[float]()
    monkeypatch.setattr(
        metrics, "time", SimpleNamespace(monotonic=lambda: next(clock) * step, sleep=lambda s: pauses.update([s]))
    )
    world.manager.registry.render()
    assert least <= pauses[metrics.PAUSE] <= most
    world.manager.stop(WAIT)


def test_whether_the_server_is_ready_is_asked_of_one_model_that_is_not(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    backend = world.backends.get("fake")
    load = backend.load
    monkeypatch.setattr(backend, "load", lambda spec: (gate.wait(WAIT), load(spec))[1])
    world.manager.aspire(world.scan())
    asked = Counter[str]()
    holdup = world.manager._holdup
    monkeypatch.setattr(world.manager, "_holdup", lambda name: (asked.update([name]), holdup(name))[1])
    service = Service(world.manager)
    assert not service.ready
    assert asked.total() == 1
    reasons = service.readiness()
    assert len(reasons) == MODELS
    assert reasons == sorted(reasons)
    gate.set()
    assert world.manager.settled.wait(WAIT)
    world.manager.stop(WAIT)
