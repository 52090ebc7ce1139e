"""KServe v2 over REST: between the bytes of a body and the core's requests and responses.

Knows neither sockets nor HTTP statuses, and no model: whether names, datatypes and shapes are the model's is for the
core to say. Invariant: decoding raises nothing but RequestError, whatever the bytes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import numpy as np
import orjson

from vintner.errors import InvalidArgument
from vintner.json_text import DEFAULT_LIMITS, JsonLimits, parse
from vintner.request_parameters import check_key
from vintner.shared_memory import NO_REGIONS, Part, Regions
from vintner.tensor_bytes import decode_raw, raw_view
from vintner.tensor_json import decode_data, encode_data, spell_non_finite
from vintner.tensor_parameters import (
    CLASSIFICATION,
    REGION,
    SharedInputs,
    class_count,
    in_shared_memory,
    shared_part,
    store,
)
from vintner.types import Parameter, Request, Response, Tensor, TensorSpec

HEADER_LENGTH: Final = "Inference-Header-Content-Length"
"""The header that says how many bytes of a body are JSON; tensors' bytes follow them."""

Header = tuple[str, str]
Value = TypeVar("Value")

_JSON_KINDS: Final = {str: "a string", list: "an array", dict: "an object", bool: "a boolean"}
_INT32: Final = range(-(2**31), 2**31)


@dataclass(slots=True)
class DecodedRequest:
    """A request, and what it says of the form of its reply. Made for every call, so not frozen (see `types`)."""

    request: Request
    binary_outputs: dict[str, bool]
    """For each output that the request lists: whether to send it as binary data."""
    binary_default: bool
    """The same for outputs that it does not list."""
    places: Mapping[str, Part] | None = None
    """Outputs that go into shared memory."""


def decode_infer(
    text: bytes,
    blobs: bytes,
    model_name: str,
    model_version: str,
    limits: JsonLimits = DEFAULT_LIMITS,
    regions: Regions = NO_REGIONS,
) -> DecodedRequest:
    """Reads the body of an `infer` request: its JSON, and the bytes of tensors that follow it.

    The two come apart so that `blobs` can begin where memory is aligned, and its tensors be used where they lie. Raises
    InvalidArgument, and what `SharedInputs.read` does for inputs that are in one of the regions.
    """
    document = parse(text, limits, _without_data)
    if type(document) is not dict:
        raise InvalidArgument("the request body must be a JSON object")
    inputs = _decode_inputs(_required(document, "inputs", list, "request"), _Sources(blobs, model_name, regions))
    outputs = _decode_outputs(document["outputs"], limits, regions) if "outputs" in document else _Outputs({})
    parameters, binary_default = _decode_parameters(document) if "parameters" in document else ({}, False)
    request_id = _required(document, "id", str, "request") if "id" in document else ""
    request = Request(model_name, model_version, inputs, tuple(outputs.binary), request_id, parameters)
    request.classes = outputs.classes
    return DecodedRequest(request, outputs.binary, binary_default, outputs.places)


def json_size(header_length: str, body_size: int) -> int:
    """Bytes of JSON in a body of `body_size`, from the header of that name as received; 0 for a raw binary request.

    Raises InvalidArgument.
    """
    text = header_length.strip()
    if not re.fullmatch(r"[+-]?[0-9]+", text):
        raise InvalidArgument(f"Unable to parse {HEADER_LENGTH}, got: {header_length[:40]}")
    if len(text) > 20 or int(text) not in _INT32:
        raise InvalidArgument(
            f"Unable to parse {HEADER_LENGTH}, value is out of range "
            f"[ {_INT32.start}, {_INT32.stop - 1} ], got: {header_length[:40]}"
        )
    size = int(text)
    if not 0 <= size <= body_size:
        raise InvalidArgument(f"inference header size should be in range (0, {body_size}), got: {size}")
    return size


