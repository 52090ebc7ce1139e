"""One infer request, and the shortest way through it: arrays in, arrays out.

Knows no model files and no properties. Invariant: every input is given anew before each run, so a request never reads
memory of a request before it, and every output is a copy that its caller owns.

Measured on one core with a 16-64-4 network, as a share of what `infer({name: array}, share_inputs=True)` takes: 0.64
with an `ov.Tensor` for each call, 0.44 with a copy into the request's own memory, which spares OpenVINO the work of
taking a new tensor. From about 256 KiB on, the copy costs more than the new tensor does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import openvino as ov
from vintner.errors import BackendError
from vintner.types import Array, TensorSpec

from vintner_backends.openvino_recovery import settle
from vintner_backends.openvino_strings import INPUT_PARTS, OUTPUT_PARTS, first_indices, join_strings, split_strings

SHARED_FROM = 256 * 1024
"""Bytes from which an input is lent to OpenVINO instead of copied."""
WHERE_RAISED = re.compile(r"(Exception from|Check '.*?' failed at) \S+:\d+:?")


def reason(error: Exception) -> str:
    """OpenVINO's message in one line, without the places in its source where it was raised."""
    text = str(error)
    return " ".join(WHERE_RAISED.sub("", text).split()) or " ".join(text.split()) or type(error).__name__


class Feed(Protocol):
    """Brings the array of one input into the request."""

    def give(self, array: Array) -> None: ...


class NumericFeed:
    """Copies small arrays into the request's own tensor, and lends it large ones.

    `ov.Tensor(array, shared_memory=True)` refuses a read-only array. The constructor with shape and type takes it,
    keeps no reference and knows BF16, so it serves for all; OpenVINO does not write to inputs.

    The request's own tensor is set by hand, too. One that never was is copied by OpenVINO to where its graph has its
    input, and if another request of the graph was lent an array before, that is the array's memory, long since freed.
    """

    __slots__ = ("_index", "_memory", "_own", "_request", "_type")

    def __init__(self, request: ov.InferRequest, index: int) -> None:
        self._request = request
        self._index = index
        self._own = request.get_input_tensor(index)
        self._type = self._own.get_element_type()
        self._memory: Array | None = None

    def give(self, array: Array) -> None:
        if array.nbytes >= SHARED_FROM:
            self._lend(array)
            return
        memory = self._memory
        if memory is None or memory.shape != array.shape:
            memory = self._reserve(array)
        memory[...] = array

    def _lend(self, array: Array) -> None:
        self._request.set_input_tensor(self._index, ov.Tensor(array, array.shape, self._type))
        self._memory = None

    def _reserve(self, array: Array) -> Array:
        if tuple(self._own.shape) != array.shape:
            self._own.shape = array.shape
        self._request.set_input_tensor(self._index, self._own)
        self._memory = self._own.data.view(array.dtype)
        return self._memory


class StringFeed:
    """Gives the three parts of a string input; holds them, because the request does not."""

    __slots__ = ("_first", "_parts", "_request")

    def __init__(self, request: ov.InferRequest, first: int) -> None:
        self._request = request
        self._first = first
        self._parts: Sequence[Array] = ()

    def give(self, array: Array) -> None:
        self._parts = split_strings(array)
        for index, (part, kind) in enumerate(zip(self._parts, (ov.Type.i64, ov.Type.i64, ov.Type.u8), strict=True)):
            self._request.set_input_tensor(self._first + index, ov.Tensor(part, part.shape, kind))


class OpenVINOInstance:
    """One infer request of a compiled model. `run` releases the interpreter lock while OpenVINO computes."""

    def __init__(
        self, request: ov.InferRequest, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], streams: int = 1
    ) -> None:
        self._infer: Callable[[], Any] = request.infer
        indices = first_indices([spec.datatype for spec in inputs], INPUT_PARTS)
        self._feeds = [(spec.name, feed(spec, request, index)) for spec, index in zip(inputs, indices, strict=True)]
        self._inputs = inputs
        self._outputs = outputs
        self._names = [spec.name for spec in outputs]
        self._plain = all(spec.datatype not in ("BF16", "BYTES") for spec in outputs)
        self._open = any(-1 in spec.shape for spec in inputs)
        self._streams = streams

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        try:
            results = self._compute(inputs)
        except RuntimeError as exc:
            results = self._compute_again(inputs, exc)
        if self._plain:
            return dict(zip(self._names, results, strict=True))
        return self._converted(results)

    def close(self) -> None:
        """Lets go of the request."""
        self._feeds.clear()
        del self._infer

    def _compute(self, inputs: Mapping[str, Array]) -> Sequence[Array]:
        for name, give in self._feeds:
            give(inputs[name])
        results: Sequence[Array] = self._infer().to_tuple()
        return results

    def _compute_again(self, inputs: Mapping[str, Array], error: RuntimeError) -> Sequence[Array]:
        """The failure may be what an earlier one left behind, on this stream or another: settle, and try once more."""
        if not self._open:
            raise BackendError(reason(error)) from error
        settle(self._compute, self._inputs, self._streams)
        try:
            return self._compute(inputs)
        except RuntimeError as exc:
            settle(self._compute, self._inputs, self._streams)
            raise BackendError(reason(exc)) from exc

    def _converted(self, results: Sequence[Array]) -> dict[str, Array]:
        firsts = first_indices([spec.datatype for spec in self._outputs], OUTPUT_PARTS)
        return {spec.name: converted(spec, results, first) for spec, first in zip(self._outputs, firsts, strict=True)}


class StringInstance(OpenVINOInstance):
    """An infer request of a model that takes strings.

    OpenVINO skips what unpacks strings if there are none, and the nodes behind it read a shape that nobody wrote. So
    a batch without rows is answered from a run with one row of empty strings, cut off the outputs.
    """

    def __init__(
        self, request: ov.InferRequest, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], streams: int = 1
    ) -> None:
        super().__init__(request, inputs, outputs, streams)
        self._strings = [spec.name for spec in inputs if spec.datatype == "BYTES"]
        self._has_rows = all(spec.shape[:1] == (-1,) for spec in (*inputs, *outputs))

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        if all(inputs[name].size for name in self._strings):
            return super().run(inputs)
        if not self._has_rows or any(array.shape[0] or 0 in array.shape[1:] for array in inputs.values()):
            raise BackendError("OpenVINO cannot run this model on a tensor that holds no strings")
        one_row = {name: empty_row(array) for name, array in inputs.items()}
        return {name: output[:0] for name, output in super().run(one_row).items()}


def empty_row(array: Array) -> Array:
    extents = (1, *array.shape[1:])
    return np.full(extents, b"", np.object_) if array.dtype == np.object_ else np.zeros(extents, array.dtype)


def feed(spec: TensorSpec, request: ov.InferRequest, index: int) -> Callable[[Array], None]:
    kind: Feed = StringFeed(request, index) if spec.datatype == "BYTES" else NumericFeed(request, index)
    return kind.give


def converted(spec: TensorSpec, results: Sequence[Array], first: int) -> Array:
    """One output in KServe's terms: strings from their parts, BF16 as the bit pattern that NumPy has no dtype for."""
    if spec.datatype == "BYTES":
        return join_strings(*results[first : first + OUTPUT_PARTS])
    return results[first].view(np.uint16) if spec.datatype == "BF16" else results[first]
