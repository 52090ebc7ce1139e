"""KServe v2's gRPC messages of inferences, to and from the core's requests and responses.

Knows the messages, not the server. Replies always carry `raw_output_contents`, parallel to `outputs`: it is the only
form that Triton's and OpenVINO Model Server's clients read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

import numpy as np
from google.protobuf.message import DecodeError

from vintner.errors import InvalidArgument, TooLarge, nearest
from vintner.pb import grpc_service_pb2 as pb
from vintner.request_parameters import check_key
from vintner.shared_memory import NO_REGIONS, Part, Regions
from vintner.tensor_bytes import check_shape, decode_raw, encode_raw
from vintner.tensor_parameters import (
    CLASSIFICATION,
    SharedInputs,
    class_count,
    in_shared_memory,
    shared_part,
    store,
)
from vintner.types import DTYPES, Array, Parameter, Request, Response, Tensor, element_count

CONTENTS: Final[Mapping[str, str]] = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""The list of InferTensorContents that holds each datatype. FP16 and BF16 travel only raw."""


MAX_MESSAGE: Final = 2**31 - 1
"""Bytes that protobuf, and so every client, can read."""

_PARAMETER_FIELDS: Final[Mapping[type[Parameter], str]] = {
    bool: "bool_param",
    int: "int64_param",
    float: "double_param",
    str: "string_param",
}
_LENGTH_DELIMITED: Final = 2
_SHORT: Final = [bytes([length]) for length in range(0x80)]


def _tag(field: str) -> bytes:
    return bytes([pb.ModelInferResponse.DESCRIPTOR.fields_by_name[field].number << 3 | _LENGTH_DELIMITED])


_ID: Final = _tag("id")
_RAW: Final = _tag("raw_output_contents")

NO_PLACES: Final[Mapping[str, Part]] = {}

EMPTY_FINAL: Final = "triton_enable_empty_final_response"
"""The parameter of a request that wants the end of a decoupled model's responses told."""

_INFER_RESPONSE: Final = bytes(
    [pb.ModelStreamInferResponse.DESCRIPTOR.fields_by_name["infer_response"].number << 3 | _LENGTH_DELIMITED]
)


def decode_infer(message: pb.ModelInferRequest, regions: Regions = NO_REGIONS) -> Request:
    """Views of the message's bytes where it is raw, one copy where it is typed or in one of the regions.

    Raises InvalidArgument, and what `SharedInputs.read` does. Outputs that go into regions are among those that are
    requested; `decode_places` says where.
    """
    raw = message.raw_input_contents
    inputs = _typed_inputs(message, regions) if not raw else _raw_inputs(message, raw, regions)
    names, with_parameters = _requested(message.outputs) if message.outputs else ((), False)
    request = Request(
        message.model_name,
        message.model_version,
        inputs,
        names,
        message.id,
        _parameters(message.parameters) if message.parameters else {},
    )
    if with_parameters:
        request.classes = _classes(message.outputs, regions)
    return request


def decode_places(message: pb.ModelInferRequest, regions: Regions = NO_REGIONS) -> Mapping[str, Part]:
    """The outputs that go into shared memory, for `encode_infer`. Raises as `decode_infer`."""
    places: dict[str, Part] = {}
    for output in message.outputs:
        parameters = _values(output.parameters) if output.parameters else {}
        if in_shared_memory(parameters):
            places[output.name] = shared_part(f"output '{output.name}'", parameters, regions)
    return places


def identity(data: bytes) -> str:
    """The id of a ModelInferRequest that may be wrong in all else; empty if it is no message at all."""
    try:
        request_id: str = pb.ModelInferRequest.FromString(data).id
    except DecodeError:
        return ""
    return request_id


def _raw_inputs(message: pb.ModelInferRequest, raw: Sequence[bytes], regions: Regions) -> dict[str, Tensor]:
    tensors = message.inputs
    if len(raw) != len(tensors):
        return _mixed_inputs(message, raw, regions)
    inputs: dict[str, Tensor] = {}
    for tensor, data in zip(tensors, raw, strict=True):
        name = tensor.name
        if tensor.HasField("contents"):
            raise _both(name, message)
        if name in inputs:
            raise InvalidArgument(f"input '{name}' already exists in request")
        if tensor.parameters and in_shared_memory(_values(tensor.parameters)):
            return _mixed_inputs(message, raw, regions)
        inputs[name] = decode_raw(name, tensor.datatype, tuple(tensor.shape), data, message.model_name)
    return inputs


