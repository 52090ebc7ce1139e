"""Decoupled models on the in-memory backend: what a request gets of one, and what becomes of its generator."""

from __future__ import annotations

import gc
import threading
import weakref
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest
from fake_backend import FakeGenerator, FakeModel, fake_model, write_model
from hand_clock import HandClock, hand_clock, threads_by
from model_world import WAIT, World
from vintner import recovery
from vintner.backend import LoadSpec
from vintner.decoupled import loader
from vintner.errors import BackendError, Cancelled, DeadlineExceeded, LoadError, QueueFull, Unsupported
from vintner.model_config import parse_model_config
from vintner.turns import Turn
from vintner.types import Cancellation, Request, Response, Tensor
from waiting import wait_until


class Streaming(World):
    """A world with one decoupled model, `m`, that has a response for each row."""

    def __init__(self, root: Path, config: str = "", clock: HandClock | None = None, **document: Any) -> None:
        super().__init__(root, threads=threads_by(clock) if clock else None)
        self.put("m", 1, config=config)
        write_model(root / "m" / "1", fake_model("INT32", (-1, 1)) | {"decoupled": True} | document)
        self.settle()

    @property
    def model(self) -> FakeModel:
        return self.backend.loaded[0]

    def stream(self, *rows: int, **request: Any) -> tuple[SimpleQueue[Response], SimpleQueue[Response | Exception]]:
        responses: SimpleQueue[Response] = SimpleQueue()
        answers: SimpleQueue[Response | Exception] = SimpleQueue()
        inputs = {"input": Tensor("INT32", np.array(rows, np.int32).reshape(-1, 1))}
        asked = Request("m", "", inputs, on_response=responses.put, **request)
        turn = self.service.submit(asked, "grpc", answers.put)
        if turn is not None:
            turn.pass_on()
        return responses, answers

    def outcome(self, name: str) -> int:
        return self.manager.ready("m")[0].metrics.requests["grpc"].outcomes[name]

    def counted(self, kind: str) -> list[int]:
        """Of the response statistics, by place."""
        return [kinds[kind][0] for kinds in self.manager.ready("m")[0].metrics.responses.places]


def values(responses: SimpleQueue[Response]) -> list[int]:
    found = []
    while not responses.empty():
        found += responses.get().outputs["output"].array.tolist()
    return found


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> HandClock:
    return hand_clock(monkeypatch)


@pytest.fixture
def world(tmp_path: Path) -> Streaming:
    return Streaming(tmp_path)


def test_the_responses_come_in_order_and_then_an_empty_answer(world: Streaming) -> None:
    responses, answers = world.stream(1, 2, 3, id="7")
    end = answers.get(timeout=WAIT)
    assert isinstance(end, Response)
    assert (end.model_name, end.model_version, end.id, end.outputs) == ("m", "1", "7", {})
    assert values(responses) == [2, 4, 6]
    assert world.outcome("ok") == 1


def test_each_response_leaves_as_soon_as_it_is_there(world: Streaming) -> None:
    gate = threading.Semaphore(1)
    world.model.gate = lambda: gate.acquire() and None
    responses, answers = world.stream(1, 2)
    assert responses.get(timeout=WAIT).outputs["output"].array.tolist() == [2]
    assert answers.empty()
    gate.release()
    assert isinstance(answers.get(timeout=WAIT), Response)


def test_a_request_may_have_no_response_at_all(world: Streaming) -> None:
    responses, answers = world.stream()
    assert isinstance(answers.get(timeout=WAIT), Response)
    assert responses.empty()


def test_the_parameters_reach_the_generator(world: Streaming) -> None:
    responses, answers = world.stream(5, parameters={"repeat": 3})
    answers.get(timeout=WAIT)
    assert values(responses) == [10, 10, 10]


def test_only_the_outputs_that_were_asked_for_are_given(tmp_path: Path) -> None:
    names = [{"name": f"o{i}", "datatype": "INT32", "shape": [-1, 1]} for i in range(1)]
    world = Streaming(tmp_path, outputs=names, inputs=[{"name": "input", "datatype": "INT32", "shape": [-1, 1]}])
    responses, answers = world.stream(1, outputs=("o0",))
    answers.get(timeout=WAIT)
    assert list(responses.get().outputs) == ["o0"]


def test_one_answer_is_refused(world: Streaming) -> None:
    inputs = {"input": Tensor("INT32", np.array([[1]], np.int32))}
    with pytest.raises(Unsupported, match="decoupled transaction policy"):
        world.service.infer(Request("m", "", inputs), "grpc")


def test_an_error_after_some_responses_ends_the_request(tmp_path: Path) -> None:
    world = Streaming(tmp_path, fail_after=2)
    responses, answers = world.stream(1, 2, 3)
    assert isinstance(answers.get(timeout=WAIT), BackendError)
    assert values(responses) == [2, 4]
    assert world.model.generated == 1
    assert world.counted("fail") == [0, 0, 1]


