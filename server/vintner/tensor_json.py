"""Tensors as JSON: between the `data` of an input or output, as parsed, and arrays.

Numbers are converted by `struct`, which is as fast as NumPy here and, unlike it, refuses a float for an integer, an
integer out of range and a finite number that a smaller float cannot hold. It takes booleans for numbers, so the
types of the elements are counted first. Invariant: no value is truncated, wrapped or guessed.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from itertools import chain
from operator import countOf
from typing import Any, Final

import numpy as np
import orjson

from vintner.errors import InvalidArgument
from vintner.tensor_bytes import check_shape
from vintner.types import DTYPES, Array, Tensor, bf16_to_fp32, fp32_to_bf16

_CODES: Final[Mapping[str, str]] = {
    "UINT8": "B",
    "UINT16": "H",
    "UINT32": "I",
    "UINT64": "Q",
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "FP16": "e",
    "FP32": "f",
    "FP64": "d",
    "BF16": "f",
}
"""Codes of `struct`; BF16 goes by way of FP32. Only with `<` do they check the range of a float."""

_EXACT_TYPE: Final[Mapping[str, type]] = {
    datatype: float if code in "efd" else int for datatype, code in _CODES.items()
} | {"BOOL": bool, "BYTES": str}


def decode_data(name: str, datatype: str, shape: tuple[int, ...], data: Any) -> Tensor:
    """The tensor that `data`, flat or nested as `shape` says, holds. Raises InvalidArgument.

    The array of a number type is writable: a runtime may take it as it is.
    """
    count = check_shape(name, datatype, shape)
    flat = _flatten(name, shape, data)
    if len(flat) != count:
        raise InvalidArgument(
            f"Shape does not match true shape of 'data' field: input '{name}' has shape {list(shape)}, "
            f"{count} elements, but 'data' has {len(flat)}"
        )
    return Tensor(datatype, convert(name, datatype, flat).reshape(shape))


def encode_data(name: str, tensor: Tensor) -> Array | list[str]:
    """What orjson writes as the flat `data` of an output.

    Raises InvalidArgument for BYTES that are no text: the client has to ask for binary data.
    """
    if tensor.datatype == "BYTES":
        try:
            return [element.decode() for element in tensor.array.ravel().tolist()]
        except UnicodeDecodeError:
            raise InvalidArgument(
                f"output '{name}' is not UTF-8 and cannot be sent as JSON; "
                "request it with the binary tensor data extension (parameter 'binary_data': true)"
            ) from None
    flat = tensor.array.ravel()
    return bf16_to_fp32(flat) if tensor.datatype == "BF16" else flat


def spell_non_finite(values: Array) -> orjson.Fragment:
    """The JSON of an array of floats, or of one of NumPy's scalars, with `NaN`, `Infinity` and `-Infinity` where orjson
    writes null."""
    pieces = orjson.dumps(values, option=orjson.OPT_SERIALIZE_NUMPY).split(b"null")
    literals = map(literal, values[~np.isfinite(values)].tolist())
    return orjson.Fragment(b"".join(chain.from_iterable(zip(pieces, chain(literals, [b""]), strict=True))))


def literal(value: float) -> bytes:
    """JSON's word for a float that is not finite, as most readers know it."""
    if value != value:
        return b"NaN"
    return b"Infinity" if value > 0 else b"-Infinity"


def _flatten(name: str, shape: tuple[int, ...], data: Any) -> list[Any]:
    if type(data) is not list:
        if shape == () and type(data) is not dict:
            return [data]
        raise InvalidArgument(f"'data' of input '{name}' must be an array, got {_shown(data)}")
    return _unnest(name, shape, data) if data and type(data[0]) is list else data


def _unnest(name: str, shape: tuple[int, ...], data: list[Any]) -> list[Any]:
    flat = unnest(shape, data)
    if flat is None:
        raise InvalidArgument(
            f"Shape does not match true shape of 'data' field: "
            f"'data' of input '{name}' is not nested as shape {list(shape)} says"
        )
    return flat


def unnest(shape: tuple[int, ...], data: Any) -> list[Any] | None:
    """The elements of nested arrays; None if these are not nested as the shape says."""
    level = [data]
    for extent in shape:
        if countOf(map(type, level), list) != len(level) or countOf(map(len, level), extent) != len(level):
            return None
        level = list(chain.from_iterable(level))
    return level


def convert(name: str, datatype: str, flat: list[Any]) -> Array:
    """The elements as an array of one dimension. Raises InvalidArgument with the first that does not fit."""
    exact = _EXACT_TYPE[datatype]
    if not _types_fit(exact, flat):
        raise _refusal(name, datatype, flat)
    if exact is str:
        elements: Array = np.empty(len(flat), np.object_)
        elements[:] = [element.encode() for element in flat]
        return elements
    if exact is bool:
        return np.array(flat, np.bool_)
    try:
        return _pack(datatype, flat)
    except (struct.error, OverflowError):
        raise _refusal(name, datatype, flat) from None


def _types_fit(exact: type, flat: list[Any]) -> bool:
    return countOf(map(type, flat), exact) == len(flat) or (exact is float and {*map(type, flat)} <= {int, float})


def _pack(datatype: str, flat: list[Any]) -> Array:
    dtype = DTYPES["FP32" if datatype == "BF16" else datatype]
    packed = bytearray(len(flat) * dtype.itemsize)
    struct.pack_into(f"<{len(flat)}{_CODES[datatype]}", packed, 0, *flat)
    array: Array = np.frombuffer(packed, dtype)
    return _narrow(array) if datatype == "BF16" else array


def _narrow(values: Array) -> Array:
    bits = fp32_to_bf16(values)
    if (np.isfinite(values) & ~np.isfinite(bf16_to_fp32(bits))).any():
        raise OverflowError("float too large for BF16")
    return bits


def _refusal(name: str, datatype: str, flat: list[Any]) -> InvalidArgument:
    index = _first_misfit(datatype, flat)
    return InvalidArgument(
        f"element {index} of input '{name}' must be {_expected(datatype)} for datatype {datatype}, "
        f"got {_shown(flat[index])}"
    )


def _first_misfit(datatype: str, flat: list[Any]) -> int:
    """By halving: to try the elements one by one takes seconds for a body within the limit."""
    start, end = 0, len(flat)
    while end - start > 1:
        middle = (start + end) // 2
        if _fit(datatype, flat[start:middle]):
            start = middle
        else:
            end = middle
    return start


def _fit(datatype: str, elements: list[Any]) -> bool:
    if not _types_fit(_EXACT_TYPE[datatype], elements):
        return False
    if datatype in _CODES:
        try:
            _pack(datatype, elements)
        except (struct.error, OverflowError):
            return False
    return True


def _expected(datatype: str) -> str:
    if datatype == "BOOL":
        return "true or false"
    if datatype == "BYTES":
        return "a string"
    if _EXACT_TYPE[datatype] is float:
        return "a number in its range"
    limits = np.iinfo(DTYPES[datatype])
    return f"an integer from {limits.min} to {limits.max}"


def _shown(value: Any) -> str:
    if isinstance(value, list | dict):
        return "an array" if isinstance(value, list) else "an object"
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "null"
    return repr(value[:40] if isinstance(value, str) else value)
