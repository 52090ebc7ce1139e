"""Opens a model with the shapes that it is served with, whatever shapes it comes with.

Four ways: as it is; with ragged inputs; compiled for the sizes that the configuration lists, and padded to them; or,
where each of its tensors has a static first dimension of 1, with that made dynamic, if this is seen to change no
answer. Knows backends only by the function that loads. Invariant: of the models that were loaded on the way, those that
are not returned are closed.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from vintner.backend import LoadedModel, LoadSpec, close_anyway
from vintner.decoupled import is_decoupled
from vintner.errors import LoadError, VintnerError
from vintner.model_config import ModelConfig
from vintner.padding import Load, load_sizes
from vintner.ragged import RaggedModel
from vintner.row_independence import find_dependence, sample_rows
from vintner.types import TensorSpec

logger = logging.getLogger(__name__)

UNUSED = "a model that is not served"

ANY = -1


def open_model(load: Load, spec: LoadSpec, config: ModelConfig, directory: Path) -> LoadedModel:
    """The model, with the inputs, outputs and instances that are served. `directory` has the files of its samples.

    Raises LoadError as `load` does, and if the model cannot be batched as the configuration demands.
    """
    if any(given.ragged for given in config.inputs.values()):
        return _ragged(load(spec), config)
    if config.batching.compiled_sizes:
        return load_sizes(load, spec, config.batching.compiled_sizes)
    static = load(spec)
    if not _worth_trying(static, spec, config):
        return static
    try:
        dynamic = _with_any_rows(load, spec, static, config, directory)
    except BaseException as exc:  # the model that is there is good; whatever ails the other one must not spoil it
        if config.batching.max_batch_size is not None:
            close_anyway(static.close, UNUSED)
            raise LoadError(
                f"max_batch_size needs a dynamic first dimension, which this model cannot have: {exc}"
            ) from exc
        expected = isinstance(exc, VintnerError)
        logger.info("%s keeps its static batch of 1: %s", spec.path, exc, exc_info=not expected)
        return static
    close_anyway(static.close, UNUSED)
    logger.info("%s has a static batch of 1, and is served with a dynamic one: its rows are independent", spec.path)
    return dynamic


def _ragged(model: LoadedModel, config: ModelConfig) -> LoadedModel:
    try:
        if config.batching.compiled_sizes:
            raise LoadError("a model with ragged inputs cannot have compiled_sizes: its elements are not padded")
        return RaggedModel(model, config)
    except BaseException:
        close_anyway(model.close, UNUSED)
        raise


def _worth_trying(model: LoadedModel, spec: LoadSpec, config: ModelConfig) -> bool:
    """A first extent in the configuration's own shapes is meant as it is."""
    tensors = (*model.inputs, *model.outputs)
    wanted = config.batching.enabled or config.batching.max_batch_size is not None
    single = bool(model.inputs) and all(tensor.shape[:1] == (1,) for tensor in tensors)
    return (
        wanted
        and single
        and not is_decoupled(model)
        and not spec.shapes.keys() & {tensor.name for tensor in model.inputs}
    )


def _with_any_rows(
    load: Load, spec: LoadSpec, static: LoadedModel, config: ModelConfig, directory: Path
) -> LoadedModel:
    """Raises LoadError with the reason why it must not be served so; other errors are the backend's."""
    dynamic = load(replace(spec, rows=ANY))
    try:
        _check_free((*static.inputs, *static.outputs), (*dynamic.inputs, *dynamic.outputs))
        rows = sample_rows(dynamic.inputs, config.warmup, directory)
        problem = find_dependence(static.instances[0], dynamic.instances[0], dynamic.outputs, rows, spec.precision)
        if problem:
            raise LoadError(problem)
    except BaseException:
        close_anyway(dynamic.close, UNUSED)
        raise
    return dynamic


def _check_free(static: Sequence[TensorSpec], dynamic: Sequence[TensorSpec]) -> None:
    """Raises LoadError unless the first dimension has become dynamic in every tensor, and nothing else has."""
    for before, after in zip(static, dynamic, strict=True):
        expected = replace(before, shape=(ANY, *before.shape[1:]))
        if after != expected:
            raise LoadError(
                f"with the first dimension of every input dynamic, '{after.name}' has shape {list(after.shape)}, not"
                f" {list(expected.shape)}"
            )
