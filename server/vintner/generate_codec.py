"""Triton's generate extension: between a flat JSON object and a request, and between responses and flat objects.

Pure. Only the inputs of the version that serves tell tensors from parameters, so a body is parsed first, and read when
that is known. Invariant: no value is dropped: each key of a body is an input, a parameter, or an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Final

import numpy as np
import orjson

from vintner.errors import InvalidArgument
from vintner.json_text import DEFAULT_LIMITS, JsonLimits, parse_object
from vintner.request_parameters import check_key
from vintner.tensor_json import decode_data, encode_data, literal, spell_non_finite
from vintner.types import Parameter, Request, Response, Tensor, TensorSpec

RESERVED: Final = ("id", "parameters")


@dataclass(frozen=True, slots=True)
class GenerateInputs:
    """The object that a client sent; `size` is the bytes of its text."""

    document: Mapping[str, Any]
    size: int

    def fill(self, request: Request, specs: Sequence[TensorSpec]) -> None:
        """Keys that are inputs become tensors, `parameters` and all other keys parameters. Raises InvalidArgument."""
        inputs = {spec.name: spec for spec in specs}
        flat = _flat(self.document, inputs)
        request.inputs = {name: _tensor(inputs[name], value) for name, value in flat.items() if name in inputs}
        request.parameters = {name: _parameter(name, value) for name, value in flat.items() if name not in inputs}
        if "id" in inputs:
            request.id = ""


def decode_generate(text: bytes, model_name: str, model_version: str, limits: JsonLimits = DEFAULT_LIMITS) -> Request:
    """The request, whose inputs are yet to be told from its parameters. Raises InvalidArgument."""
    document = parse_object(text, limits)
    given = document.get("id", "")
    request_id = given if type(given) is str else ""  # an input may have that name
    return Request(model_name, model_version, {}, (), request_id, untyped=GenerateInputs(document, len(text)))


def _flat(document: Mapping[str, Any], specs: Mapping[str, TensorSpec]) -> dict[str, Any]:
    """The keys of the body with those of its `parameters`."""
    if "id" not in specs and type(document.get("id", "")) is not str:
        raise InvalidArgument("'id' of the request must be a string")
    flat = {key: value for key, value in document.items() if key in specs or key not in RESERVED}
    parameters = document.get("parameters", {}) if "parameters" not in specs else {}
    if type(parameters) is not dict:
        raise InvalidArgument("'parameters' of the request must be an object")
    for key, value in parameters.items():
        if key in flat:
            kind = "input" if key in specs else "parameter"
            raise InvalidArgument(f"{kind} '{key}' already exists in request")
        flat[key] = value
    return flat


def _parameter(name: str, value: Any) -> Parameter:
    check_key(name)
    if isinstance(value, (bool, int, float, str)):
        return value
    raise InvalidArgument(
        f"parameter '{name}' has invalid type. It should be either 'int', 'bool', 'float' or 'string'; only inputs of"
        " the model can be arrays."
    )


def _tensor(spec: TensorSpec, value: Any) -> Tensor:
    elements = value if type(value) is list else [value]
    return decode_data(spec.name, spec.datatype, fitted(spec, len(elements)), elements)


def fitted(spec: TensorSpec, count: int) -> tuple[int, ...]:
    """The shape for so many elements: of the dynamic extents the innermost takes what the others leave, and they are 1.

    Raises InvalidArgument if there is none.
    """
    dynamic = [axis for axis, extent in enumerate(spec.shape) if extent == -1]
    fixed = prod(extent for extent in spec.shape if extent != -1)
    if not dynamic:
        if count != fixed:
            raise InvalidArgument(
                f"input '{spec.name}' with shape {list(spec.shape)} needs {fixed} elements, got {count}"
            )
        return spec.shape
    if count % fixed if fixed else count:
        raise InvalidArgument(
            f"input '{spec.name}' with shape {list(spec.shape)} needs a multiple of {fixed} elements, got {count}"
        )
    rest = count // fixed if fixed else 1
    shape = [1 if extent == -1 else extent for extent in spec.shape]
    shape[dynamic[-1]] = rest
    return tuple(shape)


def encode_generate(response: Response) -> bytes:
    """The flat object of one response. Raises InvalidArgument for BYTES that are no text."""
    reply: dict[str, Any] = {"id": response.id} if response.id else {}
    reply |= {"model_name": response.model_name, "model_version": response.model_version, **response.parameters}
    if response.done is not None:  # as the Open Inference Protocol has it
        reply["done"] = response.done
    arrays: dict[str, Any] = {}
    for name, tensor in response.outputs.items():
        arrays[name] = _value(name, tensor)
    return orjson.dumps(reply | arrays, option=orjson.OPT_SERIALIZE_NUMPY)


def _value(name: str, tensor: Tensor) -> Any:
    data = encode_data(name, tensor)
    if isinstance(data, np.ndarray) and data.dtype.kind == "f" and not np.isfinite(data).all():
        return orjson.Fragment(literal(data[0].item())) if data.size == 1 else spell_non_finite(data)
    if len(data) != 1:
        return data
    return data[0] if isinstance(data, list) else data[0].item()
