"""KServe v2's gRPC messages to and from the core's requests and responses.

Knows the messages, not the server. Replies always carry `raw_output_contents`, parallel to `outputs`: it is the only
form that Triton's and OpenVINO Model Server's clients read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

import numpy as np
from google.protobuf.json_format import ParseDict

from vintner.control_parameters import FILE, NO_REPOSITORIES, Value
from vintner.errors import InvalidArgument, TooLarge, Unsupported, nearest
from vintner.managed_model import IndexEntry
from vintner.pb import grpc_service_pb2 as pb
from vintner.service import ModelMetadata, ServerMetadata
from vintner.tensor_bytes import check_shape, decode_raw, encode_raw
from vintner.types import DTYPES, Array, Parameter, Request, Response, Tensor, TensorSpec, element_count

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


_INFER_RESPONSE: Final = bytes(
    [pb.ModelStreamInferResponse.DESCRIPTOR.fields_by_name["infer_response"].number << 3 | _LENGTH_DELIMITED]
)


def decode_infer(message: pb.ModelInferRequest) -> Request:
    """Views of the message's bytes where it is raw, one copy where it is typed. Raises InvalidArgument."""
    raw = message.raw_input_contents
    inputs = _typed_inputs(message) if not raw else _raw_inputs(message, raw)
    return Request(
        message.model_name,
        message.model_version,
        inputs,
        _requested(message.outputs) if message.outputs else (),
        message.id,
        _parameters(message.parameters) if message.parameters else {},
    )


def _raw_inputs(message: pb.ModelInferRequest, raw: Sequence[bytes]) -> dict[str, Tensor]:
    tensors = message.inputs
    if len(raw) != len(tensors):
        raise InvalidArgument(
            f"expected {len(tensors)} entries in raw_input_contents, one for each input of model"
            f" '{message.model_name}', got {len(raw)}"
        )
    inputs: dict[str, Tensor] = {}
    for tensor, data in zip(tensors, raw, strict=True):
        name = tensor.name
        if tensor.HasField("contents"):
            raise InvalidArgument(
                f"contents field must not be specified when using raw_input_contents for '{name}' for model"
                f" '{message.model_name}'"
            )
        if name in inputs or tensor.parameters:
            _check_input(tensor, inputs)
        inputs[name] = decode_raw(name, tensor.datatype, tuple(tensor.shape), data)
    return inputs


def _typed_inputs(message: pb.ModelInferRequest) -> dict[str, Tensor]:
    inputs: dict[str, Tensor] = {}
    for tensor in message.inputs:
        _check_input(tensor, inputs)
        inputs[tensor.name] = _decode_contents(tensor)
    return inputs


def _check_input(tensor: pb.ModelInferRequest.InferInputTensor, before: Mapping[str, Tensor]) -> None:
    if tensor.name in before:
        raise InvalidArgument(f"input '{tensor.name}' already exists in request")
    if tensor.parameters and "shared_memory_region" in tensor.parameters:
        raise Unsupported(f"input '{tensor.name}': shared memory is not supported by this server")


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


def _requested(outputs: Sequence[pb.ModelInferRequest.InferRequestedOutputTensor]) -> tuple[str, ...]:
    names: dict[str, None] = {}
    for output in outputs:
        if output.name in names:
            raise InvalidArgument(f"output '{output.name}' already exists in request")
        for key in output.parameters:
            if key.startswith("shared_memory_"):
                raise Unsupported(f"output '{output.name}': shared memory is not supported by this server")
            if key == "classification":
                raise Unsupported(f"output '{output.name}': classification is not supported by this server")
        names[output.name] = None
    return tuple(names)


def _parameters(parameters: Mapping[str, pb.InferParameter]) -> dict[str, Parameter]:
    decoded: dict[str, Parameter] = {}
    for key, value in parameters.items():
        if key.startswith("triton_") and key != "triton_enable_empty_final_response":
            raise InvalidArgument(
                f"parameter '{key}': parameter keys starting with 'triton_' are reserved for Triton usage and should"
                " not be specified."
            )
        kind = value.WhichOneof("parameter_choice")
        if kind is None:
            raise InvalidArgument(f"parameter '{key}' has no value")
        decoded[key] = getattr(value, kind)
    return decoded


