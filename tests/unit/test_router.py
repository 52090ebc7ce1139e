"""The traffic of a model through the service, in memory: what is routed, judged, copied and counted."""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from fake_backend import FakeBackend, FakeModel, fake_model, write_model
from hand_clock import hand_clock, threads_by
from prometheus_client.parser import text_string_to_metric_families
from vintner.backend import Backends
from vintner.errors import BackendError, InvalidArgument
from vintner.manager import Manager
from vintner.model_source import Scan
from vintner.repository import scan
from vintner.router import Router
from vintner.service import Service
from vintner.shadow import MOST_COPIES, Shadow
from vintner.turns import Threads
from vintner.types import Cancellation, Request, Response, Tensor
from waiting import wait_until

WAIT = 10.0


class World:
    """A model `m` with versions, and a service over it. Shadows compare in a thread, which `settle` waits for."""

    def __init__(self, root: Path, threads: Threads | None = None) -> None:
        self.root = root
        self.backend = FakeBackend()
        self.backends = Backends(made={"fake": self.backend})
        self.manager = Manager(self.backends, threads=threads)
        self.service = Service(self.manager)

    def serve(
        self,
        traffic: dict[str, Any] | None,
        *versions: int,
        signatures: dict[int, Any] | None = None,
        queue: dict[str, Any] | None = None,
        model: str = "m",
    ) -> None:
        for version in versions:
            if not (self.root / model / str(version)).exists():
                write_model(self.root / model / str(version), fake_model(shape=(-1, 2)))
        config = {"batching": False, "traffic": traffic, "version_policy": "all", "reopen_after_failures": 1000}
        (self.root / model / "config.yaml").write_text(yaml.safe_dump({**config, "queue": queue}))
        found = scan([self.root], self.backends)
        if signatures is not None:
            found = Scan({"m": dataclasses.replace(found.models["m"], signatures=signatures)}, {})
        self.manager.aspire(found)
        assert self.manager.settled.wait(WAIT)

    def model(self, version: int, name: str = "m") -> FakeModel:
        return next(
            model for model in reversed(self.backend.loaded) if model.spec.path.parts[-3:-1] == (name, str(version))
        )

    def ask(self, version: str = "", model: str = "m", value: float = 1, **options: Any) -> Response:
        given = Tensor("FP32", np.full((1, 2), value, np.float32))
        return self.service.infer(Request(model, version, {"input": given}, **options), "grpc")

    @property
    def router(self) -> Router:
        return self.manager.routers["m"]

    @property
    def shadow(self) -> Shadow:
        assert self.router.shadow is not None
        return self.router.shadow

    def metric(self, name: str, **labels: str) -> float | None:
        """A sample's value; None if it is not there."""
        text = self.service.metrics().decode()
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        values = [s.value for s in samples if s.name == name and labels.items() <= s.labels.items()]
        return sum(values) if values else None


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    for model in made.backend.loaded:
        model.gate = lambda: None
    made.manager.stop(WAIT)


def fail() -> None:
    raise BackendError("the weights are wrong")


# -- canary --------------------------------------------------------------------------------------------------


def test_requests_without_an_id_are_split_as_evenly_as_can_be(world: World) -> None:
    world.serve({"default": 1, "canary": {"version": 3, "percent": 20}}, 1, 2, 3)
    assert Counter(world.ask().model_version for _ in range(100)) == {"1": 80, "3": 20}
    assert world.metric("vintner_traffic_requests_total", version="3", role="canary") == 20
    assert world.metric("vintner_traffic_requests_total", version="1", role="default") == 80
    assert world.metric("vintner_traffic_requests_total", version="2", role="default") == 0


def test_a_request_that_names_a_version_gets_it_and_is_no_traffic(world: World) -> None:
    world.serve({"default": 1, "canary": {"version": 3, "percent": 100}, "shadow": {"version": 2}}, 1, 2, 3)
    assert [world.ask(version).model_version for version in ("1", "2", "3")] == ["1", "2", "3"]
    assert world.metric("vintner_traffic_requests_total") == 0
    assert world.model(2).runs == 1


def test_what_asks_for_metadata_is_answered_by_the_default(world: World) -> None:
    world.serve({"default": 1, "canary": {"version": 3, "percent": 100}}, 1, 3)
    lease = world.manager.lease("m")
    lease.release()
    assert lease.version == "1"
    assert world.ask().model_version == "3"


