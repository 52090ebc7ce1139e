"""Triton's classification extension: the highest values of an output, with their indices and labels.

Knows neither protocol, and nothing of how outputs come about. Each row becomes strings `value:index[:label]`, highest
value first, equal ones by their index, NaN last. Invariant: the response that it is made from stays as it was, for
that may be kept in the response cache.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Final, Protocol

import numpy as np

from vintner.errors import InvalidArgument
from vintner.labels import Labels
from vintner.types import Array, Request, Response, Tensor, TensorSpec

MOST_STRINGS: Final = 1_000_000
"""Triton's limit."""

SORTED_TOGETHER: Final = 1 << 16
"""Values of short rows; their indices take eight bytes each."""

LONGEST_SORTED: Final = 1 << 20
"""Values of a long row: a row of bytes that fills a message would have indices of sixteen gigabytes."""

UNFIT: Final = frozenset({"BYTES", "FP16", "BF16", "BOOL"})
"""Datatypes that Triton refuses."""

Reply = Callable[[Response | Exception], None]


class Classified(Protocol):
    """What is asked of a loaded version."""

    @property
    def labels(self) -> Labels: ...

    @property
    def outputs(self) -> Sequence[TensorSpec]: ...

    @property
    def has_rows(self) -> bool:
        """Whether the first dimension of an output is the batch."""
        ...


def check_classes(classes: Mapping[str, int], outputs: Sequence[TensorSpec]) -> None:
    """Raises InvalidArgument if an output of that datatype has no classes. Unknown names are for others to refuse."""
    for spec in outputs:
        if spec.name in classes and spec.datatype in UNFIT:
            raise InvalidArgument(
                f"class result not available for output '{spec.name}' due to unsupported type '{spec.datatype}'"
            )


def classifying(request: Request, model: Classified, reply: Reply) -> Reply:
    """The reply that turns the outputs that are wanted as so many classes into these before it passes them on; the
    responses of a decoupled model come to the request so, too."""
    classes, respond = request.classes or {}, request.on_response
    if respond is not None:
        request.on_response = lambda response: respond(classified(response, classes, model))

    def classify(result: Response | Exception) -> None:
        if isinstance(result, Response):
            try:
                result = classified(result, classes, model)
            except Exception as exc:
                result = exc
        reply(result)

    return classify


def classified(response: Response, classes: Mapping[str, int], model: Classified) -> Response:
    """Raises InvalidArgument as `classes_of`."""
    ranks = {spec.name: len(spec.shape) for spec in model.outputs} if model.has_rows else {}
    outputs = dict(response.outputs)
    for name in outputs.keys() & classes.keys():
        array = outputs[name].array
        has_rows = array.ndim == ranks.get(name)  # a decoupled model may respond with one row, and no batch around it
        outputs[name] = classes_of(name, array, classes[name], model.labels.get(name, ()), has_rows)
    return replace(response, outputs=outputs)


def classes_of(name: str, values: Array, count: int, labels: Sequence[bytes], has_rows: bool) -> Tensor:
    """BYTES of shape [rows, min(count, elements of a row)], or without rows [min(count, elements)].

    Raises InvalidArgument if these are too many strings.
    """
    rows = values.shape[0] if has_rows else 1
    elements = prod(values.shape[1:] if has_rows else values.shape)
    count = min(count, elements)
    if rows * max(count, 1) > MOST_STRINGS:  # rows without elements cost nothing to send, but each takes its turn
        raise InvalidArgument(
            f"classification output tensor too large: output '{name}' has {rows} rows of {count} classes, at most"
            f" {MOST_STRINGS} strings are made"
        )
    strings = np.empty((rows, count), np.object_)
    if count:
        _fill(strings, values.reshape(rows, elements), labels)
    return Tensor("BYTES", strings if has_rows else strings[0])


def _fill(strings: Array, values: Array, labels: Sequence[bytes]) -> None:
    """Both have two dimensions. Short rows are sorted many at a time; long ones one by one, which takes less memory."""
    rows, count = strings.shape
    step = max(1, SORTED_TOGETHER // values.shape[1])
    for start in range(0, rows, step):
        own = values[start : start + step]
        best = _descending(own)[:, :count] if step > 1 else _highest(own[0], count)[np.newaxis]
        made = zip(np.take_along_axis(own, best, 1).ravel().tolist(), best.ravel().tolist(), strict=True)
        flat = strings[start : start + step].reshape(-1)  # a view: these rows are next to each other
        flat[:] = [_string(value, index, labels) for value, index in made]


def _highest(values: Array, count: int) -> Array:
    """Of one row of any length, as `_descending`, but with the indices of a part of it in memory at a time."""
    best = np.empty(0, np.intp)
    for start in range(0, len(values), LONGEST_SORTED):
        part = _descending(values[np.newaxis, start : start + LONGEST_SORTED])[0, :count] + start
        both = np.concatenate((best, part))  # of equal values the earlier ones stay in front
        best = both[_descending(values[np.newaxis, both])[0, :count]]
    return best


def _descending(values: Array) -> Array:
    """Indices within each row; the complement turns the order of integers round where a minus would overflow."""
    return np.argsort(-values if values.dtype.kind == "f" else ~values, axis=1, kind="stable")


def _string(value: float, index: int, labels: Sequence[bytes]) -> bytes:
    """The value as C++'s `std::to_string` has it."""
    text = f"{value:f}:{index}" if isinstance(value, float) else f"{value}:{index}"
    label = labels[index] if index < len(labels) else b""
    return b"%s:%s" % (text.encode(), label) if label else text.encode()