def test_a_response_that_is_no_output_of_the_model_is_an_error(world: Streaming) -> None:
    instance = world.manager.ready("m")[0]._scheduler._pools.fastest.opening.slots[0].instance
    instance._generator.generate = lambda inputs, parameters: iter([{"wrong": np.zeros(1)}])  # type: ignore[attr-defined]
    _, answers = world.stream(1)
    error = answers.get(timeout=WAIT)
    assert isinstance(error, BackendError)
    assert "wrong" in error.message


def test_a_generator_that_cannot_be_closed_hides_no_error_of_its_own(
    world: Streaming, caplog: pytest.LogCaptureFixture
) -> None:
    class Stubborn:
        def __iter__(self) -> Stubborn:
            return self

        def __next__(self) -> Any:
            raise BackendError("the device is gone")

        def close(self) -> None:
            raise RuntimeError("it cannot be closed")

    instance = world.manager.ready("m")[0]._scheduler._pools.fastest.opening.slots[0].instance
    instance._generator.generate = lambda inputs, parameters: Stubborn()  # type: ignore[attr-defined]
    error = world.stream(1)[1].get(timeout=WAIT)
    assert isinstance(error, BackendError)
    assert error.message == "the device is gone"
    assert "it cannot be closed" in caplog.text


def test_a_cancelled_request_is_answered_at_once_and_its_generator_is_closed(world: Streaming) -> None:
    gate = threading.Event()
    world.model.gate = lambda: gate.wait(WAIT) and None
    cancellation = Cancellation()
    responses, answers = world.stream(1, 2, 3, cancellation=cancellation)
    wait_until(lambda: world.model.running == 1)
    cancellation.cancel()
    assert isinstance(answers.get(timeout=WAIT), Cancelled)
    assert world.model.generated == 0
    gate.set()
    wait_until(lambda: world.model.generated == 1)
    assert world.model.runs == 1
    assert responses.empty()
    wait_until(lambda: world.counted("cancel") == [1])


def test_a_deadline_ends_a_generation(tmp_path: Path, clock: HandClock) -> None:
    world = Streaming(tmp_path, clock=clock)
    gate = threading.Semaphore(1)
    world.model.gate = lambda: gate.acquire() and None
    responses, answers = world.stream(1, 2, 3, deadline=clock.now + 0.05)
    wait_until(lambda: world.model.runs == 2)  # the second response is on its way
    clock.forward(0.05)
    assert isinstance(answers.get(timeout=WAIT), DeadlineExceeded)
    gate.release(5)
    wait_until(lambda: world.model.generated == 1)
    assert values(responses) == [2]


def slowly(world: Streaming, clock: HandClock) -> tuple[Turn, SimpleQueue[Response | Exception]]:
    """Asks for two responses, each of which is taken only after a while."""
    answers: SimpleQueue[Response | Exception] = SimpleQueue()
    inputs = {"input": Tensor("INT32", np.array([[1], [2]], np.int32))}
    request = Request("m", "", inputs, on_response=lambda response: clock.forward(0.22))
    turn = world.service.submit(request, "grpc", answers.put)
    assert turn is not None
    return turn, answers


def test_the_time_for_which_a_run_waits_for_its_client_is_not_the_models(tmp_path: Path, clock: HandClock) -> None:
    """A client that is slow must not have the model opened anew, for which all others would wait."""
    world = Streaming(tmp_path, config="execution_timeout_seconds: 0.05", clock=clock)
    world.model.gate = lambda: clock.forward(0.02)
    turn, answers = slowly(world, clock)
    turn.run()
    assert isinstance(answers.get(timeout=WAIT), Response)
    assert len(world.backend.loaded) == 1


def test_a_generator_that_hangs_is_given_up_though_its_client_was_slow(tmp_path: Path, clock: HandClock) -> None:
    world = Streaming(tmp_path, config="execution_timeout_seconds: 0.05", clock=clock)
    gate = threading.Semaphore(1)
    world.model.gate = lambda: gate.acquire(timeout=WAIT) and None
    turn, answers = slowly(world, clock)
    turn.pass_on()
    wait_until(lambda: world.model.runs == 2)  # the client has taken the first response
    clock.forward(0.04)
    assert answers.empty()
    clock.forward(0.01)
    assert isinstance(answers.get(timeout=WAIT), DeadlineExceeded)
    wait_until(lambda: len(world.backend.loaded) == 2)
    gate.release(5)
    wait_until(lambda: world.model.generated == 1)


def test_requests_wait_their_turn_and_the_queue_is_bounded(tmp_path: Path) -> None:
    world = Streaming(tmp_path, config="queue: {max_requests: 1}")
    gate = threading.Semaphore(0)
    world.model.gate = lambda: gate.acquire() and None
    _, first = world.stream(1)
    wait_until(lambda: world.model.running == 1)
    _, second = world.stream(2)
    _, third = world.stream(3)
    assert isinstance(third.get(timeout=WAIT), QueueFull)
    assert first.empty()
    assert second.empty()
    gate.release(2)
    assert isinstance(first.get(timeout=WAIT), Response)
    assert isinstance(second.get(timeout=WAIT), Response)


