"""TensorFlow Serving's and KServe v1's `predict` over REST: between the JSON of a body and tensors.

A body has its values under `instances`, row by row, or under `inputs`, input by input, and its answer is in the same
format. It says neither datatypes nor shapes: a tensor has the shape that its arrays are nested in, and the datatype of
the model's input. So a body is read in two steps, the second once it is known which version gets it.

Knows neither sockets nor HTTP statuses. Invariant: reading raises nothing but InvalidArgument, whatever the bytes.
"""

from __future__ import annotations

import binascii
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import orjson

from vintner.errors import InvalidArgument, nearest
from vintner.json_text import DEFAULT_LIMITS, JsonLimits, parse_object
from vintner.tensor_bytes import check_shape
from vintner.tensor_json import convert, spell_non_finite, unnest
from vintner.types import DTYPES, Array, Request, Response, Tensor, TensorSpec, bf16_to_fp32

SIGNATURE: Final = "serving_default"
"""The one signature that a model has here."""

BASE64: Final = "b64"
"""The only key of an object that stands for bytes."""

GROWTH: Final = 8
"""Bytes that numbers take once they are parsed, for each byte of their text: `0.5,` becomes a float and a pointer."""


@dataclass(frozen=True, slots=True)
class PredictInputs:
    """The values of a request, as parsed."""

    model_name: str
    values: Any
    in_rows: bool
    size: int

    def fill(self, request: Request, specs: Sequence[TensorSpec]) -> None:
        """Sets the inputs of the request. Raises InvalidArgument."""
        request.inputs = self.typed(specs)

    def typed(self, specs: Sequence[TensorSpec]) -> dict[str, Tensor]:
        """The tensors of a model with these inputs. What the model does not have is left out, unless something is
        missing; that nothing is missing is for the core to say. Raises InvalidArgument."""
        columns = self._columns(specs)
        if not all(spec.name in columns for spec in specs):
            self._check_names([spec.name for spec in specs])
        return {spec.name: _tensor(spec, columns[spec.name]) for spec in specs if spec.name in columns}

    def _check_names(self, names: Sequence[str]) -> None:
        """Of a request that lacks an input: whether it has the name of another instead."""
        given = self.values[0] if self.in_rows else self.values
        for name in given:
            if name not in names:
                hint = nearest(name, names)
                raise InvalidArgument(f"unexpected inference input '{name[:100]}' for model '{self.model_name}'{hint}")

    def _columns(self, specs: Sequence[TensorSpec]) -> Mapping[str, Any]:
        """The values by input; in the row format, those of all rows."""
        names = [spec.name for spec in specs]
        if not self.in_rows:
            return self.values if _is_named(self.values, names) else {self._only(names): self.values}
        named = [_is_named(row, names) for row in self.values] if dict in map(type, self.values) else [False]
        if not any(named):
            return {self._only(names): self.values}
        if not all(named):
            odd = named.index(not named[0])
            raise InvalidArgument(
                f"Invalid JSON structure. Instance {odd} is {'an' if named[odd] else 'no'} object of named inputs, "
                "unlike those before it"
            )
        return {name: self._column(name) for name in names if any(name in row for row in self.values)}

    def _column(self, name: str) -> list[Any]:
        for index, row in enumerate(self.values):
            if name not in row:
                raise InvalidArgument(
                    f"Invalid JSON structure. Request inputs have different batch sizes: instance {index} has no "
                    f"value for input '{name}'"
                )
        return [row[name] for row in self.values]

    def _only(self, names: Sequence[str]) -> str:
        if len(names) != 1:
            raise InvalidArgument(
                f"Inputs inside buffer does not match expected format. Model '{self.model_name}' has {len(names)} "
                f"inputs, so values need their names: {', '.join(names[:10])}"
            )
        return names[0]


def decode_predict(text: bytes, model_name: str, limits: JsonLimits = DEFAULT_LIMITS) -> PredictInputs:
    """Reads the body of a `predict` request. Raises InvalidArgument."""
    document = parse_object(text, limits, _without_values)
    if ("instances" in document) == ("inputs" in document):
        raise InvalidArgument(
            "Invalid JSON structure. Could not detect row or column format: expected either 'instances' or 'inputs'"
        )
    _check_signature(document.get("signature_name", SIGNATURE))
    in_rows = "instances" in document
    values = document["instances" if in_rows else "inputs"]
    if in_rows and type(values) is not list:
        raise InvalidArgument("Invalid JSON structure. 'instances' must be an array")
    if in_rows and not values:
        raise InvalidArgument("Invalid JSON structure. Missing instances in row format")
    _check_keys(values if in_rows else [values], limits)
    return PredictInputs(model_name, values, in_rows, GROWTH * len(text))


def encode_predict(response: Response, in_rows: bool) -> bytes:
    """The body of the reply: one output bare, several by their names.

    Raises InvalidArgument if several outputs cannot be told apart by rows, which the column format does not need.
    """
    values = {name: _value(name, tensor) for name, tensor in response.outputs.items()}
    if in_rows and len(values) > 1:
        _check_rows(response.outputs)
    text = _written(values, in_rows, _as_it_is)
    # orjson writes null for what is not finite, and nothing in a reply is null. (A name or a string may hold the word.)
    return _written(values, in_rows, _spelled) if b"null" in text else text


