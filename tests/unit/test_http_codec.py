"""KServe v2 bodies: every datatype both ways, both clients' encodings, and a table of what is refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import orjson
import pytest
import tritonclient.http as triton
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from vintner.errors import InvalidArgument, RequestError, Unsupported
from vintner.http_codec import (
    DecodedRequest,
    decode_infer,
    encode_error,
    encode_infer,
    json_size,
    model_metadata_json,
    server_metadata_json,
)
from vintner.json_text import JsonLimits
from vintner.types import DTYPES, Request, Response, Tensor, TensorSpec, bf16_to_fp32, fp32_to_bf16

RANGES = {name: np.iinfo(dtype) for name, dtype in DTYPES.items() if dtype.kind in "iu" and name != "BF16"}
HEADER = "Inference-Header-Content-Length"
SHAPES = npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    """Tensors that JSON can hold: BYTES are UTF-8, and all NaNs are alike."""
    datatype, shape = draw(st.sampled_from(sorted(DTYPES))), draw(SHAPES)
    if datatype == "BF16":
        return Tensor(datatype, fp32_to_bf16(draw(npst.arrays(np.float32, shape))))
    if datatype != "BYTES":
        return Tensor(datatype, draw(npst.arrays(DTYPES[datatype], shape)))
    count = int(np.prod(shape))
    array = np.empty(count, np.object_)
    array[:] = [text.encode() for text in draw(st.lists(st.text(max_size=5), min_size=count, max_size=count))]
    return Tensor(datatype, array.reshape(shape))


def same(left: Tensor, right: Tensor) -> bool:
    if left.datatype == "BF16":
        left, right = (Tensor("FP32", bf16_to_fp32(tensor.array)) for tensor in (left, right))
    if left.array.dtype.kind == "f":
        return left.array.dtype == right.array.dtype and np.array_equal(left.array, right.array, equal_nan=True)
    return left.array.dtype == right.array.dtype and np.array_equal(left.array, right.array)


def body(*, header: Any = None, **entry: Any) -> bytes:
    """A request of one input, [1] FP32 unless the keywords say otherwise; `header` has the other keys of the request.

    An entry of `...` is left out.
    """
    entry = {"name": "x", "datatype": "FP32", "shape": [1], "data": [1.5]} | entry
    one = {key: value for key, value in entry.items() if value is not ...}
    return json.dumps({"inputs": [one], **(header or {})}).encode()


def decode(text: bytes, header_length: str | None = None, **options: Any) -> DecodedRequest:
    """Decodes a body as the server does: cut in two where the header says."""
    size = len(text) if header_length is None else json_size(header_length, len(text))
    return decode_infer(text[:size], text[size:], "m", "", **options)


def decoded_array(**entry: Any) -> np.ndarray:
    return decode(body(**entry)).request.inputs["x"].array


def refusal(text: bytes, header_length: str | None = None, **options: Any) -> str:
    with pytest.raises(InvalidArgument) as refused:
        decode(text, header_length, **options)
    return refused.value.message


def reply(tensor: Tensor, *, binary: bool = False, **response: str) -> tuple[dict[str, str], bytes]:
    asked = DecodedRequest(Request("m", "", {}), {"y": binary}, False)
    headers, payload = encode_infer(Response("m", "1", {"y": tensor}, **response), asked)
    return dict(headers), payload


def as_request(payload: bytes, header_length: str | None) -> DecodedRequest:
    """A reply read as a request: an output has the keys of an input."""
    size = len(payload) if header_length is None else int(header_length)
    document = payload[:size].replace(b'"outputs":', b'"inputs":', 1)
    return decode(document + payload[size:], None if header_length is None else str(len(document)))


class TestDatatypes:
    @given(tensors(), st.booleans())
    def test_a_tensor_survives_encoding_and_decoding(self, tensor: Tensor, binary: bool) -> None:
        headers, payload = reply(tensor, binary=binary)
        decoded = as_request(payload, headers.get(HEADER)).request.inputs["y"]
        assert decoded.datatype == tensor.datatype
        assert decoded.shape == tensor.shape
        assert same(decoded, tensor)

    @given(tensors())
    def test_nested_data_is_the_same_as_flat_data(self, tensor: Tensor) -> None:
        flat = json.loads(reply(tensor)[1])["outputs"][0]["data"]
        nested = np.array(flat, object).reshape(tensor.shape).tolist()
        entry = {"datatype": tensor.datatype, "shape": tensor.shape}
        decoded = decode(body(**entry, data=nested)).request.inputs["x"]
        assert decoded.shape == tensor.shape
        assert same(decoded, tensor)

    @pytest.mark.parametrize("datatype", RANGES)
    def test_integers_are_exact_over_their_whole_range(self, datatype: str) -> None:
        ends = [int(RANGES[datatype].min), int(RANGES[datatype].max)]
        assert decoded_array(datatype=datatype, shape=[2], data=ends).tolist() == ends
        assert json.loads(reply(Tensor(datatype, np.array(ends, DTYPES[datatype])))[1])["outputs"][0]["data"] == ends

    @pytest.mark.parametrize("datatype", RANGES)
    @pytest.mark.parametrize("beyond", [-1, 1])
    def test_an_integer_out_of_range_is_refused(self, datatype: str, beyond: int) -> None:
        limits = RANGES[datatype]
        value = int(limits.max) + 1 if beyond > 0 else int(limits.min) - 1
        message = refusal(body(datatype=datatype, shape=[2], data=[0, value]))
        assert message.startswith(
            f"element 1 of input 'x' must be an integer from {limits.min} to {limits.max} for datatype {datatype}, got "
        )

    @pytest.mark.parametrize(
        ("datatype", "value", "expected"),
        [
            ("INT32", 1.0, "must be an integer from -2147483648 to 2147483647 for datatype INT32, got 1.0"),
            ("INT32", True, "datatype INT32, got true"),
            ("UINT8", "1", "must be an integer from 0 to 255 for datatype UINT8, got '1'"),
            ("INT64", None, "datatype INT64, got null"),
            ("INT64", 2**70, "datatype INT64, got 1.1805916207174113e+21"),
            ("INT8", float("nan"), "datatype INT8, got nan"),
            ("BOOL", 1, "must be true or false for datatype BOOL, got 1"),
            ("BOOL", "true", "must be true or false for datatype BOOL, got 'true'"),
            ("FP32", "1.5", "must be a number in its range for datatype FP32, got '1.5'"),
            ("FP32", False, "datatype FP32, got false"),
            ("FP32", {}, "datatype FP32, got an object"),
            ("FP64", [], "datatype FP64, got an array"),
            ("FP32", 1e39, "datatype FP32, got 1e+39"),
            ("FP32", -(10**39), "datatype FP32, got -1e+39"),
            ("FP16", 65520, "datatype FP16, got 65520"),
            ("BF16", 3.4e38, "datatype BF16, got 3.4e+38"),
            ("BF16", True, "datatype BF16, got true"),
            ("BYTES", 1, "must be a string for datatype BYTES, got 1"),
            ("BYTES", None, "must be a string for datatype BYTES, got null"),
        ],
    )
    def test_an_element_of_another_kind_is_refused(self, datatype: str, value: Any, expected: str) -> None:
        first = {"BOOL": True, "BYTES": "a"}.get(datatype, 1)
        message = refusal(body(datatype=datatype, shape=[2], data=[first, value]))
        assert message.startswith("element 1 of input 'x' must be ")
        assert message.endswith(expected)

    @given(st.integers(1, 40), st.data(), st.sampled_from([(0, "INT8", 300), (True, "BOOL", 0), (0.5, "FP16", 1e9)]))
    def test_the_first_wrong_element_is_named(self, size: int, data: st.DataObject, kind: tuple[Any, str, Any]) -> None:
        right, datatype, wrong = kind
        places = data.draw(st.sets(st.integers(0, size - 1), min_size=1))
        elements = [wrong if index in places else right for index in range(size)]
        message = refusal(body(datatype=datatype, shape=[size], data=elements))
        assert message.startswith(f"element {min(places)} of input 'x' must be ")

    @pytest.mark.parametrize(
        ("datatype", "value", "stored"),
        [
            ("FP16", 65519, 65504.0),
            ("FP32", 3, 3.0),
            ("FP32", 0.1, float(np.float32(0.1))),
            ("FP64", 0.1, 0.1),
            ("FP64", 2**64, 2.0**64),
            ("BOOL", False, False),
            ("BYTES", "grün\0", "grün\0".encode()),
        ],
    )
    def test_a_value_is_stored_as_its_datatype_holds_it(self, datatype: str, value: Any, stored: Any) -> None:
        assert decoded_array(datatype=datatype, data=[value]).tolist() == [stored]

    @pytest.mark.parametrize("datatype", ["FP16", "BF16", "FP32", "FP64"])
    def test_infinities_and_nan_are_read_and_written_by_name(self, datatype: str) -> None:
        tensor = decode(body(datatype=datatype, shape=[4], data=[float("nan"), float("inf"), -float("inf"), 0.5]))
        payload = reply(tensor.request.inputs["x"])[1]
        assert b'"data":[NaN,Infinity,-Infinity,0.5]' in payload

    def test_fp32_is_written_in_the_fewest_digits_that_read_back(self) -> None:
        values = np.array([0.1, 1e-7, 3.4028235e38, 16777216], np.float32)
        assert b'"data":[0.1,1e-7,3.4028235e+38,16777216.0]' in reply(Tensor("FP32", values))[1]


class TestShapes:
    @pytest.mark.parametrize(
        ("shape", "data"),
        [([2, 2], [1, 2, 3, 4]), ([2, 2], [[1, 2], [3, 4]]), ([1, 2, 2], [[[1, 2], [3, 4]]]), ([4, 1], [1, 2, 3, 4])],
    )
    def test_data_is_flat_or_nested_as_the_shape(self, shape: list[int], data: list[Any]) -> None:
        array = decoded_array(datatype="INT32", shape=shape, data=data)
        assert array.shape == tuple(shape)
        assert array.ravel().tolist() == [1, 2, 3, 4]

    @pytest.mark.parametrize("data", [[7], 7])
    def test_a_scalar_is_an_array_of_one_or_a_bare_value(self, data: Any) -> None:
        assert decoded_array(datatype="INT32", shape=[], data=data).tolist() == 7

    @pytest.mark.parametrize(
        ("shape", "data"), [([0], []), ([2, 0], []), ([2, 0], [[], []]), ([0, 3], []), ([2, 0, 3], [[], []])]
    )
    def test_a_tensor_without_elements_is_legal(self, shape: list[int], data: list[Any]) -> None:
        assert decoded_array(shape=shape, data=data).shape == tuple(shape)

    @pytest.mark.parametrize(
        ("shape", "data", "expected"),
        [
            ([3], [1, 2], "input 'x' has shape [3], 3 elements, but 'data' has 2"),
            ([1], [1, 2], "1 elements, but 'data' has 2"),
            ([9223372036854775807], [1], "causes total element count to exceed maximum size"),
            ([9223372036854775808, 3], [1], "causes total element count to exceed maximum size"),
            ([10**30, 3], [1], "'shape' of input 'x' must be an array of integers"),
            ([2**40], [1], "1099511627776 elements, but 'data' has 1"),
            ([-1], [1], "has a negative dimension"),
            ([1] * 65, [1], "has 65 dimensions, at most 64"),
            ([1.0], [1], "'shape' of input 'x' must be an array of integers"),
            ([True], [1], "'shape' of input 'x' must be an array of integers"),
            ([None], [1], "'shape' of input 'x' must be an array of integers"),
            ("1", [1], "'shape' of the input 'x' must be an array"),
            ([2, 2], [[1, 2, 3, 4]], "is not nested as shape [2, 2] says"),
            ([2, 2], [[1, 2], [3]], "is not nested as shape [2, 2] says"),
            ([2, 2], [[1, 2], 3], "is not nested as shape [2, 2] says"),
            ([2, 2], [[1, 2], None, None], "is not nested as shape [2, 2] says"),
            ([4], [[1, 2], [3, 4]], "is not nested as shape [4] says"),
            ([2, 2], [[[1], [2]], [[3], [4]]], "got an array"),
            ([2, 2], [[], []], "is not nested as shape [2, 2] says"),
            ([], [[1]], "got an array"),
            ([], {}, "'data' of input 'x' must be an array, got an object"),
            ([1], 1, "'data' of input 'x' must be an array, got 1"),
            ([1], None, "'data' of input 'x' must be an array, got null"),
            ([1], "a", "'data' of input 'x' must be an array, got 'a'"),
        ],
    )
    def test_data_that_contradicts_the_shape_is_refused(self, shape: Any, data: Any, expected: str) -> None:
        assert expected in refusal(body(shape=shape, data=data))


class TestJson:
    @pytest.mark.parametrize(
        "text",
        [
            b"",
            b"{",
            b"nonsense",
            b'{"inputs":[],}',
            b'{"id":"\xff"}',
            b'{"id":"\\ud800"}',
            b'{"id":"\\ud800","x":NaN}',
            b'{"id":"\xff","x":NaN}',
            b'{"x":nan}',
            b'{"x":1e400}',
            b'{"x":[1e400,NaN]}',
            b'{"x":[-1e400,"NaN"]}',
            b'{"x":[1' + b"0" * 5000 + b",NaN]}",
            b'\xef\xbb\xbf{"x":NaN}',
            b"[" * 100_000,
            b"[" * 100_000 + b"NaN",
            b"[" * 500 + b"NaN" + b"]" * 500,
        ],
    )
    def test_malformed_json_is_refused(self, text: bytes) -> None:
        assert refusal(text).startswith("malformed JSON: ")

    @pytest.mark.parametrize("text", [b"[]", b"1", b"null", b'"inputs"', b"NaN"])
    def test_a_body_that_is_no_object_is_refused(self, text: bytes) -> None:
        assert refusal(text) == "the request body must be a JSON object"

    @pytest.mark.parametrize("extra", [0, float("nan")])
    def test_a_literal_elsewhere_does_not_change_how_a_request_is_read(self, extra: float) -> None:
        decoded = decode(body(datatype="UINT64", shape=[2], data=[2**64 - 1, 0], header={"id": "ü", "else": extra}))
        assert decoded.request.id == "ü"
        assert decoded.request.inputs["x"].array.tolist() == [2**64 - 1, 0]
        assert "1.8446744073709552e+19" in refusal(body(datatype="UINT64", data=[2**64], header={"else": extra}))

    @pytest.mark.parametrize(("below", "above"), [("[", "]"), ('{"a":', "}")])
    @pytest.mark.parametrize("padding", [0, 10_000])
    def test_nesting_is_limited_to_a_hundred(self, below: str, above: str, padding: int) -> None:
        def nested(depth: int) -> bytes:
            unknown = below * (depth - 1) + "1" + above * (depth - 1)
            return body()[:-1] + f', "{"p" * padding}": {unknown}}}'.encode()

        assert decode(nested(99))
        assert decode(nested(100))
        assert refusal(nested(101)) == "JSON nesting depth exceeds maximum allowed limit (100)"

    def test_brackets_in_strings_do_not_count_as_nesting(self) -> None:
        assert decode(body(header={"id": "[{" * 1000})).request.id == "[{" * 1000

    def test_many_rows_are_not_deep(self) -> None:
        assert decoded_array(shape=[500, 1], data=[[1]] * 500).shape == (500, 1)

    def test_data_nested_over_the_limit_is_refused(self) -> None:
        assert refusal(b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":' + b"[" * 98 + b"]" * 98 + b"}]}")

    @pytest.mark.parametrize("place", ["request", "input", "parameters"])
    def test_the_keys_of_an_object_are_limited(self, place: str) -> None:
        def with_keys(count: int) -> bytes:
            keys = {f"k{index}": 1 for index in range(count)}
            if place == "parameters":
                return body(header={"parameters": keys})
            document = json.loads(body())
            target = document if place == "request" else document["inputs"][0]
            target |= dict(list(keys.items())[len(target) :])
            return json.dumps(document).encode()

        assert decode(with_keys(1023))
        assert decode(with_keys(1024))
        assert refusal(with_keys(1025)) == "a JSON object has 1025 keys, at most 1024 are allowed"

    def test_the_requested_outputs_are_limited(self) -> None:
        def with_outputs(count: int) -> bytes:
            return body(header={"outputs": [{"name": f"y{index}"} for index in range(count)]})

        assert len(decode(with_outputs(1023)).request.outputs) == 1023
        assert len(decode(with_outputs(1024)).request.outputs) == 1024
        assert refusal(with_outputs(1025)) == "the request lists 1025 outputs, at most 1024 are allowed"

    @pytest.mark.parametrize("unit", [b"[]", b"{}", b"[1]", b"NaN,[]"])
    def test_arrays_and_objects_are_limited(self, unit: bytes) -> None:
        def with_arrays(count: int) -> bytes:
            text = body()
            count -= text.count(b"[") + text.count(b"{") + 1
            return text[:-1] + b',"more":[' + b",".join([unit] * count) + b"]}"

        limits = JsonLimits(arrays=20)
        assert decode(with_arrays(19), limits=limits)
        assert decode(with_arrays(20), limits=limits)
        assert refusal(with_arrays(21), limits=limits) == "the JSON has 21 arrays and objects, at most 20 are allowed"
        assert "at most 4194304" in refusal(b"[" * 9_000_000)

    def test_the_limits_can_be_set(self) -> None:
        limits = JsonLimits(nesting=4, keys=4, outputs=1)
        assert decode(body(), limits=limits)
        assert "(4)" in refusal(body(header={"else": [[[[]]]]}), limits=limits)
        assert "at most 4" in refusal(body(header={"parameters": dict.fromkeys("abcde", 1)}), limits=limits)
        assert "at most 1" in refusal(body(header={"outputs": [{"name": "a"}, {"name": "b"}]}), limits=limits)


class TestRequests:
    def test_all_that_a_request_says_is_kept(self) -> None:
        parameters = {"timeout": 5, "flag": True, "ratio": 0.5, "text": "a", "binary_data_output": True}
        outputs = [{"name": "b", "parameters": {"binary_data": True}}, {"name": "a"}]
        header = {"id": "7 ü", "parameters": parameters, "outputs": outputs}
        decoded = decode_infer(body(header=header), b"", "mlp", "3")
        assert (decoded.request.model_name, decoded.request.model_version) == ("mlp", "3")
        assert decoded.request.id == "7 ü"
        assert decoded.request.outputs == ("b", "a")
        assert decoded.request.parameters == {"timeout": 5, "flag": True, "ratio": 0.5, "text": "a"}
        assert decoded.binary_outputs == {"b": True, "a": False}
        assert decoded.binary_default is True

    def test_what_a_request_leaves_out_has_its_default(self) -> None:
        decoded = decode(body())
        assert decoded.request == Request("m", "", decoded.request.inputs)
        assert (decoded.binary_outputs, decoded.binary_default) == ({}, False)

    def test_unknown_keys_are_ignored(self) -> None:
        header = {"model_name": "other", "outputs": [{"name": "y", "shape": 1, "parameters": {"unknown": []}}]}
        assert decode(body(header=header, extra={}, parameters={"unknown": {}})).request.model_name == "m"

    def test_an_empty_list_of_outputs_is_none(self) -> None:
        assert decode(body(header={"outputs": []})).request.outputs == ()

    @pytest.mark.parametrize(
        ("header", "expected"),
        [
            ({"inputs": ...}, "'inputs' of the request is missing"),
            ({"inputs": {}}, "'inputs' of the request must be an array"),
            ({"inputs": None}, "'inputs' of the request must be an array"),
            ({"inputs": ["x"]}, "each of the inputs must be an object"),
            ({"inputs": [{}]}, "'name' of the input is missing"),
            ({"inputs": [{"name": 1}]}, "'name' of the input must be a string"),
            ({"inputs": [json.loads(body())["inputs"][0]] * 2}, "input 'x' already exists in request"),
            ({"id": 7}, "'id' of the request must be a string"),
            ({"id": None}, "'id' of the request must be a string"),
            ({"outputs": None}, "'outputs' of the request must be an array"),
            ({"outputs": {"name": "y"}}, "'outputs' of the request must be an array"),
            ({"outputs": ["y"]}, "each of the outputs must be an object"),
            ({"outputs": [{}]}, "'name' of the output is missing"),
            ({"outputs": [{"name": ["y"]}]}, "'name' of the output must be a string"),
            ({"outputs": [{"name": "y"}, {"name": "y"}]}, "output 'y' already exists in request"),
            ({"outputs": [{"name": "y", "parameters": 1}]}, "'parameters' of the output 'y' must be an object"),
            (
                {"outputs": [{"name": "y", "parameters": {"binary_data": 1}}]},
                "'binary_data' of the output 'y' must be a boolean",
            ),
            ({"parameters": []}, "'parameters' of the request must be an object"),
            ({"parameters": {"a": {}}}, "parameter 'a' must be a boolean, a number or a string"),
            ({"parameters": {"a": [1]}}, "parameter 'a' must be a boolean, a number or a string"),
            ({"parameters": {"a": None}}, "parameter 'a' must be a boolean, a number or a string"),
            (
                {"parameters": {"triton_x": 1}},
                "parameter 'triton_x': parameter keys starting with 'triton_' are reserved for Triton usage and should"
                " not be specified.",
            ),
            (
                {"parameters": {"binary_data_output": 1}},
                "'binary_data_output' of the request's parameters must be a boolean",
            ),
        ],
    )
    def test_a_request_of_the_wrong_form_is_refused(self, header: dict[str, Any], expected: str) -> None:
        document = json.loads(body()) | header
        text = json.dumps({key: value for key, value in document.items() if value is not ...}).encode()
        assert refusal(text) == expected

    @pytest.mark.parametrize(
        ("entry", "expected"),
        [
            ({"name": ...}, "'name' of the input is missing"),
            ({"datatype": ...}, "'datatype' of the input 'x' is missing"),
            ({"datatype": 1}, "'datatype' of the input 'x' must be a string"),
            ({"datatype": "FLOAT"}, "input 'x' has unknown datatype 'FLOAT'; expected one of: BF16, "),
            ({"datatype": "F" * 10**6}, "input 'x' has unknown datatype 'FFF"),
            ({"shape": ...}, "'shape' of the input 'x' is missing"),
            ({"parameters": 1}, "'parameters' of the input 'x' must be an object"),
            ({"data": ...}, "Input must set only one of the following fields: 'data', 'binary_data_size'"),
            ({"parameters": {"binary_data_size": 4}}, "Input must set only one of the following fields: 'data', "),
        ],
    )
    def test_an_input_of_the_wrong_form_is_refused(self, entry: dict[str, Any], expected: str) -> None:
        assert refusal(body(**entry)).startswith(expected)

    @pytest.mark.parametrize(
        "text",
        [
            body(data=..., parameters={"shared_memory_region": "r", "shared_memory_byte_size": 4}),
            body(header={"outputs": [{"name": "y", "parameters": {"shared_memory_region": "r"}}]}),
        ],
    )
    def test_shared_memory_is_unsupported_where_it_is_not_allowed(self, text: bytes) -> None:
        with pytest.raises(Unsupported):
            decode(text)

    @given(st.binary() | st.binary().map(lambda tail: body()[:-5] + tail), st.none() | st.text(max_size=4))
    def test_random_bytes_raise_nothing_but_request_errors(self, text: bytes, header_length: str | None) -> None:
        try:
            decode(text, header_length)
        except RequestError:
            return

    json_values = st.recursive(
        st.none() | st.booleans() | st.integers(-(2**66), 2**66) | st.floats() | st.text(max_size=3),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=6,
    )

    @given(
        st.fixed_dictionaries(
            {},
            optional={
                "name": st.just("x") | json_values,
                "datatype": st.sampled_from(sorted(DTYPES)) | json_values,
                "shape": st.lists(st.integers(-1, 3), max_size=3) | json_values,
                "data": json_values,
                "parameters": st.dictionaries(st.just("binary_data_size"), st.integers(-1, 9)) | json_values,
            },
        ),
        st.fixed_dictionaries(
            {}, optional={"id": json_values, "outputs": json_values, "parameters": json_values, "inputs": json_values}
        ),
        st.binary(max_size=9),
    )
    def test_random_documents_raise_nothing_but_request_errors(
        self, entry: dict[str, Any], header: dict[str, Any], tail: bytes
    ) -> None:
        text = json.dumps({"inputs": [entry], **header}).encode()
        try:
            decode(text + tail, str(len(text)))
        except RequestError:
            return


class TestBinaryRequests:
    def binary(self, *blobs: bytes, sizes: list[Any] | None = None, shape: int = 1) -> tuple[bytes, str]:
        sizes = [len(blob) for blob in blobs] if sizes is None else sizes
        inputs = [
            {"name": f"x{index}", "datatype": "INT32", "shape": [shape], "parameters": {"binary_data_size": size}}
            for index, size in enumerate(sizes)
        ]
        text = json.dumps({"inputs": inputs}).encode()
        return text + b"".join(blobs), str(len(text))

    def test_blobs_belong_to_the_inputs_in_their_order(self) -> None:
        inputs = decode(*self.binary(b"\1\0\0\0", b"\2\0\0\0")).request.inputs
        assert {name: tensor.array.tolist() for name, tensor in inputs.items()} == {"x0": [1], "x1": [2]}

    def test_json_and_binary_inputs_can_be_mixed(self) -> None:
        document = json.loads(body(data=..., parameters={"binary_data_size": 4}))
        document["inputs"].insert(0, {"name": "j", "datatype": "BOOL", "shape": [1], "data": [True]})
        text = json.dumps(document).encode()
        inputs = decode(text + b"\0\0\x80?", str(len(text))).request.inputs
        assert (inputs["j"].array.tolist(), inputs["x"].array.tolist()) == ([True], [1.0])

    def test_an_empty_blob_is_a_tensor_without_elements(self) -> None:
        assert decode(*self.binary(b"", shape=0)).request.inputs["x0"].shape == (0,)

    def test_a_header_that_covers_the_whole_body_is_legal(self) -> None:
        assert decode(body(), str(len(body()))).request.inputs["x"].array.tolist() == [1.5]

    @pytest.mark.parametrize(
        ("blobs", "sizes", "expected"),
        [
            ([b"\0" * 5], [4], "unexpected additional input data for model 'm'"),
            ([b"\0" * 3], [4], "unexpected size for input 'x0', expecting 1 additional bytes for model 'm'"),
            ([b"\0" * 4], [4, 4], "unexpected size for input 'x1', expecting 4 additional bytes for model 'm'"),
            ([b"\0" * 4], [2**60], "unexpected size for input 'x0', expecting 1152921504606846972 additional bytes"),
            ([b"\0" * 8], [8], "input byte size mismatch for input 'x0' for model 'm'. Expected 4, got 8"),
            ([b"\0" * 4], ["4"], "'binary_data_size' of input 'x0' must be an integer that is not negative"),
            ([b"\0" * 4], [True], "'binary_data_size' of input 'x0' must be an integer that is not negative"),
            ([b"\0" * 4], [4.0], "'binary_data_size' of input 'x0' must be an integer that is not negative"),
            ([b"\0" * 4], [-4], "'binary_data_size' of input 'x0' must be an integer that is not negative"),
        ],
    )
    def test_sizes_that_contradict_the_body_are_refused(
        self, blobs: list[bytes], sizes: list[Any], expected: str
    ) -> None:
        assert refusal(*self.binary(*blobs, sizes=sizes)).startswith(expected)

    def test_blobs_without_the_header_are_not_json(self) -> None:
        assert refusal(self.binary(b"\0" * 4)[0]).startswith("malformed JSON: ")

    @pytest.mark.parametrize(
        ("header_length", "expected"),
        [
            ("abc", "Unable to parse Inference-Header-Content-Length, got: abc"),
            ("", "Unable to parse Inference-Header-Content-Length, got: "),
            ("12abc", "Unable to parse Inference-Header-Content-Length, got: 12abc"),
            ("1_2", "Unable to parse Inference-Header-Content-Length, got: 1_2"),
            ("٣", "Unable to parse Inference-Header-Content-Length, got: ٣"),
            ("2147483648", "Unable to parse Inference-Header-Content-Length, value is out of range"),
            ("-2147483649", "Unable to parse Inference-Header-Content-Length, value is out of range"),
            ("9" * 10_000, "Unable to parse Inference-Header-Content-Length, value is out of range"),
            ("-1", "inference header size should be in range (0, 76), got: -1"),
            ("77", "inference header size should be in range (0, 76), got: 77"),
        ],
    )
    def test_a_header_length_that_cannot_be_is_refused(self, header_length: str, expected: str) -> None:
        assert len(body()) == 76
        assert refusal(body(), header_length).startswith(expected)

    def test_a_raw_binary_request_has_no_json(self) -> None:
        assert json_size("0", 4) == json_size("0", 0) == 0


class TestReplies:
    tensor = Tensor("FP32", np.array([[1.5, 2.0]], np.float32))

    def test_the_keys_come_in_tritons_order(self) -> None:
        headers, payload = reply(self.tensor, id="7")
        assert payload == (
            b'{"id":"7","model_name":"m","model_version":"1",'
            b'"outputs":[{"name":"y","datatype":"FP32","shape":[1,2],"data":[1.5,2.0]}]}'
        )
        assert headers == {"Content-Type": "application/json"}

    def test_a_request_without_id_gets_none(self) -> None:
        assert "id" not in json.loads(reply(self.tensor)[1])

    def test_its_parameters_follow_the_version(self) -> None:
        response = Response("m", "1", {"y": self.tensor}, parameters={"count": 3, "flag": True, "text": "é"})
        _, payload = encode_infer(response, DecodedRequest(Request("m", "", {}), {}, True))
        assert payload.startswith(
            '{"model_name":"m","model_version":"1","parameters":{"count":3,"flag":true,"text":"é"},"outputs":['.encode()
        )
        assert payload.endswith(self.tensor.array.tobytes())

    def test_binary_data_follows_the_json(self) -> None:
        headers, payload = reply(self.tensor, binary=True)
        text = (
            b'{"model_name":"m","model_version":"1","outputs":'
            b'[{"name":"y","datatype":"FP32","shape":[1,2],"parameters":{"binary_data_size":8}}]}'
        )
        assert payload == text + self.tensor.array.tobytes()
        assert headers == {"Content-Type": "application/octet-stream", HEADER: str(len(text))}

    def test_a_reply_whose_blobs_are_all_empty_is_json(self) -> None:
        headers, payload = reply(Tensor("BYTES", np.empty((0, 2), np.object_)), binary=True)
        assert headers == {"Content-Type": "application/json"}
        assert json.loads(payload)["outputs"] == [
            {"name": "y", "datatype": "BYTES", "shape": [0, 2], "parameters": {"binary_data_size": 0}}
        ]

    @pytest.mark.parametrize(
        ("listed", "default", "binary"),
        [
            ({}, False, False),
            ({}, True, True),
            ({"y": False}, True, False),
            ({"y": True}, False, True),
            ({"y": True}, True, True),
        ],
    )
    def test_a_listed_output_decides_for_itself_and_others_by_the_requests_default(
        self, listed: dict[str, bool], default: bool, binary: bool
    ) -> None:
        outputs = [{"name": name, "parameters": {"binary_data": flag}} for name, flag in listed.items()]
        header = {"outputs": outputs, "parameters": {"binary_data_output": default}}
        asked = decode(body(header=header))
        headers, _ = encode_infer(Response("m", "1", {"y": self.tensor}), asked)
        assert (HEADER in dict(headers)) is binary

    def test_a_listed_output_that_does_not_say_is_json_whatever_the_default(self) -> None:
        asked = decode(body(header={"outputs": [{"name": "y"}], "parameters": {"binary_data_output": True}}))
        headers, _ = encode_infer(Response("m", "1", {"y": self.tensor}), asked)
        assert HEADER not in dict(headers)

    def test_an_output_that_is_not_utf8_names_the_binary_extension(self) -> None:
        array = np.empty(1, np.object_)
        array[0] = b"\xff"
        with pytest.raises(InvalidArgument, match=r"output 'y' is not UTF-8.*binary tensor data extension"):
            reply(Tensor("BYTES", array))

    def test_an_array_that_is_not_contiguous_is_written_in_its_own_order(self) -> None:
        tensor = Tensor("INT32", np.arange(8, dtype=np.int32).reshape(2, 4).T[::2, 0])
        assert json.loads(reply(tensor)[1])["outputs"][0]["data"] == [0, 2]

    def test_the_word_null_in_a_text_changes_nothing(self) -> None:
        array = np.empty(1, np.object_)
        array[0] = b"null"
        assert json.loads(reply(Tensor("BYTES", array), id="null")[1])["outputs"][0]["data"] == ["null"]

    def test_an_output_of_infinities_does_not_change_the_others(self) -> None:
        outputs = {"a": Tensor("FP32", np.array([np.inf], np.float32)), "b": Tensor("INT8", np.array([1], np.int8))}
        payload = encode_infer(Response("m", "1", outputs), decode(body()))[1]
        assert [output["data"] for output in json.loads(payload)["outputs"]] == [[float("inf")], [1]]


class TestTritonsClient:
    """What tritonclient writes is read, and what is written here tritonclient reads."""

    arrays = pytest.mark.parametrize(
        ("datatype", "array"),
        [
            ("BOOL", np.array([[True, False]])),
            ("UINT8", np.array([[0, 255]], np.uint8)),
            ("INT64", np.array([[-(2**63), 2**63 - 1]], np.int64)),
            ("UINT64", np.array([[0, 2**64 - 1]], np.uint64)),
            ("FP32", np.array([[0.1, -3.4e38]], np.float32)),
            ("FP64", np.array([[0.1, 1e300]], np.float64)),
            ("BYTES", np.array([["grün".encode(), b""]], np.object_)),
            ("FP32", np.zeros((0, 2), np.float32)),
        ],
    )

    @arrays
    @pytest.mark.parametrize("binary", [False, True])
    def test_its_inputs_are_read(self, datatype: str, array: np.ndarray, binary: bool) -> None:
        sent = triton.InferInput("x", array.shape, datatype)
        sent.set_data_from_numpy(array, binary_data=binary)
        text, size = triton.InferenceServerClient.generate_request_body([sent], request_id="7")
        decoded = decode(text, None if size is None else str(size))
        assert same(decoded.request.inputs["x"], Tensor(datatype, array))
        assert decoded.binary_default is True
        assert decoded.request.id == "7"

    @arrays
    @pytest.mark.parametrize("binary", [False, True])
    def test_it_reads_the_outputs(self, datatype: str, array: np.ndarray, binary: bool) -> None:
        headers, payload = reply(Tensor(datatype, array), binary=binary)
        size = int(headers[HEADER]) if HEADER in headers else None
        result = triton.InferenceServerClient.parse_response_body(payload, header_length=size)
        received = result.as_numpy("y")
        if datatype == "BYTES" and not binary:
            received = np.array([[element.encode() for element in row] for row in received], np.object_)
        assert received.shape == array.shape
        assert received.tolist() == array.tolist()


class TestOtherBodies:
    @pytest.mark.parametrize("message", ["", 'a "b"\n', "ü"])
    def test_an_error_is_an_object_with_the_message(self, message: str) -> None:
        assert orjson.loads(encode_error(message)) == {"error": message}

    def test_an_error_with_an_unpaired_surrogate_is_still_sent(self) -> None:
        assert encode_error("model '\udcff'") == b'{"error":"model \'?\'"}'

    def test_server_metadata(self) -> None:
        assert server_metadata_json("vintner", "1", ("a", "b")) == (
            b'{"name":"vintner","version":"1","extensions":["a","b"]}'
        )

    def test_model_metadata(self) -> None:
        inputs, outputs = [TensorSpec("x", "FP32", (-1, 2))], [TensorSpec("y", "INT64", ())]
        assert model_metadata_json("m", ("1", "2"), "openvino_ir", inputs, outputs) == (
            b'{"name":"m","versions":["1","2"],"platform":"openvino_ir",'
            b'"inputs":[{"name":"x","datatype":"FP32","shape":[-1,2]}],'
            b'"outputs":[{"name":"y","datatype":"INT64","shape":[]}]}'
        )
