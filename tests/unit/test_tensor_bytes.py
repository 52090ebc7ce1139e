"""Tensors as raw bytes: round trips, layout on the wire, and what is refused."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from vintner.errors import InvalidArgument
from vintner.tensor_bytes import check_shape, decode_raw, encode_raw, raw_view
from vintner.types import DTYPES, Tensor, fp32_to_bf16

SHAPES = npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
FIXED_SIZE = sorted(DTYPES.keys() - {"BYTES"})


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    datatype = draw(st.sampled_from(sorted(DTYPES)))
    shape = draw(SHAPES)
    if datatype != "BYTES":
        return Tensor(datatype, draw(npst.arrays(DTYPES[datatype], shape)))
    count = int(np.prod(shape))
    array = np.empty(count, np.object_)
    array[:] = draw(st.lists(st.binary(max_size=9), min_size=count, max_size=count))
    return Tensor(datatype, array.reshape(shape))


def objects(*elements: bytes) -> np.ndarray:
    array = np.empty(len(elements), np.object_)
    array[:] = elements
    return array


@given(tensors())
def test_a_tensor_survives_encoding_and_decoding(tensor: Tensor) -> None:
    decoded = decode_raw("x", tensor.datatype, tensor.shape, encode_raw(tensor))
    assert decoded.datatype == tensor.datatype
    assert decoded.shape == tensor.shape
    assert decoded.array.dtype == DTYPES[tensor.datatype]
    if tensor.datatype == "BYTES":
        assert decoded.array.tolist() == tensor.array.tolist()
    else:
        assert decoded.array.tobytes() == tensor.array.tobytes()


@given(tensors())
def test_the_view_holds_the_same_bytes_as_the_encoding(tensor: Tensor) -> None:
    view = raw_view(tensor)
    assert b"".join([view]) == encode_raw(tensor)
    assert view.nbytes == len(encode_raw(tensor))


@given(
    st.sampled_from(sorted(DTYPES)), st.lists(st.integers(-(2**65), 2**65) | st.integers(0, 4), max_size=5), st.binary()
)
def test_random_bytes_and_shapes_give_a_tensor_or_an_invalid_argument(
    datatype: str, shape: list[int], data: bytes
) -> None:
    try:
        tensor = decode_raw("x", datatype, tuple(shape), data)
    except InvalidArgument:
        return
    assert tensor.shape == tuple(shape)


def test_elements_of_bytes_have_a_little_endian_length_before_them() -> None:
    assert encode_raw(Tensor("BYTES", objects(b"ab", b"", b"\x00"))) == b"\x02\0\0\0ab\0\0\0\0\x01\0\0\0\x00"


def test_numbers_are_little_endian_and_row_major() -> None:
    assert encode_raw(Tensor("INT16", np.array([[1, 2], [3, 4]], np.int16))) == b"\1\0\2\0\3\0\4\0"


def test_bf16_is_the_upper_half_of_fp32() -> None:
    bits = fp32_to_bf16(np.array([1.0, -2.5], np.float32))
    upper_halves = struct.pack("<f", 1.0)[2:] + struct.pack("<f", -2.5)[2:]
    assert encode_raw(Tensor("BF16", bits)) == upper_halves
    assert decode_raw("x", "BF16", (2,), upper_halves).array.tolist() == bits.tolist()


def test_an_array_that_is_not_contiguous_is_encoded_in_its_own_order() -> None:
    tensor = Tensor("INT8", np.arange(6, dtype=np.int8).reshape(2, 3).T)
    assert encode_raw(tensor) == b"".join([raw_view(tensor)]) == bytes([0, 3, 1, 4, 2, 5])


def test_aligned_data_is_viewed_and_not_copied() -> None:
    data = bytes(range(8))
    assert np.shares_memory(decode_raw("x", "FP32", (2,), data).array, np.frombuffer(data, np.uint8))


@pytest.mark.parametrize("datatype", FIXED_SIZE)
@pytest.mark.parametrize("offset", range(1, 9))
def test_an_array_is_aligned_wherever_its_bytes_lie(datatype: str, offset: int) -> None:
    size = 3 * DTYPES[datatype].itemsize
    data = bytes(offset) + b"\1" * size
    array = decode_raw("x", datatype, (3,), memoryview(data)[offset:]).array
    assert array.flags.aligned
    assert array.flags.c_contiguous
    assert array.tobytes() == b"\1" * size


def test_any_byte_but_zero_is_true() -> None:
    array = decode_raw("x", "BOOL", (4,), b"\0\1\2\xff").array
    assert array.tobytes() == b"\0\1\1\1"


@pytest.mark.parametrize("shape", [(0,), (2, 0, 3), (0, 2**40), (2**60 - 1, 0)])
@pytest.mark.parametrize("datatype", ["FP32", "BYTES"])
def test_a_tensor_without_elements_is_legal(datatype: str, shape: tuple[int, ...]) -> None:
    assert decode_raw("x", datatype, shape, b"").shape == shape


@pytest.mark.parametrize(
    ("datatype", "shape", "message"),
    [
        ("FP32", (-1, 3), "shape [-1, 3] of input 'x' has a negative dimension"),
        ("FP32", (0, -1), "shape [0, -1] of input 'x' has a negative dimension"),
        ("INT8", (2**63 - 1, 3), "causes total element count to exceed maximum size"),
        ("INT8", (2**63,), "causes total element count to exceed maximum size"),
        ("FP32", (2**61,), "causes total element count to exceed maximum size"),
        ("FP32", (0, 2**62, 2**62), "causes total element count to exceed maximum size"),
        ("FP32", (1,) * 65, "shape of input 'x' has 65 dimensions, at most 64 are supported"),
        ("fp32", (1,), "input 'x' has unknown datatype 'fp32'"),
        ("FP3", (1,), "input 'x' has unknown datatype 'FP3'; did you mean 'FP32'?"),
    ],
)
def test_a_shape_that_no_array_can_have_is_refused(datatype: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        check_shape("x", datatype, shape)
    assert message in refused.value.message


@pytest.mark.parametrize("shape", [(), (1,) * 64, (2**61 - 1,), (2**31, 2**29)])
def test_the_largest_countable_shape_is_counted(shape: tuple[int, ...]) -> None:
    assert check_shape("x", "FP32", shape) == int(np.prod([1, *shape], dtype=object))


def test_the_message_for_a_wrong_size_is_tritons() -> None:
    with pytest.raises(InvalidArgument) as refused:
        decode_raw("x", "FP32", (8,), bytes(40), "m")
    assert refused.value.message == "input byte size mismatch for input 'x' for model 'm'. Expected 32, got 40"


@pytest.mark.parametrize("size", [0, 7, 9])
def test_a_size_that_contradicts_the_shape_is_refused(size: int) -> None:
    with pytest.raises(InvalidArgument, match=r"input byte size mismatch for input 'x'\. Expected 8, got"):
        decode_raw("x", "FP32", (2,), bytes(size))


@pytest.mark.parametrize(
    ("count", "data", "message"),
    [
        (2, b"\1\0\0\0a", "got 5 bytes, too few for their lengths"),
        (2**40, b"\0" * 64, "got 64 bytes, too few for their lengths"),
        (1, b"\2\0\0\0a", "the data ends after 0 of them"),
        (1, b"\xff\xff\xff\xffa", "the data ends after 0 of them"),
        (2, b"\4\0\0\0abcd", "the data ends after 1 of them"),
        (2, b"\2\0\0\0abcd", "the data ends after 1 of them"),
        (2, b"\0\0\0\0\1\0\0\0", "the data ends after 1 of them"),
        (1, b"\1\0\0\0a\0", "got 1 bytes more"),
        (0, b"\0\0\0\0", "got 4 bytes more"),
    ],
)
def test_elements_of_bytes_that_contradict_the_shape_are_refused(count: int, data: bytes, message: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        decode_raw("x", "BYTES", (count,), data)
    assert refused.value.message.startswith(f"expected {count} string elements for inference input 'x', ")
    assert message in refused.value.message