def _without_values(document: Any) -> Any:
    """The document as measured against the limits: the values may be huge, and their number is bounded by the body.

    How deep they nest is bounded by the rank that a tensor can have.
    """
    if type(document) is not dict:
        return document
    return {key: value for key, value in document.items() if key not in ("instances", "inputs")}


def _check_keys(containers: Sequence[Any], limits: JsonLimits) -> None:
    most = max((len(each) for each in containers if type(each) is dict), default=0)
    if most > limits.keys:
        raise InvalidArgument(f"a JSON object has {most} keys, at most {limits.keys} are allowed")


def _check_signature(name: Any) -> None:
    if type(name) is not str:
        raise InvalidArgument("'signature_name' of the request must be a string")
    if name not in ("", SIGNATURE):
        raise InvalidArgument(
            f'Serving signature name: "{name[:40]}" not found in signature def; expected "{SIGNATURE}", or none'
        )


def _is_named(value: Any, names: Sequence[str]) -> bool:
    """Whether it is an object of inputs by name, and not one that stands for bytes."""
    return type(value) is dict and (value.keys() != {BASE64} or BASE64 in names)


def _tensor(spec: TensorSpec, data: Any) -> Tensor:
    shape = _shape(data)
    flat = unnest(shape, data)
    if flat is None:
        raise InvalidArgument(
            f"the arrays of input '{spec.name}' differ in length or depth; by the first of each they have the shape"
            f" {list(shape[:40])}"
        )
    check_shape(spec.name, spec.datatype, shape)
    if spec.datatype == "BYTES":
        array: Array = np.empty(len(flat), np.object_)
        array[:] = [
            each.encode() if type(each) is str else _binary(spec.name, index, each) for index, each in enumerate(flat)
        ]
    else:
        array = convert(spec.name, spec.datatype, flat)
    return Tensor(spec.datatype, array.reshape(shape))


def _shape(data: Any) -> tuple[int, ...]:
    """As the first array of each depth says."""
    shape: list[int] = []
    while type(data) is list:
        shape.append(len(data))
        data = data[0] if data else None
    return tuple(shape)


def _binary(name: str, index: int, value: Any) -> bytes:
    encoded = value.get(BASE64) if type(value) is dict and len(value) == 1 else None
    if type(encoded) is not str:
        raise InvalidArgument(f'element {index} of input \'{name}\' must be a string, or {{"{BASE64}": "..."}}')
    try:
        return b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise InvalidArgument(f"element {index} of input '{name}' is not valid base64: {exc}") from None


def _value(name: str, tensor: Tensor) -> Any:
    """What orjson writes as nested arrays, and what can be taken apart by its first dimension."""
    if tensor.datatype == "BYTES":
        return _texts(tensor.array, name.endswith("_bytes"))
    # Runtimes return INT64 as NumPy's `longlong`, which equals its `int64`, but whose scalars orjson does not know.
    array = tensor.array.view(DTYPES[tensor.datatype])
    if tensor.datatype == "BF16":
        array = bf16_to_fp32(array)
    return np.ascontiguousarray(array) if array.ndim else array[()]


def _texts(array: Array, binary: bool) -> Any:
    """Nested lists. What is not UTF-8 is sent as base64, and so is all of an output whose name ends in `_bytes`, which
    is what TensorFlow Serving knows bytes by."""
    elements = np.empty(array.size, np.object_)
    for index, element in enumerate(array.ravel().tolist()):
        elements[index] = _in_base64(element) if binary else _readable(element)
    return elements.reshape(array.shape).tolist()


def _readable(element: bytes) -> Any:
    try:
        return element.decode()
    except UnicodeDecodeError:
        return _in_base64(element)


def _in_base64(element: bytes) -> dict[str, str]:
    return {BASE64: b64encode(element).decode()}


def _check_rows(outputs: Mapping[str, Tensor]) -> None:
    if len({tensor.shape[:1] for tensor in outputs.values()}) > 1 or () in (each.shape for each in outputs.values()):
        shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in list(outputs.items())[:10])
        raise InvalidArgument(
            f"the outputs differ in batch size and cannot be answered row by row: {shapes}; send 'inputs' instead of "
            "'instances'"
        )


def _written(values: Mapping[str, Any], in_rows: bool, form: Callable[[Any], Any]) -> bytes:
    document: Any
    if len(values) == 1:
        document = form(*values.values())
    elif in_rows:
        columns = zip(*values.values(), strict=True)
        document = [{name: form(value) for name, value in zip(values, row, strict=True)} for row in columns]
    else:
        document = {name: form(value) for name, value in values.items()}
    return orjson.dumps({"predictions" if in_rows else "outputs": document}, option=orjson.OPT_SERIALIZE_NUMPY)


def _as_it_is(value: Any) -> Any:
    return value


def _spelled(value: Any) -> Any:
    return spell_non_finite(value) if hasattr(value, "dtype") and value.dtype.kind == "f" else value
