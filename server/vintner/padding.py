"""A model that was compiled for a few batch sizes, served as if its first dimension were dynamic.

Knows backends only by `LoadSpec` and `LoadedModel`, and nothing of queues: what is handed out is a `LoadedModel` like
any other. Invariant: each run has the first extent that its model was compiled for, and what comes out has exactly the
rows that went in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace

import numpy as np

from vintner.backend import Instance, LoadedModel, LoadSpec
from vintner.errors import BackendError, InvalidArgument, LoadError
from vintner.execution import without_batch_in_front
from vintner.types import Array, TensorSpec

Load = Callable[[LoadSpec], LoadedModel]


def load_sizes(load: Load, spec: LoadSpec, sizes: Sequence[int]) -> PaddedModel:
    """Loads the model once for each size, which ascend. Raises LoadError if it cannot take one, or is not batched by
    its first dimension."""
    with ExitStack() as loaded:
        models: dict[int, LoadedModel] = {}
        for size in sizes:
            try:
                models[size] = load(replace(spec, rows=size))
            except LoadError as exc:
                raise LoadError(f"compiled size {size}: {exc}") from exc
            loaded.callback(models[size].close)
        padded = PaddedModel(models)
        loaded.pop_all()
        return padded


class PaddedModel:
    """One model for each size, as one model. The k-th instances of all sizes are its k-th instance."""

    def __init__(self, models: Mapping[int, LoadedModel]) -> None:
        """`models` by size, ascending. Raises LoadError if they do not have the batch in front."""
        self._models = tuple(models.values())
        self.platform = self._models[0].platform
        self.inputs = _free_rows({size: model.inputs for size, model in models.items()}, "input")
        self.outputs = _free_rows({size: model.outputs for size, model in models.items()}, "output")
        slots = zip(*(model.instances for model in self._models), strict=False)
        self.instances: Sequence[PaddedInstance] = [
            PaddedInstance(dict(zip(models, instances, strict=True))) for instances in slots
        ]

    def close(self) -> None:
        self.instances = ()
        with ExitStack() as closing:
            for model in self._models:
                closing.callback(model.close)


class PaddedInstance:
    """One execution slot of each size, of which one runs at a time."""

    def __init__(self, instances: Mapping[int, Instance]) -> None:
        """`instances` by size, ascending."""
        self._instances = tuple(instances.items())

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Runs the smallest size that holds the rows of the inputs, of which all have equally many.

        Raises InvalidArgument for more rows than the largest size has.
        """
        rows = len(next(iter(inputs.values())))
        size, instance = self._choose(rows)
        if rows == size:
            return instance.run(inputs)
        outputs = instance.run({name: padded(array, size) for name, array in inputs.items()})
        misfit = without_batch_in_front(outputs, size)
        if misfit is not None:
            raise BackendError(misfit)
        return {name: array[:rows] for name, array in outputs.items()}

    def _choose(self, rows: int) -> tuple[int, Instance]:
        for size, instance in self._instances:
            if rows <= size:
                return size, instance
        raise InvalidArgument(f"the model is compiled for at most {self._instances[-1][0]} rows, got {rows}")


def padded(array: Array, rows: int) -> Array:
    """The array with its last row repeated until it has so many.

    Not zeros: what a client sent is a value that the model can take, where 0 may be none, as a length or an index, and
    may divide. Only a request without rows has nothing to repeat, and gets zeros or empty strings.
    """
    if len(array):
        full = np.empty((rows, *array.shape[1:]), array.dtype)
        full[: len(array)] = array
        full[len(array) :] = array[-1]
        return full
    return np.full((rows, *array.shape[1:]), b"" if array.dtype == np.object_ else 0, array.dtype)


def _free_rows(specs: Mapping[int, Sequence[TensorSpec]], kind: str) -> tuple[TensorSpec, ...]:
    """What all sizes have in common, its first dimension dynamic."""
    if not all(specs.values()):
        raise LoadError(f"the model has no {kind}s, so it cannot be padded to compiled sizes")
    for size, own in specs.items():
        _check_batch_in_front(own, size, kind)
    sizes = list(specs)
    common = list(_free(specs[sizes[0]]))
    for size in sizes[1:]:
        for first, other in zip(common, _free(specs[size]), strict=True):
            if first != other:
                raise LoadError(
                    f"{kind} '{first.name}' is {first.datatype} {[sizes[0], *first.shape[1:]]} for {sizes[0]} rows,"
                    f" but {other.datatype} {[size, *other.shape[1:]]} for {size}"
                )
    return tuple(common)


def _check_batch_in_front(specs: Sequence[TensorSpec], size: int, kind: str) -> None:
    """Lets an output pass whose first extent is only known when it has been computed; each run looks at it."""
    for spec in specs:
        fits = spec.shape[:1] == (size,) or (kind == "output" and spec.shape[:1] == (-1,))
        if not fits:
            raise LoadError(
                f"compiled size {size}: {kind} '{spec.name}' has shape {list(spec.shape)}; its first dimension is not"
                " the batch"
            )


def _free(specs: Sequence[TensorSpec]) -> Iterator[TensorSpec]:
    return (replace(spec, shape=(-1, *spec.shape[1:])) for spec in specs)
