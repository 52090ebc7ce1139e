"""Continuous batching: what becomes of requests to one engine, whatever happens to it."""

from __future__ import annotations

import gc
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from threading import Event

import pytest
from fake_engine import FakeEngine, FakeTokenizer, answer
from hypothesis import given, settings
from hypothesis import strategies as st
from vintner.alarms import AlarmClock
from vintner.batching import QueueLimits
from vintner.errors import (
    BackendError,
    Cancelled,
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    QueueFull,
    QueueTimeout,
    Stopping,
    TooLarge,
)
from vintner.generation import Constraint, Sampling
from vintner.generation_call import GenerationCall
from vintner.generation_metrics import GenerationMetrics
from vintner.prompts import Language, Piece, Work
from vintner.stepping import Stepper
from vintner.types import Cancellation
from waiting import wait_until

WAIT = 20.0
MANY = 10_000


class Client:
    """Asks, and takes what comes."""

    def __init__(self, streams: bool = True) -> None:
        self.streams = streams
        self.room = True
        self.pieces: list[Piece] = []
        self.ends: list[Exception | None] = []
        self.ended = Event()
        self.cancellation = Cancellation()

    def prepare(self, language: Language) -> Work:
        raise AssertionError("the work is made by the test")

    def has_room(self) -> bool:
        return self.room

    def take(self, pieces: Sequence[Piece]) -> None:
        self.pieces.extend(pieces)

    def end(self, error: Exception | None) -> None:
        self.ends.append(error)
        self.ended.set()

    @property
    def error(self) -> Exception | None:
        assert self.ended.wait(WAIT)
        assert len(self.ends) == 1
        return self.ends[0]

    def text(self, index: int = 0) -> str:
        assert self.error is None
        return "".join(piece.text for piece in self.pieces if piece.index == index)

    @property
    def finish(self) -> str:
        assert self.error is None
        return self.pieces[-1].finish


