"""Inputs whose rows differ in shape: batched by laying their elements end to end, as Triton does with ragged inputs.

The model takes such an input as one row of elements, and often others, computed here from the batch, that tell it where
each row of a request ends. Clients see neither: to them the input is [-1, ...], and the computed ones do not exist.
Knows nothing of queues. What is queued of a ragged input is boxed, an array with one array per row, so that it is
stacked and counted as any other. Invariant: a run gets every element of every row, once, in order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from math import prod
from typing import Final

import numpy as np

from vintner.backend import Instance, LoadedModel
from vintner.errors import LoadError, nearest
from vintner.model_config import BatchInputConfig, InputConfig, ModelConfig
from vintner.types import DTYPES, Array, TensorSpec

Shapes = Sequence[tuple[int, ...]]
"""Of the rows of a batch, each without the batch."""


def boxed(array: Array) -> Array:
    """An object array of the rows, each a view of the given one."""
    rows = np.empty(len(array), np.object_)
    for index, row in enumerate(array):
        rows[index] = row
    return rows


def _counts(shapes: Shapes) -> list[int]:
    return [prod(shape) for shape in shapes]


def _item_shape(shapes: Shapes) -> Array:
    return np.array(shapes, np.int64).reshape(len(shapes), -1 if shapes else 0)


KINDS: Final[Mapping[str, Callable[[Shapes], Array]]] = {
    "element_count": lambda shapes: np.array(_counts(shapes), np.int64),
    "accumulated_element_count": lambda shapes: np.cumsum(_counts(shapes), dtype=np.int64),
    "accumulated_element_count_with_zero": lambda shapes: np.array([*accumulate(_counts(shapes), initial=0)], np.int64),
    "max_element_count_as_shape": lambda shapes: np.zeros(max(_counts(shapes), default=0), np.int64),
    "item_shape": _item_shape,
    "item_shape_flatten": lambda shapes: _item_shape(shapes).ravel(),
}
"""Triton's kinds of `batch_input`. Each is given per row, also where a request has several."""


class RaggedModel:
    """A model with ragged inputs, as clients see it."""

    def __init__(self, model: LoadedModel, config: ModelConfig) -> None:
        """Raises LoadError where the configuration does not fit the model, which stays the caller's to close then."""
        own = {spec.name: spec for spec in model.inputs}
        _check_names(config.batch_inputs, own)
        datatypes = {name: DTYPES[own[name].datatype] for name in config.batch_inputs}
        ragged = {
            name: DTYPES[own[name].datatype] for name in own if name in config.inputs and config.inputs[name].ragged
        }
        self._model = model
        self.platform = model.platform
        self.inputs = tuple(
            _as_clients_see_it(spec, config.inputs[name]) if name in ragged else spec
            for name, spec in own.items()
            if name not in config.batch_inputs
        )
        self.outputs = model.outputs
        computed = [
            (name, KINDS[given.kind], given.source, datatypes[name]) for name, given in config.batch_inputs.items()
        ]
        self.instances: Sequence[Instance] = [RaggedInstance(each, ragged, computed) for each in model.instances]

    def close(self) -> None:
        self.instances = ()
        self._model.close()


class RaggedInstance:
    """An execution slot that is given ragged inputs boxed, or as they are, if all their rows have one shape."""

    def __init__(
        self,
        instance: Instance,
        ragged: Mapping[str, np.dtype[np.generic]],
        computed: Sequence[tuple[str, Callable[[Shapes], Array], str, np.dtype[np.generic]]],
    ) -> None:
        self._instance = instance
        self._ragged = ragged
        self._computed = computed

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        given = dict(inputs)
        shapes: dict[str, Shapes] = {}
        for name, dtype in self._ragged.items():
            rows = inputs[name]
            shapes[name] = [row.shape for row in rows]
            # A lone row needs no copy; without rows there is nothing to tell the datatype by.
            flat = [row.ravel() for row in rows] or [np.empty(0, dtype)]
            given[name] = flat[0] if len(flat) == 1 else np.concatenate(flat)
        for name, compute, source, datatype in self._computed:
            given[name] = compute(shapes[source]).astype(datatype)
        return self._instance.run(given)


def _check_names(computed: Mapping[str, BatchInputConfig], own: Mapping[str, TensorSpec]) -> None:
    for name in computed:
        if name not in own:
            raise LoadError(f"batch_inputs names an input '{name}' that is not there{nearest(name, own)}")
        if own[name].datatype in ("BYTES", "BOOL", "BF16"):
            raise LoadError(f"batch input '{name}' is {own[name].datatype}; counts and shapes need numbers")


def _as_clients_see_it(spec: TensorSpec, config: InputConfig) -> TensorSpec:
    """One dimension more than the model has, or what `dims` says."""
    if spec.shape != (-1,):
        raise LoadError(
            f"ragged input '{spec.name}' has shape {list(spec.shape)}; a model takes one as a row of elements, [-1]"
        )
    if spec.datatype == "BYTES":
        raise LoadError(f"ragged input '{spec.name}' is BYTES, which cannot be ragged")
    dims = config.dims or (-1, -1)
    if len(dims) < 2 or dims[0] != -1:
        raise LoadError(f"ragged input '{spec.name}': dims start with the batch, as in [-1, -1], got {list(dims)}")
    return TensorSpec(spec.name, spec.datatype, dims)
