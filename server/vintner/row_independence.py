"""Whether a model that takes many rows answers each of them as one that takes a single row does.

Pure but for the runs. What it shows, it shows for the rows that it is given, so those must be told apart by the
outputs: of rows whose outputs are alike, an answer that mixes them would look right. Invariant: no finding means that
every output was seen to differ between rows, and to be the same for a row alone and among others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from vintner.backend import Instance
from vintner.errors import LoadError
from vintner.model_config import WarmupConfig
from vintner.types import Array, TensorSpec, bf16_to_fp32
from vintner.warmup import made, sample_inputs

Row = Mapping[str, Array]

ROWS: Final = 3
"""Rows that are compared: odd, so that a model that pairs neighbours is found out, and few, for each is a run."""

TOLERANCE: Final[Mapping[str | None, float]] = {"f32": 1e-3, "f16": 0.02, "bf16": 0.02, None: 0.02}
"""By the precision that was asked for, how far apart outputs may be, as a share of the largest: the same sums in
another order. A runtime that may choose takes bf16 where the hardware has it."""

SHARE: Final = 0.1
"""Of what rows differ by, the most that may be put down to precision. Rows that are mixed differ by more."""


def sample_rows(specs: Sequence[TensorSpec], samples: Sequence[WarmupConfig], directory: Path) -> Sequence[Row]:
    """`ROWS` inputs of one row each: those of the samples that are different, then made ones of the same shape.

    Raises LoadError for a sample that does not fit, and for an extent that neither the model nor a sample tells.
    """
    given: list[Row] = []
    for sample in samples or (WarmupConfig(),):
        stacked = dict(sample_inputs(specs, sample, directory))
        given.extend(row for row in _rows(stacked) if not any(_equal(row, other) for other in given))
    if not given:
        raise LoadError("the warm-up samples have no rows to compare")
    first = given[0]
    alike = [row for row in given if all(row[name].shape == first[name].shape for name in row)]
    stacked = {spec.name: _varied(spec, (ROWS, *first[spec.name].shape[1:])) for spec in specs}
    return [*alike, *_rows(stacked)][:ROWS]


def _rows(inputs: Row) -> Iterator[Row]:
    for index in range(min(map(len, inputs.values()))):
        yield {name: array[index : index + 1] for name, array in inputs.items()}


def _equal(row: Row, other: Row) -> bool:
    return all(np.array_equal(row[name], other[name]) for name in row)


def _varied(spec: TensorSpec, shape: tuple[int, ...]) -> Array:
    """Made data with more contrast between rows than noise has: networks average that away. The range stays."""
    array = made(spec, shape, "random")
    if spec.datatype in ("FP16", "FP32", "FP64"):
        for index, row in enumerate(array):
            row *= (index + 1) / len(array)
    elif spec.datatype == "BYTES":
        for index, row in enumerate(array):
            row[...] = b"warm-up %d" % index
    return array


def find_dependence(
    single: Instance, many: Instance, outputs: Sequence[TensorSpec], rows: Sequence[Row], precision: str | None
) -> str | None:
    """Why `many`, given all rows at once, may not stand in for `single`, given one after the other; None if it may."""
    alone = [single.run(row) for row in rows]
    together = many.run({name: np.concatenate([row[name] for row in rows]) for name in rows[0]})
    first = many.run(rows[0])
    for spec in outputs:
        expected = np.concatenate([run[spec.name] for run in alone])
        found = np.concatenate([together[spec.name], first[spec.name]])
        problem = _difference(spec.datatype, expected, found, TOLERANCE[precision])
        if problem:
            return f"output '{spec.name}' {problem}"
    return None


def _difference(datatype: str, alone: Array, found: Array, tolerance: float) -> str | None:
    """Compares rows alone with the same rows stacked, and behind those the first one again, run as a batch of one."""
    if found.shape != (len(alone) + 1, *alone.shape[1:]):
        return f"has {[*found.shape]} for {len(alone)} rows and one, where one row has {[1, *alone.shape[1:]]}"
    wanted = np.concatenate([alone, alone[:1]])
    if datatype not in ("FP16", "FP32", "FP64", "BF16"):
        if np.array_equal(alone, np.broadcast_to(alone[:1], alone.shape)):
            return "is the same for all rows of the samples, so they cannot show whether rows are independent"
        return None if np.array_equal(wanted, found) else "is not the same for a row alone and among others"
    return _numeric_difference(_wide(datatype, wanted), _wide(datatype, found), tolerance)


def _numeric_difference(wanted: Array, found: Array, tolerance: float) -> str | None:
    """Not a number is equal to nothing, so it counts as a difference."""
    with np.errstate(invalid="ignore"):
        spread = float(np.ptp(wanted, axis=0).max(initial=0.0))
        scale = float(np.abs(wanted).max(initial=0.0))
        error = float(np.abs(wanted - found).max(initial=0.0))
    if spread == 0.0:
        return "is the same for all rows of the samples, so they cannot show whether rows are independent"
    if error <= tolerance * scale and error <= SHARE * spread:
        return None
    return f"differs by {error:.3g} between a row alone and among others, where rows differ by {spread:.3g}"


def _wide(datatype: str, array: Array) -> Any:
    return (bf16_to_fp32(array) if datatype == "BF16" else array).astype(np.float64)
