"""A stream of requests without a transport: what comes out of it, in which order, and how it ends."""

from __future__ import annotations

import itertools
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest
from fake_backend import FakeModel, fake_model, write_model
from model_world import WAIT, World
from tritonclient.grpc.service_pb2 import ModelStreamInferResponse
from vintner import grpc_stream
from vintner.errors import DeadlineExceeded, InvalidArgument, NotFound, QueueFull, Stopping
from vintner.grpc_stream import InferStream, Streams, _Asked
from vintner.types import Request, Response, Tensor
from waiting import wait_until

END = None


class Talk:
    """A stream over a world: what a client sends, and a thread that takes what it is sent."""

    def __init__(self, world: World, **options: Any) -> None:
        self.sent: SimpleQueue[bytes | None] = SimpleQueue()
        self.taken: SimpleQueue[ModelStreamInferResponse | Exception | None] = SimpleQueue()
        self.stream = InferStream(world.service, decode, None, str, **options)
        self.thread = threading.Thread(target=self._take, daemon=True)
        self.thread.start()

    def _received(self) -> Iterator[bytes]:
        while (data := self.sent.get()) is not None:
            yield data

    def _take(self) -> None:
        try:
            for data in self.stream.messages(self._received()):
                self.taken.put(ModelStreamInferResponse.FromString(data))
            self.taken.put(END)
        except Exception as exc:
            self.taken.put(exc)

    def ask(self, model: str, *rows: int, identity: str = "", **parameters: Any) -> None:
        self.sent.put(repr((model, rows, identity, parameters)).encode())

    def end(self) -> None:
        self.sent.put(None)

    def next(self) -> Any:
        return self.taken.get(timeout=WAIT)

    def ids(self, count: int) -> list[str]:
        return [self.next().infer_response.id for _ in range(count)]


def decode(data: bytes) -> tuple[Request, dict[str, Any]]:
    if data == b"nonsense":
        raise InvalidArgument("it is nonsense")
    model, rows, identity, parameters = eval(data.decode())
    array = np.array(rows, np.float32).reshape(-1, 1)
    return Request(model, "", {"input": Tensor("FP32", array)}, (), identity, parameters), {}


@pytest.fixture
def world(tmp_path: Path) -> World:
    """With ordinary models `a` and `b`, and a decoupled one, `rows`."""
    world = World(tmp_path)
    for name in ("a", "b", "rows"):
        world.put(name, 1)
        write_model(tmp_path / name / "1", fake_model("FP32", (-1, 1)) | {"decoupled": name == "rows"})
    world.settle()
    return world


def model(world: World, name: str) -> FakeModel:
    return next(each for each in world.backend.loaded if each.spec.path.parents[1].name == name)


def held(world: World, name: str) -> Callable[[], None]:
    gate = threading.Event()
    model(world, name).gate = lambda: gate.wait(WAIT) and None
    return gate.set


def test_ordinary_requests_are_answered_in_their_order_though_a_later_one_is_done_before(world: World) -> None:
    let_go = held(world, "a")
    talk = Talk(world)
    talk.ask("a", 1, identity="first")
    talk.ask("b", 2, identity="second")
    wait_until(lambda: world.manager.ready("b")[0].metrics.requests["grpc"].outcomes["ok"] == 1)
    assert talk.taken.empty()
    let_go()
    assert talk.ids(2) == ["first", "second"]


def test_the_responses_of_decoupled_models_overtake(world: World) -> None:
    let_go = held(world, "a")
    talk = Talk(world)
    talk.ask("a", 1, identity="ordinary")
    talk.ask("rows", 2, 3, identity="decoupled")
    assert talk.ids(2) == ["decoupled", "decoupled"]
    let_go()
    assert talk.ids(1) == ["ordinary"]


def test_each_message_says_whether_more_may_come(world: World) -> None:
    talk = Talk(world)
    talk.ask("a", 1)
    talk.ask("rows", 1, triton_enable_empty_final_response=True)
    found = [talk.next().infer_response for _ in range(3)]
    assert [message.parameters["triton_final_response"].bool_param for message in found] == [True, False, True]
    assert [len(message.outputs) for message in found] == [1, 1, 0]
    assert (found[2].model_name, found[2].model_version) == ("rows", "1")


def test_without_a_wish_the_end_of_a_decoupled_request_is_not_told(world: World) -> None:
    talk = Talk(world)
    talk.ask("rows", 1, identity="first")
    talk.ask("a", 1, identity="second")
    assert sorted(talk.ids(2)) == ["first", "second"]
    talk.end()
    assert talk.next() is END


def test_an_error_is_a_message_with_the_id_of_its_request_and_the_stream_goes_on(world: World) -> None:
    talk = Talk(world)
    talk.ask("nobody", 1, identity="lost")
    found = talk.next()
    assert "'nobody' is not found" in found.error_message
    assert found.infer_response.id == "lost"
    talk.sent.put(b"nonsense")
    assert talk.next().error_message == "it is nonsense"
    talk.ask("a", 1, identity="good")
    assert talk.ids(1) == ["good"]


def test_the_first_error_ends_the_stream_if_the_client_wants_that(world: World) -> None:
    talk = Talk(world, errors_end_it=True)
    talk.ask("a", 1, identity="good")
    talk.ask("nobody", 1)
    assert talk.ids(1) == ["good"]
    assert isinstance(talk.next(), NotFound)


