"""Tensors as raw bytes: what gRPC's `raw_input_contents` and REST's binary tensor extension share.

Little endian, row major, no padding. BOOL is one byte, BF16 two, a BYTES element a uint32 length and that many bytes.
Knows nothing of either transport. Invariant: nothing is allocated from a shape; memory grows with the received bytes
only, and every array that leaves here is C-contiguous and aligned.
"""

from __future__ import annotations

import struct
from typing import Final

import numpy as np

from vintner.errors import InvalidArgument, nearest
from vintner.types import DTYPES, Array, Tensor

MAX_RANK: Final = 64
"""The most dimensions that NumPy can hold."""

MAX_BYTES: Final = 2**63 - 1
"""The most bytes that NumPy can count; an element of BYTES counts as the pointer to it."""

_LENGTH: Final = struct.Struct("<I")


def check_shape(name: str, datatype: str, shape: tuple[int, ...]) -> int:
    """The number of elements of a shape that a client sent for an input.

    Raises InvalidArgument for an unknown datatype, and for a shape that no array can have. Zero extents are legal, but
    do not excuse an overflow among the others: NumPy multiplies those too.
    """
    dtype = DTYPES.get(datatype)
    if dtype is None:
        shown = datatype[:40]  # finding the nearest name takes time and memory by the length
        raise InvalidArgument(f"input '{name}' has unknown datatype '{shown}'{nearest(shown, DTYPES)}")
    if len(shape) > MAX_RANK:
        raise InvalidArgument(f"shape of input '{name}' has {len(shape)} dimensions, at most {MAX_RANK} are supported")
    product = 1
    for extent in shape:
        if extent < 0:
            raise InvalidArgument(f"shape {list(shape)} of input '{name}' has a negative dimension")
        product *= extent or 1
    if product * dtype.itemsize > MAX_BYTES:
        raise InvalidArgument(
            f"shape of input '{name}' causes total element count to exceed maximum size of {MAX_BYTES} bytes"
        )
    return 0 if 0 in shape else product


def decode_raw(
    name: str, datatype: str, shape: tuple[int, ...], data: bytes | memoryview, model_name: str = ""
) -> Tensor:
    """The tensor in `data`; the array is a view of it where its alignment allows.

    `data` is bytes or a memoryview of unsigned bytes. Names serve the messages only. Raises InvalidArgument.
    """
    count = check_shape(name, datatype, shape)
    dtype = DTYPES[datatype]
    if datatype == "BYTES":
        return Tensor(datatype, _object_array(_split_elements(name, count, bytes(data))).reshape(shape))
    if count * dtype.itemsize != len(data):
        of_model = f" for model '{model_name}'" if model_name else ""
        raise InvalidArgument(
            f"input byte size mismatch for input '{name}'{of_model}. Expected {count * dtype.itemsize}, got {len(data)}"
        )
    return Tensor(datatype, _fixed_size_array(dtype, data).reshape(shape))


def encode_raw(tensor: Tensor) -> bytes:
    """The tensor's bytes, for protobuf, which takes nothing but `bytes`."""
    return _join_elements(tensor.array) if tensor.datatype == "BYTES" else tensor.array.tobytes()


def raw_view(tensor: Tensor) -> memoryview:
    """The tensor's bytes without a copy where the array is contiguous; its size is `nbytes`, its length may differ."""
    if tensor.datatype == "BYTES":
        return memoryview(_join_elements(tensor.array))
    return np.ascontiguousarray(tensor.array).data


def _fixed_size_array(dtype: np.dtype[np.generic], data: bytes | memoryview) -> Array:
    if dtype.kind == "b":
        # A NumPy bool that holds anything but 0 and 1 is undefined behaviour for whoever reads it in C++.
        return np.frombuffer(data, np.uint8).astype(np.bool_)
    array: Array = np.frombuffer(data, dtype)
    if not array.flags.aligned:
        # The JSON before a blob ends anywhere. NumPy copies unaligned elements one by one; this is a memcpy.
        array = np.frombuffer(bytearray(data), dtype)
    return array


def _object_array(elements: list[bytes]) -> Array:
    array: Array = np.empty(len(elements), np.object_)
    array[:] = elements
    return array


def _split_elements(name: str, count: int, data: bytes) -> list[bytes]:
    if count * _LENGTH.size > len(data):
        raise InvalidArgument(
            f"expected {count} string elements for inference input '{name}', "
            f"got {len(data)} bytes, too few for their lengths"
        )
    elements: list[bytes] = []
    offset = 0
    for _ in range(count):
        if offset + _LENGTH.size > len(data):
            raise _truncated(name, count, len(elements))
        start = offset + _LENGTH.size
        offset = start + _LENGTH.unpack_from(data, offset)[0]
        elements.append(data[start:offset])
    if offset > len(data):
        raise _truncated(name, count, count - 1)
    if offset < len(data):
        raise InvalidArgument(
            f"expected {count} string elements for inference input '{name}', got {len(data) - offset} bytes more"
        )
    return elements


def _truncated(name: str, expected: int, whole: int) -> InvalidArgument:
    return InvalidArgument(
        f"expected {expected} string elements for inference input '{name}', but the data ends after {whole} of them"
    )


def _join_elements(array: Array) -> bytes:
    pack = _LENGTH.pack
    return b"".join([part for element in array.ravel().tolist() for part in (pack(len(element)), element)])