class World:
    """An engine with a stepper in front."""

    def __init__(
        self,
        engine: FakeEngine | None = None,
        limits: QueueLimits | None = None,
        timeout: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.engine = engine or FakeEngine()
        self.metrics = GenerationMetrics()
        self.closed = Event()
        self.stepper = Stepper(
            self.engine,
            limits=limits or QueueLimits(),
            metrics=self.metrics,
            alarms=AlarmClock(),
            timeout=timeout,
            clock=clock,
            closed=self.closed.set,
        )

    def ask(
        self,
        *prompts: str,
        streams: bool = True,
        n: int = 1,
        stop: Sequence[str] = (),
        sampling: Sampling | None = None,
        deadline: float | None = None,
        timeout: float | None = None,
    ) -> Client:
        client = Client(streams)
        tokens = [list(f"{prompt}|".encode()) for prompt in prompts]
        work = Work(tokens, sampling or Sampling(MANY), n, tuple(stop))
        now = time.monotonic()
        call = GenerationCall(
            client,
            work,
            FakeTokenizer(),
            client.end,
            deadline=None if deadline is None else now + deadline,
            timeout=None if timeout is None else now + timeout,
            cancellation=client.cancellation,
        )
        self.stepper.submit(call)
        return client

    def step(self, count: int = 1) -> None:
        """Lets so many steps be made, and waits until the next one is held, for which something must be running."""
        wait_until(lambda: self.engine.entered)
        target = self.engine.entered + count
        self.engine.steps.release(count)
        wait_until(lambda: self.engine.entered >= target)

    def run(self) -> None:
        """No step is held any more."""
        self.engine.held = False
        self.engine.steps.release()

    def until_running(self, count: int) -> None:
        wait_until(lambda: len(self.engine.running) == count)

    def end(self) -> None:
        self.stepper.close()
        self.run()
        assert self.closed.wait(WAIT)


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.end()


def test_an_answer_comes_piece_by_piece_and_ends(world: World) -> None:
    client = world.ask("edcba")
    world.run()
    assert client.text() == "abcde"
    assert client.finish == "stop"
    assert sum(piece.tokens for piece in client.pieces) == 5
    assert [piece.finish for piece in client.pieces[:-1]] == [""] * (len(client.pieces) - 1)
    assert world.metrics.ended["stop"] == 1
    assert (world.metrics.prompt_tokens, world.metrics.generated_tokens) == (6, 5)


def test_who_does_not_want_a_stream_gets_one_piece(world: World) -> None:
    client = world.ask("edcba", streams=False)
    world.run()
    assert client.text() == "abcde"
    assert len(client.pieces) == 1


def test_requests_join_while_others_run(world: World) -> None:
    first = world.ask("9876543210")
    world.until_running(1)
    world.step(3)
    second = world.ask("ba")
    world.step(1)
    world.until_running(2)
    world.step(3)
    assert second.text() == "ab"
    assert not first.ended.is_set()
    world.run()
    assert first.text() == "0123456789"


def test_the_length_that_was_asked_for_ends_an_answer(world: World) -> None:
    client = world.ask("edcba", sampling=Sampling(3))
    world.run()
    assert client.text() == "abc"
    assert client.finish == "length"


def test_each_prompt_has_as_many_answers_as_were_asked_for_with_seeds_of_their_own(world: World) -> None:
    client = world.ask("ba", "dc", n=2, sampling=Sampling(MANY, seed=7))
    world.until_running(4)
    assert [one.sampling.seed for one in world.engine.running.values()] == [7, 8, 7, 8]
    world.run()
    assert [client.text(index) for index in range(4)] == ["ab", "ab", "cd", "cd"]
    assert len(client.ends) == 1


def test_a_stop_string_ends_an_answer_before_it_and_frees_its_place(world: World) -> None:
    client = world.ask("876543210", stop=["345"])
    world.run()
    assert client.text() == "012"
    assert client.pieces[-1].stop == "345"
    assert client.finish == "stop"
    assert sum(piece.tokens for piece in client.pieces) == 6
    wait_until(lambda: not world.engine.running)


def test_no_part_of_a_character_is_sent(world: World) -> None:
    client = Client()
    tokens = [*bytes(reversed("é中😀".encode())), ord("|")]
    world.stepper.submit(GenerationCall(client, Work([tokens], Sampling(MANY)), FakeTokenizer(), client.end))
    world.run()
    assert client.text() == "é中😀"
    assert all("\ufffd" not in piece.text for piece in client.pieces)


# -- ends --------------------------------------------------------------------------------------------------------


def test_who_goes_away_in_the_queue_leaves_it_at_once() -> None:
    world = World(FakeEngine(most=1))
    first = world.ask("edcba")
    world.until_running(1)
    second = world.ask("ba")
    second.cancellation.cancel()
    assert isinstance(second.error, Cancelled)
    assert world.stepper.queued == (0, 0)
    world.run()
    assert first.text() == "abcde"
    assert world.engine.added == ["edcba|"]
    assert world.metrics.ended["abort"] == 1
    world.end()


def test_the_longest_wait_is_of_requests_of_which_the_engine_has_nothing() -> None:
    now = [1000.0]
    world = World(FakeEngine(most=1), clock=lambda: now[0])
    first = world.ask("edcba", n=2)
    world.until_running(1)
    now[0] += 60
    assert world.stepper.longest_wait == 0, "one of its sequences is there"
    second = world.ask("ba")
    now[0] += 7
    world.ask("dc")
    assert world.stepper.longest_wait == 7
    world.run()
    assert [first.text(), second.text()] == ["abcde", "ab"]
    wait_until(lambda: world.stepper.longest_wait == 0)
    world.end()


def test_who_goes_away_while_it_is_generated_for_frees_its_place_before_the_next_step() -> None:
    world = World(FakeEngine(most=1))
    first = world.ask("edcba" * 100)
    world.until_running(1)
    world.step(2)
    second = world.ask("ba")
    first.cancellation.cancel()
    assert isinstance(first.error, Cancelled)
    world.step(1)
    assert world.engine.added[-1] == "ba|"
    world.run()
    assert second.text() == "ab"
    assert world.engine.cancelled == [1]
    world.end()


def test_a_deadline_ends_a_request_that_runs_and_one_that_waits() -> None:
    world = World(FakeEngine(most=1))
    running = world.ask("edcba", deadline=0.01)
    waiting = world.ask("ba", timeout=0.01)
    assert isinstance(running.error, DeadlineExceeded)
    assert isinstance(waiting.error, (QueueTimeout, DeadlineExceeded))
    world.end()


def test_a_timeout_of_the_queue_does_not_end_what_runs() -> None:
    world = World()
    client = world.ask("edcba", timeout=3600)
    world.until_running(1)
    world.run()
    assert client.text() == "abcde"
    world.end()


def test_more_than_the_queue_has_room_for_is_refused() -> None:
    world = World(FakeEngine(most=1), QueueLimits(max_requests=1))
    world.ask("edcba")
    world.until_running(1)
    world.ask("ba")
    with pytest.raises(QueueFull):
        world.ask("ba")
    world.end()


def test_a_model_that_is_closed_answers_all_and_is_let_go_of_once_its_step_is_over() -> None:
    world = World(FakeEngine(most=1))
    clients = [world.ask("edcba"), world.ask("ba")]
    world.until_running(1)
    world.stepper.close()
    assert all(isinstance(client.error, Stopping) for client in clients)
    assert not world.closed.is_set()
    with pytest.raises(Stopping):
        world.ask("ba")
    world.run()
    assert world.closed.wait(WAIT)


def test_who_waits_for_the_model_to_be_idle_is_told_once_nothing_runs(world: World) -> None:
    idle = Event()
    client = world.ask("edcba")
    world.until_running(1)
    world.stepper.when_idle(idle.set)
    assert not idle.is_set()
    world.run()
    assert client.text() == "abcde"
    assert idle.wait(WAIT)


def test_what_the_engine_refuses_is_told(world: World) -> None:
    world.engine.refuse = InvalidArgument("no such adapter")
    client = world.ask("ba")
    assert client.error is world.engine.refuse


# -- readers -----------------------------------------------------------------------------------------------------


def test_a_slow_reader_gets_its_text_together_and_holds_up_nobody(world: World) -> None:
    slow, quick = world.ask("9876543210"), world.ask("edcba")
    slow.room = False
    world.until_running(2)
    world.run()
    assert quick.text() == "abcde"
    assert slow.text() == "0123456789"
    assert len(slow.pieces) == 1


# -- room --------------------------------------------------------------------------------------------------------


def test_an_engine_of_waves_is_given_a_wave_at_a_time() -> None:
    world = World(FakeEngine(most=2, waves=True))
    clients = [world.ask("edcba") for _ in range(5)]
    world.run()
    assert [client.text() for client in clients] == ["abcde"] * 5
    assert world.engine.most_together <= 2
    world.end()


def test_an_answer_begins_only_where_the_cache_has_room_for_it() -> None:
    world = World(FakeEngine(blocks=6, block_tokens=4))
    long = Sampling(10)
    clients = [world.ask("9876543210", sampling=long) for _ in range(4)]
    world.until_running(1)
    world.run()
    assert [client.text() for client in clients] == ["0123456789"] * 4
    assert world.engine.most_together == 1
    assert world.metrics.retried == 0
    world.end()


@pytest.mark.parametrize("all_lose", [False, True])
def test_an_answer_for_which_the_cache_has_no_more_room_goes_on_when_others_have_left(all_lose: bool) -> None:
    world = World(FakeEngine(blocks=340, block_tokens=4))
    world.engine.all_lose = all_lose
    prompts = ["".join(chr(97 + (i + k) % 26) for i in range(380)) for k in range(2)]
    clients = [world.ask(prompt) for prompt in prompts]
    world.run()
    assert [client.text() for client in clients] == [answer(prompt) for prompt in prompts]
    assert world.metrics.no_room > 0
    world.end()


def test_alone_an_answer_that_finds_no_room_is_an_error() -> None:
    world = World(FakeEngine(blocks=4, block_tokens=4))
    client = world.ask("9876543210")
    world.run()
    assert isinstance(client.error, TooLarge)
    assert "16 tokens" in str(client.error)
    with pytest.raises(TooLarge, match="a prompt of 21 tokens"):
        world.ask("98765432109876543210")
    world.end()


def test_answers_with_different_adapters_are_not_generated_together_where_they_cannot_be(world: World) -> None:
    world.engine.mixes_adapters = False
    kinds = [{"a": 1.0}, {}, {"a": 1.0}, {"a": 0.5}]
    clients = [world.ask(f"{number}cba", sampling=Sampling(MANY, adapters=kind)) for number, kind in enumerate(kinds)]
    together: list[set[str]] = []
    world.engine.fail = lambda prompts: together.append({prompt[0] for prompt in prompts}) or ""
    world.run()
    assert [client.text() for client in clients] == [f"abc{number}" for number in range(4)]
    assert all(len(numbers) == 1 for numbers in together)


# -- failures ----------------------------------------------------------------------------------------------------


def poisoned(prompts: Sequence[str]) -> str:
    return "it cannot be followed" if any(prompt.startswith("bad") for prompt in prompts) else ""


@pytest.mark.parametrize("constraint", [None, Constraint("json_schema", "{}")])
def test_one_that_makes_steps_fail_is_found_and_the_others_do_not_notice(
    world: World, constraint: Constraint | None
) -> None:
    world.engine.fail = poisoned
    good = [world.ask(f"{'9876543210' * 3}{number}") for number in range(3)]
    world.until_running(3)
    world.step(5)
    sampling = Sampling(MANY, constraint=constraint)
    bad = world.ask("bad", sampling=sampling)
    late = [world.ask("edcba", sampling=sampling) for _ in range(3)]
    world.run()
    assert isinstance(bad.error, InvalidArgument if constraint else BackendError)
    assert "it cannot be followed" in str(bad.error)
    for number, client in enumerate(good):
        assert client.text() == f"{number}{'0123456789' * 3}"
    assert [client.text() for client in late] == ["abcde"] * 3


def test_several_that_make_steps_fail_are_each_found(world: World) -> None:
    world.engine.fail = poisoned
    clients = [world.ask(prompt) for prompt in ("bad1", "edcba", "bad2", "ba")]
    world.run()
    assert isinstance(clients[0].error, BackendError)
    assert isinstance(clients[2].error, BackendError)
    assert [clients[1].text(), clients[3].text()] == ["abcde", "ab"]


def test_one_that_fails_late_is_found_among_others_though_all_have_begun(world: World) -> None:
    constrained = Sampling(MANY, constraint=Constraint("regex", ".*"))
    world.engine.fail = lambda prompts: "now" if any(prompt.endswith("|012") for prompt in prompts) else ""
    innocent = [world.ask(f"{letter * 9}") for letter in "xy"]
    also = world.ask("zzzzzzzz", sampling=constrained)
    bad = world.ask("876543210", sampling=constrained)
    world.until_running(4)
    world.run()
    assert isinstance(bad.error, InvalidArgument)
    assert [client.text() for client in innocent] == ["x" * 9, "y" * 9]
    assert also.text() == "z" * 8


def test_an_engine_that_always_fails_ends_every_request(world: World) -> None:
    world.engine.fail = lambda prompts: "out of order"
    clients = [world.ask("edcba") for _ in range(6)]
    world.run()
    assert all(isinstance(client.error, BackendError) for client in clients)
    world.engine.fail = lambda prompts: ""
    assert world.ask("ba").text() == "ab"


def test_an_engine_that_cannot_take_a_request_begins_anew_and_nobody_notices(world: World) -> None:
    """Such as one whose process has died, or in which those that nobody wants any more went wrong."""
    first = world.ask("9876543210")
    world.until_running(1)
    world.step(3)
    world.engine.broken = "the process ended"
    second = world.ask("edcba")
    world.run()
    assert first.text() == "0123456789"
    assert second.text() == "abcde"
    assert world.engine.resets == 1


def test_a_request_that_an_engine_can_never_take_is_an_error_and_the_others_go_on(world: World) -> None:
    first = world.ask("9876543210")
    world.until_running(1)
    world.step(3)
    add = world.engine.add

    def refusing(key: int, tokens: Sequence[int], sampling: Sampling) -> None:
        if bytes(tokens) == b"bad|":
            raise BackendError("it breaks the engine")
        add(key, tokens, sampling)

    world.engine.add = refusing  # type: ignore[method-assign]
    bad = world.ask("bad")
    world.run()
    assert isinstance(bad.error, BackendError)
    assert first.text() == "0123456789"


def test_a_request_alone_is_tried_again_for_it_may_have_been_the_engine(world: World) -> None:
    failures = iter(["the process ended"])
    client = world.ask("edcba")
    world.until_running(1)
    world.step(2)
    world.engine.fail = lambda prompts: next(failures, "")
    world.run()
    assert client.text() == "abcde"
    assert world.engine.resets == 1


def test_an_answer_that_cannot_be_handed_over_costs_nobody_else_a_step(world: World) -> None:
    broken, whole = world.ask("9876543210"), world.ask("edcba")
    world.until_running(2)

    def fail(pieces: Sequence[Piece]) -> None:
        raise ValueError("a fault of ours")

    broken.take = fail  # type: ignore[method-assign]
    world.run()
    assert isinstance(broken.error, Internal)
    assert whole.text() == "abcde"
    assert world.engine.resets == 0
    wait_until(lambda: not world.engine.running)


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(MANY, constraint=Constraint("regex", ".*")),
        Sampling(MANY, presence_penalty=0.5),
        Sampling(MANY, frequency_penalty=0.5),
    ],
)
def test_what_depends_on_the_begin_of_its_answer_is_generated_from_there_and_not_sent_twice(
    world: World, sampling: Sampling
) -> None:
    client = world.ask("876543210", sampling=sampling)
    world.until_running(1)
    world.step(4)
    world.engine.fail = poisoned
    bad = world.ask("bad")
    world.run()
    assert isinstance(bad.error, BackendError)
    assert client.text() == "012345678"
    assert world.engine.added.count("876543210|") >= 2


