"""Models that come, change, sleep, wait and go, on the in-memory backend."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
from model_world import WAIT, World, held, stop_clock
from vintner.errors import InvalidArgument, ModelNotReady, NotFound
from vintner.manager import Admission
from vintner.types import Response
from waiting import wait_until


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.manager.stop(WAIT)


# -- reload ------------------------------------------------------------------------------------------------------


def test_a_changed_version_takes_the_place_of_the_former_once_it_is_loaded(world: World) -> None:
    world.put("m", 1)
    world.settle()
    begun, gate = held(world, "m")
    world.put("m", 1)
    world.aspire()
    assert begun.wait(WAIT)
    assert isinstance(world.infer("m"), Response)
    assert world.states() == {"m/1": "READY"}
    stop_clock(world.manager, "m", 7.4)
    assert world.reason("m") == "a change of it is loading for 7 s"
    gate.set()
    world.until(lambda: [model.times_closed for model in world.backend.loaded] == [1, 0])
    assert world.reason("m") == ""
    assert isinstance(world.infer("m"), Response)
    assert [model.runs for model in world.backend.loaded] == [1, 1]


def test_a_change_that_fails_leaves_the_former_and_is_tried_again_only_when_it_changes(world: World) -> None:
    world.put("m", 1)
    world.settle()
    world.put("m", 1, bad=True)
    world.settle()
    assert world.states() == {"m/1": "READY"}
    assert world.reason("m") == "a change of it failed to load, so the former one is served: it is bad"
    assert isinstance(world.infer("m"), Response)
    failures = world.manager.registry.load_failures
    world.settle()
    assert world.manager.registry.load_failures == failures == 1
    world.put("m", 1)
    world.settle()
    world.until(lambda: world.reason("m") == "")
    assert len(world.backend.loaded) == 2


def test_new_versions_are_served_together(world: World) -> None:
    world.put("m", 1)
    world.settle()
    gates = {version: threading.Event() for version in (2, 3)}
    load = world.backend.load

    def slow(spec: Any) -> Any:
        assert gates[int(spec.path.parent.name)].wait(WAIT)
        return load(spec)

    world.backend.load = slow  # type: ignore[method-assign]
    world.put("m", 2, 3)
    world.aspire()
    gates[2].set()
    world.until(lambda: "waits for other versions" in world.manager.index()[1].reason)
    assert world.manager.ready_versions("m") == ["1"]
    gates[3].set()
    world.until(lambda: world.manager.ready_versions("m") == ["2", "3"])


def test_a_change_of_scheduling_needs_no_load(world: World) -> None:
    world.put("m", 1)
    world.settle()
    world.configure("m", "queue: {max_requests: 7}")
    world.settle()
    [servable] = world.manager.ready("m")
    assert servable.config.queue.max_requests == 7
    assert len(world.backend.loaded) == 1
    world.configure("m", "instances: 3")
    world.settle()
    world.until(lambda: world.backend.loaded[0].closed)
    assert len(world.backend.loaded) == 2


def test_a_broken_configuration_leaves_what_serves_and_says_so(world: World) -> None:
    world.put("m", 1)
    world.settle()
    source = world.sources.pop("m")
    world.faults["m"] = "config.yaml: unknown key 'instnces'"
    world.settle()
    assert world.states() == {"m/1": "READY"}
    assert world.reason("m") == "its change is not used: config.yaml: unknown key 'instnces'"
    world.faults.clear()
    world.sources["m"] = source
    world.settle()
    assert world.reason("m") == ""
    assert len(world.backend.loaded) == 1


def test_what_is_unloaded_first_keeps_requests_waiting_and_comes_back_if_the_new_fails(world: World) -> None:
    world.put("m", 1, config="resource_preserving: true")
    world.settle()
    begun, gate = held(world, "m")
    path = {1: world.root / "m" / "1"}
    world.put("m", 2, config="resource_preserving: true", bad=True)
    source = world.sources["m"]
    world.sources["m"] = replace(source, available={**path, **source.versions})
    world.aspire()
    assert begun.wait(WAIT)
    assert world.backend.loaded[0].closed, "there was room before the new one was loaded"
    answers = world.submit("m")
    assert answers.empty()
    gate.set()
    answer = answers.get(timeout=WAIT)
    assert isinstance(answer, Response), answer
    assert answer.model_version == "1"
    assert world.states() == {"m/1": "READY", "m/2": "UNAVAILABLE"}


# -- by name -----------------------------------------------------------------------------------------------------


def test_in_explicit_mode_only_what_is_asked_for_is_loaded(tmp_path: Path) -> None:
    world = World(tmp_path, admission=Admission(explicit=True, names=("a", "missing")))
    world.put("a", 1)
    world.put("b", 1)
    world.settle()
    assert world.states() == {"a/1": "READY", "b/": "None", "missing/": "UNAVAILABLE"}
    world.manager.load("b")
    assert isinstance(world.infer("b"), Response)
    world.put("b", 1)
    world.settle()
    assert len(world.backend.loaded) == 2, "changes are not picked up by themselves"
    world.manager.load("b")
    assert len(world.backend.loaded) == 3
    world.manager.load("b")
    assert len(world.backend.loaded) == 3, "nothing changed"
    world.manager.unload("b")
    wait_until(lambda: [model.times_closed for model in world.backend.loaded] == [0, 1, 1])
    assert isinstance(world.infer("b"), ModelNotReady)
    world.manager.unload("never heard of")
    with pytest.raises(NotFound, match="failed to load 'c', failed to poll from model repository"):
        world.manager.load("c")
    assert world.manager.stop(WAIT)


def test_a_load_that_fails_says_why_and_is_tried_again_when_asked(tmp_path: Path) -> None:
    world = World(tmp_path, admission=Admission(explicit=True))
    world.put("m", 1, bad=True)
    world.settle()
    for _ in range(2):
        with pytest.raises(
            InvalidArgument, match=r"load failed for model 'm': version 1 is at UNAVAILABLE state: it is bad;"
        ):
            world.manager.load("m")
    assert world.manager.registry.load_failures == 2
    world.manager.unload("m")
    assert world.reason("m") == "unloaded"
    assert world.manager.stop(WAIT)


def test_an_unload_during_a_load_wins_and_leaves_nothing(tmp_path: Path) -> None:
    world = World(tmp_path, admission=Admission(explicit=True))
    world.put("m", 1)
    world.settle()
    begun, gate = held(world, "m")
    outcome: SimpleQueue[Exception | None] = SimpleQueue()

    def load() -> None:
        try:
            world.manager.load("m")
        except Exception as exc:
            outcome.put(exc)
        else:
            outcome.put(None)

    threading.Thread(target=load).start()
    assert begun.wait(WAIT)
    unloading = threading.Thread(target=world.manager.unload, args=("m",))
    unloading.start()
    world_model = world.manager._models["m"]
    while world_model.admitted:
        threading.Event().wait(0.001)
    gate.set()
    unloading.join(WAIT)
    assert str(outcome.get(timeout=WAIT)) == "model 'm' was unloaded before it was loaded"
    world.until_closed(1)
    assert [model.times_closed for model in world.backend.loaded] == [1]
    assert world.manager.stop(WAIT)


def test_a_pinned_version_is_served_alone_until_the_pin_goes(world: World) -> None:
    world.put("m", 1, 2)
    source = world.sources["m"]
    world.sources["m"] = replace(source, versions={2: source.versions[2]})
    world.settle()
    assert world.manager.ready_versions("m") == ["2"]
    world.manager.pin("m", 1)
    world.until(lambda: world.manager.ready_versions("m") == ["1"])
    with pytest.raises(NotFound, match="model 'm' has no version 7 to pin; there is 1, 2"):
        world.manager.pin("m", 7)
    world.manager.pin("m", None)
    world.until(lambda: world.manager.ready_versions("m") == ["2"])


# -- on demand ---------------------------------------------------------------------------------------------------


def test_a_model_on_demand_is_loaded_by_its_first_request_which_waits(world: World) -> None:
    world.put("m", 1, config="load: on_demand")
    world.settle()
    assert list(world.manager.holdups(strict=True)) == []
    assert (world.states(), world.backend.loaded) == ({"m/1": "UNAVAILABLE"}, [])
    assert world.reason("m") == "not loaded; the first request for it loads it"
    world.service.check_model("m")
    begun, gate = held(world, "m")
    answers = [world.submit("m") for _ in range(3)]
    assert begun.wait(WAIT)
    late = world.submit("m", deadline=time.monotonic() + 0.01)
    answer = late.get(timeout=WAIT)
    assert str(answer) == "the deadline passed while model 'm' was being loaded"
    gate.set()
    assert all(isinstance(each.get(timeout=WAIT), Response) for each in answers)
    assert len(world.backend.loaded) == 1
    assert world.service.model_metadata("m").versions == ["1"]


def test_a_request_for_a_model_that_cannot_be_loaded_is_told_why(world: World) -> None:
    world.put("m", 1, config="load: on_demand", bad=True)
    world.settle()
    answer = world.infer("m")
    assert isinstance(answer, ModelNotReady)
    assert "it is bad" in str(answer)
    assert "it is bad" in str(world.infer("m"))
    assert world.manager.registry.load_failures == 1


def test_no_more_requests_wait_for_a_load_than_for_a_run(world: World) -> None:
    world.put("m", 1, config="{load: on_demand, queue: {max_requests: 2}}")
    world.settle()
    _, gate = held(world, "m")
    answers = [world.submit("m") for _ in range(3)]
    assert "Exceeds maximum queue size: 2 requests wait for model 'm' to load" in str(answers[2].get(timeout=WAIT))
    gate.set()
    assert all(isinstance(each.get(timeout=WAIT), Response) for each in answers[:2])


def test_metadata_of_a_sleeping_model_wakes_it(world: World) -> None:
    world.put("m", 1, config="load: on_demand")
    world.settle()
    assert world.service.model_metadata("m").inputs[0].name == "input"


def test_a_model_that_nobody_uses_is_unloaded_until_somebody_does(world: World) -> None:
    world.put("m", 1, config="idle_unload_seconds: 0.05")
    world.settle()
    world.until(lambda: world.states() == {"m/1": "UNAVAILABLE"})
    leases = []

    def lease() -> bool:
        assert isinstance(world.infer("m"), Response)
        with suppress(ModelNotReady):  # if this took long, it sleeps again
            leases.append(world.manager.lease("m"))
        return bool(leases)

    wait_until(lease)
    threading.Event().wait(0.15)
    assert world.states() == {"m/1": "READY"}, "a lease is use"
    leases[0].release()
    world.until(lambda: world.states() == {"m/1": "UNAVAILABLE"})
    closed = [model.times_closed for model in world.backend.loaded]
    assert closed == [1] * max(2, len(closed))


# -- memory ------------------------------------------------------------------------------------------------------


def test_the_least_recently_used_model_makes_room(tmp_path: Path) -> None:
    world = World(tmp_path, memory_budget=2500)
    for name in "abc":
        world.put(name, 1, config="{load: on_demand, memory_bytes: 1000}")
    world.settle()
    for name in "abac":
        assert isinstance(world.infer(name), Response)
    world.until(lambda: world.states() == {"a/1": "READY", "b/1": "UNAVAILABLE", "c/1": "READY"})
    lease = world.manager.lease("a"), world.manager.lease("c")
    answer = world.infer("b")
    assert isinstance(answer, ModelNotReady)
    assert "it needs 1000 B of the 2.4 KiB for models" in str(answer)
    assert "which are in use" in str(answer)
    for each in lease:
        each.release()
    assert isinstance(world.infer("b"), Response), "what was refused can be had later"
    assert world.manager.stop(WAIT)


def test_what_never_fits_is_refused_and_hurts_no_other(tmp_path: Path) -> None:
    world = World(tmp_path, memory_budget=1500)
    world.put("a", 1, config="memory_bytes: 1000")
    world.put("big", 1, size=2000)
    world.settle()
    assert world.states() == {"a/1": "READY", "big/1": "UNAVAILABLE"}
    assert world.reason("big").startswith("it needs 2.")
    assert "of the 1.5 KiB for models (--model-memory-budget)" in world.reason("big")
    assert b"\nvintner_model_load_failures_total 1.0\n" in world.manager.registry.render()
    assert isinstance(world.infer("big"), ModelNotReady)
    assert isinstance(world.infer("a"), Response)
    assert world.manager.stop(WAIT)


def test_models_of_the_start_evict_no_other_and_come_when_they_are_asked_for(tmp_path: Path) -> None:
    world = World(tmp_path, memory_budget=2000)
    for name in "abc":
        world.put(name, 1, config="memory_bytes: 1000")
    world.settle()
    assert sorted(world.states().values()) == ["READY", "READY", "UNAVAILABLE"]
    assert list(world.manager.holdups(strict=True)) == []
    for name in "abcabc":
        assert isinstance(world.infer(name), Response)
    assert world.manager.stop(WAIT)


# -- models that are asked for by name and are not there -----------------------------------------------------------


def test_a_model_to_begin_with_holds_the_server_up_until_it_is_there(tmp_path: Path) -> None:
    """However often the repository is read meanwhile, as it is for every load of another model."""
    world = World(tmp_path, admission=Admission(explicit=True, names=["m", "nobody"]))
    world.put("m", 1)
    for _ in range(3):
        world.settle()
        assert list(world.manager.holdups(strict=True)) == [
            "model 'nobody' is UNAVAILABLE: it is not in the model repository"
        ]
    world.put("nobody", 1)
    world.settle()
    assert world.states() == {"m/1": "READY", "nobody/1": "READY"}
    assert list(world.manager.holdups(strict=True)) == []
    assert world.manager.stop(WAIT)


def test_a_model_to_begin_with_that_is_not_there_is_done_with_once_it_is_unloaded(tmp_path: Path) -> None:
    world = World(tmp_path, admission=Admission(explicit=True, names=["nobody"]))
    world.settle()
    world.manager.unload("nobody")
    world.settle()
    assert world.states() == {}
    assert list(world.manager.holdups(strict=True)) == []
    assert world.manager.stop(WAIT)


# -- loads that take long ----------------------------------------------------------------------------------------


def test_a_load_that_hangs_is_given_up_and_stops_no_other(tmp_path: Path) -> None:
    world = World(tmp_path, load_threads=1)
    begun, gate = held(world, "stuck")
    world.put("stuck", 1, config="load_timeout_seconds: 0.05")
    world.aspire()
    assert begun.wait(WAIT)
    world.put("m", 1)
    world.settle()
    assert world.states() == {"m/1": "READY", "stuck/1": "UNAVAILABLE"}
    assert world.reason("stuck") == "it was not loaded within 0.05 s and is given up"
    gate.set()
    assert world.manager.stop(WAIT)
    world.until_closed(2)  # also what came after all


@pytest.mark.parametrize(("seconds", "shown"), [(0.0, "0 s"), (0.6, "1 s"), (61.2, "61 s"), (86_400.0, "86400 s")])
def test_a_model_that_loads_says_for_how_long(world: World, seconds: float, shown: str) -> None:
    begun, gate = held(world, "m")
    world.put("m", 1)
    world.aspire()
    assert begun.wait(WAIT)
    stop_clock(world.manager, "m", seconds)
    assert world.reason("m") == f"loading for {shown}"
    assert list(world.manager.holdups(strict=False)) == [f"model 'm' version 1 is LOADING: loading for {shown}"]
    gate.set()
    assert world.manager.settled.wait(WAIT)