def encode_infer(response: Response, decoded: DecodedRequest) -> tuple[list[Header], bytes]:
    """The headers and the body of the reply.

    Outputs that have a place are written there. Raises InvalidArgument if one does not fit in, and if an output that
    is no text was requested as JSON.
    """
    outputs: list[dict[str, Any]] = []
    blobs: list[memoryview] = []
    for name, tensor in response.outputs.items():
        output: dict[str, Any] = {"name": name, "datatype": tensor.datatype, "shape": tensor.shape}
        if decoded.places and name in decoded.places:
            output["parameters"] = store(name, tensor, decoded.places[name])
        elif decoded.binary_outputs.get(name, decoded.binary_default):
            blob = raw_view(tensor)
            output["parameters"] = {"binary_data_size": blob.nbytes}
            blobs.append(blob)
        else:
            output["data"] = encode_data(name, tensor)
        outputs.append(output)
    text = _write_reply(response, outputs)
    if any(blob.nbytes for blob in blobs):
        headers = [("Content-Type", "application/octet-stream"), (HEADER_LENGTH, str(len(text)))]
        return headers, b"".join((text, *blobs))
    return [("Content-Type", "application/json")], text


def encode_error(message: str) -> bytes:
    """The body of every error. Characters that UTF-8 cannot encode, as in a bad path, become `?`."""
    return orjson.dumps({"error": message.encode("utf-8", "replace").decode()})


def server_metadata_json(name: str, version: str, extensions: Sequence[str]) -> bytes:
    return orjson.dumps({"name": name, "version": version, "extensions": list(extensions)})


