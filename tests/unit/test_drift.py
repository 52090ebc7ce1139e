"""How far two answers are apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from vintner.drift import LARGEST, Difference, Drift, compare, differences
from vintner.types import DTYPES, Tensor, fp32_to_bf16


def tensor(datatype: str, values: Any) -> Tensor:
    if datatype == "BF16":
        return Tensor(datatype, fp32_to_bf16(np.asarray(values, np.float32)))
    return Tensor(datatype, np.asarray(values, DTYPES[datatype]))


def between(datatype: str, served: Any, shadow: Any) -> Difference:
    return compare(tensor(datatype, served), tensor(datatype, shadow))


@pytest.mark.parametrize(
    ("datatype", "served", "shadow", "total", "largest"),
    [
        ("FP32", [[1, 2]], [[1, 2.5]], 0.5, 0.5),
        ("FP16", [-65504, 0], [65504, 1], 131009, 131008),
        ("FP64", [1.0], [1.0 + 1e-12], pytest.approx(1e-12, rel=1e-3), pytest.approx(1e-12, rel=1e-3)),
        ("BF16", [1, 2], [1, 3], 1, 1),
        ("INT8", [-128, 3], [127, 1], 257, 255),
        ("UINT8", [0, 255], [255, 0], 510, 255),
        ("INT64", [2**62, -(2**63)], [2**62 + 1, -(2**63)], 1, 1),
        ("UINT64", [2**64 - 1], [2**64 - 2], 1, 1),
        ("BOOL", [True, False, True], [True, True, False], 2, 1),
        ("BYTES", [b"a", b"", b"b"], [b"a", b"x", b"c"], 2, 1),
        ("INT32", 5, 3, 2, 2),
        ("FP32", 5, 3, 2, 2),
        ("BYTES", b"a", b"b", 1, 1),
        ("FP64", [1e308], [-1e308], LARGEST, LARGEST),
    ],
)
def test_differences_are_those_of_the_values(datatype: str, served: Any, shadow: Any, total: Any, largest: Any) -> None:
    apart = between(datatype, served, shadow)
    assert (apart.elements, apart.total, apart.largest) == (np.size(served), total, largest)
    assert apart.mismatches == 0


@pytest.mark.parametrize(
    ("served", "shadow", "rows", "agreed"),
    [
        ([[1, 2, 3], [3, 2, 1]], [[0, 0, 9], [0, 9, 0]], 2, 1),
        ([1, 2], [5, 6], 1, 1),
        ([[1], [2]], [[2], [1]], 0, 0),
        (np.zeros((0, 3)), np.zeros((0, 3)), 0, 0),
        (7, 7, 0, 0),
    ],
)
def test_scores_agree_if_the_largest_is_in_the_same_place(served: Any, shadow: Any, rows: int, agreed: int) -> None:
    apart = between("FP32", served, shadow)
    assert (apart.rows, apart.agreed) == (rows, agreed)


def test_integers_are_no_scores() -> None:
    assert between("INT64", [[1, 2]], [[2, 1]]).rows == 0


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("datatype", ["FP16", "FP32", "FP64", "BF16"])
def test_what_is_not_finite_is_counted_and_not_summed(datatype: str) -> None:
    apart = between(datatype, [NAN, INF, -INF, NAN, INF, 1, 1], [NAN, INF, -INF, 1, -INF, INF, 3])
    assert (apart.elements, apart.total, apart.mismatches, apart.mismatch) == (1, 2.0, 3, "not_finite")


@pytest.mark.parametrize(
    ("served", "shadow", "kind"),
    [
        (tensor("FP32", [1]), None, "missing"),
        (None, tensor("FP32", [1]), "missing"),
        (tensor("FP32", [1]), tensor("FP16", [1]), "datatype"),
        (tensor("FP32", [1]), tensor("FP32", [[1]]), "shape"),
        (tensor("BYTES", [b"a"]), tensor("BYTES", [b"a", b"b"]), "shape"),
    ],
)
def test_what_cannot_be_compared_is_counted_by_why(served: Tensor | None, shadow: Tensor | None, kind: str) -> None:
    assert compare(served, shadow) == Difference(mismatches=1, mismatch=kind)  # type: ignore[arg-type]


FLOATS = arrays.arrays(np.float32, (3, 4), elements=st.floats(width=32))


@given(FLOATS, FLOATS)
def test_differences_are_symmetric_finite_and_complete(served: Any, shadow: Any) -> None:
    apart, back = between("FP32", served, shadow), between("FP32", shadow, served)
    assert apart == back
    assert np.isfinite(apart.total)
    assert 0 <= apart.largest <= apart.total <= apart.elements * apart.largest * (1 + 1e-9)
    alike = np.count_nonzero(~np.isfinite(served) & ((served == shadow) | (np.isnan(served) & np.isnan(shadow))))
    assert apart.elements + apart.mismatches + alike == served.size
    assert between("FP32", served, served) == Difference(int(np.count_nonzero(np.isfinite(served))), 0.0, 0.0, 3, 3)


def test_a_drift_adds_up_by_output() -> None:
    drift = Drift()
    for value in (1.5, 3.0):
        served = {"scores": tensor("FP32", [[1, 1]]), "extra": tensor("INT8", [1])}
        drift.add(differences(served, {"scores": tensor("FP32", [[1, value]])}))
    scores, extra = drift.outputs["scores"], drift.outputs["extra"]
    assert (drift.requests, scores.elements, scores.total, scores.largest) == (2, 4, 2.5, 2.0)
    assert (scores.rows, scores.agreed) == (2, 0)
    assert scores.by_request.cumulative()[-2:] == [("1000.0", 2.0), ("+Inf", 2.0)]
    assert extra.mismatches == {"missing": 2, "datatype": 0, "shape": 0, "not_finite": 0}
    assert (extra.elements, sum(extra.by_request.counts)) == (0, 0)
