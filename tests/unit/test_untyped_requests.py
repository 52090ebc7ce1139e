"""Requests whose values take the datatypes of the version that serves them, and the labels that versions have."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
from fake_backend import fake_model, write_model
from model_world import WAIT, World, held
from vintner.errors import InvalidArgument, NotFound, QueueFull
from vintner.predict_codec import decode_predict
from vintner.types import Request, Response


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.manager.stop(WAIT)


def predict(world: World, version: str = "", text: bytes = b'{"instances": [[1, 2, 3, 4]]}') -> SimpleQueue[Any]:
    answers: SimpleQueue[Response | Exception] = SimpleQueue()
    request = Request("m", version, {}, untyped=decode_predict(text, "m"))
    turn = world.service.submit(request, "rest", answers.put)
    if turn is not None:
        turn.run()
    return answers


def outcome(answers: SimpleQueue[Any]) -> tuple[str, str, list[Any]]:
    result = answers.get(timeout=WAIT)
    assert isinstance(result, Response), result
    tensor = result.outputs["output"]
    return result.model_version, tensor.datatype, tensor.array.tolist()


def test_values_have_the_datatype_of_the_version_that_traffic_chooses(world: World) -> None:
    world.put("m", 1, 2, config="traffic: {default: 1, canary: {version: 2, percent: 50}}")
    write_model(world.root / "m" / "2", fake_model("INT64"))
    world.settle()
    seen = {repr(outcome(predict(world))) for _ in range(4)}
    assert seen == {"('1', 'FP32', [[2.0, 4.0, 6.0, 8.0]])", "('2', 'INT64', [[2, 4, 6, 8]])"}
    assert outcome(predict(world, "2")) == ("2", "INT64", [[2, 4, 6, 8]])


def test_values_that_do_not_fit_are_refused_and_counted_on_the_model(world: World) -> None:
    world.put("m", 1)
    world.settle()
    refusal = predict(world, text=b'{"inputs": {"input": [["a"]]}}').get(timeout=WAIT)
    assert isinstance(refusal, InvalidArgument)
    assert "element 0 of input 'input' must be a number in its range for datatype FP32" in refusal.message
    line = 'vintner_requests_total{model="m",version="1",protocol="rest",outcome="invalid_argument"} 1'
    assert line in world.service.metrics().decode()
    assert outcome(predict(world))[0] == "1"


def test_what_waits_for_a_load_is_typed_by_what_was_loaded(world: World) -> None:
    world.put("m", 1, config="load: on_demand")
    write_model(world.root / "m" / "1", fake_model("INT8"))
    world.aspire()
    begun, gate = held(world, "m")
    waiting = predict(world)
    assert begun.wait(WAIT)
    assert waiting.empty()
    gate.set()
    assert outcome(waiting) == ("1", "INT8", [[2, 4, 6, 8]])


def test_what_waits_for_a_load_counts_by_its_size(world: World) -> None:
    world.put("m", 1, config="{load: on_demand, queue: {max_bytes: 1KiB}}")
    world.aspire()
    begun, gate = held(world, "m")
    long = b'{"instances": [[1, 2, 3, 4]], "padding": "%s"}' % (b"x" * 200)
    waiting = predict(world, text=long)
    assert begun.wait(WAIT)
    assert isinstance(predict(world).get(timeout=WAIT), QueueFull)
    gate.set()
    assert outcome(waiting)[0] == "1"


# -- labels ----------------------------------------------------------------------------------------------------


def test_a_label_names_a_version_and_moves_without_a_load(world: World) -> None:
    world.put("m", 1, 2, config="version_labels: {stable: 1, newest: 2}")
    world.settle()
    assert [world.service.version_of("m", label) for label in ("stable", "newest")] == ["1", "2"]
    world.configure("m", "version_labels: {stable: 2}")
    world.settle()
    assert world.service.version_of("m", "stable") == "2"
    assert len(world.backend.loaded) == 2


@pytest.mark.parametrize(
    ("model", "label", "expected"),
    [
        ("m", "stabel", "model 'm' has no version label 'stabel'; did you mean 'stable'?"),
        ("plain", "stable", "model 'plain' has no version label 'stable'"),
        ("n", "stable", "Request for unknown model: 'n' is not found; expected one of: m, plain"),
    ],
)
def test_an_unknown_label_is_not_found(world: World, model: str, label: str, expected: str) -> None:
    world.put("m", 1, config="version_labels: {stable: 1}")
    world.put("plain", 1)
    world.settle()
    with pytest.raises(NotFound) as caught:
        world.service.version_of(model, label)
    assert caught.value.message == expected


# -- states ----------------------------------------------------------------------------------------------------


def test_the_states_of_a_model_are_those_of_its_versions(world: World) -> None:
    world.put("m", 1, 2)
    world.put("other", 1)
    world.settle()
    both = world.service.model_states("m")["model_version_status"]
    assert [status["version"] for status in both] == ["1", "2"]
    assert world.service.model_states("m", "2")["model_version_status"] == both[1:]
    assert world.service.models_ready() == ["m", "other"]


def test_only_models_that_answer_are_listed(world: World) -> None:
    world.put("good", 1)
    world.put("lazy", 1, config="load: on_demand")
    world.put("bad", 1, bad=True)
    world.settle()
    assert world.service.models_ready() == ["good", "lazy"]
    (status,) = world.service.model_states("bad")["model_version_status"]
    assert (status["state"], status["status"]["error_code"]) == ("LOADING", "UNKNOWN")


@pytest.mark.parametrize(
    ("name", "version", "error", "expected"),
    [
        ("n", "", NotFound, "Request for unknown model: 'n' is not found; expected one of: m"),
        ("m", "9", NotFound, "Request for unknown model: 'm' version 9 is not found"),
        ("m", "newest", InvalidArgument, "model version 'newest' for 'm' is not a positive integer"),
    ],
)
def test_the_state_of_what_is_not_known_is_an_error(
    world: World, name: str, version: str, error: type[Exception], expected: str
) -> None:
    world.put("m", 1)
    world.settle()
    with pytest.raises(error) as caught:
        world.service.model_states(name, version)
    assert str(caught.value) == expected