def model_metadata_json(
    name: str, versions: Sequence[str], platform: str, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> bytes:
    return orjson.dumps(
        {
            "name": name,
            "versions": list(versions),
            "platform": platform,
            "inputs": list(inputs),
            "outputs": list(outputs),
        }
    )


class _Sources:
    """Where inputs are that are not in the JSON: the bytes after it, which are handed out in the order of the inputs
    that ask for them, and shared memory."""

    __slots__ = ("_bytes", "_offset", "_regions", "_shared", "model_name")

    def __init__(self, blobs: bytes, model_name: str, regions: Regions) -> None:
        self._bytes = blobs
        self._offset = 0
        self._regions = regions
        self._shared: SharedInputs | None = None
        self.model_name = model_name

    @property
    def shared(self) -> SharedInputs:
        if self._shared is None:
            self._shared = SharedInputs(self._regions)
        return self._shared

    def take(self, name: str, size: int) -> memoryview:
        end = self._offset + size
        if end > len(self._bytes):
            raise InvalidArgument(
                f"unexpected size for input '{name}', expecting {end - len(self._bytes)} additional bytes "
                f"for model '{self.model_name}'"
            )
        blob = memoryview(self._bytes)[self._offset : end]
        self._offset = end
        return blob

    def finish(self) -> None:
        if self._offset != len(self._bytes):
            raise InvalidArgument(f"unexpected additional input data for model '{self.model_name}'")


@dataclass(slots=True)
class _Outputs:
    """What a request wants of its outputs, by their names."""

    binary: dict[str, bool]
    classes: dict[str, int] | None = None
    places: dict[str, Part] | None = None


def _without_data(document: Any) -> Any:
    """The document as measured against the limits. `data` may be huge, and its shape bounds how deep it nests."""
    if type(document) is not dict or type(document.get("inputs")) is not list:
        return document
    entries = document["inputs"]
    return document | {
        "inputs": [entry | {"data": None} if type(entry) is dict and "data" in entry else entry for entry in entries]
    }


def _required(container: dict[str, Any], key: str, kind: type[Value], owner: str) -> Value:
    value = container.get(key)
    if type(value) is not kind:
        fault = "is missing" if key not in container else f"must be {_JSON_KINDS[kind]}"
        raise InvalidArgument(f"'{key}' of the {owner} {fault}")
    return value


def _entry(entry: Any, kind: str) -> tuple[str, dict[str, Any]]:
    """Name and parameters of an input or an output."""
    if type(entry) is not dict:
        raise InvalidArgument(f"each of the {kind}s must be an object")
    name = _required(entry, "name", str, kind)
    if "parameters" not in entry:
        return name, {}
    return name, _required(entry, "parameters", dict, f"{kind} '{name}'")


def _decode_inputs(entries: list[Any], sources: _Sources) -> dict[str, Tensor]:
    inputs: dict[str, Tensor] = {}
    for entry in entries:
        name, parameters = _entry(entry, "input")
        if name in inputs:
            raise InvalidArgument(f"input '{name}' already exists in request")
        inputs[name] = _decode_tensor(name, entry, parameters, sources)
    sources.finish()
    return inputs


def _decode_tensor(name: str, entry: dict[str, Any], parameters: dict[str, Any], sources: _Sources) -> Tensor:
    datatype = _required(entry, "datatype", str, f"input '{name}'")
    shape = _decode_shape(name, entry)
    shared = in_shared_memory(parameters) if parameters else False
    number = ("data" in entry) + ("binary_data_size" in parameters) + shared
    if number != 1:
        sets = ("none", "", "two", "three")[number]
        raise InvalidArgument(
            "Input must set only one of the following fields: 'data', 'binary_data_size' in 'parameters', "
            f"'{REGION}' in 'parameters'. Input '{name}' sets {sets}."
        )
    if "data" in entry:
        return decode_data(name, datatype, shape, entry["data"])
    if shared:
        return sources.shared.read(name, datatype, shape, parameters)
    size = parameters["binary_data_size"]
    if type(size) is not int or size < 0:
        raise InvalidArgument(f"'binary_data_size' of input '{name}' must be an integer that is not negative")
    return decode_raw(name, datatype, shape, sources.take(name, size), sources.model_name)


def _decode_shape(name: str, entry: dict[str, Any]) -> tuple[int, ...]:
    shape = _required(entry, "shape", list, f"input '{name}'")
    for extent in shape:
        if type(extent) is not int:
            raise InvalidArgument(f"'shape' of input '{name}' must be an array of integers")
    return tuple(shape)


def _decode_outputs(entries: Any, limits: JsonLimits, regions: Regions) -> _Outputs:
    if type(entries) is not list:
        raise InvalidArgument("'outputs' of the request must be an array")
    if len(entries) > limits.outputs:
        raise InvalidArgument(f"the request lists {len(entries)} outputs, at most {limits.outputs} are allowed")
    outputs = _Outputs({})
    for entry in entries:
        name, parameters = _entry(entry, "output")
        if name in outputs.binary:
            raise InvalidArgument(f"output '{name}' already exists in request")
        outputs.binary[name] = "binary_data" in parameters and _required(
            parameters, "binary_data", bool, f"output '{name}'"
        )
        if CLASSIFICATION in parameters:
            outputs.classes = {**(outputs.classes or {}), name: class_count(name, parameters)}
        if in_shared_memory(parameters):
            part = shared_part(f"output '{name}'", parameters, regions)
            outputs.places = {**(outputs.places or {}), name: part}
    return outputs


def _decode_parameters(document: dict[str, Any]) -> tuple[dict[str, Parameter], bool]:
    """The request's parameters for the core, and `binary_data_output`, which is not among them."""
    parameters = _required(document, "parameters", dict, "request")
    for key, value in parameters.items():
        check_key(key)
        if type(value) not in (bool, int, float, str):
            raise InvalidArgument(f"parameter '{key}' must be a boolean, a number or a string")
    if "binary_data_output" not in parameters:
        return parameters, False
    binary = _required(parameters, "binary_data_output", bool, "request's parameters")
    return {key: value for key, value in parameters.items() if key != "binary_data_output"}, binary


def _write_reply(response: Response, outputs: list[dict[str, Any]]) -> bytes:
    reply: dict[str, Any] = {"id": response.id} if response.id else {}
    reply["model_name"] = response.model_name
    reply["model_version"] = response.model_version
    if response.parameters:
        reply["parameters"] = response.parameters
    reply["outputs"] = outputs
    text = orjson.dumps(reply, option=orjson.OPT_SERIALIZE_NUMPY)
    if b"null" not in text:
        return text
    # orjson writes null for what is not finite, and nothing in a reply is null. (A name or a string may hold the word.)
    for output in outputs:
        data = output.get("data")
        if isinstance(data, np.ndarray) and data.dtype.kind == "f":
            output["data"] = spell_non_finite(data)
    return orjson.dumps(reply, option=orjson.OPT_SERIALIZE_NUMPY)
