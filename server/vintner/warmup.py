"""Runs a model before it is served, so that no client pays for what a runtime puts off to the first runs.

Knows a loaded model and the samples of its configuration, nothing else. Every sample is run on every instance.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from vintner.backend import LoadedModel
from vintner.errors import InvalidArgument, LoadError, nearest
from vintner.execution import without_batch_in_front
from vintner.model_config import WarmupConfig, WarmupInput
from vintner.tensor_bytes import decode_raw
from vintner.types import DTYPES, Array, TensorSpec, fp32_to_bf16

DIRECTORY = "warmup"
"""Where in a model's directory the files of samples are."""


def warm_up(model: LoadedModel, samples: Sequence[WarmupConfig], directory: Path) -> str | None:
    """Runs all samples. Returns why the model cannot be batched, if one of several rows shows that it cannot.

    `directory` is where the files are that samples name. Raises LoadError for a sample that does not fit the model,
    and for a run that fails.
    """
    misfit: str | None = None
    for sample in samples:
        inputs = dict(sample_inputs(model.inputs, sample, directory))
        for number, instance in enumerate(model.instances):
            for _ in range(sample.count):
                try:
                    outputs = instance.run(inputs)
                except Exception as exc:
                    raise LoadError(f"warm-up '{sample.name}' failed on instance {number}: {exc}") from exc
        if sample.batch_size and sample.batch_size > 1:
            misfit = misfit or without_batch_in_front(outputs, sample.batch_size)
    return misfit


def sample_inputs(specs: Sequence[TensorSpec], sample: WarmupConfig, directory: Path) -> Iterator[tuple[str, Array]]:
    """Name and array of each input. Raises LoadError for a sample that does not fit."""
    names = [spec.name for spec in specs]
    for name in sample.inputs:
        if name not in names:
            raise LoadError(f"warm-up '{sample.name}' names an input '{name}' that is not there{nearest(name, names)}")
    for spec in specs:
        given = sample.inputs.get(spec.name, WarmupInput())
        shape = _shape(spec, given, sample)
        yield spec.name, _read(spec, shape, directory / given.file) if given.file else made(spec, shape, given.data)


def _shape(spec: TensorSpec, given: WarmupInput, sample: WarmupConfig) -> tuple[int, ...]:
    """As given, else the model's; with a batch size, the first dimension goes without saying."""
    batch = (sample.batch_size,) if sample.batch_size else ()
    if given.shape is not None:
        shape = (*batch, *given.shape)
    else:
        first = batch or tuple(1 if extent == -1 else extent for extent in spec.shape[:1])
        shape = (*first, *spec.shape[1:])
    if -1 in shape:
        raise LoadError(
            f"warm-up '{sample.name}': input '{spec.name}' has shape {list(spec.shape)}, so the sample needs a shape"
        )
    if not spec.admits(shape):
        raise LoadError(
            f"warm-up '{sample.name}': input '{spec.name}' expects shape {list(spec.shape)}, the sample has"
            f" {list(shape)}"
        )
    return shape


def made(spec: TensorSpec, shape: tuple[int, ...], data: str) -> Array:
    """Zeros; or floats from 0 to 1, integers of 0 and 1, which most indices admit, and short texts."""
    random = np.random.default_rng(0)
    zero = data == "zero"
    match spec.datatype:
        case "BYTES":
            array: Array = np.full(shape, b"", np.object_)
            if not zero:
                array[...] = b"warm-up"
            return array
        case "FP16" | "FP32" | "FP64":
            return (
                np.zeros(shape, DTYPES[spec.datatype]) if zero else random.random(shape).astype(DTYPES[spec.datatype])
            )
        case "BF16":
            return fp32_to_bf16(np.zeros(shape, np.float32) if zero else random.random(shape, np.float32))
    return random.integers(0, 1 if zero else 2, shape).astype(DTYPES[spec.datatype])


def _read(spec: TensorSpec, shape: tuple[int, ...], file: Path) -> Array:
    """Raw bytes as they would come in a request."""
    try:
        return decode_raw(spec.name, spec.datatype, shape, file.read_bytes()).array
    except OSError as exc:
        raise LoadError(f"warm-up file {file.name}: {exc.strerror}; it is looked for in {DIRECTORY}/") from exc
    except InvalidArgument as exc:
        raise LoadError(f"warm-up file {file.name}: {exc}") from exc