def test_the_stream_ends_when_all_that_was_asked_is_answered(world: World) -> None:
    let_go = held(world, "a")
    talk = Talk(world)
    talk.ask("a", 1, identity="late")
    talk.end()
    wait_until(lambda: model(world, "a").running == 1)
    assert talk.taken.empty()
    let_go()
    assert talk.ids(1) == ["late"]
    assert talk.next() is END


def test_a_server_that_stops_answers_what_it_has_read_and_ends_the_stream(world: World) -> None:
    let_go = held(world, "a")
    talk = Talk(world)
    talk.ask("a", 1, identity="in time")
    wait_until(lambda: model(world, "a").running == 1)
    talk.stream.stop()
    talk.ask("b", 1, identity="late")
    let_go()
    assert "in time" in talk.ids(1)
    found = talk.next()
    if not isinstance(found, Exception):  # it was read before the end
        assert "stopping" in found.error_message
        found = talk.next()
    assert isinstance(found, Stopping)


def test_an_idle_stream_ends_at_once_when_the_server_stops(world: World) -> None:
    talk = Talk(world)
    talk.ask("a", 1)
    talk.next()
    talk.stream.stop()
    assert isinstance(talk.next(), Stopping)


def test_a_call_that_is_over_cancels_what_was_asked(world: World) -> None:
    let_go = held(world, "rows")
    talk = Talk(world)
    talk.ask("rows", 1, 2)
    talk.ask("rows", 3)
    wait_until(lambda: model(world, "rows").running == 1)
    talk.stream.cancel()
    outcomes = world.manager.ready("rows")[0].metrics.requests["grpc"].outcomes
    wait_until(lambda: outcomes["cancelled"] == 2)
    let_go()
    wait_until(lambda: model(world, "rows").generated == 1)
    assert model(world, "rows").runs == 1


def test_no_more_is_read_than_may_wait_for_its_answer(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_stream, "MOST_ASKED", 2)
    let_go = held(world, "a")
    talk = Talk(world)
    for number in range(5):
        talk.ask("a", 1, identity=str(number))
    wait_until(lambda: world.manager.ready("a")[0].metrics.gauges()["in_flight"] == 2)
    assert not talk.sent.empty()
    let_go()
    assert talk.ids(5) == ["0", "1", "2", "3", "4"]


def test_a_stream_that_waits_for_requests_does_not_keep_the_last_one(world: World) -> None:
    class Sent(bytearray):
        """Bytes whose end can be seen."""

    sent: SimpleQueue[Sent] = SimpleQueue()
    stream = InferStream(world.service, lambda data: decode(bytes(data)), None, str)
    messages = stream.messages(iter(sent.get, None))
    message = Sent(repr(("a", (1,), "", {})).encode())
    kept = weakref.ref(message)
    sent.put(message)
    del message
    next(messages)
    wait_until(lambda: kept() is None)
    messages.close()  # type: ignore[attr-defined]
    sent.put(Sent())  # which ends the thread that reads


def test_a_client_that_takes_nothing_loses_its_request(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = InferStream(world.service, decode, None, str)
    monkeypatch.setattr(stream._outbox, "_patience", 0.01)
    asked = [repr(("rows", tuple(range(200)), "slow", {})).encode()]
    messages = stream.messages(iter(asked))
    next(messages)
    wait_until(lambda: world.manager.ready("rows")[0].metrics.requests["grpc"].outcomes["cancelled"] == 1)
    *_, last = (ModelStreamInferResponse.FromString(message) for message in messages)
    assert "no response was taken" in last.error_message


def test_a_request_that_turns_out_to_be_decoupled_once_it_has_ended_is_told_its_end(world: World) -> None:
    """Nothing is known of a model that sleeps, so its request stands in the order of the others; it may expire just as
    it responds."""
    stream = InferStream(world.service, decode, None, str)
    first, late = (stream._expect(_Asked(name, True, False)) for name in ("first", "late"))
    stream._end(late, DeadlineExceeded("too late"))
    stream._respond(late, Response("rows", "1", {}))
    stream._end(first, InvalidArgument("it is wrong"))
    stream.stop()
    found = [ModelStreamInferResponse.FromString(data) for data in itertools.islice(stream.messages(iter([])), 2)]
    assert [message.error_message for message in found] == ["too late", "it is wrong"]


def test_what_is_read_as_the_call_ends_is_cancelled(world: World) -> None:
    stream = InferStream(world.service, decode, None, str)
    stream.cancel()  # after the reader has seen that it was not
    stream._ask(repr(("rows", (1, 2), "late", {})).encode())
    assert world.manager.ready("rows")[0].metrics.requests["grpc"].outcomes["cancelled"] == 1
    assert model(world, "rows").runs == 0


def test_streams_are_bounded_and_none_begins_once_the_server_stops(world: World) -> None:
    streams = Streams(most=1)
    stream = InferStream(world.service, decode, None, str)
    with streams.opened(stream), pytest.raises(QueueFull, match="1 are open"), streams.opened(stream):
        pass
    with streams.opened(stream):
        streams.stop()
    with pytest.raises(Stopping), streams.opened(stream):
        pass
