"""Schedulers that share resources: who waits holds no thread, loses no request and no instance."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest
from hand_clock import HandClock, hand_clock
from scheduler_calls import WAIT
from vintner.batcher import Batching
from vintner.call import Call, Result
from vintner.errors import BackendError, Cancelled, DeadlineExceeded, LoadError, Stopping
from vintner.pools import Pool
from vintner.rate_limiter import Claim
from vintner.scheduler import Health, Scheduler
from vintner.turns import Threads
from vintner.turnstile import Turnstiles
from vintner.types import Array, Cancellation
from waiting import wait_until

ONE = {"gpu": 1}


class Place:
    """Where the instances of several models run: how many of them, and how much of their resources, at once."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.running = 0
        self.out: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.order: list[str] = []
        self.batches: list[int] = []


class Instance:
    """Counts its runs in its place; each waits for a `go`, unless the gate is open."""

    def __init__(self, place: Place, name: str, claim: Claim | None, open_gate: bool) -> None:
        self.place = place
        self.name = name
        self.needs = Counter(claim.resources if claim else {})
        self.go = threading.Semaphore(1_000_000 if open_gate else 0)
        self.entered = threading.Semaphore(0)
        self.fail: Exception | None = None

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        with self.place.lock:
            self.place.running += 1
            self.place.out += self.needs
            self.place.most |= self.place.out
            self.place.order.append(self.name)
            self.place.batches.append(len(inputs["x"]))
        self.entered.release()
        assert self.go.acquire(timeout=WAIT)
        with self.place.lock:
            self.place.running -= 1
            self.place.out -= self.needs
        if self.fail:
            raise self.fail
        return {"y": inputs["x"] * 2}


class World:
    """Models that share resources, and threads to lead them."""

    def __init__(self, clock: HandClock | None = None, **capacities: int) -> None:
        self.place = Place()
        alarms = {} if clock is None else {"alarms": clock}
        self.threads = Threads(turnstiles=Turnstiles(capacities), **alarms)  # type: ignore[arg-type]
        self.instances: dict[str, list[Instance]] = {}

    def model(
        self,
        name: str,
        claim: Claim | None,
        instances: int = 1,
        open_gate: bool = False,
        max_rows: int = 1,
        health: Health | None = None,
    ) -> Scheduler:
        self.instances[name] = [Instance(self.place, name, claim, open_gate) for _ in range(instances)]
        return Scheduler(
            [Pool(self.instances[name])], batching=Batching(max_rows), threads=self.threads, claim=claim, health=health
        )

    def infer(self, scheduler: Scheduler, value: float = 1.0, **options: Any) -> Future[Any]:
        future: Future[Any] = Future()

        def done(result: Result) -> None:
            assert not future.done(), "answered twice"
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(float(result["y"][0, 0]))

        turn = scheduler.submit(Call({"x": np.array([[value]])}, 1, 8, None, done=done, **options))
        if turn is not None:
            turn.pass_on()
        return future

    def entered(self, name: str) -> bool:
        return self.instances[name][0].entered.acquire(timeout=WAIT)

    def release(self, name: str, runs: int = 1) -> None:
        for _ in range(runs):
            self.instances[name][0].go.release()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> HandClock:
    return hand_clock(monkeypatch)


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.threads.workers.shutdown(wait=False)


def waits(world: World) -> tuple[Scheduler, Scheduler, Future[Any]]:
    """A model that runs, and another whose instance waits for the same resource. The future is the running one's."""
    busy, other = world.model("busy", Claim(ONE)), world.model("other", Claim(ONE))
    running = world.infer(busy)
    assert world.entered("busy")
    return busy, other, running


def until_it_waits(scheduler: Scheduler, instances: int = 1) -> None:
    wait_until(lambda: scheduler.awaiting_resources == instances)


def test_models_that_share_a_unit_run_one_after_the_other(world: World) -> None:
    _, other, running = waits(world)
    waiting = world.infer(other, 2.0)
    until_it_waits(other)
    assert (other.instances, other.queued[0]) == ((0, 1), 1)
    assert world.place.order == ["busy"]
    world.release("busy")
    assert running.result(WAIT) == 2.0
    assert world.entered("other")
    world.release("other")
    assert waiting.result(WAIT) == 4.0
    assert world.place.most == {"gpu": 1}


def test_a_model_without_a_claim_waits_for_nobody(world: World) -> None:
    waits(world)
    free = world.model("free", None, open_gate=True)
    assert world.infer(free).result(WAIT) == 2.0