def test_a_version_that_is_not_ready_leaves_its_requests_to_the_default(world: World) -> None:
    write_model(world.root / "m" / "3", {**fake_model(), "fail": "too new"})
    world.serve({"default": 2, "canary": {"version": 3, "percent": 50}, "shadow": {"version": 9}}, 1, 2, 3)
    assert {world.ask(id=str(number)).model_version for number in range(20)} == {"2"}
    assert world.shadow.skipped == {"busy": 0, "not_ready": 20, "not_comparable": 0}
    world.serve({"default": 7, "canary": {"version": 3, "percent": 50}}, 1, 2, 3)
    assert {world.ask().model_version for number in range(20)} == {"2"}


def test_traffic_is_changed_without_a_reload(world: World) -> None:
    world.serve(None, 1, 2)
    assert world.ask().model_version == "2"
    for percent, versions in ((100, {"2"}), (50, {"1", "2"})):
        world.serve({"default": 1, "canary": {"version": 2, "percent": percent}}, 1, 2)
        assert {world.ask().model_version for _ in range(10)} == versions
    assert world.metric("vintner_canary_percent", model="m", version="2") == 50
    world.serve({"default": 1}, 1, 2)
    assert world.ask().model_version == "1"
    assert world.metric("vintner_canary_percent") is None
    world.serve(None, 1, 2)
    assert world.manager.routers == {}
    assert world.metric("vintner_traffic_requests_total") is None
    assert len(world.backend.loaded) == 2


CANARY = {"default": 1, "canary": {"version": 2, "percent": 50, "min_requests": 10}}


def roll_back(world: World) -> int:
    """Sends requests until the canary, which fails, gets no more; says how many failed."""
    world.model(2).gate = fail
    failed = 0
    for _ in range(100):
        try:
            world.ask()
        except BackendError:
            failed += 1
    return failed