def encode_infer(response: Response) -> bytes:
    """The bytes of a ModelInferResponse, with one copy of each output. Raises TooLarge.

    What describes the outputs is the same for most replies, so it is kept; the rest is put behind it, for messages
    that are joined are merged. Through the message itself, a small reply took three times as long (measured).
    """
    tensors = response.outputs.items()
    described = tuple([(name, tensor.datatype, tensor.array.shape) for name, tensor in tensors])
    parts = [_head(response.model_name, response.model_version, described)]
    if response.id:
        parts += _field(_ID, response.id.encode())
    if response.parameters:
        parts.append(_encode_parameters(response.parameters))
    for tensor in response.outputs.values():
        parts += _field(_RAW, encode_raw(tensor))
    message = b"".join(parts)
    if len(message) > MAX_MESSAGE:
        raise TooLarge(f"the reply has {len(message)} bytes, and a gRPC message at most {MAX_MESSAGE}; use REST for it")
    return message


def encode_stream_response(response: Response, *, final: bool) -> bytes:
    """The bytes of a ModelStreamInferResponse. `final`: no more comes of the request. Raises TooLarge."""
    return b"".join(_field(_INFER_RESPONSE, encode_infer(response) + _FINAL[final]))


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


def encode_server_metadata(metadata: ServerMetadata) -> pb.ServerMetadataResponse:
    return pb.ServerMetadataResponse(name=metadata.name, version=metadata.version, extensions=metadata.extensions)


def encode_model_metadata(metadata: ModelMetadata) -> pb.ModelMetadataResponse:
    return pb.ModelMetadataResponse(
        name=metadata.name,
        versions=metadata.versions,
        platform=metadata.platform,
        inputs=_tensor_metadata(metadata.inputs),
        outputs=_tensor_metadata(metadata.outputs),
    )


def _tensor_metadata(specs: Sequence[TensorSpec]) -> list[pb.ModelMetadataResponse.TensorMetadata]:
    return [
        pb.ModelMetadataResponse.TensorMetadata(name=spec.name, datatype=spec.datatype, shape=spec.shape)
        for spec in specs
    ]


def encode_statistics(document: dict[str, Any]) -> pb.ModelStatisticsResponse:
    return ParseDict(document, pb.ModelStatisticsResponse())


def encode_model_config(document: dict[str, Any]) -> pb.ModelConfigResponse:
    return ParseDict({"config": document}, pb.ModelConfigResponse())


def encode_index(entries: Sequence[IndexEntry]) -> pb.RepositoryIndexResponse:
    index = pb.RepositoryIndexResponse.ModelIndex
    return pb.RepositoryIndexResponse(
        models=[index(name=e.name, version=e.version, state=e.state or "", reason=e.reason) for e in entries]
    )


def decode_control(message: pb.RepositoryModelLoadRequest | pb.RepositoryModelUnloadRequest) -> dict[str, Value]:
    """The parameters of a load or an unload. Raises InvalidArgument for one without a value, and for files as text."""
    values: dict[str, Value] = {}
    for name, parameter in message.parameters.items():
        kind = parameter.WhichOneof("parameter_choice")
        if kind is None:
            raise InvalidArgument(f"parameter '{name}' has no value")
        if name.startswith(FILE) and kind != "bytes_param":
            raise InvalidArgument(f"parameter '{name}' must be the content of a file, in bytes_param")
        values[name] = getattr(parameter, kind)
    return values


def controlled_model(message: pb.RepositoryModelLoadRequest | pb.RepositoryModelUnloadRequest) -> str:
    """KServe's messages have the model's name where Triton's have the repository's. Raises Unsupported for both."""
    if message.model_name and message.repository_name:
        raise Unsupported(NO_REPOSITORIES)
    return message.model_name or message.repository_name