def test_an_engine_that_cannot_be_reset_answers_all_and_takes_nothing_more(world: World) -> None:
    world.engine.fail, world.engine.lost = poisoned, True
    clients = [world.ask("edcba"), world.ask("bad")]
    world.run()
    assert all(isinstance(client.error, BackendError) for client in clients)
    assert "the device is gone" in world.stepper.fault
    with pytest.raises(BackendError):
        world.ask("ba")


def test_a_step_that_takes_too_long_loses_its_requests_but_not_the_model() -> None:
    world = World(timeout=0.05)
    client = world.ask("edcba")
    assert isinstance(client.error, BackendError)
    assert "more than 0.05 s" in world.stepper.fault
    with pytest.raises(BackendError):
        world.ask("ba")
    world.stepper.reconfigure(QueueLimits(), None)
    world.run()
    wait_until(lambda: not world.stepper.fault)
    assert world.ask("ba").text() == "ab"
    world.end()


def test_one_that_was_alone_when_the_runtime_died_goes_on(world: World) -> None:
    client = world.ask("edcba")
    world.until_running(1)
    world.step(2)
    deaths = iter(["it was killed"])
    world.engine.fail = lambda prompts: next(deaths, "")
    world.run()
    assert client.text() == "abcde"


def test_nothing_of_a_request_is_left_for_the_collector_of_garbage(world: World) -> None:
    world.engine.held = False
    world.ask("edcba").text()
    gc.collect()
    gc.disable()
    try:
        calls = [weakref.ref(world.ask("edcba", n=2)) for _ in range(5)]
        wait_until(lambda: not world.stepper.busy and not world.stepper.queued[0])
        wait_until(lambda: all(call() is None for call in calls))
    finally:
        gc.enable()