def test_a_canary_that_fails_is_rolled_back(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.serve(CANARY, 1, 2)
    assert world.metric("vintner_canary_rollbacks_total", model="m", version="2") == 0
    assert world.metric("vintner_canary_rollbacks_total", model="m", version="1") is None
    assert roll_back(world) == 10
    reason = "canary rolled back: 10 of 10 requests failed, more than 5 %"
    assert [entry.reason for entry in world.manager.index()] == ["", reason]
    assert [r.message for r in caplog.records if r.levelno == logging.WARNING] == [f"model 'm' version 2: {reason}"]
    assert world.metric("vintner_canary_rollbacks_total", model="m", version="2") == 1
    assert world.metric("vintner_canary_percent", model="m", version="2") == 0


def test_what_clients_do_wrong_is_not_held_against_a_canary(world: World) -> None:
    world.serve({"default": 1, "canary": {"version": 2, "percent": 100, "min_requests": 10}}, 1, 2)
    for _ in range(50):
        with pytest.raises(InvalidArgument):
            world.service.infer(Request("m", "", {}), "rest")
    assert world.ask().model_version == "2"


def test_a_roll_back_lasts_until_the_configuration_or_the_files_change_or_it_is_set_anew(world: World) -> None:
    def serves() -> set[str]:
        world.model(2).gate = lambda: None
        return {world.ask().model_version for _ in range(10)}

    world.serve(CANARY, 1, 2, signatures={1: "a", 2: "b"})
    roll_back(world)
    assert serves() == {"1"}
    world.serve({**CANARY, "shadow": {"version": 3}}, 1, 2, 3, signatures={1: "new", 2: "b", 3: "c"})
    assert serves() == {"1"}
    world.serve({**CANARY, "shadow": {"version": 4}}, 1, 2, 3, signatures={1: "new", 2: "new", 3: "c"})
    assert serves() == {"1", "2"}
    roll_back(world)
    assert serves() == {"1"}
    world.serve({"default": 1, "canary": {**CANARY["canary"], "percent": 60}}, 1, 2, 3)  # type: ignore[dict-item]
    assert serves() == {"1", "2"}
    roll_back(world)
    assert serves() == {"1"}
    world.router.renew()
    assert serves() == {"1"}
    world.serve({"default": 3, "canary": {**CANARY["canary"], "percent": 60}}, 1, 2, 3)  # type: ignore[dict-item]
    assert serves() == {"2", "3"}
    assert world.metric("vintner_canary_rollbacks_total", model="m", version="2") == 3


# -- shadow --------------------------------------------------------------------------------------------------


def test_a_shadow_gets_its_share_and_is_compared(world: World) -> None:
    world.serve({"default": 1, "shadow": {"version": 2, "percent": 50}}, 1, 2)
    for _ in range(10):
        before = world.model(2).runs
        assert world.ask().model_version == "1"
        wait_until(lambda: not world.shadow._copies)
        assert world.model(2).runs - before in (0, 1)
    drift = world.shadow.drifts["1"]
    assert drift.requests == world.model(2).runs == 6  # of a sequence that begins .41 .83 .24 .66 .07 .49 .90
    assert drift.outputs["output"].largest == 0
    assert drift.outputs["output"].agreed == 6
    assert world.metric("vintner_shadow_requests_total", version="1", shadow="2", outcome="ok") == 6
    assert world.metric("vintner_shadow_rows_agreed_total", output="output") == 6


def test_a_shadow_that_hangs_delays_nobody_and_is_skipped(world: World) -> None:
    world.serve({"default": 1, "shadow": {"version": 2}}, 1, 2)
    gate = threading.Event()
    world.model(2).gate = lambda: gate.wait(WAIT) and None
    for _ in range(MOST_COPIES + 9):
        assert world.ask().model_version == "1"
    assert world.shadow.skipped["busy"] == 9
    gate.set()
    wait_until(lambda: not world.shadow._copies)
    assert world.shadow.outcomes == {("1", "ok"): MOST_COPIES}
    world.ask()
    wait_until(lambda: world.shadow.outcomes == {("1", "ok"): MOST_COPIES + 1})


@pytest.mark.parametrize(
    ("queue", "copies"), [({"max_requests": 8}, 2), ({"max_requests": 2}, 1), ({"max_bytes": 64}, 1)]
)
def test_copies_leave_most_of_the_shadows_queue_to_others(world: World, queue: dict[str, Any], copies: int) -> None:
    world.serve({"default": 1, "shadow": {"version": 2}}, 1, 2, queue=queue)
    gate = threading.Event()
    world.model(2).gate = lambda: gate.wait(WAIT) and None
    for _ in range(10):
        world.ask()
    assert world.shadow.skipped["busy"] == 10 - copies
    gate.set()


def test_in_the_queue_of_a_shadow_copies_come_last(world: World) -> None:
    world.serve({"default": 1, "shadow": {"version": 2}}, 1, 2, queue={"priority_levels": 2, "default_priority": 1})
    model, gate = world.model(2), threading.Event()
    ran: list[float] = []
    enter = model.enter

    def note(inputs: Any) -> None:
        ran.append(inputs["input"][0, 0])
        enter(inputs)

    model.enter = note  # type: ignore[method-assign]
    model.gate = lambda: gate.wait(WAIT) and None
    for value in (1, 2):
        world.ask(value=value)
    wait_until(lambda: len(ran) == 1 and world.metric("vintner_queue_requests", version="2") == 1)
    direct = threading.Thread(target=world.ask, kwargs={"version": "2", "value": 3})
    direct.start()
    wait_until(lambda: world.metric("vintner_queue_requests", version="2") == 2)
    gate.set()
    direct.join(WAIT)
    wait_until(lambda: not world.shadow._copies)
    assert ran == [1, 3, 2]


def test_a_shadow_that_hangs_does_not_keep_others_from_being_compared(world: World) -> None:
    for model in ("m", "n"):
        world.serve({"default": 1, "shadow": {"version": 2}}, 1, 2, model=model)
    gate = threading.Event()
    world.model(2).gate = lambda: gate.wait(WAIT) and None
    for _ in range(3):
        world.ask()
    world.ask(model="n")
    wait_until(lambda: world.metric("vintner_shadow_requests_total", model="n", outcome="ok") == 1)
    assert world.metric("vintner_shadow_requests_total", model="m") is None
    gate.set()


def test_a_shadow_that_has_to_serve_is_not_compared_with_itself(world: World) -> None:
    world.serve({"shadow": {"version": 2}}, 2)
    assert world.ask().model_version == "2"
    assert (world.shadow._copies, world.shadow.skipped["not_ready"]) == (set(), 0)
    assert world.model(2).runs == 1


def test_a_copy_of_what_a_version_served_that_is_gone_is_not_counted(world: World) -> None:
    world.serve({"default": 1, "shadow": {"version": 2}}, 1, 2)
    gate = threading.Event()
    world.model(2).gate = lambda: gate.wait(WAIT) and None
    world.ask()
    world.shadow.aim(100, {"2": world.manager.ready("m")[1]})
    gate.set()
    wait_until(lambda: not world.shadow._copies)
    assert world.model(2).runs == 1
    assert world.shadow.outcomes == {}


def test_the_errors_of_a_shadow_are_its_own(world: World) -> None:
    world.serve({"default": 1, "shadow": {"version": 2}}, 1, 2)
    world.model(2).gate = fail
    for _ in range(3):
        world.ask()
        wait_until(lambda: not world.shadow._copies)
    assert world.shadow.outcomes == {("1", "backend"): 3}
    assert world.shadow.drifts == {}
    assert world.metric("vintner_requests_total", version="2") == 0


def test_what_failed_is_not_copied(world: World) -> None:
    world.serve({"default": 1, "shadow": {"version": 2}}, 1, 2)
    world.model(1).gate = fail
    for _ in range(3):
        with pytest.raises(BackendError):
            world.ask()
    world.model(1).gate = lambda: None
    world.ask()
    wait_until(lambda: world.model(2).runs == 1)


def test_a_copy_has_neither_the_deadline_nor_the_cancellation_of_its_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = hand_clock(monkeypatch)
    world = World(tmp_path, threads_by(clock))
    world.serve({"default": 1, "shadow": {"version": 2}}, 1, 2)
    gate = threading.Event()
    world.model(2).gate = lambda: gate.wait(WAIT) and None
    cancellation = Cancellation()
    world.ask(deadline=clock.now + 0.05, cancellation=cancellation, parameters={"timeout": 50_000, "timing": True})
    cancellation.cancel()
    wait_until(lambda: world.model(2).running == 1)
    clock.forward(0.05)
    gate.set()
    wait_until(lambda: world.shadow.outcomes == {("1", "ok"): 1})
    world.manager.stop(WAIT)


def test_the_copies_of_a_shadow_do_not_hold_it_up_when_it_goes(world: World) -> None:
    world.serve({"default": 1, "shadow": {"version": 2}}, 1, 2)
    entered, gate = threading.Event(), threading.Event()

    def hold() -> None:
        entered.set()
        gate.wait(WAIT)

    world.model(2).gate = hold
    for _ in range(8):
        world.ask()
    assert entered.wait(WAIT)
    stopping = threading.Thread(target=world.manager.stop, args=(WAIT,))
    stopping.start()
    wait_until(lambda: world.router.shadow is None)
    gate.set()
    stopping.join(WAIT)
    assert not stopping.is_alive()
    assert world.model(2).times_closed == 1
    assert world.model(2).runs == 1


def test_a_shadow_that_is_changed_starts_anew(world: World) -> None:
    world.serve({"default": 1, "shadow": {"version": 2}}, 1, 2, signatures={1: "a", 2: "b"})
    world.ask()
    wait_until(lambda: world.metric("vintner_shadow_requests_total", outcome="ok") == 1)
    first = world.shadow
    world.serve({"default": 1, "shadow": {"version": 2, "percent": 70}}, 1, 2, signatures={1: "new", 2: "b"})
    assert world.shadow is first
    world.serve({"default": 1, "shadow": {"version": 2}}, 1, 2, signatures={1: "new", 2: "new"})
    assert world.metric("vintner_shadow_requests_total", outcome="ok") is None
    world.serve({"default": 1, "canary": {"version": 2, "percent": 1}}, 1, 2)
    assert world.router.shadow is None
    assert world.metric("vintner_shadow_skipped_total") is None


def test_no_request_fails_and_no_lease_is_lost_while_traffic_changes(world: World) -> None:
    world.serve({"default": 1}, 1, 2, 3)
    stop = threading.Event()
    failures: list[Exception] = []

    def client() -> None:
        while not stop.is_set():
            try:
                world.ask()
            except Exception as exc:
                failures.append(exc)

    clients = [threading.Thread(target=client) for _ in range(4)]
    for thread in clients:
        thread.start()
    kinds: list[dict[str, Any] | None] = [
        {"default": 1, "canary": {"version": 2, "percent": 50}, "shadow": {"version": 3}},
        {"default": 2, "shadow": {"version": 1}},
        None,
        {"canary": {"version": 1, "percent": 10}, "shadow": {"version": 3, "percent": 50}},
    ]
    for number in range(40):
        world.serve(kinds[number % 4], 1, 2, 3, signatures={3: number})
        for router in list(world.manager.routers.values()):
            assert router.shadow is not None
            wait_until(lambda shadow=router.shadow: shadow.outcomes)  # type: ignore[misc]
    stop.set()
    for thread in clients:
        thread.join(WAIT)
    assert failures == []
    wait_until(lambda: world.metric("vintner_requests_in_flight") == 0)
    wait_until(lambda: not world.shadow._copies)
