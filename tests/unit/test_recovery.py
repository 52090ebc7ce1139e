"""Instances that fail or hang: examined, given up, opened anew; and what the requests meanwhile are told."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hand_clock import HandClock, hand_clock, threads_by
from scheduler_calls import WAIT, Asked, call, infer
from vintner import pools, recovery
from vintner.batcher import Batching
from vintner.call import Call
from vintner.errors import BackendError, DeadlineExceeded, InvalidArgument, ModelNotReady
from vintner.pools import Pool
from vintner.scheduler import Health, Scheduler
from vintner.types import Array, TensorSpec
from waiting import wait_until


class Machine:
    """Doubles `x` unless it is `broken`; stays in a run while it `hangs`. A run takes `seconds` by the `clock`."""

    def __init__(self) -> None:
        self.broken = False
        self.panics = False
        self.refuses = False
        self.hangs_when_blank = False
        self.hangs = threading.Event()
        self.may_return = threading.Event()
        self.runs = 0
        self.seconds = 0.0
        self.clock: HandClock | None = None

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        self.runs += 1
        if self.clock is not None:
            self.clock.forward(self.seconds)
        if self.hangs.is_set() or (self.hangs_when_blank and not inputs["x"].any()):
            assert self.may_return.wait(WAIT)
        if self.panics:
            raise SystemExit("a panic")
        if self.refuses:
            raise InvalidArgument("not with these")
        if self.broken or np.isnan(inputs["x"]).any():
            raise BackendError("a broken machine" if self.broken else "not with that")
        return {"y": inputs["x"] * 2}


class Model:
    """One opening of a pool."""

    platform = "machines"
    inputs: Sequence[TensorSpec] = ()
    outputs: Sequence[TensorSpec] = ()

    def __init__(self, instances: int = 1) -> None:
        self.instances = [Machine() for _ in range(instances)]
        self.closed = threading.Event()

    def close(self) -> None:
        assert not self.closed.is_set(), "closed twice"
        self.closed.set()


class Shop:
    """A scheduler with one pool, and all openings of it."""

    def __init__(
        self,
        instances: int = 1,
        health: Health | None = None,
        others: Sequence[Pool] = (),
        clock: HandClock | None = None,
    ) -> None:
        self.models = [Model(instances)]
        self.opens = threading.Event()
        self.spoil: Callable[[Model], None] = lambda model: None
        first = self.models[0]
        self.pool = Pool(first.instances, "CPU", first.close, self.reopen)
        self.scheduler = Scheduler(
            [self.pool, *others], batching=Batching(4), health=health, threads=threads_by(clock) if clock else None
        )

    @property
    def machine(self) -> Machine:
        return self.models[-1].instances[0]

    def reopen(self) -> Model:
        model = Model(len(self.models[0].instances))
        self.opens.set()
        self.spoil(model)
        self.models.append(model)
        return model

    def break_down(self, gate: threading.Event) -> None:
        """Takes the only instance out; it is opened anew when the gate opens."""
        self.infer(1.0)
        self.spoil = lambda model: assert_set(gate)
        self.machine.broken = True
        self.fail(3)

    def infer(self, *values: float, **options: Any) -> list[float]:
        return infer(self.scheduler, call(*values, **options))

    def fail(self, times: int, value: float = 1.0) -> None:
        for _ in range(times):
            with pytest.raises(BackendError):
                self.infer(value)

    def hang(self) -> Asked:
        """Sends a request that does not come back, and returns when it runs; its thread is let go at the end."""
        self.machine.hangs.set()
        request = call(1.0)
        lead(self, request)
        return request


def lead(shop: Shop, request: Asked) -> None:
    """Has a request that finds all instances idle run by another thread, and returns when that has begun."""
    turn = shop.scheduler.submit(request)
    assert turn is not None
    turn.pass_on()
    wait_until(lambda: shop.scheduler.instances[0] == 1)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "FIRST_PAUSE", 0.01)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> HandClock:
    return hand_clock(monkeypatch)


def test_an_instance_that_fails_three_times_in_a_row_is_opened_anew() -> None:
    shop = Shop()
    shop.infer(1.0)
    shop.machine.broken = True
    shop.fail(3)
    wait_until(lambda: len(shop.models) == 2 and shop.scheduler.instances == (0, 1))
    assert shop.infer(2.0) == [4.0]
    assert shop.models[0].closed.wait(WAIT)
    assert not shop.models[1].closed.is_set()
    assert shop.scheduler.faults == ""


def test_failures_that_are_not_in_a_row_take_nothing_out() -> None:
    shop = Shop()
    shop.infer(1.0)
    for _ in range(3):
        shop.fail(2, float("nan"))
        shop.infer(1.0)
    assert len(shop.models) == 1
    assert shop.machine.runs == 10, "nothing was examined"


def test_an_instance_is_restored_if_the_requests_were_at_fault() -> None:
    shop = Shop()
    shop.infer(1.0)
    shop.fail(3, float("nan"))
    wait_until(lambda: shop.scheduler.instances == (0, 1))
    assert shop.infer(1.0) == [2.0]
    assert len(shop.models) == 1
    assert shop.machine.runs == 6, "it was examined once"


def test_a_model_that_never_worked_is_not_opened_again_and_again() -> None:
    shop = Shop()
    shop.machine.broken = True
    shop.fail(10)
    assert shop.scheduler.instances == (0, 1)
    assert len(shop.models) == 1


def test_what_waits_while_the_only_instance_is_opened_anew_is_served_by_the_new_one() -> None:
    shop = Shop()
    gate = threading.Event()
    shop.break_down(gate)
    wait_until(lambda: shop.scheduler.down)
    request = call(3.0)
    assert shop.scheduler.submit(request) is None
    gate.set()
    assert request.future.result(WAIT) == [6.0]


def assert_set(gate: threading.Event) -> None:
    assert gate.wait(WAIT)


def test_requests_are_refused_when_the_pool_cannot_be_opened_and_served_when_it_can_again() -> None:
    shop = Shop()
    shop.infer(1.0)
    tried, mended = threading.Semaphore(0), threading.Event()

    def spoil(model: Model) -> None:
        model.instances[0].broken = not mended.is_set()
        tried.release()

    shop.spoil = spoil
    shop.machine.broken = True
    shop.fail(3)
    assert tried.acquire(timeout=WAIT)
    assert tried.acquire(timeout=WAIT), "it is tried again"
    with pytest.raises(ModelNotReady, match="no instance of the model is in service: CPU: 3 runs in a row failed"):
        shop.infer(1.0)
    mended.set()
    wait_until(lambda: not shop.scheduler.down)
    assert shop.infer(1.0) == [2.0]
    assert all(model.closed.wait(WAIT) for model in shop.models[:-1]), "what did not pass is closed"


def test_requests_that_wait_too_long_for_an_instance_are_refused(clock: HandClock) -> None:
    shop = Shop(clock=clock)
    gate = threading.Event()
    shop.break_down(gate)
    request = call(1.0)
    shop.scheduler.submit(request)
    assert shop.opens.wait(WAIT)
    clock.forward(0.9 * recovery.PATIENCE)
    assert not request.future.done()
    clock.forward(0.1 * recovery.PATIENCE)
    with pytest.raises(ModelNotReady):
        request.future.result(WAIT)
    gate.set()
    wait_until(lambda: not shop.scheduler.down)
    assert shop.infer(1.0) == [2.0]


def test_a_run_that_takes_too_long_is_answered_and_its_instance_replaced(clock: HandClock) -> None:
    shop = Shop(health=Health(timeout=0.05), clock=clock)
    shop.infer(1.0)
    hung = shop.hang()
    former = shop.machine
    clock.forward(0.04)
    assert not hung.future.done()
    clock.forward(0.01)
    with pytest.raises(DeadlineExceeded, match=r"execution timeout of 0\.05 s"):
        hung.future.result(WAIT)
    assert shop.infer(2.0) == [4.0]
    assert not shop.models[0].closed.is_set(), "a thread is in it"
    former.may_return.set()
    assert shop.models[0].closed.wait(WAIT)
    assert shop.infer(2.0) == [4.0]


def test_runs_within_their_time_are_let_be(clock: HandClock) -> None:
    shop = Shop(health=Health(timeout=0.2), clock=clock)
    shop.machine.clock, shop.machine.seconds = clock, 0.19
    for _ in range(100):
        shop.infer(1.0)
    assert len(shop.models) == 1


def test_a_model_can_be_unloaded_though_a_run_of_it_hangs(clock: HandClock) -> None:
    shop = Shop(health=Health(timeout=0.05), clock=clock)
    shop.infer(1.0)
    hung = shop.hang()
    former = shop.machine
    clock.forward(0.05)
    with pytest.raises(DeadlineExceeded):
        hung.future.result(WAIT)
    wait_until(lambda: len(shop.models) == 2 and not shop.scheduler.down)
    idle = threading.Event()
    shop.scheduler.when_idle(idle.set)
    assert idle.wait(WAIT)
    shop.scheduler.close()
    assert shop.models[1].closed.wait(WAIT)
    former.may_return.set()
    assert shop.models[0].closed.wait(WAIT)


def test_what_is_opened_anew_after_the_model_was_unloaded_is_closed() -> None:
    shop = Shop()
    shop.infer(1.0)
    begun, gate = threading.Event(), threading.Event()

    def spoil(model: Model) -> None:
        begun.set()
        assert gate.wait(WAIT)

    shop.spoil = spoil
    shop.machine.broken = True
    shop.fail(3)
    assert begun.wait(WAIT)
    shop.scheduler.close()
    gate.set()
    wait_until(lambda: len(shop.models) == 2)
    assert all(model.closed.wait(WAIT) for model in shop.models)


def test_a_lost_device_is_survived_by_another_pool(clock: HandClock) -> None:
    other = Model()
    other.instances[0].clock, other.instances[0].seconds = clock, 0.005
    shop = Shop(others=[Pool(other.instances, "GPU.0", other.close)], clock=clock)
    for _ in range(10):
        shop.infer(1.0)
    cannot = threading.Event()

    def spoil(model: Model) -> None:
        cannot.set()
        raise BackendError("no such device")

    shop.spoil = spoil
    shop.models[0].instances[0].broken = True
    answers = []
    for _ in range(50):
        try:
            answers.append(shop.infer(1.0))
        except BackendError:
            answers.append([])
    assert cannot.wait(WAIT)
    wait_until(lambda: shop.scheduler.instances == (0, 1))
    assert answers.count([]) <= 4, "three failures in a row, and one of a former choice"
    assert [shop.infer(1.0) for _ in range(10)] == [[2.0]] * 10
    assert "CPU: 3 runs in a row failed" in shop.scheduler.faults
    shop.scheduler.close()


def test_an_instance_that_panics_is_opened_anew_as_well() -> None:
    shop = Shop()
    shop.infer(1.0)
    panicking = iter([True, False])

    def spoil(model: Model) -> None:
        model.instances[0].panics = next(panicking)

    shop.spoil = spoil
    shop.machine.panics = True
    shop.fail(3)
    wait_until(lambda: len(shop.models) == 3 and shop.scheduler.instances == (0, 1))
    assert shop.infer(2.0) == [4.0]


def test_the_rest_of_a_pool_goes_on_while_it_is_opened_anew() -> None:
    shop = Shop(instances=2)
    shop.infer(1.0)
    shop.infer(1.0)
    gate = threading.Event()
    shop.spoil = lambda model: assert_set(gate)
    broken = shop.machine if shop.machine.runs else shop.models[0].instances[1]
    broken.broken = True
    shop.fail(3)
    wait_until(lambda: shop.scheduler.instances == (0, 1))
    assert shop.infer(1.0) == [2.0]
    gate.set()
    wait_until(lambda: shop.scheduler.instances == (0, 2))
    assert shop.models[0].closed.wait(WAIT)
    assert shop.infer(1.0) == [2.0]


def test_an_examination_looks_like_what_once_succeeded_but_means_nothing() -> None:
    rows = np.empty(2, np.object_)
    rows[0], rows[1] = np.array([1.0, 2.0]), np.array([3.0])
    given = {"x": np.full((2, 3), 7, np.int32), "texts": np.array([b"a", b"b"], np.object_), "ragged": rows}
    blank = recovery.blank(recovery.sample_of(given))
    assert blank["x"].dtype == np.int32
    assert np.array_equal(blank["x"], np.zeros((2, 3)))
    assert blank["texts"].tolist() == [b"", b""]
    assert [row.tolist() for row in blank["ragged"]] == [[0.0, 0.0], [0.0, 0.0]]


def test_a_run_that_takes_too_long_is_answered_though_its_pool_was_opened_anew_meanwhile(clock: HandClock) -> None:
    shop = Shop(instances=2, health=Health(timeout=0.2), clock=clock)
    shop.infer(1.0)
    former = list(shop.models[0].instances)
    opening, gate = threading.Event(), threading.Event()

    def spoil(model: Model) -> None:
        opening.set()
        assert gate.wait(WAIT)

    shop.spoil = spoil
    for machine in former:
        machine.hangs.set()
    first, second = call(1.0), call(1.0)
    lead(shop, first)
    clock.forward(0.2)
    assert opening.wait(WAIT)
    lead(shop, second)
    wait_until(lambda: shop.scheduler.instances == (1, 1))
    gate.set()
    wait_until(lambda: shop.scheduler.instances == (0, 2))
    assert not second.future.done()
    clock.forward(0.2)
    for request in (first, second):
        with pytest.raises(DeadlineExceeded):
            request.future.result(WAIT)
    idle = threading.Event()
    shop.scheduler.when_idle(idle.set)
    assert idle.wait(WAIT)
    assert shop.scheduler.faults == ""
    assert len(shop.models) == 2, "what is not served any more is no reason to open the pool again"
    for machine in former:
        machine.may_return.set()
    assert shop.models[0].closed.wait(WAIT)


def test_a_model_is_not_idle_while_a_former_opening_of_it_runs() -> None:
    shop = Shop(instances=2)
    for _ in range(2):
        shop.infer(1.0)
    used, other = sorted(shop.models[0].instances, key=lambda machine: -machine.runs)
    held = call(1.0)
    used.hangs.set()
    lead(shop, held)
    wait_until(lambda: used.runs == 3)
    other.broken = True
    shop.fail(3)
    wait_until(lambda: len(shop.models) == 2 and shop.scheduler.instances == (0, 2))
    idle = threading.Event()
    shop.scheduler.when_idle(idle.set)
    assert not idle.is_set()
    used.may_return.set()
    assert held.future.result(WAIT) == [2.0]
    assert idle.wait(WAIT)
    assert shop.models[0].closed.wait(WAIT)


def test_an_instance_that_is_restored_before_its_last_failure_was_told_is_idle_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pools, "BRIEF", math.inf)
    shop = Shop()
    for _ in range(5):
        shop.infer(1.0)
    assert shop.scheduler.brief
    shop.fail(2, float("nan"))
    told: list[int] = []

    def done(result: object) -> None:
        wait_until(lambda: shop.scheduler.instances == (0, 1))  # the examiner is faster than we are
        told.append(len(shop.pool.idle))

    turn = shop.scheduler.submit(Call({"x": np.array([[float("nan")]])}, 1, 8, done=done))
    assert turn is not None
    turn.run()
    assert told == [1]
    assert len(shop.pool.idle) == 1


def test_inputs_that_were_refused_are_no_sample_for_an_examination() -> None:
    shop = Shop()
    shop.machine.refuses = True
    with pytest.raises(InvalidArgument):
        shop.infer(1.0, 2.0, 3.0)
    shop.machine.refuses = False
    assert shop.scheduler.sample is None
    shop.infer(1.0)
    assert shop.scheduler.sample is not None
    assert shop.scheduler.sample["x"][0] == (1, 1)


def test_requests_are_refused_when_the_last_instance_is_lost_while_the_pool_cannot_be_opened(
    monkeypatch: pytest.MonkeyPatch, clock: HandClock
) -> None:
    shop = Shop(instances=2, health=Health(timeout=0.05), clock=clock)
    shop.infer(1.0)
    opening, gate, despaired = threading.Event(), threading.Event(), threading.Event()

    def spoil(model: Model) -> None:
        opening.set()
        gate.wait(3 * WAIT)

    def despair() -> None:
        Scheduler.despair(shop.scheduler)
        despaired.set()

    monkeypatch.setattr(shop.scheduler, "despair", despair)
    shop.spoil = spoil
    former = list(shop.models[0].instances)
    for machine in former:
        machine.hangs.set()
    for _ in range(2):
        request = call(1.0)
        lead(shop, request)
        clock.forward(0.05)
        with pytest.raises(DeadlineExceeded):
            request.future.result(WAIT)
        if not despaired.is_set():
            assert opening.wait(WAIT)
            clock.forward(recovery.PATIENCE)
            assert despaired.is_set(), "to no avail, for one instance is left"
    waiting = call(1.0)
    shop.scheduler.submit(waiting)
    clock.forward(recovery.PATIENCE)
    with pytest.raises(ModelNotReady):
        waiting.future.result(WAIT)
    gate.set()
    for machine in former:
        machine.may_return.set()


def test_an_examination_that_ended_is_not_found_to_take_too_long() -> None:
    shop = Shop()
    shop.infer(1.0)
    slot = shop.pool.opening.slots[0]
    assert not shop.scheduler.lose(slot)
    assert not slot.lost
    slot.lost = True
    assert not shop.scheduler.lose(slot)
    assert slot.lost


def test_a_model_is_idle_when_an_examination_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "PATIENCE", 0.05)
    shop = Shop()
    shop.infer(1.0)

    def spoil(model: Model) -> None:
        raise BackendError("no such device")

    shop.spoil = spoil
    machine = shop.machine
    machine.broken = True
    shop.fail(2)
    turn = shop.scheduler.submit(request := call(1.0, float("nan")))
    assert turn is not None
    machine.hangs_when_blank = True
    turn.run()
    with pytest.raises(BackendError):
        request.future.result(WAIT)
    idle = threading.Event()
    shop.scheduler.when_idle(idle.set)
    assert idle.wait(WAIT)
    machine.may_return.set()
