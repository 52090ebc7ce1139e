"""What is left behind when the n-th call of a backend fails, n = 1, 2, 3 ... until none does, as SQLite is tested.

The operation is the whole life of a model: it is found, loaded and warmed up, gets a few requests, and is unloaded.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from queue import SimpleQueue

import numpy as np
import pytest
from fake_backend import INPUT, OUTPUT, FakeBackend, FakeModel, fake_model, write_model
from vintner.backend import Backends, LoadSpec
from vintner.errors import BackendError, ModelNotReady
from vintner.manager import Manager
from vintner.model_source import Scan
from vintner.pools import BRIEF
from vintner.repository import scan
from vintner.service import Service
from vintner.types import Array, Request, Response, Tensor
from waiting import wait_until

WAIT = 10.0
INSTANCES = 2
MOST_AT_ONCE = 4
COLUMNS = 2

LONE: Sequence[Sequence[float]] = [(1.0, 2.0)]
TOGETHER: Sequence[Sequence[float]] = [(3.0,), (4.0, 5.0), (6.0, 7.0, 8.0), (9.0,)]
"""Requests, by the values of their rows."""


class Panic(BaseException):
    """What some runtimes raise: no Exception."""


class Faults:
    """Lets the n-th call fail; all from then on, if they are to last. `runs` has what ran, and whether it failed."""

    def __init__(self, nth: int, error: type[BaseException], lasting: bool) -> None:
        self.calls: list[str] = []
        self.failed: list[str] = []
        self.runs: list[tuple[list[float], bool]] = []
        self.armed = True
        self._nth = nth
        self._error = error
        self._lasting = lasting
        self._lock = threading.Lock()

    @property
    def first(self) -> int:
        """The number of the first call that failed."""
        return self._nth

    def call(self, what: str, rows: Sequence[float] = ()) -> None:
        with self._lock:
            self.calls.append(what)
            number = len(self.calls)
            fails = self.armed and (number >= self._nth if self._lasting else number == self._nth)
            if what == "run":
                self.runs.append((list(rows), fails))
            if fails:
                self.failed.append(what)
                raise self._error(f"call {number} failed")


class FaultyBackend(FakeBackend):
    """The in-memory backend, each of whose calls may fail once it has done its work."""

    def __init__(self, faults: Faults, gate: Callable[[], None]) -> None:
        super().__init__(gate=gate)
        self.faults = faults

    def find(self, directory: Path) -> Path | None:
        found = super().find(directory)
        if found is not None:
            self.faults.call("find")
        return found

    def load(self, spec: LoadSpec) -> FakeModel:
        self.faults.call("load")
        model = super().load(spec)
        enter, close = model.enter, model.close

        def run(inputs: Mapping[str, Array]) -> None:
            enter(inputs)
            self.faults.call("run", inputs[INPUT][:, 0].tolist())

        def shut() -> None:
            close()
            self.faults.call("close")

        model.enter, model.close = run, shut  # type: ignore[method-assign]
        return model


class World:
    """A model, and a server for it without a network."""

    def __init__(self, root: Path, faults: Faults, gate: Callable[[], None]) -> None:
        self.root = root
        self.backend = FaultyBackend(faults, gate)
        self.backends = Backends(made={"fake": self.backend})
        self.manager = Manager(self.backends)
        self.service = Service(self.manager, max_concurrent_requests=MOST_AT_ONCE)
        self._changed = threading.Condition()
        self.manager.subscribe(self._tell)
        write_model(root / "m" / "1", fake_model(shape=(-1, COLUMNS)))
        (root / "m" / "config.yaml").write_text(f"warmup: true\ninstances: {INSTANCES}\nreopen_after_failures: 1000\n")

    def _tell(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def want(self, wanted: Scan) -> dict[str, tuple[str, str]]:
        """Waits until nothing is under way; the state and the reason of each version."""
        self.manager.aspire(wanted)
        with self._changed:
            rests = self._changed.wait_for(lambda: {state for state, _ in self.states().values()} <= RESTING, WAIT)
        assert rests, self.states()
        self.rest()
        return self.states()

    def states(self) -> dict[str, tuple[str, str]]:
        return {entry.version: (entry.state.value, entry.reason) for entry in self.manager.index()}

    def infer(self, requests: Sequence[Sequence[float]]) -> list[Response | Exception]:
        """Submits them all before the first is run; each has exactly one answer."""
        replies: list[SimpleQueue[Response | Exception]] = [SimpleQueue() for _ in requests]
        turns = [
            self.service.submit(Request("m", "", {INPUT: tensor(rows)}), "grpc", reply.put)
            for rows, reply in zip(requests, replies, strict=True)
        ]
        for turn in turns:
            if turn is not None:
                turn.run()
        answers = [reply.get(timeout=WAIT) for reply in replies]
        assert all(reply.empty() for reply in replies)
        self.rest()
        return answers

    def rest(self) -> None:
        """Waits until no thread has anything to do: one that is just about to rest would have another one started."""
        threads = self.manager.threads
        wait_until(lambda: threads.workers._under_way == threads.closers._under_way == 0)


RESTING = {"READY", "UNAVAILABLE"}


def tensor(rows: Sequence[float]) -> Tensor:
    return Tensor("FP32", np.repeat(np.array(rows, np.float32)[:, None], COLUMNS, axis=1))


def check(answer: Response | Exception, rows: Sequence[float], faults: Faults) -> None:
    """A request fails only if it was run alone in the end and that failed; else it has its own rows."""
    runs = [(values, failed) for values, failed in faults.runs if set(rows) <= set(values)]
    assert runs, f"not run, but {answer!r}"
    last, failed = runs[-1]
    if failed:
        assert list(rows) == last, "failed with its batch"
        assert isinstance(answer, Exception), answer
    else:
        assert isinstance(answer, Response), answer
        np.testing.assert_array_equal(answer.outputs[OUTPUT].array, tensor(rows).array * 2)


def check_answers(world: World, faults: Faults, ready: bool) -> int:
    """Of requests that come alone and together; returns how many there were."""
    for requests in (LONE, TOGETHER, LONE):
        faults.runs.clear()
        for answer, rows in zip(world.infer(requests), requests, strict=True):
            if ready:
                check(answer, rows, faults)
            else:
                assert isinstance(answer, ModelNotReady), answer
                assert f"call {faults.first} failed" in answer.message
    return len(LONE) + len(TOGETHER) + len(LONE)


def live(world: World, faults: Faults) -> None:
    """The whole life of the model, looked at wherever something can have failed."""
    state, reason = world.want(scan([world.root], world.backends))["1"]
    ready = state == "READY"
    assert ready == (not faults.failed), (state, reason, faults.failed)
    assert ready == (reason == "")
    assert world.manager.registry.load_failures == (not ready)
    servables = world.manager.ready("m")
    requests = check_answers(world, faults, ready)
    assert world.want(Scan({}, {})) == {}
    for servable in servables:
        gauges = servable.metrics.gauges()
        assert [gauges[name] for name in ("in_flight", "queue_requests", "queue_bytes")] == [0, 0, 0]
        assert sum(pool.busy for pool in servable.metrics.pools()) == 0
        assert sum(servable.metrics.requests["grpc"].outcomes.values()) == requests


def live_again(world: World, faults: Faults) -> None:
    """A next version loads, and has all the places of the server to itself."""
    faults.armed = False
    faults.runs.clear()
    write_model(world.root / "m" / "2", fake_model(shape=(-1, COLUMNS)))
    assert world.want(scan([world.root], world.backends))["2"] == ("READY", "")
    for answer, rows in zip(world.infer(TOGETHER), TOGETHER, strict=True):
        check(answer, rows, faults)
    assert world.manager.stop(WAIT)
    world.rest()
    assert [model.times_closed for model in world.backend.loaded] == [1] * len(world.backend.loaded)


def new_threads(before: Sequence[threading.Thread]) -> list[str]:
    """By name, those that are there after the ones have ended that load models."""
    new = set(threading.enumerate()) - set(before)
    for thread in new:
        if thread.name.startswith("vintner-load"):
            thread.join(WAIT)
    return [thread.name for thread in new if thread.is_alive()]


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "lasting"])
@pytest.mark.parametrize("seconds", [0.0, 2 * BRIEF], ids=["brief", "long"])
@pytest.mark.parametrize("error", [BackendError, RuntimeError, Panic, SystemExit])
def test_whichever_call_fails_nothing_is_left_behind(
    tmp_path: Path, error: type[BaseException], seconds: float, lasting: bool
) -> None:
    for nth in itertools.count(1):
        faults = Faults(nth, error, lasting)
        before = threading.enumerate()
        world = World(tmp_path / str(nth), faults, lambda: time.sleep(seconds) if seconds else None)
        live(world, faults)
        calls = Counter(faults.calls)
        live_again(world, faults)
        left = new_threads(before)
        runners = [name for name in left if name not in ("vintner-alarms", "vintner-close-0")]
        assert all(name.startswith("vintner-run") for name in runners), left
        assert len(runners) <= INSTANCES + 1, left  # and the one that returns memory
        if not faults.failed:
            break
    assert calls["find"] == calls["load"] == calls["close"] == 1
    assert INSTANCES < calls["run"] < INSTANCES + len(LONE) + len(TOGETHER) + len(LONE)  # some ran together
    # Not each time as many: an instance that is late has its part run by the other one.
    assert nth > calls.total()


def test_a_backend_that_fails_to_look_for_a_model_stops_no_other(tmp_path: Path) -> None:
    class Blind(FakeBackend):
        def find(self, directory: Path) -> Path | None:
            if directory.name == "bad":
                raise RuntimeError("a bug")
            return super().find(directory)

    for name in ("bad", "good"):
        write_model(tmp_path / name)
    found = scan([tmp_path], Backends(made={"fake": Blind()}))
    assert list(found.models) == ["good"]
    assert found.faults == {"bad": "RuntimeError: a bug"}
