"""Raw binary requests of Triton's REST: a body that is nothing but the bytes of a model's only input.

Knows neither HTTP nor the model beyond the specs that it is given. Invariant: the shape that is made of the number of
bytes fits the input's, and holds exactly these bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from vintner.errors import InvalidArgument
from vintner.http_codec import DecodedRequest
from vintner.tensor_bytes import decode_raw
from vintner.types import DTYPES, Request, Tensor, TensorSpec, element_count

RAW = "a raw binary request (Inference-Header-Content-Length: 0)"


def decode_raw_request(
    body: bytes, inputs: Sequence[TensorSpec], model_name: str, model_version: str
) -> DecodedRequest:
    """A request for all outputs as binary data. Raises InvalidArgument."""
    if len(inputs) != 1:
        raise InvalidArgument(f"{RAW} needs a model with one input, model '{model_name}' has {len(inputs)}")
    tensor = _tensor(body, inputs[0], model_name)
    request = Request(model_name, model_version, {inputs[0].name: tensor})
    return DecodedRequest(request, {}, binary_default=True)


def _tensor(body: bytes, spec: TensorSpec, model_name: str) -> Tensor:
    if spec.datatype == "BYTES":
        return _element(body, spec)
    return decode_raw(spec.name, spec.datatype, _shape(len(body), spec), body, model_name)


def _element(body: bytes, spec: TensorSpec) -> Tensor:
    """The body as the one element of a BYTES input."""
    if any(extent not in (-1, 1) for extent in spec.shape):
        _refuse(spec, "can have no shape of one element")
    element = len(body).to_bytes(4, "little") + body
    return decode_raw(spec.name, spec.datatype, (1,) * len(spec.shape), element)


def _shape(size: int, spec: TensorSpec) -> tuple[int, ...]:
    """With one dynamic dimension as `size` bytes need it. A first one beside another is the batch, and 1."""
    shape = list(spec.shape)
    if shape.count(-1) > 1 and shape[0] == -1:
        shape[0] = 1
    if shape.count(-1) > 1:
        _refuse(spec, "has more than one dynamic dimension beside the batch")
    fixed = element_count(tuple(extent for extent in shape if extent != -1)) * DTYPES[spec.datatype].itemsize
    if -1 not in shape:
        return tuple(shape)
    if not fixed or size % fixed:
        _refuse(spec, f"needs a multiple of {fixed} bytes, got {size}")
    return tuple(size // fixed if extent == -1 else extent for extent in shape)


def _refuse(spec: TensorSpec, fault: str) -> NoReturn:
    raise InvalidArgument(f"{RAW} does not fit: input '{spec.name}', {spec.datatype} {list(spec.shape)}, {fault}")
