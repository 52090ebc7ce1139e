"""What is counted of requests to a language model, and when: each figure against what it is said to be."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from threading import Event

import pytest
from fake_engine import FakeEngine, FakeTokenizer, Generated
from vintner.alarms import AlarmClock
from vintner.batching import QueueLimits
from vintner.errors import BackendError, Cancelled, DeadlineExceeded, QueueTimeout
from vintner.generation import CacheUse, Constraint, Progress, Sampling
from vintner.generation_call import GenerationCall
from vintner.generation_metrics import FIRST_TOKEN, REQUEST, TOKEN, GenerationMetrics, Load
from vintner.histograms import Histogram
from vintner.prompts import Language, Piece, Work
from vintner.stepping import Stepper
from vintner.timing import Timing
from vintner.types import Cancellation
from vintner.vllm_metrics import HISTOGRAMS
from waiting import wait_until

Runs = list[tuple[int, Sequence[float], tuple[float, float, float]]]


class Client:
    """Asks, and takes what comes."""

    streams = False

    def __init__(self) -> None:
        self.ended = Event()
        self.tokens = 0
        self.cancellation = Cancellation()

    def prepare(self, language: Language) -> Work:
        raise AssertionError("the work is made by the test")

    def has_room(self) -> bool:
        return True

    def take(self, pieces: Sequence[Piece]) -> None:
        self.tokens += sum(piece.tokens for piece in pieces)

    def end(self, error: Exception | None) -> None:
        self.ended.set()


class World:
    """A stepper whose engine makes a step when it is told at which time that has ended."""

    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine
        self.now = 1.0
        self.runs: Runs = []
        self.counts = GenerationMetrics(lambda *run: self.runs.append(run))
        self.closed = Event()
        self.stepper = Stepper(
            engine,
            limits=QueueLimits(),
            metrics=self.counts,
            alarms=AlarmClock(),
            clock=lambda: self.now,
            closed=self.closed.set,
        )

    def ask(
        self,
        *prompts: str,
        n: int = 1,
        received: float = 0.0,
        sampling: Sampling | None = None,
        stop: tuple[str, ...] = (),
        timing: Timing | None = None,
    ) -> Client:
        client = Client()
        work = Work([list(f"{prompt}|".encode()) for prompt in prompts], sampling or Sampling(100), n, stop)
        call = GenerationCall(
            client,
            work,
            FakeTokenizer(),
            client.end,
            cancellation=client.cancellation,
            received=received,
            timing=timing,
        )
        self.stepper.submit(call)
        return client

    def begun(self) -> None:
        """A step waits for its end."""
        wait_until(lambda: self.engine.entered > self.counts.steps)

    def step(self, now: float) -> None:
        """The step that waits ends at that time."""
        self.begun()
        steps = self.counts.steps
        self.now = now
        self.engine.steps.release()
        wait_until(lambda: self.counts.steps > steps)

    def end(self) -> None:
        self.stepper.close()
        self.engine.held = False
        self.engine.steps.release()
        assert self.closed.wait(20.0)


Make = Callable[..., World]


@pytest.fixture
def make() -> Iterator[Make]:
    worlds: list[World] = []

    def made(engine: FakeEngine | None = None) -> World:
        worlds.append(World(engine or FakeEngine()))
        return worlds[-1]

    yield made
    for world in worlds:
        world.end()


def seen(histogram: Histogram) -> tuple[int, float]:
    """How many, and their sum."""
    return sum(histogram.counts), histogram.total


ONCE = ("whole", "decode", "inference", "prompt_length", "answer_length", "longest_choice", "max_tokens", "choices")


def test_each_time_is_from_and_to_what_it_says(make: Make) -> None:
    world = make()
    timing = Timing(0.5)
    client = world.ask("cba", received=0.5, timing=timing)
    for now in (3.0, 4.0, 6.0, 9.0):  # three tokens, and the end
        world.step(now)
    assert client.ended.wait(20.0)
    counts = world.counts
    assert seen(counts.queued) == (1, 0.0)
    assert seen(counts.first_token) == (1, 2.5)
    assert seen(counts.prefill) == (1, 2.0)
    assert seen(counts.between_tokens) == (2, 3.0)
    assert seen(counts.per_token) == (1, 1.5)
    assert seen(counts.decode) == (1, 3.0)
    assert seen(counts.inference) == (1, 5.0)
    assert seen(counts.whole) == (1, 8.5)
    assert (counts.prompt_tokens, counts.generated_tokens, counts.steps) == (4, 3, 4)
    assert seen(counts.step_tokens) == (4, 4.0 + 3.0)
    assert world.runs == [(1, (0.0,), (0.0, 8.0, 0.0))]
    assert (timing.queue, timing.stages[1], timing.prompt_tokens, timing.generated_tokens) == (0.0, 8.0, 4, 3)


def test_a_request_that_waits_for_a_place_is_queued_until_the_engine_gets_it(make: Make) -> None:
    world = make(FakeEngine(most=1))
    world.ask("b")
    world.begun()
    world.now = 2.0
    waits = world.ask("a")
    assert world.counts.load() == Load(1, 1, 1, 1, CacheUse(block_tokens=4))
    world.step(3.0)
    world.step(4.0)
    world.begun()
    assert world.counts.load() == Load(1, 0, 1, 0, CacheUse(block_tokens=4))
    assert seen(world.counts.queued) == (2, 2.0)
    world.step(7.0)
    world.step(8.0)
    assert waits.ended.wait(20.0)
    assert seen(world.counts.prefill) == (2, 2.0 + 3.0)
    assert world.counts.load() == Load(cache=CacheUse(block_tokens=4))


def test_what_waits_for_room_in_the_cache_is_not_read_yet(make: Make) -> None:
    """It was taken out of the queue, but the engine has not got it."""
    world = make(FakeEngine(blocks=3, block_tokens=4))
    sampling = Sampling(4)
    world.ask("dcba", sampling=sampling)
    world.begun()
    waits = world.ask("b", sampling=sampling)
    world.step(2.0)
    load = world.counts.load()
    assert (load.running_requests, load.waiting_requests, load.running, load.waiting) == (1, 1, 1, 1)
    for now in (3.0, 4.0, 5.0, 6.0, 7.0):
        world.step(now)
    assert waits.ended.wait(20.0)
    assert seen(world.counts.queued) == (2, 4.0)
    assert seen(world.counts.prefill) == (2, 1.0 + 1.0)


def test_the_choices_of_a_request_are_one_request_and_each_has_its_own_pace(make: Make) -> None:
    world = make()
    client = world.ask("cba", "a.zy", n=2)
    for now in (2.0, 3.0, 4.0, 5.0):
        world.step(now)
    assert client.ended.wait(20.0)
    counts = world.counts
    assert (counts.prompt_tokens, counts.generated_tokens) == (4 + 5, 2 * 3 + 2 * 2)
    assert client.tokens == counts.generated_tokens
    assert [seen(getattr(counts, name))[0] for name in ONCE] == [1] * len(ONCE)
    assert seen(counts.first_token) == (1, 1.0)
    assert seen(counts.per_token) == (4, 4.0)
    assert seen(counts.prompt_length) == (1, 9.0)
    assert seen(counts.answer_length) == (1, 10.0)
    assert seen(counts.longest_choice) == (1, 3.0)
    assert seen(counts.choices) == (1, 2.0)
    assert counts.ended == {"stop": 1, "length": 0, "abort": 0, "error": 0}
    assert world.runs == [(4, (0.0,), (0.0, 4.0, 0.0))]


def test_a_request_is_cut_short_if_one_of_its_choices_is(make: Make) -> None:
    world = make()
    client = world.ask("a", "cba", sampling=Sampling(2))
    world.step(2.0)
    world.step(3.0)
    assert client.ended.wait(20.0)
    assert world.counts.ended == {"stop": 0, "length": 1, "abort": 0, "error": 0}
    assert seen(world.counts.max_tokens) == (1, 2.0)


def test_an_empty_answer_has_its_prompt_counted_and_its_first_token_is_the_end(make: Make) -> None:
    world = make()
    client = world.ask("z.")
    world.step(3.0)
    assert client.ended.wait(20.0)
    counts = world.counts
    assert (counts.prompt_tokens, counts.generated_tokens) == (3, 0)
    assert seen(counts.first_token) == (1, 2.0)
    assert seen(counts.decode) == (1, 0.0)
    assert seen(counts.per_token)[0] == seen(counts.between_tokens)[0] == 0
    assert counts.ended["stop"] == 1


class Guessing(FakeEngine):
    """Gives two tokens with a step, as with speculative decoding."""

    def _next(self, key: int, one: Generated) -> Progress:
        first = super()._next(key, one)
        if first.end:
            return first
        second = super()._next(key, one)
        return Progress(key, [*first.tokens, *second.tokens], (), second.end)


def test_tokens_that_come_together_are_counted_each_but_are_one_interval(make: Make) -> None:
    world = make(Guessing())
    client = world.ask("gfedcba")
    for now in (2.0, 4.0, 6.0, 8.0):
        world.step(now)
    assert client.ended.wait(20.0)
    assert world.counts.generated_tokens == client.tokens == 7
    assert seen(world.counts.between_tokens) == (3, 6.0)
    assert seen(world.counts.per_token) == (1, 1.0)


def test_what_is_cancelled_in_the_queue_has_not_run(make: Make) -> None:
    world = make(FakeEngine(most=1))
    world.ask("b")
    world.begun()
    waits = world.ask("a")
    waits.cancellation.cancel()
    assert waits.ended.wait(20.0)
    counts = world.counts
    assert counts.ended == {"stop": 0, "length": 0, "abort": 1, "error": 0}
    assert counts.load().waiting == counts.load().waiting_requests == 0
    assert (world.runs, seen(counts.queued)[0], seen(counts.whole)[0]) == ([], 1, 0)


def test_what_is_cancelled_while_it_runs_has_run_and_has_no_more_tokens(make: Make) -> None:
    world = make()
    client = world.ask("cba")
    world.step(2.0)
    world.begun()
    client.cancellation.cancel()
    assert client.ended.wait(20.0)
    world.now = 3.0
    world.engine.steps.release()
    wait_until(lambda: not world.stepper.busy)
    counts = world.counts
    assert counts.generated_tokens == 1
    assert counts.ended["abort"] == 1
    assert len(world.runs) == 1
    assert seen(counts.whole)[0] == seen(counts.answer_length)[0] == 0


def test_what_is_generated_again_is_not_counted_again(make: Make) -> None:
    world = make()
    constrained = Sampling(100, constraint=Constraint("regex", "."))
    first, second = world.ask("cba", sampling=constrained), world.ask("fed", sampling=constrained)
    world.step(2.0)
    world.step(3.0)
    world.begun()
    failures = iter(["the device hiccups"])
    world.engine.fail = lambda prompts: next(failures, "")
    world.engine.held = False
    world.engine.steps.release()
    assert first.ended.wait(20.0)
    assert second.ended.wait(20.0)
    counts = world.counts
    assert counts.ended["stop"] == 2
    assert counts.generated_tokens == first.tokens + second.tokens == 6
    assert counts.prompt_tokens == 8
    assert (counts.retried, counts.no_room) == (2, 0)
    assert seen(counts.first_token)[0] == 2
    assert seen(counts.between_tokens)[0] == 4


def test_sequences_that_give_way_to_others_are_told_from_those_that_a_failure_stopped(make: Make) -> None:
    world = make()
    clients = [world.ask("edcba"), world.ask("utsrqpo")]
    world.step(2.0)
    world.begun()
    world.engine.cache = CacheUse(blocks=5, block_tokens=4)
    world.engine.held = False
    world.engine.steps.release()
    assert all(client.ended.wait(20.0) for client in clients)
    assert (world.counts.no_room, world.counts.retried) == (1, 0)
    assert world.counts.ended["stop"] == 2
    assert world.counts.generated_tokens == sum(client.tokens for client in clients) == 12
    assert world.counts.prompt_tokens == 14


@pytest.mark.parametrize(
    ("error", "end"),
    [
        (Cancelled("gone"), "abort"),
        (DeadlineExceeded("late"), "abort"),
        (QueueTimeout("full"), "error"),
        (BackendError("broken"), "error"),
        (RuntimeError("a bug"), "error"),
    ],
)
def test_why_a_request_failed(make: Make, error: Exception, end: str) -> None:
    world = make()
    world.engine.refuse = error
    client = world.ask("a")
    assert client.ended.wait(20.0)
    assert world.counts.ended == dict.fromkeys(("stop", "length", "abort", "error"), 0) | {end: 1}
    assert world.runs == []


def test_an_engine_that_rests_uses_nothing_of_its_cache_whatever_its_last_step_did(make: Make) -> None:
    engine = FakeEngine()
    engine.cache = CacheUse(0.5, 4096, 64, 32)
    world = make(engine)
    client = world.ask("a", sampling=Sampling(1))
    world.begun()
    assert world.counts.load().cache == CacheUse(0.5, 4096, 64, 32)
    world.step(2.0)
    assert client.ended.wait(20.0)
    assert world.counts.load().cache == CacheUse(0.0, 4096, 64, 32)


def test_what_is_counted_has_every_bound_that_is_shown_by_vllms_names() -> None:
    for attribute, bounds, _ in HISTOGRAMS.values():
        histogram: Histogram = getattr(GenerationMetrics(), attribute)
        assert set(map(repr, bounds)) <= set(histogram.names)
    assert all(list(bounds) == sorted(set(bounds)) for bounds in (FIRST_TOKEN, TOKEN, REQUEST))