def test_what_comes_while_resources_are_awaited_joins_the_batch(world: World) -> None:
    waits(world)
    other = world.model("batched", Claim(ONE), open_gate=True, max_rows=8)
    first = world.infer(other)
    until_it_waits(other)
    futures = [first, *(world.infer(other) for _ in range(4))]
    world.release("busy")
    assert [future.result(WAIT) for future in futures] == [2.0] * 5
    assert world.place.batches == [1, 5]


def test_resources_are_free_before_the_answers_are_given(world: World) -> None:
    busy, other = world.model("busy", Claim(ONE), open_gate=True), world.model("other", Claim(ONE), open_gate=True)
    answers: list[float] = []

    def done(result: Result) -> None:
        answers.append(world.infer(other).result(WAIT))

    turn = busy.submit(Call({"x": np.array([[1.0]])}, 1, 8, None, done=done))
    assert turn is not None
    turn.run()
    assert answers == [2.0]


def test_a_run_that_fails_gives_its_resources_back(world: World) -> None:
    _, other, running = waits(world)
    world.instances["busy"][0].fail = BackendError("out of memory")
    waiting = world.infer(other, 2.0)
    world.release("busy")
    world.release("other")
    with pytest.raises(BackendError):
        running.result(WAIT)
    assert waiting.result(WAIT) == 4.0


def test_a_request_that_waits_for_resources_leaves_at_its_deadline_and_no_resource_is_lost(clock: HandClock) -> None:
    world = World(clock)
    _, other, running = waits(world)
    late = world.infer(other, deadline=clock.now + 0.05)
    until_it_waits(other)
    clock.forward(0.05)
    with pytest.raises(DeadlineExceeded):
        late.result(WAIT)
    assert other.queued == (0, 0)
    third = world.model("third", Claim(ONE), open_gate=True)
    waiting = world.infer(third)
    world.release("busy")
    assert running.result(WAIT) == 2.0
    assert waiting.result(WAIT) == 2.0
    assert world.place.order == ["busy", "third"]
    wait_until(lambda: other.awaiting_resources == 0)
    assert other.instances == (0, 1)
    world.release("other")
    assert world.infer(other).result(WAIT) == 2.0


def test_a_request_that_waits_for_resources_can_be_cancelled(world: World) -> None:
    class Client:
        def on_cancel(self, callback: Callable[[], None] | None) -> None:
            self.callback = callback

    _, other, _ = waits(world)
    client = Client()
    cancelled = world.infer(other, cancellation=client)
    until_it_waits(other)
    assert client.callback is not None
    client.callback()
    with pytest.raises(Cancelled):
        cancelled.result(WAIT)
    world.release("busy")
    wait_until(lambda: other.awaiting_resources == 0)
    assert world.place.order == ["busy"]


def test_a_model_is_idle_at_once_if_its_last_request_leaves_while_it_waits(clock: HandClock) -> None:
    """Or its unloading would take as long as another model's run."""
    world = World(clock)
    _, other, running = waits(world)
    late = world.infer(other, deadline=clock.now + 0.05)
    until_it_waits(other)
    clock.forward(0.05)
    with pytest.raises(DeadlineExceeded):
        late.result(WAIT)
    idle = threading.Event()
    until_it_waits(other)
    other.when_idle(idle.set)
    assert idle.is_set()
    assert other.instances == (0, 1)
    assert not running.done()
    last = world.infer(other)
    for name in ("busy", "other"):
        world.release(name)
    assert last.result(WAIT) == 2.0


def test_a_turn_that_comes_for_resources_when_its_model_is_unloaded_does_not_wait_for_them(world: World) -> None:
    busy, other = (world.model(name, Claim(ONE)) for name in ("busy", "other"))
    running = world.infer(busy)
    assert world.entered("busy")
    cancellation = Cancellation()
    answers: list[Result] = []
    request = Call({"x": np.array([[1.0]])}, 1, 8, None, None, cancellation, done=answers.append)
    turn = other.submit(request)
    assert turn is not None
    cancellation.cancel()
    assert isinstance(answers[0], Cancelled)
    idle = threading.Event()
    other.when_idle(idle.set)
    assert not idle.is_set(), "the turn is still to come"
    turn.run()
    assert idle.is_set()
    world.release("busy")
    assert running.result(WAIT) == 2.0


def test_closing_ends_what_waits_and_lets_others_go_on(world: World) -> None:
    _, other, running = waits(world)
    waiting = world.infer(other)
    until_it_waits(other)
    other.close()
    with pytest.raises(Stopping):
        waiting.result(WAIT)
    assert other.awaiting_resources == 0
    third = world.model("third", Claim(ONE), open_gate=True)
    last = world.infer(third)
    world.release("busy")
    assert (running.result(WAIT), last.result(WAIT)) == (2.0, 2.0)