def _mixed_inputs(message: pb.ModelInferRequest, raw: Sequence[bytes], regions: Regions) -> dict[str, Tensor]:
    """Raw entries are those of the inputs that are not in shared memory, in their order."""
    given = [not in_shared_memory(_values(tensor.parameters)) for tensor in message.inputs]
    if len(raw) != sum(given):
        beside = "" if all(given) else " that is not in shared memory"
        raise InvalidArgument(
            f"expected {sum(given)} entries in raw_input_contents, one for each input of model"
            f" '{message.model_name}'{beside}, got {len(raw)}"
        )
    inputs: dict[str, Tensor] = {}
    shared, entries = SharedInputs(regions), iter(raw)
    for tensor, own in zip(message.inputs, given, strict=True):
        name = tensor.name
        if name in inputs:
            raise InvalidArgument(f"input '{name}' already exists in request")
        if tensor.HasField("contents"):
            raise _both(name, message)
        if own:
            data = next(entries)
            inputs[name] = decode_raw(name, tensor.datatype, tuple(tensor.shape), data, message.model_name)
        else:
            inputs[name] = shared.read(name, tensor.datatype, tuple(tensor.shape), _values(tensor.parameters))
    return inputs


def _both(name: str, message: pb.ModelInferRequest) -> InvalidArgument:
    return InvalidArgument(
        f"contents field must not be specified when using raw_input_contents for '{name}' for model"
        f" '{message.model_name}'"
    )


def _typed_inputs(message: pb.ModelInferRequest, regions: Regions) -> dict[str, Tensor]:
    inputs: dict[str, Tensor] = {}
    shared: SharedInputs | None = None
    for tensor in message.inputs:
        name = tensor.name
        if name in inputs:
            raise InvalidArgument(f"input '{name}' already exists in request")
        if not tensor.parameters or not in_shared_memory(_values(tensor.parameters)):
            inputs[name] = _decode_contents(tensor)
            continue
        if tensor.HasField("contents"):
            raise InvalidArgument(
                f"unexpected 'content' provided when using shared memory for input tensor '{name}' for model"
                f" '{message.model_name}'"
            )
        shared = shared or SharedInputs(regions)
        inputs[name] = shared.read(name, tensor.datatype, tuple(tensor.shape), _values(tensor.parameters))
    return inputs


def _decode_contents(tensor: pb.ModelInferRequest.InferInputTensor) -> Tensor:
    name, datatype, shape = tensor.name, tensor.datatype, tuple(tensor.shape)
    if datatype not in DTYPES:
        raise InvalidArgument(f"input '{name}' has unknown datatype '{datatype}'{nearest(datatype, DTYPES)}")
    check_shape(name, datatype, shape)
    filled = [field.name for field, _ in tensor.contents.ListFields()]
    if datatype not in CONTENTS:
        raise InvalidArgument(f"input '{name}' is {datatype}, which can be sent only in raw_input_contents")
    expected = CONTENTS[datatype]
    if filled not in ([], [expected]):
        raise InvalidArgument(
            f"unexpected explicit tensor data for input tensor '{name}' of datatype {datatype}: expected {expected},"
            f" got {' and '.join(filled)}"
        )
    values = getattr(tensor.contents, expected)
    if len(values) != element_count(shape):
        raise InvalidArgument(
            f"input '{name}' with shape {list(shape)} needs {element_count(shape)} elements in contents, got"
            f" {len(values)}"
        )
    return Tensor(datatype, _array(name, datatype, values).reshape(shape))


def _array(name: str, datatype: str, values: Sequence[object]) -> Array:
    dtype = DTYPES[datatype]
    if datatype in {"INT8", "INT16", "UINT8", "UINT16"}:
        wide = np.array(values, np.int64)
        bounds = np.iinfo(dtype)
        if wide.size and (wide.min() < bounds.min or wide.max() > bounds.max):
            raise InvalidArgument(f"input '{name}' has values outside of {datatype} ({bounds.min} to {bounds.max})")
        return wide.astype(dtype)
    if datatype == "BYTES":
        array = np.empty(len(values), np.object_)
        array[:] = values
        return array
    return np.array(values, dtype)


def _requested(
    outputs: Sequence[pb.ModelInferRequest.InferRequestedOutputTensor],
) -> tuple[tuple[str, ...], bool]:
    """Their names, and whether any has parameters."""
    with_parameters = False
    names: dict[str, None] = {}
    for output in outputs:
        if output.name in names:
            raise InvalidArgument(f"output '{output.name}' already exists in request")
        names[output.name] = None
        if output.parameters:
            with_parameters = True
    return tuple(names), with_parameters


def _classes(outputs: Sequence[pb.ModelInferRequest.InferRequestedOutputTensor], regions: Regions) -> Mapping[str, int]:
    """Of the outputs that are wanted as classes. Raises Unsupported for any that would go into regions where there are
    none, so that no caller can pass them over."""
    classes: dict[str, int] = {}
    for output in outputs:
        parameters = _values(output.parameters)
        if CLASSIFICATION in parameters:
            classes[output.name] = class_count(output.name, parameters)
        if in_shared_memory(parameters):
            regions.check_allowed()
    return classes


