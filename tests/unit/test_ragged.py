"""Ragged inputs: rows of different shapes in one batch, laid end to end, and the inputs computed from them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from vintner.backend import Backends, LoadedModel, LoadSpec
from vintner.errors import ConfigError, InvalidArgument, LoadError
from vintner.model_config import parse_model_config
from vintner.opening import open_servable
from vintner.ragged import KINDS, RaggedInstance, boxed
from vintner.repository import scan
from vintner.triton_config import read_triton_config
from vintner.triton_view import model_config
from vintner.types import Array, Request, Response, Tensor, TensorSpec

SPECS = {
    "tokens": TensorSpec("tokens", "FP32", (-1,)),
    "ends": TensorSpec("ends", "INT32", (-1,)),
    "scale": TensorSpec("scale", "FP32", (-1, 1)),
    "sums": TensorSpec("sums", "FP32", (-1,)),
}
CONFIG: Mapping[str, Any] = {
    "inputs": {"tokens": {"ragged": True}},
    "batch_inputs": {"ends": {"kind": "accumulated_element_count", "source": "tokens"}},
}


class Sums:
    """A model that adds up the elements of each row, by `ends`, and multiplies by `scale`."""

    platform = "sums"

    def __init__(self, specs: Mapping[str, TensorSpec]) -> None:
        self.inputs = [specs[name] for name in ("tokens", "ends", "scale")]
        self.outputs = [specs["sums"]]
        self.instances = [self]
        self.given: list[Mapping[str, Array]] = []
        self.times_closed = 0

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        self.given.append(inputs)
        if np.isnan(inputs["tokens"]).any():
            raise RuntimeError("not a number")
        sums = [part.sum() for part in np.split(inputs["tokens"], inputs["ends"])[:-1]]
        return {"sums": np.float32(sums) * inputs["scale"][:, 0]}

    def close(self) -> None:
        self.times_closed += 1


class SumsBackend:
    def __init__(self, **specs: TensorSpec) -> None:
        self.model = Sums({**SPECS, **specs})

    def find(self, directory: Path) -> Path | None:
        return next(directory.glob("model.sums"), None)

    def load(self, spec: LoadSpec) -> LoadedModel:
        return self.model

    def devices(self) -> Any:
        return []


def opened(tmp_path: Path, backend: SumsBackend, text: str = "{}") -> Any:
    backends = Backends(made={"sums": backend})
    (tmp_path / "m" / "1").mkdir(parents=True)
    (tmp_path / "m" / "1" / "model.sums").touch()
    (tmp_path / "m" / "config.yaml").write_text(text)
    [source] = scan([tmp_path], backends).models.values()
    return open_servable(source, 1, backends, 1, None)


def text_of(**changes: Any) -> str:
    return str({**CONFIG, **changes}).replace("True", "true")


def request(tokens: Any, scale: Any = None) -> Request:
    array = np.array(tokens, np.float32)
    factors = np.ones((len(array), 1), np.float32) if scale is None else np.array(scale, np.float32)
    return Request("m", "", {"tokens": Tensor("FP32", array), "scale": Tensor("FP32", factors)})


def answers(servable: Any, *requests: Request) -> list[Any]:
    """What they get that are all there before the first runs, in the order in which they were sent."""
    results: list[Any] = [None] * len(requests)
    turns = [
        servable.submit(each, lambda result, index=index: results.__setitem__(index, result))
        for index, each in enumerate(requests)
    ]
    turns[0].run()
    return [
        result.outputs["sums"].array.tolist() if isinstance(result, Response) else str(result) for result in results
    ]


@pytest.mark.parametrize(
    ("kind", "shapes", "expected"),
    [
        ("element_count", [(3,), (4,), (5,)], [3, 4, 5]),
        ("accumulated_element_count", [(3,), (4,), (5,)], [3, 7, 12]),
        ("accumulated_element_count_with_zero", [(3,), (4,), (5,)], [0, 3, 7, 12]),
        ("max_element_count_as_shape", [(3,), (5,), (4,)], [0, 0, 0, 0, 0]),
        ("item_shape", [(3, 1), (3, 1), (2, 2)], [[3, 1], [3, 1], [2, 2]]),
        ("item_shape_flatten", [(3, 1), (3, 1), (2, 2)], [3, 1, 3, 1, 2, 2]),
        ("element_count", [(2, 0), (2, 3)], [0, 6]),
        ("accumulated_element_count_with_zero", [], [0]),
        ("max_element_count_as_shape", [], []),
        ("item_shape_flatten", [], []),
    ],
)
def test_what_is_computed_from_a_batch_is_what_triton_says(kind: str, shapes: Any, expected: Any) -> None:
    assert KINDS[kind](shapes).tolist() == expected


@given(st.lists(st.integers(0, 5), max_size=6))
def test_every_element_of_every_row_comes_once_in_order(lengths: list[int]) -> None:
    numbers = iter(range(100))
    rows = np.empty(len(lengths), np.object_)
    for index, length in enumerate(lengths):
        rows[index] = np.float32([next(numbers) for _ in range(length)])
    model = Sums(SPECS)
    computed = [("ends", KINDS["accumulated_element_count"], "tokens", np.dtype(np.int32))]
    instance = RaggedInstance(model, {"tokens": np.dtype(np.float32)}, computed)  # type: ignore[arg-type]
    instance.run({"tokens": rows, "scale": np.ones((len(rows), 1), np.float32)})
    [seen] = model.given
    assert (seen["tokens"].tolist(), seen["tokens"].dtype) == (list(range(sum(lengths))), np.float32)
    assert (np.diff(seen["ends"], prepend=0).tolist(), seen["ends"].dtype) == (lengths, np.int32)


def test_rows_of_one_shape_are_boxed_as_rows() -> None:
    assert [row.tolist() for row in boxed(np.arange(4).reshape(2, 2))] == [[0, 1], [2, 3]]
    assert boxed(np.empty((0, 2))).shape == (0,)


def test_requests_of_different_shapes_run_in_one_batch_and_each_gets_its_own(tmp_path: Path) -> None:
    backend = SumsBackend()
    servable = opened(tmp_path, backend, text_of())
    requests = (
        request([[1, 2, 3]]), request([[4]], [[10]]), request([[1, 1], [2, 2]]), request(np.empty((1, 0))),
    )  # fmt: skip
    assert answers(servable, *requests) == [[6.0], [40.0], [2.0, 4.0], [0.0]]
    [seen] = backend.model.given
    assert seen["tokens"].tolist() == [1, 2, 3, 4, 1, 1, 2, 2]
    assert seen["ends"].tolist() == [3, 4, 6, 8, 8]
    assert answers(servable, request([[5, 5]])) == [[10.0]]
    assert answers(servable, request(np.empty((0, 3)))) == [[]]


def test_a_poisonous_request_fails_alone(tmp_path: Path) -> None:
    servable = opened(tmp_path, SumsBackend(), text_of())
    assert answers(servable, request([[1, 2]]), request([[np.nan]]), request([[3]])) == [[3.0], "not a number", [3.0]]


def test_clients_see_the_batch_in_front_and_no_computed_input(tmp_path: Path) -> None:
    servable = opened(tmp_path, SumsBackend(), text_of(inputs={"tokens": {"ragged": True, "name": "words"}}))
    assert [(spec.name, spec.shape) for spec in servable.inputs] == [("words", (-1, -1)), ("scale", (-1, 1))]
    message = model_config(servable)
    assert [given.allow_ragged_batch for given in message.input] == [True, False]
    [computed] = message.batch_input
    assert (list(computed.target_name), list(computed.source_input)) == (["ends"], ["words"])
    assert computed.kind == computed.BATCH_ACCUMULATED_ELEMENT_COUNT


def test_dims_say_what_rows_look_like_and_warm_up_can_run_them(tmp_path: Path) -> None:
    backend = SumsBackend()
    inputs = {"tokens": {"ragged": True, "dims": [-1, -1, 2]}}
    warmup = [{"batch_size": 2, "inputs": {"tokens": {"shape": [3, 2]}}}]
    servable = opened(tmp_path, backend, text_of(inputs=inputs, warmup=warmup))
    assert backend.model.given[0]["ends"].tolist() == [6, 12]
    assert answers(servable, request([[[1, 2], [3, 4]]])) == [[10.0]]
    with pytest.raises(InvalidArgument, match="unexpected shape for input 'tokens'"):
        answers(servable, request([[1, 2]]))


@pytest.mark.parametrize(
    ("changes", "specs", "message"),
    [
        ({}, {"tokens": TensorSpec("tokens", "FP32", (-1, -1))}, r"'tokens' has shape \[-1, -1\]; a model takes one"),
        ({}, {"tokens": TensorSpec("tokens", "BYTES", (-1,))}, "'tokens' is BYTES, which cannot be ragged"),
        ({}, {"ends": TensorSpec("ends", "BYTES", (-1,))}, "batch input 'ends' is BYTES"),
        ({"inputs": {"tokens": {"ragged": True, "dims": [-1]}}}, {}, r"dims start with the batch.*got \[-1\]"),
        ({"batch_inputs": {"end": {"kind": "item_shape", "source": "tokens"}}}, {}, "'end' that is not.*mean 'ends'"),
        ({"batching": {"compiled_sizes": [4]}}, {}, "ragged inputs cannot have compiled_sizes"),
    ],
)
def test_what_does_not_fit_the_model_fails_the_load_and_closes_it(
    tmp_path: Path, changes: Any, specs: Any, message: str
) -> None:
    backend = SumsBackend(**specs)
    with pytest.raises(LoadError, match=message):
        opened(tmp_path, backend, text_of(**changes))
    assert backend.model.times_closed == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs": {}}, "batch_inputs.ends.source: 'tokens' is no ragged input"),
        ({"inputs": {"tokens": {"ragged": True}, "ends": {}}}, "batch_inputs.ends: it is among the inputs too"),
        ({"batch_inputs": {"ends": {"kind": "count", "source": "tokens"}}}, "batch_inputs.ends.kind: expected"),
        ({"batch_inputs": {"ends": {"kind": "item_shape"}}}, "batch_inputs.ends.source"),
    ],
)
def test_a_configuration_that_contradicts_itself_is_refused(changes: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_model_config({**CONFIG, **changes}, "config.yaml")


TRITON = """
max_batch_size: 16
input {{ name: "tokens" data_type: TYPE_FP32 dims: [ -1 ] allow_ragged_batch: true }}
batch_input {{ kind: {kind} target_name: "ends" data_type: TYPE_INT32 source_input: "tokens" }}
"""


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_tritons_configuration_says_the_same(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "config.pbtxt"
    path.write_text(TRITON.format(kind=f"BATCH_{kind.upper()}"))
    config = read_triton_config(path)
    assert (config.inputs["tokens"].ragged, config.inputs["tokens"].dims) == (True, (-1, -1))
    assert (config.batch_inputs["ends"].kind, config.batch_inputs["ends"].source) == (kind, "tokens")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("input { name: 'x' allow_ragged_batch: true }", "input 'x': allow_ragged_batch needs a max_batch_size"),
        ("batch_input { target_name: 'y' }", "batch_input: expected one source_input, and a target_name"),
        (
            "max_batch_size: 2 input { name: 'x' allow_ragged_batch: true }"
            " batch_input { target_name: ['y', 'y'] source_input: 'x' }",
            "batch_input: 'y' is computed twice",
        ),
    ],
)
def test_a_triton_configuration_that_makes_no_sense_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "config.pbtxt"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_triton_config(path)