def test_a_model_that_is_closed_while_it_runs_gives_its_resources_back(world: World) -> None:
    busy, other, running = waits(world)
    waiting = world.infer(other)
    until_it_waits(other)
    busy.close()
    world.release("busy")
    world.release("other")
    assert (running.result(WAIT), waiting.result(WAIT)) == (2.0, 2.0)


def test_a_model_that_is_closed_claims_nothing_any_more(world: World) -> None:
    world.model("large", Claim({"gpu": 2})).close()
    _, other, _ = waits(world)
    world.infer(other)
    until_it_waits(other)


def test_a_run_that_hangs_holds_up_only_its_own_model(world: World) -> None:
    hung = world.model("hung", Claim(ONE), health=Health(timeout=0.05))
    lost = world.infer(hung)
    assert world.entered("hung")
    other = world.model("other", Claim(ONE))
    waiting = world.infer(other)
    with pytest.raises(DeadlineExceeded):
        lost.result(WAIT)
    assert world.entered("other"), "the resource was not given back"
    third = world.model("third", Claim(ONE), open_gate=True)
    last = world.infer(third)
    until_it_waits(third)
    world.release("hung")
    wait_until(lambda: world.place.running == 1)
    assert third.awaiting_resources == 1, "the resource was given back twice"
    world.release("other")
    assert (waiting.result(WAIT), last.result(WAIT)) == (2.0, 2.0)


def test_all_instances_of_a_model_compete(world: World) -> None:
    twins = world.model("twins", Claim(ONE), instances=2)
    futures = [world.infer(twins) for _ in range(3)]
    wait_until(lambda: world.place.running == 1)
    until_it_waits(twins)
    assert twins.instances == (1, 2)
    for instance in world.instances["twins"]:
        for _ in futures:
            instance.go.release()
    assert [future.result(WAIT) for future in futures] == [2.0] * 3
    assert world.place.most == {"gpu": 1}
    wait_until(lambda: twins.instances == (0, 2))


def test_a_claim_that_can_never_be_met_is_refused() -> None:
    with pytest.raises(LoadError, match="a run needs 2 of the resource 'gpu', of which there are 1"):
        World(gpu=1).model("greedy", Claim({"gpu": 2}))


@pytest.mark.parametrize("slow", [False, True], ids=["brief", "long"])
def test_models_that_always_have_work_take_turns_by_weight(world: World, slow: bool) -> None:
    """Behind a run that holds the resource until all of them wait."""
    blocker = world.model("blocker", Claim(ONE))
    models = {name: world.model(name, Claim(ONE, weight), open_gate=True) for name, weight in (("a", 2), ("b", 1))}
    if slow:
        for name in models:
            instance = world.instances[name][0]
            run = instance.run
            instance.run = lambda inputs, run=run: (time.sleep(0.002), run(inputs))[1]  # type: ignore[method-assign]
    world.infer(blocker)
    assert world.entered("blocker")
    futures = [world.infer(scheduler) for _ in range(30) for scheduler in models.values()]
    for scheduler in models.values():
        until_it_waits(scheduler)
    world.release("blocker")
    assert [future.result(WAIT) for future in futures] == [2.0] * 60
    assert world.place.most == {"gpu": 1}
    both = world.place.order[1:46]  # as long as both have work
    assert both.count("a") == pytest.approx(30, abs=1)


def test_under_load_from_many_threads_nothing_is_lost(world: World) -> None:
    world = World(gpu=2, disk=1)
    claims = {"a": Claim({"gpu": 1}, 2), "b": Claim({"gpu": 2}), "c": Claim({"gpu": 1, "disk": 1}, 0.5), "d": None}
    models = {name: world.model(name, claim, instances=3, open_gate=True, max_rows=4) for name, claim in claims.items()}
    outcomes: Counter[object] = Counter()

    def send() -> None:
        for number in range(40):
            deadline = time.monotonic() + 0.001 if number % 10 == 0 else None
            futures = [world.infer(each, deadline=deadline) for each in models.values() for _ in range(5)]
            outcomes.update(type(future.exception(WAIT)) for future in futures)

    senders = [threading.Thread(target=send) for _ in range(4)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    assert outcomes[type(None)] + outcomes[DeadlineExceeded] == 4 * 40 * 4 * 5
    assert outcomes[type(None)] >= 4 * 36 * 4 * 5
    assert world.place.most <= Counter(gpu=2, disk=1)
    for scheduler in models.values():
        wait_until(lambda scheduler=scheduler: scheduler.instances == (0, 3))  # type: ignore[misc]
        assert (scheduler.queued, scheduler.awaiting_resources) == ((0, 0), 0)
    last = [world.infer(scheduler).result(WAIT) for scheduler in models.values()]
    assert last == [2.0] * 4
