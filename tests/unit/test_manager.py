"""Wanted versus actual: loading, leases, failures and the index, on the in-memory backend."""

from __future__ import annotations

import os
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
from hand_clock import hand_clock, threads_by
from model_world import stop_clock
from vintner.backend import Backends
from vintner.errors import DeadlineExceeded, InvalidArgument, ModelNotReady, NotFound
from vintner.manager import Manager
from vintner.opening import open_servable
from vintner.repository import scan
from vintner.response_cache import ResponseCache
from vintner.servable import Servable
from vintner.types import Request, Response, Tensor

WAIT = 10.0


class World:
    """A repository, the in-memory backend, and a manager over both."""

    def __init__(self, root: Path, **options: Any) -> None:
        self.root = root
        self.backend = FakeBackend()
        self.backends = Backends(made={"fake": self.backend})
        self.manager = Manager(self.backends, **options)

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
    assert any("the weights are missing" in reason for reason in list(manager.holdups(strict=True)))
    assert list(manager.holdups(strict=False)) == []


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


def test_a_model_is_not_closed_while_a_run_goes_on_whose_request_was_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = hand_clock(monkeypatch)
    world = World(tmp_path, threads=threads_by(clock))
    write_model(world.root / "m")
    manager = world.settle()
    entered, go = threading.Event(), threading.Event()
    world.backend.loaded[0].gate = lambda: (entered.set(), go.wait(WAIT))  # type: ignore[assignment, return-value]
    lease = manager.lease("m")
    answers: SimpleQueue[Response | Exception] = SimpleQueue()
    inputs = {"input": Tensor("FP32", np.ones((1, 4), np.float32))}
    turn = lease.submit(Request("m", "", inputs, deadline=clock.now + 0.05), answers.put)
    assert turn
    running = threading.Thread(target=turn.run)
    running.start()
    assert entered.wait(WAIT)
    clock.forward(0.05)
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
    assert list(manager.holdups(strict=True)) == []
    write_model(world.root / "m" / "2", {**fake_model(), "fail": "broken"})
    failed = threading.Event()
    manager.subscribe(lambda: failed.set() if world.states().get("m/2") == "UNAVAILABLE" else None)
    manager.aspire(scan([world.root], world.backends))
    assert failed.wait(WAIT)
    assert list(manager.holdups(strict=True)) == []
    assert manager.ready_versions("m") == ["1"]


def test_a_quick_model_does_not_make_a_server_ready_whose_others_have_not_begun(world: World) -> None:
    for name in ("a", "b", "c", "d"):
        write_model(world.root / name, {**fake_model(), "fail": "broken"} if name == "d" else None)
    states: list[list[str]] = []
    loaders = world.manager._steps._loading._loaders
    submit = loaders.submit

    def submit_and_ask(*task: Any, **how: Any) -> Any:
        # What another thread would see if it came now; it would have to wait for the lock.
        states.append([] if world.manager._lock._is_owned() else list(world.manager.holdups(strict=True)))
        return submit(*task, **how)

    loaders.submit = submit_and_ask  # type: ignore[method-assign]
    manager = world.settle()
    assert states == [[]] * 4
    assert any("broken" in reason for reason in list(manager.holdups(strict=True)))


def test_a_model_that_becomes_ready_while_it_is_looked_at_hides_no_other_that_failed(world: World) -> None:
    write_model(world.root / "good")
    write_model(world.root / "bad", {**fake_model(), "fail": "broken"})
    manager = world.settle()
    manager._steps.busy.add("good")  # as it was a moment ago
    assert [reason for reason in manager.holdups(strict=True) if "broken" in reason]
    manager._steps.busy.clear()
    assert [reason for reason in manager.holdups(strict=True) if "broken" in reason]


def test_nothing_is_ready_before_the_repository_was_read(world: World) -> None:
    assert list(world.manager.holdups(strict=False)) == ["the model repository has not been read yet"]


@pytest.mark.parametrize("version", ["", "1"])
def test_no_model_is_unknown_before_the_repository_was_read(world: World, version: str) -> None:
    """A proxy takes a server that just starts for one that is not ready, and a client tries again."""
    with pytest.raises(ModelNotReady, match="model 'm' is not ready: the model repository has not been read yet"):
        world.manager.lease("m", version)
    world.manager.aspire(scan([world.root], world.backends))
    with pytest.raises(NotFound):
        world.manager.lease("m", version)


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
    stop_clock(world.manager, "m", 2.0)
    assert list(world.manager.holdups(strict=False)) == ["model 'm' version 1 is LOADING: loading for 2 s"]
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
    world = World(tmp_path, cache=cache)
    write_cached(tmp_path)
    world.settle()
    assert [asked(world, id=name).id for name in ("a", "b")] == ["a", "b"]
    assert (world.backend.loaded[0].runs, cache.size[0]) == (1, 1)
    shutil.rmtree(tmp_path / "m")
    unloaded = threading.Event()
    world.manager.subscribe(lambda: unloaded.set() if not world.states() else None)
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
    world = World(tmp_path, cache=ResponseCache(1 << 20))
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


# Cores and resources that models share