# -- anything ----------------------------------------------------------------------------------------------------

letters = st.text("abcdef", min_size=1, max_size=30)
requests = st.lists(
    st.tuples(letters, st.sampled_from(["", "bad"]), st.integers(1, 40), st.booleans(), st.booleans()),
    min_size=1,
    max_size=12,
)


@settings(deadline=None, max_examples=60)
@given(requests, st.integers(1, 4), st.booleans(), st.sampled_from([0, 12]))
def test_whatever_is_asked_each_request_ends_once_and_as_if_it_were_alone(
    asked: list[tuple[str, str, int, bool, bool]], most: int, waves: bool, blocks: int
) -> None:
    world = World(FakeEngine(most, waves, blocks, held=False))
    world.engine.fail = poisoned
    clients: list[tuple[Client, str, int]] = []
    for text, kind, length, streams, constrained in asked:
        constraint = Constraint("regex", ".*") if constrained else None
        client = world.ask(kind + text, streams=streams, sampling=Sampling(length, constraint=constraint))
        clients.append((client, kind + text, length))
    for client, prompt, length in clients:
        if prompt.startswith("bad"):
            assert isinstance(client.error, (BackendError, InvalidArgument))
        elif blocks and isinstance(client.error, TooLarge):
            assert len(prompt) + 1 + min(length, len(prompt)) > blocks * 4 - 4
        else:
            assert client.text() == answer(prompt)[:length]
            assert client.finish == ("stop" if length > len(prompt) else "length")
    world.end()
