"""Raw binary requests: which shape is made of which number of bytes, and which are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from vintner.errors import InvalidArgument
from vintner.http_raw import decode_raw_request
from vintner.types import DTYPES, Tensor, TensorSpec


def decoded(body: bytes, shape: tuple[int, ...], datatype: str = "FP32") -> Tensor:
    made = decode_raw_request(body, [TensorSpec("x", datatype, shape)], "m", "7")
    assert (made.binary_outputs, made.binary_default) == ({}, True)
    assert (made.request.model_name, made.request.model_version, [*made.request.inputs]) == ("m", "7", ["x"])
    return made.request.inputs["x"]


@pytest.mark.parametrize(
    ("shape", "size", "expected"),
    [
        ((2, 3), 24, (2, 3)),
        ((), 4, ()),
        ((-1,), 0, (0,)),
        ((-1,), 12, (3,)),
        ((-1, 3), 24, (2, 3)),
        ((2, -1), 24, (2, 3)),
        ((-1, -1), 24, (1, 6)),
        ((-1, 2, -1), 24, (1, 2, 3)),
    ],
)
def test_the_shape_is_what_the_bytes_fill(shape: tuple[int, ...], size: int, expected: tuple[int, ...]) -> None:
    tensor = decoded(bytes(range(size)), shape)
    assert (tensor.shape, tensor.array.tobytes()) == (expected, bytes(range(size)))


@pytest.mark.parametrize(
    ("shape", "size", "fault"),
    [
        ((2, 3), 20, "Expected 24, got 20"),
        ((2, 3), 28, "Expected 24, got 28"),
        ((-1, 3), 25, r"input 'x', FP32 \[-1, 3\], needs a multiple of 12 bytes, got 25"),
        ((-1, -1, -1), 24, "more than one dynamic dimension beside the batch"),
        ((2, -1, -1), 24, "more than one dynamic dimension"),
        ((-1, 0), 4, "a multiple of 0 bytes, got 4"),
    ],
)
def test_what_fits_no_shape_is_refused(shape: tuple[int, ...], size: int, fault: str) -> None:
    with pytest.raises(InvalidArgument, match=fault):
        decoded(bytes(size), shape)


@pytest.mark.parametrize("shape", [(1,), (-1,), (-1, 1), (-1, -1), ()])
@pytest.mark.parametrize("text", [b"", b"wine", b"\0\xff" * 500])
def test_strings_come_as_one_element_without_its_length(shape: tuple[int, ...], text: bytes) -> None:
    tensor = decoded(text, shape, "BYTES")
    assert (tensor.shape, tensor.array.ravel().tolist()) == ((1,) * len(shape), [text])


def test_an_input_of_several_strings_is_refused() -> None:
    with pytest.raises(InvalidArgument, match=r"'x', BYTES \[-1, 2\], can have no shape of one element"):
        decoded(b"wine", (-1, 2), "BYTES")


@pytest.mark.parametrize("count", [0, 2])
def test_a_model_has_to_have_one_input(count: int) -> None:
    with pytest.raises(InvalidArgument, match=f"needs a model with one input, model 'm' has {count}"):
        decode_raw_request(b"", [TensorSpec(str(n), "FP32", (-1,)) for n in range(count)], "m", "")


@given(st.sampled_from(sorted({*DTYPES} - {"BYTES", "BOOL"})), st.lists(st.integers(0, 4), max_size=3), st.data())
def test_any_tensor_of_the_model_survives(datatype: str, extents: list[int], data: Any) -> None:
    """With at most one dimension made dynamic, and no other that is zero."""
    array = np.frombuffer(bytes(int(np.prod(extents)) * DTYPES[datatype].itemsize), DTYPES[datatype]).reshape(extents)
    zeros = [axis for axis, extent in enumerate(extents) if extent == 0]
    free = data.draw(st.sampled_from(zeros or [None, *range(len(extents))])) if len(zeros) < 2 else None
    spec = tuple(-1 if axis == free else extent for axis, extent in enumerate(extents))
    assert decoded(array.tobytes(), spec, datatype).shape == array.shape