def configured(root: Path, **configs: str) -> None:
    for name, text in configs.items():
        write_model(root / name / "1")
        (root / name / "config.yaml").write_text(text)


def cores(world: World) -> dict[str, int]:
    return {model.spec.path.parent.parent.name: model.spec.cores for model in world.backend.loaded}


def test_without_weights_every_model_may_use_all_cores(tmp_path: Path) -> None:
    world = World(tmp_path, cores=8)
    configured(tmp_path, a="", b="")
    world.settle().stop(WAIT)
    assert cores(world) == {"a": 8, "b": 8}


def test_a_weight_divides_the_cores_among_all_models(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    world = World(tmp_path, cores=8)
    configured(tmp_path, a="core_weight: 2", b="", c="")
    with caplog.at_level("INFO"):
        world.settle().stop(WAIT)
    assert cores(world) == {"a": 4, "b": 2, "c": 2}
    assert "8 cores by weight: a version 1: 4, b version 1: 2, c version 1: 2" in caplog.text


def test_pools_have_the_cores_that_they_chose_and_share_the_others(tmp_path: Path) -> None:
    [core, *_] = os.sched_getaffinity(0)
    world = World(tmp_path, cores=9)
    configured(
        tmp_path, a=f"pools: [{{cores: {core}}}, {{}}, {{hint: latency}}, {{device: GPU}}]", b=f"cores: '{core}'"
    )
    world.settle().stop(WAIT)
    specs = {name: [] for name in "ab"}
    for model in world.backend.loaded:
        specs[model.spec.path.parent.parent.name].append((model.spec.cores, set(model.spec.affinity)))
    assert specs == {"a": [(1, {core}), (4, set()), (4, set()), (9, set())], "b": [(1, {core})]}


def test_cores_that_are_not_there_fail_the_load(tmp_path: Path) -> None:
    world = World(tmp_path)
    configured(tmp_path, a="cores: '0-99999'", b="pools: [{cores: all}]")
    world.settle().stop(WAIT)
    reasons = {entry.name: entry.reason for entry in world.manager.index()}
    assert reasons["a"].startswith("cores: core ")
    assert "of '0-99999' is not available; this process may use" in reasons["a"]
    assert reasons["b"] == "cores: expected cores such as 0-7, 0,2-3 or numa:0, got 'all'"


def test_of_more_models_than_cores_no_more_run_than_there_are_cores(tmp_path: Path) -> None:
    world = World(tmp_path, cores=2)
    configured(tmp_path, a="core_weight: 2", b="", c="instances: 3\nbatching: false")
    gate = threading.Event()
    world.backend.gate = lambda: gate.wait(WAIT) and None
    manager = world.settle()
    answers: SimpleQueue[object] = SimpleQueue()
    leases = [manager.lease(name) for name in "abccc"]
    for lease in leases:
        turn = lease.submit(
            Request(lease.name, "", {"input": Tensor("FP32", np.ones((1, 4), np.float32))}), answers.put
        )
        if turn is not None:
            turn.pass_on()
    pause = threading.Event()
    deadline = time.monotonic() + WAIT
    while sum(lease.metrics.gauges()["waiting"] for lease in leases[:3]) < 1:
        assert time.monotonic() < deadline
        pause.wait(0.001)
    assert sum(model.running for model in world.backend.loaded) <= 2
    gate.set()
    assert all(isinstance(answers.get(timeout=WAIT), Response) for _ in leases)
    for lease in leases:
        lease.release()
    manager.stop(WAIT)
    assert sum(model.runs for model in world.backend.loaded) == 5


def test_a_model_that_asks_for_more_than_there_is_fails_to_load(tmp_path: Path) -> None:
    world = World(tmp_path, resources={"gpu": 1})
    configured(tmp_path, a="rate_limiter: {resources: {gpu: 2}}", b="rate_limiter: {resources: {gpu: 1}}")
    world.settle().stop(WAIT)
    reasons = {entry.name: entry.reason for entry in world.manager.index()}
    assert reasons == {"a": "a run needs 2 of the resource 'gpu', of which there are 1", "b": ""}
    assert [model.closed for model in world.backend.loaded] == [True, True]


def test_a_model_that_fails_to_warm_up_claims_nothing_any_more(tmp_path: Path) -> None:
    world = World(tmp_path)
    configured(tmp_path, a="rate_limiter: {resources: {gpu: 2}}\nwarmup: true", b="rate_limiter: {resources: {gpu: 1}}")
    world.backend.gate = lambda: _fail("no memory")
    manager = world.settle()
    assert world.states() == {"a/1": "UNAVAILABLE", "b/1": "READY"}
    manager.stop(WAIT)
    assert manager.threads.turnstiles._limiter.capacity("gpu") == 0, "both are closed"
    assert [model.times_closed for model in world.backend.loaded] == [1, 1]


def _fail(reason: str) -> None:
    raise RuntimeError(reason)


def test_a_resource_that_no_model_names_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    world = World(tmp_path, resources={"gpus": 1, "cores": 1})
    configured(tmp_path, b="rate_limiter: {resources: {gpu: 1}}")
    world.settle().stop(WAIT)
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        "no model's rate_limiter names the resource 'gpus'; did you mean 'gpu'?"
    ]