def _values(parameters: Mapping[str, pb.InferParameter]) -> dict[str, Any]:
    """Of an input or output: None for a parameter without a value."""
    kinds = {key: value.WhichOneof("parameter_choice") for key, value in parameters.items()}
    return {key: getattr(parameters[key], kind) if kind else None for key, kind in kinds.items()}


def _parameters(parameters: Mapping[str, pb.InferParameter]) -> dict[str, Parameter]:
    decoded: dict[str, Parameter] = {}
    for key, value in parameters.items():
        if key != EMPTY_FINAL:
            check_key(key)
        kind = value.WhichOneof("parameter_choice")
        if kind is None:
            raise InvalidArgument(f"parameter '{key}' has no value")
        decoded[key] = getattr(value, kind)
    if type(decoded.get(EMPTY_FINAL, False)) is not bool:
        raise InvalidArgument(f"parameter '{EMPTY_FINAL}': expected a boolean, got {decoded[EMPTY_FINAL]!r:.60}")
    return decoded


def encode_infer(response: Response, places: Mapping[str, Part] = NO_PLACES) -> bytes:
    """The bytes of a ModelInferResponse, with one copy of each output. Raises TooLarge.

    An output that has a place is written there, and InvalidArgument raised if it does not fit in. What describes the
    outputs is the same for most replies, so it is kept; the rest is put behind it, for messages
    that are joined are merged. Through the message itself, a small reply took three times as long (measured).
    """
    tensors = response.outputs.items()
    if places:
        parts = [_head_with_places(response, places)]
    else:
        described = tuple([(name, tensor.datatype, tensor.array.shape) for name, tensor in tensors])
        parts = [_head(response.model_name, response.model_version, described)]
    if response.id:
        parts += _field(_ID, response.id.encode())
    if response.parameters:
        parts.append(_encode_parameters(response.parameters))
    for name, tensor in tensors:
        parts += _field(_RAW, b"" if name in places else encode_raw(tensor))
    message = b"".join(parts)
    if len(message) > MAX_MESSAGE:
        raise TooLarge(f"the reply has {len(message)} bytes, and a gRPC message at most {MAX_MESSAGE}; use REST for it")
    return message


def _head_with_places(response: Response, places: Mapping[str, Part]) -> bytes:
    message = pb.ModelInferResponse(model_name=response.model_name, model_version=response.model_version)
    for name, tensor in response.outputs.items():
        output = message.outputs.add(name=name, datatype=tensor.datatype, shape=tensor.array.shape)
        if name in places:
            for key, value in store(name, tensor, places[name]).items():
                setattr(output.parameters[key], _PARAMETER_FIELDS[type(value)], value)
    return message.SerializeToString()


def encode_stream_response(response: Response, *, final: bool, places: Mapping[str, Part] = NO_PLACES) -> bytes:
    """The bytes of a ModelStreamInferResponse. `final`: no more comes of the request. Raises as `encode_infer`."""
    return b"".join(_field(_INFER_RESPONSE, encode_infer(response, places) + _FINAL[final]))


def encode_stream_error(message: str, request_id: str) -> bytes:
    """The same for a request that failed."""
    answer = pb.ModelStreamInferResponse(error_message=message)
    answer.infer_response.id = request_id
    return answer.SerializeToString()


@lru_cache(maxsize=1024)
def _head(model_name: str, version: str, outputs: tuple[tuple[str, str, tuple[int, ...]], ...]) -> bytes:
    message = pb.ModelInferResponse(model_name=model_name, model_version=version)
    for name, datatype, shape in outputs:
        message.outputs.add(name=name, datatype=datatype, shape=shape)
    return message.SerializeToString()


def _encode_parameters(parameters: Mapping[str, Parameter]) -> bytes:
    message = pb.ModelInferResponse()
    for key, value in parameters.items():
        setattr(message.parameters[key], _PARAMETER_FIELDS[type(value)], value)
    return message.SerializeToString()


_FINAL: Final = {final: _encode_parameters({"triton_final_response": final}) for final in (False, True)}
"""What is put behind a response of a stream."""


def _field(tag: bytes, value: bytes) -> tuple[bytes, bytes, bytes]:
    """A field of bytes on the wire: tag, length as a varint, value."""
    length = len(value)
    if length < 0x80:
        return tag, _SHORT[length], value
    varint = bytearray()
    while length > 0x7F:
        varint.append(length & 0x7F | 0x80)
        length >>= 7
    varint.append(length)
    return tag, bytes(varint), value
