"""Bodies of `:predict`: both formats agree and come back as they went, and what is refused says what was expected."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from vintner.errors import InvalidArgument
from vintner.json_text import JsonLimits
from vintner.predict_codec import decode_predict, encode_predict
from vintner.types import DTYPES, Array, Response, Tensor, TensorSpec, bf16_to_fp32, fp32_to_bf16

ONE = [TensorSpec("x", "FP32", (-1, 2))]
TWO = [TensorSpec("a", "INT32", (-1,)), TensorSpec("b", "BYTES", (-1, 2))]
TEXT = [TensorSpec("line", "BYTES", (-1,))]


def typed(document: Any, specs: Sequence[TensorSpec] = ONE) -> dict[str, Tensor]:
    text = document if isinstance(document, bytes) else json.dumps(document).encode()
    return decode_predict(text, "m").typed(specs)


def lists(document: Any, specs: Sequence[TensorSpec] = ONE) -> dict[str, Any]:
    return {name: tensor.array.tolist() for name, tensor in typed(document, specs).items()}


def refusal(document: Any, specs: Sequence[TensorSpec] = ONE) -> str:
    with pytest.raises(InvalidArgument) as caught:
        typed(document, specs)
    return caught.value.message


def texts(*elements: bytes) -> Array:
    array: Array = np.empty(len(elements), np.object_)
    array[:] = elements
    return array


def replied(in_rows: bool, **outputs: Any) -> Any:
    """The reply with these outputs, as another reader than ours sees it."""
    tensors = {
        name: value if isinstance(value, Tensor) else Tensor("FP32", np.array(value, np.float32))
        for name, value in outputs.items()
    }
    (answer,) = json.loads(encode_predict(Response("m", "1", tensors), in_rows)).values()
    return answer


# -- what is asked ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "document",
    [
        {"instances": [[1, 2], [3, 4]]},
        {"instances": [{"x": [1, 2]}, {"x": [3, 4]}]},
        {"inputs": [[1, 2], [3, 4]]},
        {"inputs": {"x": [[1, 2], [3, 4]]}},
        {"signature_name": "serving_default", "inputs": [[1, 2], [3, 4]]},
        {"signature_name": "", "inputs": [[1, 2], [3, 4]], "parameters": {"unknown": "key"}},
        {"inputs": {"y": [["other"], 1], "x": [[1, 2], [3, 4]]}},
        {"instances": [{"x": [1, 2], "y": None}, {"z": {}, "x": [3, 4]}]},
    ],
)
def test_one_input_is_written_in_many_ways(document: Any) -> None:
    assert lists(document) == {"x": [[1, 2], [3, 4]]}


@pytest.mark.parametrize(
    "document",
    [
        {"instances": [{"a": 1, "b": ["p", "q"]}, {"b": ["r", {"b64": "cw=="}], "a": 2}]},
        {"inputs": {"a": [1, 2], "b": [["p", "q"], ["r", "s"]]}},
    ],
)
def test_several_inputs_come_by_their_names(document: Any) -> None:
    assert lists(document, TWO) == {"a": [1, 2], "b": [[b"p", b"q"], [b"r", b"s"]]}


@pytest.mark.parametrize(
    ("document", "shape"),
    [
        ({"instances": [1, 2, 3]}, (3,)),
        ({"instances": [[[1], [2]]]}, (1, 2, 1)),
        ({"inputs": 5}, ()),
        ({"inputs": []}, (0,)),
        ({"inputs": [[], []]}, (2, 0)),
        ({"inputs": {"x": []}}, (0,)),
    ],
)
def test_the_shape_is_what_the_arrays_say(document: Any, shape: tuple[int, ...]) -> None:
    assert typed(document)["x"].shape == shape


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"instances": ["a", "Ω"]}, [b"a", "Ω".encode()]),
        ({"instances": [{"b64": "/w=="}, "b"]}, [b"\xff", b"b"]),
        ({"instances": [{"line": {"b64": "/w=="}}]}, [b"\xff"]),
        ({"inputs": [{"b64": ""}]}, [b""]),
        ({"inputs": {"b64": "/w=="}}, b"\xff"),
    ],
)
def test_bytes_are_strings_or_base64(document: Any, expected: Any) -> None:
    assert lists(document, TEXT) == {"line": expected}


def test_an_input_may_be_named_as_base64_is_marked() -> None:
    spec = [TensorSpec("b64", "BYTES", (-1,))]
    assert lists({"inputs": {"b64": ["/w=="]}}, spec) == {"b64": [b"/w=="]}
    assert lists({"instances": [{"b64": "/w=="}]}, spec) == {"b64": [b"/w=="]}


def test_what_is_missing_is_left_to_the_core() -> None:
    assert lists({"inputs": {"a": [1]}}, TWO) == {"a": [1]}
    assert lists({"instances": [{"a": 1}]}, TWO) == {"a": [1]}


def test_values_that_are_not_finite_are_spelled_as_python_does() -> None:
    np.testing.assert_array_equal(
        typed(b'{"instances": [[NaN, -Infinity]]}')["x"].array, np.array([[np.nan, -np.inf]], np.float32)
    )


@pytest.mark.parametrize("document", [{"inputs": {"c": 1, "b": []}}, {"instances": [{"c": 1, "b": ["p", "q"]}]}])
def test_another_name_in_the_place_of_an_input_is_refused(document: Any) -> None:
    assert refusal(document, TWO).startswith("unexpected inference input '")
    assert refusal(document, TWO).endswith("for model 'm'; expected one of: a, b")


NEITHER = "Invalid JSON structure. Could not detect row or column format"
DEEP = 100 * "[" + 100 * "]"


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (b"", "malformed JSON"),
        (b"[]", "the request body must be a JSON object"),
        ({}, NEITHER),
        ({"instances": [[1, 2]], "inputs": [[1, 2]]}, NEITHER),
        ({"instances": []}, "Invalid JSON structure. Missing instances in row format"),
        ({"instances": {"x": 1}}, "Invalid JSON structure. 'instances' must be an array"),
        ({"inputs": 1, "signature_name": 1}, "'signature_name' of the request must be a string"),
        ({"inputs": 1, "signature_name": "other"}, 'Serving signature name: "other" not found in signature def'),
        ({"instances": [{"x": [1, 2]}, [1, 2]]}, "Instance 1 is no object of named inputs"),
        ({"instances": [[1, 2], {"x": [1, 2]}]}, "Instance 1 is an object of named inputs"),
        (
            {"instances": [{"x": [1, 2]}, {"y": 1}]},
            "Request inputs have different batch sizes: instance 1 has no value for input 'x'",
        ),
        ({"inputs": [[1, 2], [3]]}, "the arrays of input 'x' differ in length or depth"),
        ({"inputs": [[1, 2], 3]}, "the arrays of input 'x' differ in length or depth"),
        ({"inputs": [1, [2, 3]]}, "element 1 of input 'x' must be a number in its range for datatype FP32, got an arr"),
        ({"inputs": ["1"]}, "element 0 of input 'x' must be a number in its range for datatype FP32, got '1'"),
        ({"inputs": None}, "element 0 of input 'x' must be a number in its range for datatype FP32, got null"),
        ({"inputs": [{"b64": "AA=="}]}, "element 0 of input 'x' must be a number"),
        ({"inputs": [1e39]}, "element 0 of input 'x' must be a number in its range"),
        ({"inputs": [True]}, "element 0 of input 'x' must be a number"),
        (f'{{"inputs": {DEEP}}}'.encode(), "has 100 dimensions, at most"),
        (f'{{"inputs": 1, "more": {DEEP}}}'.encode(), "JSON nesting depth exceeds maximum allowed limit (100)"),
        (f'{{"inputs": 1, "more": {2000 * "["}{2000 * "]"}}}'.encode(), "malformed JSON"),
    ],
)
def test_what_is_no_request_is_refused(document: Any, expected: str) -> None:
    assert expected in refusal(document)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1, 'element 1 of input \'line\' must be a string, or {"b64": "..."}'),
        ({"b64": 1}, "must be a string"),
        ({"b64": "AA==", "more": 1}, "must be a string"),
        ({"b64": "A"}, "element 1 of input 'line' is not valid base64"),
        ({"b64": "Ω"}, "is not valid base64"),
        ({"b64": "AA==\n"}, "is not valid base64"),
    ],
)
def test_what_is_neither_a_string_nor_base64_is_refused(value: Any, expected: str) -> None:
    assert expected in refusal({"inputs": {"line": ["a", value]}}, TEXT)


@pytest.mark.parametrize("document", [{"instances": [1, 2]}, {"inputs": [1]}, {"instances": [{"b64": ""}]}])
def test_bare_values_for_several_inputs_are_refused(document: Any) -> None:
    message = refusal(document, TWO)
    assert message.startswith("Inputs inside buffer does not match expected format.")
    assert message.endswith("a, b")


@pytest.mark.parametrize("over", [False, True])
@pytest.mark.parametrize("wrap", [lambda keys: {"inputs": keys}, lambda keys: {"instances": [{}, keys]}])
def test_an_object_has_a_limited_number_of_keys(wrap: Any, over: bool) -> None:
    text = orjson.dumps(wrap({str(number): 1 for number in range(5 + over)}))
    if over:
        with pytest.raises(InvalidArgument, match="a JSON object has 6 keys, at most 5 are allowed"):
            decode_predict(text, "m", JsonLimits(keys=5))
    else:
        decode_predict(text, "m", JsonLimits(keys=5))


@given(st.one_of(st.binary(), st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(
        st.sampled_from(["instances", "inputs", "x", "a", "b", "b64", "line"]), inner, max_size=3)),
)), st.sampled_from([ONE, TWO, TEXT, []]))  # fmt: skip
def test_whatever_comes_is_read_or_refused(document: Any, specs: list[TensorSpec]) -> None:
    with suppress(InvalidArgument):
        typed(document, specs)


# -- what is answered ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outputs", "rows", "columns"),
    [
        ({"y": [[1, 2], [3, 4]]}, [[1, 2], [3, 4]], [[1, 2], [3, 4]]),
        ({"y": 1}, 1, 1),
        ({"y": []}, [], []),
        (
            {"y": [1, 2], "z": [[3], [4]]},
            [{"y": 1, "z": [3]}, {"y": 2, "z": [4]}],
            {"y": [1, 2], "z": [[3], [4]]},
        ),
    ],
)
def test_one_output_is_bare_and_several_have_names(outputs: Mapping[str, Any], rows: Any, columns: Any) -> None:
    assert replied(True, **outputs) == rows
    assert replied(False, **outputs) == columns


def test_the_key_of_the_answer_says_its_format() -> None:
    response = Response("m", "1", {"y": Tensor("FP32", np.ones(1, np.float32))})
    assert encode_predict(response, True) == b'{"predictions":[1.0]}'
    assert encode_predict(response, False) == b'{"outputs":[1.0]}'


def test_texts_are_strings_where_they_can_be() -> None:
    answer = Tensor("BYTES", texts(b"a", b"\xff", "Ω".encode(), b"null"))
    assert replied(False, y=answer) == ["a", {"b64": "/w=="}, "Ω", "null"]
    assert replied(True, y=answer, z=[1, 2, 3, np.nan])[0] == {"y": "a", "z": 1}


def test_an_output_of_bytes_by_its_name_is_base64() -> None:
    assert replied(False, y_bytes=Tensor("BYTES", texts(b"a", b"\xff"))) == [{"b64": "YQ=="}, {"b64": "/w=="}]


@pytest.mark.parametrize("in_rows", [True, False])
@pytest.mark.parametrize(("datatype", "alias"), [("INT64", np.longlong), ("UINT64", np.ulonglong)])
def test_integers_may_be_of_the_type_that_runtimes_return(datatype: str, alias: type, in_rows: bool) -> None:
    tensor = Tensor(datatype, np.array([1, 2], alias))
    assert replied(in_rows, y=tensor, z=tensor) == (
        [{"y": 1, "z": 1}, {"y": 2, "z": 2}] if in_rows else {"y": [1, 2], "z": [1, 2]}
    )


@pytest.mark.parametrize("in_rows", [True, False])
def test_what_is_not_finite_is_spelled_in_either_format(in_rows: bool) -> None:
    values = np.array([1.5, np.inf, -np.inf, np.nan], np.float32)
    answer = replied(in_rows, y=values, z=values.reshape(4, 1))
    ys = [row["y"] for row in answer] if in_rows else answer["y"]
    zs = [row["z"] for row in answer] if in_rows else answer["z"]
    np.testing.assert_array_equal(ys, values)
    np.testing.assert_array_equal(zs, values.reshape(4, 1))


@pytest.mark.parametrize("outputs", [{"y": [1, 2], "z": [1]}, {"y": 1, "z": 2}, {"y": 1, "z": [2]}])
def test_outputs_without_common_rows_need_the_column_format(outputs: Mapping[str, Any]) -> None:
    with pytest.raises(InvalidArgument, match="send 'inputs' instead of 'instances'"):
        replied(True, **outputs)
    assert replied(False, **outputs) == outputs


# -- there and back --------------------------------------------------------------------------------------------


@st.composite
def batches(draw: st.DrawFn) -> dict[str, Tensor]:
    """Tensors with as many rows each, of every datatype."""
    rows = draw(st.integers(1, 4))
    return {name: draw(tensors(rows)) for name in draw(st.sampled_from([["x"], ["x", "y"], ["x", "y", "b64"]]))}


@st.composite
def tensors(draw: st.DrawFn, rows: int) -> Tensor:
    datatype, shape = draw(st.sampled_from(sorted(DTYPES))), (rows, *draw(npst.array_shapes(min_dims=0, max_dims=2)))
    if datatype == "BF16":
        return Tensor(datatype, fp32_to_bf16(draw(npst.arrays(np.float32, shape))))
    if datatype != "BYTES":
        return Tensor(datatype, draw(npst.arrays(DTYPES[datatype], shape)))
    count = int(np.prod(shape))
    return Tensor(
        datatype, texts(*draw(st.lists(st.binary(max_size=3), min_size=count, max_size=count))).reshape(shape)
    )


def plain(tensor: Tensor) -> Any:
    return bf16_to_fp32(tensor.array) if tensor.datatype == "BF16" else tensor.array


@given(batches())
def test_either_format_gives_back_what_was_sent(batch: dict[str, Tensor]) -> None:
    specs = [TensorSpec(name, tensor.datatype, tensor.shape) for name, tensor in batch.items()]
    for in_rows, sent, received in ((True, b"instances", b"predictions"), (False, b"inputs", b"outputs")):
        text = encode_predict(Response("m", "1", batch), in_rows)
        assert text.startswith(b'{"%s":' % received)
        again = decode_predict(text.replace(received, sent, 1), "m").typed(specs)
        assert again.keys() == batch.keys()
        for name, tensor in batch.items():
            assert (again[name].datatype, again[name].shape) == (tensor.datatype, tensor.shape)
            assert again[name].array.dtype == tensor.array.dtype
            np.testing.assert_array_equal(plain(again[name]), plain(tensor))


def test_the_size_is_more_than_that_of_the_text() -> None:
    text = b'{"inputs":[%s]}' % (999 * b"1.5," + b"1.5")
    assert decode_predict(text, "m").size >= 1000 * (8 + 24)


def test_an_image_in_base64_is_its_bytes() -> None:
    image = bytes(range(256))
    document = {"instances": [{"line": {"b64": b64encode(image).decode()}}]}
    assert lists(document, TEXT) == {"line": [image]}