def test_as_many_generations_run_at_once_as_there_are_instances(tmp_path: Path) -> None:
    world = Streaming(tmp_path, config="instances: 3")
    gate = threading.Event()
    world.model.gate = lambda: gate.wait(WAIT) and None
    answers = [world.stream(1)[1] for _ in range(4)]
    wait_until(lambda: world.model.running == 3)
    gate.set()
    assert all(isinstance(each.get(timeout=WAIT), Response) for each in answers)
    assert world.model.most_running == 3


def test_a_generator_is_never_led_in_a_thread_that_has_others_to_serve(world: Streaming) -> None:
    for _ in range(5):
        assert isinstance(world.stream(1)[1].get(timeout=WAIT), Response)
    assert not world.manager.ready("m")[0]._scheduler.brief


def test_a_version_is_closed_only_after_its_generations_have_ended(world: Streaming) -> None:
    gate = threading.Event()
    world.model.gate = lambda: gate.wait(WAIT) and None
    _, answers = world.stream(1)
    wait_until(lambda: world.model.running == 1)
    world.sources.clear()
    world.aspire()
    assert not world.model.closed
    gate.set()
    assert isinstance(answers.get(timeout=WAIT), Response)
    world.until_closed(1)


def test_nothing_of_a_request_outlives_it(world: Streaming) -> None:
    gc.disable()
    try:
        rows = np.array([[1]], np.int32)
        kept = weakref.ref(rows)
        answers: SimpleQueue[Response | Exception] = SimpleQueue()
        request = Request("m", "", {"input": Tensor("INT32", rows)}, on_response=lambda response: None)
        turn = world.service.submit(request, "grpc", answers.put)
        assert turn is not None
        turn.run()
        assert isinstance(answers.get(timeout=WAIT), Response)
        del rows, request, turn
        wait_until(lambda: kept() is None)
    finally:
        gc.enable()


def test_a_warm_up_generates(tmp_path: Path) -> None:
    world = Streaming(tmp_path, config="warmup: true")
    assert world.model.generated == 1
    assert world.counted("success") == []


def test_a_warm_up_needs_no_more_than_a_response_for_a_generator_may_never_end(tmp_path: Path) -> None:
    samples = "warmup: [{name: rows, inputs: {input: {shape: [3, 1]}}}]"
    assert Streaming(tmp_path, config=samples).model.runs == 1


def test_an_examination_has_the_parameters_of_a_request_that_succeeded(
    world: Streaming, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A generator may need some; without them clients could have a model taken for broken, again and again."""
    monkeypatch.setattr(recovery, "FIRST_PAUSE", 0.01)
    generate = FakeGenerator.generate

    def demanding(self: FakeGenerator, inputs: Any, parameters: Any) -> Any:
        parameters["repeat"]
        return generate(self, inputs, parameters)

    monkeypatch.setattr(FakeGenerator, "generate", demanding)
    assert isinstance(world.stream(1, parameters={"repeat": 1})[1].get(timeout=WAIT), Response)
    for _ in range(3):
        assert isinstance(world.stream(1)[1].get(timeout=WAIT), Exception)
    assert isinstance(world.stream(1, parameters={"repeat": 1})[1].get(timeout=WAIT), Response)
    assert len(world.backend.loaded) == 1


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"batching": {"max_batch_size": 4}}, "cannot have max_batch_size"),
        ({"batching": {"compiled_sizes": [1, 2]}}, "cannot have compiled_sizes"),
        ({"response_cache": True}, "cannot have response_cache"),
        ({"inputs": {"input": {"ragged": True}}}, "cannot have ragged"),
    ],
)
def test_what_a_decoupled_model_cannot_have_fails_its_load(config: Any, reason: str, tmp_path: Path) -> None:
    load, loaded = loading({"decoupled": True})
    with pytest.raises(LoadError, match=reason):
        loader(load, parse_model_config(config, "config.yaml"))(LoadSpec(tmp_path))
    assert loaded[0].closed


def test_a_configuration_may_demand_that_the_model_is_decoupled(tmp_path: Path) -> None:
    config = parse_model_config({"decoupled": True}, "config.yaml")
    loader(loading({"decoupled": True})[0], config)(LoadSpec(tmp_path))
    load, loaded = loading({})
    with pytest.raises(LoadError, match="gives one response"):
        loader(load, config)(LoadSpec(tmp_path))
    assert loaded[0].closed


def loading(document: dict[str, Any]) -> tuple[Any, list[FakeModel]]:
    """A backend's load that always loads this, and what it has loaded."""
    from fake_backend import FakeBackend

    backend = FakeBackend({"model.fake": fake_model() | document})
    return lambda spec: backend.load(LoadSpec(spec.path / "model.fake")), backend.loaded
