"""What a model takes and gives: checks requests against it, and translates between the two names of a tensor.

A tensor has the model's own name and the one that it is served by; they differ only where the configuration renames.
Requests, responses and `TensorSpec`s here have the served one, backends and the scheduler the model's own.

Pure. Invariant: what `arrays` returns has exactly the model's inputs, in their datatypes and shapes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from vintner.backend import LoadedModel
from vintner.call import Arrays
from vintner.errors import BackendError, InvalidArgument, LoadError, nearest
from vintner.model_config import ModelConfig, TensorConfig
from vintner.types import Array, Request, Tensor, TensorSpec

NO_BATCH: Final = (
    ". NOTE: Setting a non-zero max_batch_size in the model config requires a batch dimension to be prepended to each"
    " input shape."
)


class Signature:
    """Of one loaded model. `inputs` and `outputs` are the served specs, in the model's order."""

    def __init__(self, name: str, model: LoadedModel, config: ModelConfig) -> None:
        """Raises LoadError if the configuration contradicts the model."""
        self._name = name
        self.inputs = _served(model.inputs, config.inputs, "input", name)
        self.outputs = _served(model.outputs, config.outputs, "output", name)
        self._inputs = {spec.name: (own.name, spec) for own, spec in zip(model.inputs, self.inputs, strict=True)}
        self._outputs = {
            spec.name: (own.name, spec.datatype) for own, spec in zip(model.outputs, self.outputs, strict=True)
        }
        self._limited = config.batching.row_limit is not None
        self._own_outputs = {spec.name for spec in model.outputs}

    @property
    def has_batch_dimension(self) -> bool:
        """Whether the first dimension of every tensor is dynamic."""
        return bool(self.inputs) and all(spec.shape and spec.shape[0] == -1 for spec in (*self.inputs, *self.outputs))

    def requested(self, request: Request) -> Sequence[str]:
        """The names of the outputs to answer with. Raises InvalidArgument for one that the model has not."""
        if not request.outputs:
            return tuple(self._outputs)
        for name in request.outputs:
            if name not in self._outputs:
                hint = nearest(name, self._outputs)
                raise InvalidArgument(f"unexpected inference output '{name}' for model '{self._name}'{hint}")
        return request.outputs

    def arrays(self, given: Mapping[str, Tensor]) -> tuple[dict[str, Array], int]:
        """The arrays of a request's inputs by the model's own names, and their bytes. Raises InvalidArgument."""
        if given.keys() != self._inputs.keys():
            raise self._wrong_inputs(given)
        arrays: dict[str, Array] = {}
        size = 0
        for name, (own, spec) in self._inputs.items():
            tensor = given[name]
            array = tensor.array
            if tensor.datatype != spec.datatype:
                raise InvalidArgument(
                    f"inference input '{name}' data-type is '{tensor.datatype}', but model '{self._name}' expects"
                    f" '{spec.datatype}'"
                )
            if not spec.admits(array.shape):
                raise self._wrong_shape(spec, array.shape)
            arrays[own] = array
            size += tensor.nbytes
        return arrays, size

    def results(self, names: Sequence[str], arrays: Arrays) -> dict[str, Tensor]:
        """The outputs of these names as tensors. Raises KeyError for one that the backend did not return."""
        results: dict[str, Tensor] = {}
        for name in names:
            own, datatype = self._outputs[name]
            results[name] = Tensor(datatype, arrays[own])
        return results

    def some_results(self, names: Sequence[str], arrays: Arrays) -> dict[str, Tensor]:
        """As `results`, of those that are there. Raises BackendError for arrays that are no outputs of the model."""
        unknown = arrays.keys() - self._own_outputs
        if unknown:
            raise BackendError(f"the backend gave outputs that model '{self._name}' does not have: {sorted(unknown)}")
        return self.results([name for name in names if self._outputs[name][0] in arrays], arrays)

    def _wrong_inputs(self, given: Mapping[str, Tensor]) -> InvalidArgument:
        for name in given:
            if name not in self._inputs:
                hint = nearest(name, self._inputs)
                return InvalidArgument(f"unexpected inference input '{name}' for model '{self._name}'{hint}")
        missing = [name for name in self._inputs if name not in given]
        return InvalidArgument(
            f"expected {len(self._inputs)} inputs but got {len(given)} inputs for model '{self._name}'. Got input(s)"
            f" {list(given)}, but missing required input(s) {missing}. Please provide all required input(s)."
        )

    def _wrong_shape(self, spec: TensorSpec, shape: tuple[int, ...]) -> InvalidArgument:
        note = NO_BATCH if self._limited and len(shape) == len(spec.shape) - 1 else ""
        return InvalidArgument(
            f"unexpected shape for input '{spec.name}' for model '{self._name}'. Expected {_dims(spec.shape)}, got"
            f" {_dims(shape)}{note}"
        )


def _dims(shape: Sequence[int]) -> str:
    return f"[{','.join(map(str, shape))}]"


def _served(
    specs: Sequence[TensorSpec], config: Mapping[str, TensorConfig], kind: str, model: str
) -> tuple[TensorSpec, ...]:
    """The specs under the names that they are served by. Raises LoadError where the configuration is wrong."""
    own = [spec.name for spec in specs]
    for name in config:
        if name not in own:
            raise LoadError(
                f"the configuration of '{model}' names an {kind} '{name}' that is not there{nearest(name, own)}"
            )
    served = tuple(_declared(spec, config.get(spec.name), kind) for spec in specs)
    names = [spec.name for spec in served]
    for name in names:
        if names.count(name) > 1:
            raise LoadError(f"two {kind}s of '{model}' would be served as '{name}'")
    return served


def _declared(spec: TensorSpec, config: TensorConfig | None, kind: str) -> TensorSpec:
    """Applies the new name and compares what the configuration declares with what the model has."""
    if config is None:
        return spec
    if config.datatype is not None and config.datatype != spec.datatype:
        raise LoadError(f"{kind} '{spec.name}' is {spec.datatype}, but the configuration declares {config.datatype}")
    if config.dims is not None and not _compatible(config.dims, spec.shape):
        raise LoadError(
            f"{kind} '{spec.name}' has shape {_dims(spec.shape)}, but the configuration declares {_dims(config.dims)}"
        )
    return TensorSpec(config.name or spec.name, spec.datatype, spec.shape)


def _compatible(declared: Sequence[int], actual: Sequence[int]) -> bool:
    return len(declared) == len(actual) and all(
        want == have or -1 in (want, have) for want, have in zip(declared, actual, strict=True)
    )
