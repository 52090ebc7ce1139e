"""Wanted versus actual: loading, leases, failures and the index, on the in-memory backend."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest
from fake_backend import FakeBackend, fake_model, write_model
from vintner.backend import Backends
from vintner.errors import DeadlineExceeded, InvalidArgument, ModelNotReady, NotFound
from vintner.manager import Manager, open_servable
from vintner.repository import scan
from vintner.response_cache import ResponseCache
from vintner.servable import Servable
from vintner.types import Request, Response, Tensor

WAIT = 10.0


class World:
    """A repository, the in-memory backend, and a manager over both."""

    def __init__(self, root: Path, cache: ResponseCache | None = None) -> None:
        self.root = root
        self.backend = FakeBackend()
        self.backends = Backends(made={"fake": self.backend})
        self.manager = Manager(self.backends, cache=cache)

    def settle(self) -> Manager:
        """Makes what lies in the repository the wanted state, and waits for it."""
        self.manager.aspire(scan([self.root], self.backends))
        assert self.manager.settled.wait(WAIT)
        return self.manager

    def states(self) -> dict[str, str]:
        return {f"{entry.name}/{entry.version}": entry.state.value for entry in self.manager.index()}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.manager.stop(WAIT)


def test_the_default_version_is_the_highest_ready_one(world: World) -> None:
    for version, document in (("1", None), ("2", None), ("10", {**fake_model(), "fail": "too new"})):
        write_model(world.root / "m" / version, document)
    (world.root / "m" / "config.yaml").write_text("version_policy: all")
    manager = world.settle()
    lease = manager.lease("m")
    assert lease.version == "2"
    lease.release()
    assert manager.ready_versions("m") == ["1", "2"]


def test_a_model_that_fails_is_reported_and_does_not_stop_the_others(world: World) -> None:
    write_model(world.root / "good")
    write_model(world.root / "bad" / "1", {**fake_model(), "fail": "the weights are missing"})
    (world.root / "odd").mkdir()
    manager = world.settle()
    assert world.states() == {"bad/1": "UNAVAILABLE", "good/1": "READY", "odd/": "UNAVAILABLE"}
    manager.lease("good").release()
    with pytest.raises(ModelNotReady, match="the weights are missing"):
        manager.lease("bad")
    with pytest.raises(ModelNotReady, match="no model recognised"):
        manager.lease("odd")
    assert any("the weights are missing" in reason for reason in manager.holdups(strict=True))
    assert manager.holdups(strict=False) == []


def test_an_unknown_model_or_version_is_not_found(world: World) -> None:
    write_model(world.root / "m" / "3")
    manager = world.settle()
    with pytest.raises(NotFound, match="unknown model: 'n'"):
        manager.lease("n")
    with pytest.raises(NotFound, match="version 2"):
        manager.lease("m", "2")
    for odd in ("x", "-1", "²", "1.0"):
        with pytest.raises(InvalidArgument, match="positive integer"):
            manager.lease("m", odd)


def test_a_configuration_that_contradicts_the_model_fails_the_load_and_frees_it(world: World) -> None:
    write_model(world.root / "m")
    (world.root / "m" / "config.yaml").write_text("inputs: {inptu: {name: x}}")
    manager = world.settle()
    with pytest.raises(ModelNotReady, match="did you mean 'input'"):
        manager.lease("m")
    assert world.backend.loaded[0].times_closed == 1


def test_a_lease_keeps_a_version_loaded_until_it_comes_back(world: World) -> None:
    write_model(world.root / "m")
    manager = world.settle()
    lease = manager.lease("m")
    stopping = threading.Thread(target=manager.stop, args=(WAIT,))
    stopping.start()
    inputs = {"input": Tensor("FP32", np.ones((1, 4), np.float32))}
    answers: list[Response | Exception] = []
    turn = lease.submit(Request("m", "", inputs), answers.append)
    assert turn
    turn.run()
    assert isinstance(answers[0], Response)
    assert answers[0].outputs["output"].array.tolist() == [[2.0] * 4]
    assert not world.backend.loaded[0].closed
    lease.release()
    stopping.join(WAIT)
    assert world.backend.loaded[0].times_closed == 1


def test_a_model_is_not_closed_while_a_run_goes_on_whose_request_was_answered(world: World) -> None:
    write_model(world.root / "m")
    manager = world.settle()
    entered, go = threading.Event(), threading.Event()
    world.backend.loaded[0].gate = lambda: (entered.set(), go.wait(WAIT))  # type: ignore[assignment, return-value]
    lease = manager.lease("m")
    answers: SimpleQueue[Response | Exception] = SimpleQueue()
    inputs = {"input": Tensor("FP32", np.ones((1, 4), np.float32))}
    turn = lease.submit(Request("m", "", inputs, deadline=time.monotonic() + 0.05), answers.put)
    assert turn
    running = threading.Thread(target=turn.run)
    running.start()
    assert entered.wait(WAIT)
    assert isinstance(answers.get(timeout=WAIT), DeadlineExceeded)
    lease.release()
    lease.retire()
    assert not lease.drained.wait(0.05)
    go.set()
    running.join(WAIT)
    assert lease.drained.wait(WAIT)


def test_a_lease_that_never_comes_back_does_not_hold_up_the_end_for_ever(world: World) -> None:
    write_model(world.root / "m")
    lease = world.settle().lease("m")
    assert not world.manager.stop(0.05)
    lease.release()


def test_a_new_scan_loads_what_is_new_before_it_unloads_what_is_old(world: World) -> None:
    write_model(world.root / "m" / "1")
    manager = world.settle()
    write_model(world.root / "m" / "2")
    unloaded = threading.Event()
    manager.subscribe(lambda: unloaded.set() if world.states() == {"m/1": "UNAVAILABLE", "m/2": "READY"} else None)
    manager.aspire(scan([world.root], world.backends))
    assert unloaded.wait(WAIT)
    assert manager.ready_versions("m") == ["2"]
    assert [model.times_closed for model in world.backend.loaded] == [1, 0]


def test_readiness_once_reached_survives_a_new_version_that_fails(world: World) -> None:
    write_model(world.root / "m" / "1")
    manager = world.settle()
    assert manager.holdups(strict=True) == []
    write_model(world.root / "m" / "2", {**fake_model(), "fail": "broken"})
    failed = threading.Event()
    manager.subscribe(lambda: failed.set() if world.states().get("m/2") == "UNAVAILABLE" else None)
    manager.aspire(scan([world.root], world.backends))
    assert failed.wait(WAIT)
    assert manager.holdups(strict=True) == []
    assert manager.ready_versions("m") == ["1"]


def test_a_quick_model_does_not_make_a_server_ready_whose_others_have_not_begun(world: World) -> None:
    for name in ("a", "b", "c", "d"):
        write_model(world.root / name, {**fake_model(), "fail": "broken"} if name == "d" else None)
    states: list[list[str]] = []
    submit = world.manager._loaders.submit

    def submit_and_ask(*task: object) -> object:
        # What another thread would see if it came now; it would have to wait for the lock.
        states.append([] if world.manager._lock.locked() else world.manager.holdups(strict=True))
        return submit(*task)

    world.manager._loaders.submit = submit_and_ask
    manager = world.settle()
    assert states == [[]] * 4
    assert any("broken" in reason for reason in manager.holdups(strict=True))


def test_nothing_is_ready_before_the_repository_was_read(world: World) -> None:
    assert world.manager.holdups(strict=False) == ["the model repository has not been read yet"]


def test_a_model_that_is_still_loading_says_so(world: World) -> None:
    write_model(world.root / "m")
    entered, gate = threading.Event(), threading.Event()
    load = world.backend.load

    def slow(spec: object) -> object:
        entered.set()
        assert gate.wait(WAIT)
        return load(spec)

    world.backend.load = slow
    world.manager.aspire(scan([world.root], world.backends))
    assert entered.wait(WAIT)
    with pytest.raises(ModelNotReady, match="LOADING"):
        world.manager.lease("m")
    assert world.manager.holdups(strict=False) == ["model 'm' version 1 is LOADING"]
    gate.set()
    assert world.manager.settled.wait(WAIT)
    world.manager.lease("m").release()


# -- the response cache ----------------------------------------------------------------------------------------


def write_cached(root: Path) -> None:
    write_model(root / "m" / "1")
    (root / "m" / "config.yaml").write_text("response_cache: true\n")


def ask(servable: Servable, **request: Any) -> Response:
    """The answer to a request whose input is the same every time."""
    answers: list[Response | Exception] = []
    inputs = {"input": Tensor("FP32", np.ones((1, 4), np.float32))}
    turn = servable.submit(Request("m", "", inputs, **request), answers.append)
    if turn is not None:
        turn.run()
    assert isinstance(answers[0], Response)
    return answers[0]


def asked(world: World, **request: Any) -> Response:
    servable = world.manager.lease("m")
    try:
        return ask(servable, **request)
    finally:
        servable.release()


def test_what_is_kept_of_a_version_goes_with_it(tmp_path: Path) -> None:
    cache = ResponseCache(1 << 20)
    world = World(tmp_path, cache)
    write_cached(tmp_path)
    world.settle()
    assert [asked(world, id=name).id for name in ("a", "b")] == ["a", "b"]
    assert (world.backend.loaded[0].runs, cache.size[0]) == (1, 1)
    shutil.rmtree(tmp_path / "m")
    unloaded = threading.Event()
    world.manager.subscribe(lambda: unloaded.set() if world.states() == {"m/1": "UNAVAILABLE"} else None)
    world.settle()
    assert unloaded.wait(WAIT)
    assert cache.size == (0, 0)


def test_a_version_that_is_loaded_again_answers_nothing_from_its_other_load(tmp_path: Path) -> None:
    cache, backend = ResponseCache(1 << 20), FakeBackend()
    backends = Backends(made={"fake": backend})
    write_cached(tmp_path)
    source = scan([tmp_path], backends).models["m"]
    loads = [open_servable(source, 1, backends, 1, None, cache=cache) for _ in range(2)]
    for servable in (*loads, *loads):
        assert ask(servable).outputs["output"].array.tolist() == [[2.0] * 4]
    assert [model.runs for model in backend.loaded] == [1, 1]
    loads[0].close()
    ask(loads[1])
    assert (backend.loaded[1].runs, cache.size[0]) == (1, 1)
    loads[1].close()


def test_a_request_that_would_be_refused_is_refused_also_if_its_answer_is_there(tmp_path: Path) -> None:
    world = World(tmp_path, ResponseCache(1 << 20))
    write_cached(tmp_path)
    world.settle()
    asked(world)
    with pytest.raises(InvalidArgument, match="priority"):
        asked(world, parameters={"priority": -1})
    world.manager.stop(WAIT)


def test_without_memory_for_it_the_opt_in_is_passed_over_with_a_warning(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    write_cached(world.root)
    write_model(world.root / "other" / "1")
    world.settle()
    asked(world)
    asked(world)
    assert world.backend.loaded[0].runs + world.backend.loaded[1].runs == 2
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert warnings[0].startswith("model 'm' version 1: response_cache has no effect")
