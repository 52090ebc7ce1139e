"""Interleavings that once lost a request, hung a call or left a model astray, each brought about by hand."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import pytest
from fake_backend import FakeModel
from model_world import WAIT, World, held, stop_clock
from vintner import steps
from vintner.backend import LoadSpec
from vintner.errors import InvalidArgument, ModelNotReady, NotFound, Unavailable
from vintner.manager import Admission
from vintner.model_source import Scan
from vintner.servable import Servable
from vintner.turns import Threads
from vintner.types import Response
from waiting import wait_until


class HandWorkers:
    """Workers that begin nothing before they are told to."""

    def __init__(self) -> None:
        self.tasks: SimpleQueue[Callable[[], Any]] = SimpleQueue()

    def submit(self, task: Callable[..., Any], *args: Any) -> None:
        self.tasks.put(lambda: task(*args))

    def run_one(self) -> None:
        self.tasks.get(timeout=WAIT)()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.manager.stop(WAIT)


@pytest.fixture
def explicit(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path, admission=Admission(explicit=True), memory_budget=2000)
    yield made
    made.manager.stop(WAIT)


def slow_to_close(model: FakeModel) -> tuple[threading.Event, threading.Event]:
    """Holds up the closing of a model. Returns what says that it has begun, and what lets it go on."""
    begun, gate = threading.Event(), threading.Event()
    close = model.close

    def slow() -> None:
        begun.set()
        assert gate.wait(WAIT)
        close()

    model.close = slow  # type: ignore[method-assign]
    return begun, gate


def in_thread(call: Callable[[], object]) -> SimpleQueue[object]:
    """What a call in another thread returns or raises."""
    outcome: SimpleQueue[object] = SimpleQueue()

    def run() -> None:
        try:
            outcome.put(call())
        except Exception as exc:
            outcome.put(exc)

    threading.Thread(target=run, daemon=True).start()
    return outcome


def close_gate(world: World) -> tuple[threading.Event, threading.Event]:
    """Holds up the closing of the next model that is loaded."""
    load = world.backend.load
    begun, gate = threading.Event(), threading.Event()

    def loading(spec: LoadSpec) -> FakeModel:
        model = load(spec)
        world.backend.load = load  # type: ignore[method-assign]
        begins, opens = slow_to_close(model)
        closing.append((begins, opens))
        threading.Thread(target=lambda: (begins.wait(), begun.set()), daemon=True).start()
        threading.Thread(target=lambda: (gate.wait(), opens.set()), daemon=True).start()
        return model

    closing: list[Any] = []
    world.backend.load = loading  # type: ignore[method-assign]
    return begun, gate


# -- unloading and wanted again ----------------------------------------------------------------------------------


def second_held(world: World) -> tuple[threading.Event, threading.Event]:
    """Holds up loads of version 2. Returns what says that one has begun, and what lets it go on."""
    begun, gate = threading.Event(), threading.Event()
    load = world.backend.load

    def gated(spec: LoadSpec) -> FakeModel:
        if spec.path.parent.name == "2":
            begun.set()
            assert gate.wait(WAIT)
        return load(spec)

    world.backend.load = gated  # type: ignore[method-assign]
    return begun, gate


def test_a_request_that_comes_while_an_idle_model_is_closed_waits_for_its_return(world: World) -> None:
    begun, gate = close_gate(world)
    world.put("m", 1, config="idle_unload_seconds: 0.05")
    world.settle()
    assert begun.wait(WAIT)
    answers = world.submit("m")
    metadata = in_thread(lambda: world.service.model_metadata("m").versions)
    assert answers.empty()
    gate.set()
    answer = answers.get(timeout=WAIT)
    assert isinstance(answer, Response), answer
    assert metadata.get(timeout=WAIT) == ["1"]


def test_a_load_during_an_unload_waits_until_the_model_is_there(explicit: World) -> None:
    explicit.put("m", 1)
    explicit.settle()
    explicit.manager.load("m")
    lease = explicit.manager.lease("m")
    explicit.manager.unload("m", timeout=0)
    assert explicit.states() == {"m/1": "UNLOADING"}
    loaded = in_thread(lambda: (explicit.manager.load("m"), explicit.states())[1])
    explicit.until(lambda: explicit.manager._models["m"].admitted)
    wait_until(lambda: not explicit.manager.settled.is_set())
    assert loaded.empty()
    lease.release()
    assert loaded.get(timeout=WAIT) == {"m/1": "READY"}


def test_a_model_that_was_loaded_for_requests_is_not_evicted_before_they_have_it(tmp_path: Path) -> None:
    workers = HandWorkers()
    world = World(tmp_path, memory_budget=1000, threads=Threads(workers=workers))  # type: ignore[arg-type]
    for name in "ab":
        world.put(name, 1, config="{load: on_demand, memory_bytes: 600}")
    world.settle()
    first = world.submit("a")
    world.until(lambda: world.manager.ready_versions("a"))
    threading.Event().wait(0.01)  # for which it is idle
    second = world.submit("b")
    for _ in range(2):
        workers.run_one()
    assert isinstance(first.get(timeout=WAIT), Response)
    assert "which are in use" in str(second.get(timeout=WAIT))
    third = world.submit("b")
    world.until(lambda: world.manager.ready_versions("b"))
    workers.run_one()
    assert isinstance(third.get(timeout=WAIT), Response)
    assert world.reason("b") == ""
    assert not any(entry.failed for entry in world.manager.index() if entry.name == "b"), "it was refused, but is not"


def test_a_model_that_is_published_just_after_it_was_looked_for_is_found(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.put("a", 1)
    world.settle()
    looked, lease = [], world.manager._catalogue.lease

    def late(name: str, version: str, request_id: str | None) -> Servable | None:
        looked.append(name)
        return lease(name, version, request_id) if len(looked) > 1 else None

    monkeypatch.setattr(world.manager._catalogue, "lease", late)
    assert isinstance(world.infer("a"), Response)


def test_requests_for_a_model_that_becomes_on_demand_while_it_loads_for_them_are_answered(world: World) -> None:
    world.put("m", 1, config="load: on_demand")
    world.settle()
    begun, gate = held(world, "m")
    answers = world.submit("m")
    assert begun.wait(WAIT)
    source = world.sources.pop("m")
    world.aspire()
    world.sources["m"] = source
    world.aspire()
    gate.set()
    answer = answers.get(timeout=WAIT)
    assert isinstance(answer, Response), answer


def test_a_request_that_names_a_version_waits_for_that_one(world: World) -> None:
    world.put("m", 1, 2, config="{load: on_demand, version_policy: all}")
    world.settle()
    begun, gate = second_held(world)
    any_version = world.submit("m")
    second = world.submit("m", version="2")
    first = any_version.get(timeout=WAIT)
    assert isinstance(first, Response)
    assert first.model_version == "1"
    assert begun.wait(WAIT)
    assert second.empty()
    gate.set()
    answer = second.get(timeout=WAIT)
    assert isinstance(answer, Response), answer
    assert answer.model_version == "2"


def test_a_request_for_a_version_that_loads_waits_though_another_is_ready_and_nobody_waits_yet(world: World) -> None:
    world.put("m", 1, 2, config="{load: on_demand, version_policy: all}")
    world.settle()
    begun, gate = second_held(world)
    assert isinstance(world.infer("m"), Response)
    assert begun.wait(WAIT)
    second = world.submit("m", version="2")
    assert second.empty()
    gate.set()
    assert isinstance(second.get(timeout=WAIT), Response)


def test_a_request_waits_again_if_what_it_waited_for_is_unloaded_before_it_has_it(tmp_path: Path) -> None:
    workers = HandWorkers()
    world = World(tmp_path, threads=Threads(workers=workers))  # type: ignore[arg-type]
    world.put("m", 1, config="{load: on_demand, resource_preserving: true}")
    world.settle()
    answers = world.submit("m")
    world.until(lambda: world.manager.ready_versions("m"))
    world.put("m", 1, config="{load: on_demand, resource_preserving: true}")
    begun, gate = held(world, "m")
    world.aspire()
    assert begun.wait(WAIT)
    workers.run_one()
    assert answers.empty()
    gate.set()
    world.until(lambda: world.manager.ready_versions("m"))
    workers.run_one()
    answer = answers.get(timeout=WAIT)
    assert isinstance(answer, Response), answer
    assert world.manager.stop(WAIT)


def test_a_model_that_is_just_closed_is_no_obstacle_to_itself(tmp_path: Path) -> None:
    world = World(tmp_path, memory_budget=1000)
    begun, gate = close_gate(world)
    world.put("m", 1, config="{memory_bytes: 600, idle_unload_seconds: 0.05}")
    world.settle()
    assert begun.wait(WAIT)
    world.put("m", 2, config="{memory_bytes: 600, idle_unload_seconds: 100}")
    former = world.root / "m" / "1"
    source = world.sources["m"]
    world.sources["m"] = replace(source, available={**source.versions, 1: former})
    world.aspire()
    answers = world.submit("m")
    assert answers.empty()
    gate.set()
    answer = answers.get(timeout=WAIT)
    assert isinstance(answer, Response), answer
    assert world.manager.stop(WAIT)


# -- what the repository does not have ---------------------------------------------------------------------------


def test_a_model_that_no_repository_has_waits_for_memory_as_others_do(explicit: World) -> None:
    explicit.put("a", 1, config="memory_bytes: 1500")
    explicit.put("given", 1, config="memory_bytes: 1500")
    given = explicit.sources.pop("given")
    explicit.settle()
    explicit.manager.load("a")
    threading.Event().wait(0.01)  # for which it is idle
    explicit.manager.load("given", given, timeout=WAIT)
    assert explicit.states() == {"a/1": "UNAVAILABLE", "given/1": "READY"}
    assert explicit.manager.settled.is_set()


def test_a_model_that_no_repository_has_sleeps_and_comes_back(explicit: World) -> None:
    explicit.put("given", 1, config="idle_unload_seconds: 0.05")
    given = explicit.sources.pop("given")
    explicit.settle()
    explicit.manager.load("given", given)
    explicit.until(lambda: explicit.states() == {"given/1": "UNAVAILABLE"})
    explicit.aspire()
    assert isinstance(explicit.infer("given"), Response)
    explicit.manager.unload("given")
    assert explicit.states() == {}


def test_a_load_of_a_model_that_is_removed_meanwhile_does_not_succeed(explicit: World) -> None:
    explicit.put("m", 1)
    explicit.settle()
    begun, gate = held(explicit, "m")
    loaded = in_thread(lambda: explicit.manager.load("m"))
    assert begun.wait(WAIT)
    del explicit.sources["m"]
    explicit.aspire()
    gate.set()
    assert isinstance(loaded.get(timeout=WAIT), ModelNotReady)
    assert explicit.states() == {}


def test_the_traffic_of_a_model_that_is_gone_is_gone(world: World) -> None:
    traffic = "{load: on_demand, version_policy: all, traffic: {default: 1, canary: {version: 2, percent: 10}}}"
    world.put("m", 1, 2, config=traffic)
    world.settle()
    assert isinstance(world.infer("m"), Response)
    with world.manager._lock:
        world.manager._steps.put_to_sleep(world.manager._models["m"])
    world.until(lambda: [model.times_closed for model in world.backend.loaded] == [1, 1])
    world.until(lambda: world.manager.settled.is_set())
    del world.sources["m"]
    world.aspire()
    world.until(lambda: not world.states())
    assert dict(world.manager.routers) == {}


# -- loads that are queued, fail and change ----------------------------------------------------------------------


def test_a_version_that_is_removed_while_its_load_is_queued_holds_up_no_other(tmp_path: Path) -> None:
    world = World(tmp_path, load_threads=1)
    both = "version_policy: all"
    for version in (3, 2, 1):
        world.put("m", version, config=both)
    third, second, first = (world.root / "m" / str(version) for version in (3, 2, 1))
    source = world.sources["m"]

    def wanted(**versions: Path) -> None:
        paths = {int(name[1:]): path for name, path in versions.items()}
        world.sources["m"] = replace(source, versions=paths, available=paths)

    wanted(v1=first)
    world.settle()
    begun, gate = held(world, "m")
    wanted(v1=first, v2=second, v3=third)
    world.aspire()
    assert begun.wait(WAIT)
    blocked = threading.Event()
    world.manager._steps._loading._loaders.submit(lambda load: bool(blocked.wait(WAIT)), urgent=True)  # type: ignore[arg-type, return-value]
    gate.set()
    world.until(lambda: "waits for other versions" in world.manager.index()[1].reason)
    wanted(v1=first, v2=second)
    world.aspire()
    assert world.manager.ready_versions("m") == ["1", "2"]
    assert world.manager.settled.is_set()
    blocked.set()
    assert world.manager.stop(WAIT)


def test_a_queued_load_is_of_what_is_there_when_it_begins(tmp_path: Path) -> None:
    world = World(tmp_path, load_threads=1)
    begun, gate = held(world, "stuck")
    world.put("stuck", 1)
    world.aspire()
    assert begun.wait(WAIT)
    world.put("m", 1)
    world.sources["m"] = replace(world.sources["m"], unchanged=lambda version: False)
    world.aspire()
    world.put("m", 1)
    world.aspire()
    gate.set()
    assert world.manager.settled.wait(WAIT)
    assert world.states() == {"m/1": "READY", "stuck/1": "READY"}
    assert world.manager.registry.load_failures == 0
    assert world.manager.stop(WAIT)


def test_files_that_changed_during_a_load_are_read_again_only_when_they_are_what_was_seen(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "RETRY", 0.01)
    looks: SimpleQueue[int] = SimpleQueue()
    same = threading.Event()

    def unchanged(version: int) -> bool:
        looks.put(version)
        return same.is_set()

    world.put("m", 1)
    world.sources["m"] = replace(world.sources["m"], unchanged=unchanged)
    world.settle()
    for _ in range(4):
        looks.get(timeout=WAIT)
    assert len(world.backend.loaded) == 1, "it is not read again and again"
    assert world.reason("m") == "its files changed while it was loaded"
    same.set()
    world.until(lambda: world.states() == {"m/1": "READY"})
    assert len(world.backend.loaded) == 2


def test_a_model_that_is_forgotten_is_not_tried_again(explicit: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "RETRY", 0.01)
    explicit.put("given", 1)
    seen: SimpleQueue[int] = SimpleQueue()
    answers = iter((False, False))

    def unchanged(version: int) -> bool:
        seen.put(version)
        return next(answers, True)

    given = replace(explicit.sources.pop("given"), unchanged=unchanged)
    explicit.settle()
    with pytest.raises(InvalidArgument, match="its files changed while it was loaded"):
        explicit.manager.load("given", given)
    for _ in range(3):
        seen.get(timeout=WAIT)
    with suppress(Empty):  # the fourth look would be that of another load
        seen.get(timeout=0.2)
    assert explicit.states() == {}
    assert len(explicit.backend.loaded) == 1


def test_a_pin_that_fails_changes_nothing(world: World) -> None:
    traffic = "traffic: {default: 1, canary: {version: 2, percent: 0.001}}"
    world.put("m", 3, bad=True)
    bad = world.sources["m"]
    world.put("m", 1, 2, config=traffic)
    good = world.sources["m"]
    world.sources["m"] = replace(good, available={**good.versions, **bad.versions}, signatures={1: 1, 2: 1, 3: 1})
    world.settle()
    with pytest.raises(InvalidArgument, match="model 'm' goes on as before: version 3: it is bad"):
        world.manager.pin("m", 3)
    answer = world.infer("m")
    assert isinstance(answer, Response)
    assert answer.model_version == "1", "not the canary's"
    assert world.manager.ready_versions("m") == ["1", "2"]
    world.put("m", 1, 2, config=traffic)  # a change of what is served is followed, too
    assert len(world.backend.loaded) == 2
    world.settle()
    world.until(lambda: len(world.backend.loaded) == 4)


def test_what_is_unloaded_first_comes_back_if_there_is_no_memory_for_the_new(tmp_path: Path) -> None:
    world = World(tmp_path, memory_budget=1500)
    world.put("m", 1, config="resource_preserving: true")
    former = world.sources["m"]
    world.settle()
    world.put("m", 2, config="resource_preserving: true", size=2000)
    new = world.sources["m"]
    world.sources["m"] = replace(new, available={**former.versions, **new.versions})
    world.aspire()
    world.until(lambda: world.reason("m") == "" and world.manager.ready_versions("m") == ["1"])
    assert isinstance(world.infer("m"), Response)
    assert world.states() == {"m/1": "READY", "m/2": "UNAVAILABLE"}
    assert world.manager.stop(WAIT)


# -- readiness ---------------------------------------------------------------------------------------------------


def test_a_lenient_server_is_not_ready_before_its_models_have_begun(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, gate = held(world, "m")
    world.put("m", 1)
    step = world.manager._steps.step
    seen: list[list[str]] = []

    def ask_first(model: Any) -> None:
        seen.append(list(world.manager.holdups(strict=False)))
        step(model)

    monkeypatch.setattr(world.manager._steps, "step", ask_first)
    world.aspire()
    monkeypatch.undo()
    assert begun.wait(WAIT)
    assert seen == [["the model repository has not been read yet"]]
    stop_clock(world.manager, "m", 2.0)
    assert list(world.manager.holdups(strict=False)) == ["model 'm' version 1 is LOADING: loading for 2 s"]
    gate.set()
    assert world.manager.settled.wait(WAIT)
    assert list(world.manager.holdups(strict=False)) == []


# -- the end -----------------------------------------------------------------------------------------------------


def test_a_load_that_fails_after_the_end_closes_nothing_twice_and_publishes_nothing(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.put("m", 1, config="version_policy: all")
    world.settle()
    begun, gate = second_held(world)
    world.put("m", 2, bad=True)
    bad = world.sources["m"]
    world.put("m", 1, config="version_policy: all")
    good = world.sources["m"]
    both = {**good.versions, **bad.versions}
    world.sources["m"] = replace(good, versions=both, available=both)
    world.aspire()
    assert begun.wait(WAIT)
    world.until(lambda: len(world.backend.loaded) == 2 and world.manager._models["m"].versions[1].loaded)
    stopped = in_thread(lambda: world.manager.stop(WAIT))
    while not all(model.closed for model in world.backend.loaded):
        threading.Event().wait(0.001)
    gate.set()
    assert stopped.get(timeout=WAIT) is True
    assert isinstance(in_thread(lambda: world.manager.lease("m")).get(timeout=WAIT), Unavailable)
    workers = world.manager.threads.workers
    done = threading.Event()
    workers.submit(done.set)
    assert done.wait(WAIT)
    assert [model.times_closed for model in world.backend.loaded] == [1, 1]


def test_a_load_that_was_given_up_does_not_hold_up_the_end(tmp_path: Path) -> None:
    world = World(tmp_path)
    begun, gate = held(world, "stuck")
    world.put("stuck", 1, config="load_timeout_seconds: 0.05")
    world.settle()
    assert begun.wait(WAIT)
    assert world.manager.stop(0)
    gate.set()
    world.until_closed(1)


def test_after_the_end_nothing_can_be_leased_whatever_is_wanted(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.put("m", 1)
    world.settle()
    assert world.manager.stop(WAIT)
    world.configure("m", "traffic: {default: 1}")
    world.aspire()
    outcome = in_thread(lambda: world.manager.lease("m")).get(timeout=WAIT)
    assert isinstance(outcome, (NotFound, Unavailable)), outcome


def test_the_end_leaves_no_request_and_no_call_waiting(tmp_path: Path) -> None:
    world = World(tmp_path, admission=Admission(explicit=True))
    world.put("m", 1, config="load: on_demand")
    world.put("n", 1)
    world.settle()
    world.manager.load("n")
    lease = world.manager.lease("n")
    unloaded = in_thread(lambda: world.manager.unload("n"))
    world.until(lambda: world.states()["n/1"] == "UNLOADING")
    begun, gate = held(world, "m")
    loaded = in_thread(lambda: world.manager.load("m"))
    assert begun.wait(WAIT)
    model = world.manager._models["m"]
    waiting: SimpleQueue[bool] = SimpleQueue()
    with world.manager._lock:
        model.waiters.append(("", lambda: waiting.put(True)))
    stopped = in_thread(lambda: world.manager.stop(WAIT))
    assert waiting.get(timeout=WAIT)
    assert isinstance(loaded.get(timeout=WAIT), ModelNotReady)
    assert unloaded.get(timeout=WAIT) is None
    late = world.submit("m")
    assert isinstance(late.get(timeout=WAIT), ModelNotReady)
    gate.set()
    lease.release()
    assert stopped.get(timeout=WAIT) is True
    assert [model.times_closed for model in world.backend.loaded] == [1, 1]


# -- requests ----------------------------------------------------------------------------------------------------


def test_a_request_that_waited_too_long_for_a_load_is_let_go_of(world: World) -> None:
    world.put("m", 1, config="load: on_demand")
    world.settle()
    begun, gate = held(world, "m")
    kept: list[weakref.ref[Any]] = []
    parking = world.service._inferences._parking
    park = parking.park

    def remember(request: Any, *args: Any) -> Any:
        kept.append(weakref.ref(request.inputs["input"].array))
        return park(request, *args)

    parking.park = remember  # type: ignore[method-assign]
    answer = world.submit("m", deadline=time.monotonic() + 0.01).get(timeout=WAIT)
    assert "the deadline passed while model 'm' was being loaded" in str(answer)
    assert begun.wait(WAIT)
    end = time.monotonic() + WAIT
    while kept[0]() is not None and time.monotonic() < end:
        gc.collect()
    assert kept[0]() is None, "its tensors would be kept for as long as the load takes"
    gate.set()


def test_a_version_of_thousands_of_digits_is_not_found(world: World) -> None:
    world.put("m", 1)
    world.put("asleep", 1, config="load: on_demand")
    world.settle()
    for name in ("m", "asleep"):
        with pytest.raises(NotFound):
            world.manager.lease(name, "9" * 5000)


def test_files_that_go_while_they_are_counted_count_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vintner import model_source

    (tmp_path / "gone").write_text("x")
    (tmp_path / "there").write_text("xyz")
    (tmp_path / "gone").unlink()
    monkeypatch.setattr(model_source.os, "walk", lambda _: [(str(tmp_path), [], ["gone", "there"])])
    assert model_source.bytes_of(tmp_path) == 3


def test_an_empty_repository_is_no_trouble(world: World) -> None:
    world.manager.aspire(Scan({}, {}))
    assert world.manager.settled.is_set()
