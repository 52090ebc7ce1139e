from __future__ import annotations

import json
from math import prod
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from vintner.errors import InvalidArgument
from vintner.generate_codec import decode_generate, encode_generate, fitted
from vintner.types import Request, Response, Tensor, TensorSpec

NUMBERS = TensorSpec("x", "FP32", (-1, 2))
TEXT = TensorSpec("text", "BYTES", (-1,))
FLAG = TensorSpec("flag", "BOOL", (1,))


def decode(body: Any, *specs: TensorSpec) -> Request:
    request = decode_generate(json.dumps(body).encode(), "m", "2")
    assert request.untyped is not None
    request.untyped.fill(request, specs or (NUMBERS, TEXT, FLAG))
    return request


def refusal(body: Any, *specs: TensorSpec) -> str:
    with pytest.raises(InvalidArgument) as caught:
        decode(body, *specs)
    return caught.value.message


def test_keys_that_are_inputs_become_tensors_and_all_others_parameters() -> None:
    request = decode(
        {
            "x": [1, 2],
            "text": "hallo",
            "flag": True,
            "id": "7",
            "top_k": 3,
            "parameters": {"temperature": 0.5},
        }
    )
    assert (request.model_name, request.model_version, request.id) == ("m", "2", "7")
    assert {name: tensor.array.tolist() for name, tensor in request.inputs.items()} == {
        "x": [[1.0, 2.0]],
        "text": [b"hallo"],
        "flag": [True],
    }
    assert request.parameters == {"top_k": 3, "temperature": 0.5}


def test_inputs_may_stand_among_the_parameters() -> None:
    assert decode({"parameters": {"text": "a"}}).inputs["text"].array.tolist() == [b"a"]


@pytest.mark.parametrize("name", ["id", "parameters"])
def test_an_input_may_have_a_reserved_name(name: str) -> None:
    request = decode({name: "a"}, TensorSpec(name, "BYTES", (1,)))
    assert request.inputs[name].array.tolist() == [b"a"]
    assert request.id == ""


@pytest.mark.parametrize(
    ("shape", "count", "expected"),
    [
        ((-1,), 1, (1,)),
        ((-1,), 5, (5,)),
        ((1,), 1, (1,)),
        ((), 1, ()),
        ((2, 3), 6, (2, 3)),
        ((-1, 2), 2, (1, 2)),
        ((-1, 2), 6, (3, 2)),
        ((-1, -1), 6, (1, 6)),
        ((-1, 3, -1), 6, (1, 3, 2)),
        ((-1, 4, -1, 2), 16, (1, 4, 2, 2)),
        ((-1,), 0, (0,)),
        ((-1, 0), 0, (1, 0)),
    ],
)
def test_elements_are_fitted_into_the_shape(shape: tuple[int, ...], count: int, expected: tuple[int, ...]) -> None:
    assert fitted(TensorSpec("x", "FP32", shape), count) == expected


@pytest.mark.parametrize(
    ("shape", "count", "needed"),
    [((2, 3), 5, "needs 6 elements, got 5"), ((-1, 2), 3, "needs a multiple of 2 elements, got 3"),
     ((-1, 0), 1, "needs a multiple of 0 elements, got 1"), ((), 2, "needs 1 elements, got 2")],
)  # fmt: skip
def test_elements_that_fit_no_shape_are_refused(shape: tuple[int, ...], count: int, needed: str) -> None:
    with pytest.raises(InvalidArgument, match=needed):
        fitted(TensorSpec("x", "FP32", shape), count)


@given(st.lists(st.sampled_from([-1, 0, 1, 2, 3, 5]), max_size=5).map(tuple), st.integers(0, 200))
def test_a_shape_that_is_fitted_holds_the_elements_and_is_admitted(shape: tuple[int, ...], count: int) -> None:
    spec = TensorSpec("x", "FP32", shape)
    try:
        found = fitted(spec, count)
    except InvalidArgument:
        return
    assert prod(found) == count
    assert spec.admits(found)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ([], "must be a JSON object"),
        ({"parameters": 1}, "'parameters' of the request must be an object"),
        ({"id": 7}, "'id' of the request must be a string"),
        ({"x": [1, 2], "parameters": {"x": [1, 2]}}, "input 'x' already exists in request"),
        ({"k": 1, "parameters": {"k": 1}}, "parameter 'k' already exists in request"),
        ({"other": {"a": 1}}, "parameter 'other' has invalid type"),
        ({"other": [1]}, "parameter 'other' has invalid type"),
        ({"other": None}, "parameter 'other' has invalid type"),
        ({"triton_x": 1}, "reserved"),
        ({"x": [1, "a"]}, "element 1 of input 'x' must be a number"),
        ({"x": {"a": 1}}, "needs a multiple of 2 elements"),
        ({"text": 3}, "element 0 of input 'text' must be a string"),
        ({"flag": 1}, "element 0 of input 'flag' must be true or false"),
        ({"flag": None}, "must be true or false"),
    ],
)
def test_what_is_wrong_with_a_body_is_said(body: Any, message: str) -> None:
    assert message in refusal(body)


def test_json_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="malformed JSON"):
        decode_generate(b"{", "m", "")


def encode(**tensors: Tensor) -> Any:
    return json.loads(encode_generate(Response("m", "3", tensors, "7", {"p": 1})))


def test_a_response_is_a_flat_object_whose_single_elements_stand_alone() -> None:
    found = encode(
        one=Tensor("FP32", np.array([[1.5]], np.float32)),
        two=Tensor("INT64", np.array([[1], [2**62]])),
        none=Tensor("FP32", np.empty((0, 2), np.float32)),
        text=Tensor("BYTES", np.array([b"hallo"], object)),
        texts=Tensor("BYTES", np.array([b"a", b"b"], object)),
        half=Tensor("BF16", np.array([0x3FC0], np.uint16)),
        flag=Tensor("BOOL", np.array([True])),
    )
    assert found == {
        "id": "7", "model_name": "m", "model_version": "3", "p": 1,
        "one": 1.5, "two": [1, 2**62], "none": [], "text": "hallo", "texts": ["a", "b"], "half": 1.5, "flag": True,
    }  # fmt: skip


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_spelled(value: float) -> None:
    found = encode(one=Tensor("FP64", np.array([value])), two=Tensor("FP32", np.array([1, value], np.float32)))
    np.testing.assert_equal(found["one"], value)
    np.testing.assert_equal(found["two"], [1.0, value])


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="not UTF-8"):
        encode(x=Tensor("BYTES", np.array([b"\xff"], object)))
