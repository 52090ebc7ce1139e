"""How far the answers of two versions to the same requests are apart.

Compares elements as numbers: BOOL as 0 and 1, BF16 by its value, and of BYTES each pair differs by 0 or 1. Elements
that are NaN or infinite in both answers alike have no difference; those that are so in one alone have none that could
be summed up, and are counted by themselves. Of floating point outputs whose last dimension has several elements, the
largest is taken for the answer, as in a classifier.

`compare` is pure. Invariant: what is summed up is finite, and each of two answers' outputs is either compared or
counted as a mismatch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, get_args

import numpy as np

from vintner.histograms import Histogram
from vintner.types import Array, Tensor, bf16_to_fp32

Mismatch = Literal["missing", "datatype", "shape", "not_finite"]
"""An output that only one of two answers has, whose datatypes or whose shapes differ; an element that is finite in one
answer alone."""

MISMATCHES: Final[tuple[Mismatch, ...]] = get_args(Mismatch)

DIFFERENCES: Final = (0.0, *(10.0**exponent for exponent in range(-7, 4)))
"""Upper bounds of the buckets of a request's largest difference: none, and decades from 1e-7 to 1000."""

LARGEST: Final = 1e100
"""Differences are cut to this, so that their sums stay finite."""

SCORES: Final = frozenset({"FP16", "FP32", "FP64", "BF16"})


@dataclass(frozen=True, slots=True)
class Difference:
    """Of one output in two answers. `elements` were compared, their absolute differences add up to `total`; `rows` is
    0 where the output is none of scores."""

    elements: int = 0
    total: float = 0.0
    largest: float = 0.0
    rows: int = 0
    agreed: int = 0
    mismatches: int = 0
    mismatch: Mismatch = "not_finite"


def compare(served: Tensor | None, shadow: Tensor | None) -> Difference:
    """The difference of an output that at least one answer has."""
    if served is None or shadow is None:
        return Difference(mismatches=1, mismatch="missing")
    if served.datatype != shadow.datatype:
        return Difference(mismatches=1, mismatch="datatype")
    if served.shape != shadow.shape:
        return Difference(mismatches=1, mismatch="shape")
    if served.datatype == "BYTES":
        return _of_differences(np.asarray(served.array != shadow.array, np.float64), 0)
    if served.datatype not in SCORES:
        return _of_differences(_distance(served.array, shadow.array), 0)
    return _of_floats(_widened(served), _widened(shadow))


def _widened(tensor: Tensor) -> Array:
    array = bf16_to_fp32(tensor.array) if tensor.datatype == "BF16" else tensor.array
    return np.asarray(array, np.float64)  # in FP16 a difference could overflow


def _distance(served: Array, shadow: Array) -> Array:
    """Absolute differences of integers and truth values: exact, where those of 64 bits as floats would not be."""
    if served.dtype == np.bool_:
        return np.asarray(served != shadow, np.float64)
    unsigned = np.dtype(f"u{served.dtype.itemsize}")
    highest, lowest = np.maximum(served, shadow).astype(unsigned), np.minimum(served, shadow).astype(unsigned)
    return np.asarray(highest - lowest, np.float64)  # unsigned integers wrap around, to the right difference


def _of_floats(served: Array, shadow: Array) -> Difference:
    finite = np.isfinite(served) & np.isfinite(shadow)
    alike = (served == shadow) | (np.isnan(served) & np.isnan(shadow))
    with np.errstate(over="ignore"):
        differences = np.abs(served[finite] - shadow[finite])
    rows, agreed = _agreement(served, shadow)
    mismatches = int(np.count_nonzero(~finite & ~alike))
    one = _of_differences(differences, mismatches)
    return Difference(one.elements, one.total, one.largest, rows, agreed, mismatches)


def _of_differences(differences: Array, mismatches: int) -> Difference:
    cut = np.minimum(differences, LARGEST)
    return Difference(cut.size, float(cut.sum()), float(np.max(cut, initial=0.0)), mismatches=mismatches)


def _agreement(served: Array, shadow: Array) -> tuple[int, int]:
    """Rows, and those of them whose largest element is in the same place."""
    if served.ndim == 0 or served.shape[-1] < 2 or not served.size:
        return 0, 0
    same = served.argmax(axis=-1) == shadow.argmax(axis=-1)
    return same.size, int(np.count_nonzero(same))


@dataclass(slots=True)
class OutputDrift:
    """What the differences of one output add up to."""

    elements: int = 0
    total: float = 0.0
    largest: float = 0.0
    rows: int = 0
    agreed: int = 0
    mismatches: dict[Mismatch, int] = field(default_factory=lambda: dict.fromkeys(MISMATCHES, 0))
    by_request: Histogram = field(default_factory=lambda: Histogram(DIFFERENCES))
    """The largest difference of each request."""

    def add(self, one: Difference) -> None:
        self.elements += one.elements
        self.total += one.total
        self.largest = max(self.largest, one.largest)
        self.rows += one.rows
        self.agreed += one.agreed
        self.mismatches[one.mismatch] += one.mismatches
        if one.elements:
            self.by_request.observe(one.largest)


@dataclass(slots=True)
class Drift:
    """How far one version's answers are from those of another, by output. Not synchronised."""

    requests: int = 0
    outputs: dict[str, OutputDrift] = field(default_factory=dict)

    def add(self, differences: Mapping[str, Difference]) -> None:
        """Counts one request."""
        self.requests += 1
        for name, one in differences.items():
            drift = self.outputs.get(name)
            if drift is None:
                drift = self.outputs[name] = OutputDrift()
            drift.add(one)


def differences(served: Mapping[str, Tensor], shadow: Mapping[str, Tensor]) -> dict[str, Difference]:
    """By output, of all that either answer has."""
    return {name: compare(served.get(name), shadow.get(name)) for name in {**served, **shadow}}
