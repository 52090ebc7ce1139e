"""Outputs as classes: what the strings say, in which order, in which shape, and what is refused."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from vintner.classification import LONGEST_SORTED, SORTED_TOGETHER, UNFIT, check_classes, classes_of, classifying
from vintner.errors import InvalidArgument
from vintner.labels import Labels
from vintner.types import DTYPES, Request, Response, Tensor, TensorSpec

WANTED = Request("m", "", {}, classes={"y": 1})
FIT = sorted(set(DTYPES) - UNFIT)


@dataclass
class Model:
    """As much of a loaded version as is asked of it."""

    labels: Labels = field(default_factory=dict)
    outputs: Sequence[TensorSpec] = (TensorSpec("y", "INT8", (-1, 2)),)
    has_rows: bool = True


@pytest.mark.parametrize(
    ("values", "datatype", "expected"),
    [
        ([0.25, 1.0, -3.5], "FP32", ["1.000000:1:b", "0.250000:0:a", "-3.500000:2"]),
        ([1e-9, 1e10], "FP64", ["10000000000.000000:1:b", "0.000000:0:a"]),
        ([0.1], "FP32", ["0.100000:0:a"]),
        ([float("nan"), -np.inf, np.inf], "FP32", ["inf:2", "-inf:1:b", "nan:0:a"]),
        ([3, 1, 3, 2], "INT32", ["3:0:a", "3:2", "2:3", "1:1:b"]),
        ([0.5, 0.5, 0.5], "FP32", ["0.500000:0:a", "0.500000:1:b", "0.500000:2"]),
        ([-(2**63), 2**63 - 1, 0], "INT64", ["9223372036854775807:1:b", "0:2", "-9223372036854775808:0:a"]),
        ([0, 2**64 - 1, 1], "UINT64", ["18446744073709551615:1:b", "1:2", "0:0:a"]),
    ],
)
def test_the_strings_are_as_tritons(values: list[float], datatype: str, expected: list[str]) -> None:
    labels = [b"a", b"b", b""]
    tensor = classes_of("y", np.array([values], DTYPES[datatype]), 10, labels, has_rows=True)
    assert (tensor.datatype, tensor.shape) == ("BYTES", (1, len(values)))
    assert [text.decode() for text in tensor.array[0]] == expected


@pytest.mark.parametrize(
    ("shape", "has_rows", "expected"),
    [
        ((2, 5), True, (2, 3)),
        ((2, 2), True, (2, 2)),
        ((2, 2, 2), True, (2, 3)),
        ((4,), True, (4, 1)),
        ((0, 5), True, (0, 3)),
        ((2, 0), True, (2, 0)),
        ((2, 5), False, (3,)),
        ((2,), False, (2,)),
        ((), False, (1,)),
        ((0,), False, (0,)),
    ],
)
def test_each_row_has_as_many_as_are_asked_for_or_there(
    shape: tuple[int, ...], has_rows: bool, expected: tuple[int, ...]
) -> None:
    tensor = classes_of("y", np.zeros(shape, np.float32), 3, (), has_rows)
    assert tensor.shape == expected


@given(
    st.sampled_from(FIT).flatmap(
        lambda datatype: npst.arrays(
            DTYPES[datatype], npst.array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=5)
        )
    ),
    st.integers(1, 7),
)
def test_the_classes_are_the_highest_values_in_order(values: np.ndarray, count: int) -> None:
    tensor = classes_of("y", values, count, (), has_rows=True)
    for row, strings in zip(values, tensor.array, strict=True):
        chosen = [int(text.split(b":")[1]) for text in strings]
        ranked = sorted(range(len(row)), key=lambda index: (row[index] != row[index], _negated(row[index]), index))
        assert chosen == ranked[:count]


def _negated(value: np.generic) -> float:
    number = value.item()
    return 0 if number != number else -number


def test_too_many_strings_are_refused() -> None:
    classes_of("y", np.zeros((1, 1000), np.int8), 1_000_000, (), has_rows=True)
    with pytest.raises(InvalidArgument, match="classification output tensor too large: output 'y' has 1001 rows"):
        classes_of("y", np.zeros((1001, 1000), np.int8), 1000, (), has_rows=True)
    assert classes_of("y", np.zeros((1001, 1000), np.int8), 1, (), has_rows=True).shape == (1001, 1)


@pytest.mark.parametrize("shape", [(1_000_001, 0), (2**60, 0), (1_000_001, 1)])
def test_rows_without_elements_are_no_more_than_others(shape: tuple[int, ...]) -> None:
    """A request of a hundred bytes can have any number of them."""
    with pytest.raises(
        InvalidArgument, match=f"classification output tensor too large: output 'y' has {shape[0]} rows"
    ):
        classes_of("y", np.broadcast_to(np.int8(0), shape), 5, (), has_rows=True)


@pytest.mark.parametrize("rows", [SORTED_TOGETHER // 3 - 1, SORTED_TOGETHER, SORTED_TOGETHER + 1])
def test_rows_are_sorted_alike_however_many_at_a_time(rows: int) -> None:
    values = np.arange(rows * 3).reshape(rows, 3) * 7 % 11
    tensor = classes_of("y", values, 2, (), has_rows=True)
    for row in (0, rows // 2, rows - 1):
        assert tensor.array[row].tolist() == classes_of("y", values[row], 2, (), has_rows=False).array.tolist()


@pytest.mark.parametrize("count", [1, 5, 1000])
@pytest.mark.parametrize("datatype", ["INT8", "FP32"])
def test_a_long_row_is_sorted_in_parts(datatype: str, count: int) -> None:
    """With equal values, and some that are no number, in every part; little memory beside the row itself."""
    size = 3 * LONGEST_SORTED + 7
    row = (np.arange(size) * 7919 % 101).astype(DTYPES[datatype])
    if datatype == "FP32":
        row[::10] = np.nan
    ranked = np.argsort(-row.astype(np.float32), kind="stable")[:count]
    tracemalloc.start()
    tensor = classes_of("y", row[np.newaxis], count, (), has_rows=True)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [int(text.split(b":")[1]) for text in tensor.array[0]] == ranked.tolist()
    assert most < 3 * 8 * LONGEST_SORTED


@pytest.mark.parametrize("datatype", sorted(DTYPES))
def test_datatypes_that_triton_refuses_are_refused(datatype: str) -> None:
    outputs = [TensorSpec("other", "BYTES", (1,)), TensorSpec("y", datatype, (1,))]
    if datatype in UNFIT:
        with pytest.raises(InvalidArgument, match=f"class result not .* due to unsupported type '{datatype}'"):
            check_classes({"y": 1}, outputs)
    else:
        check_classes({"y": 1}, outputs)


def test_only_the_outputs_that_are_wanted_so_become_classes_and_the_response_stays() -> None:
    plain, values = Tensor("FP32", np.ones((1, 2), np.float32)), Tensor("INT8", np.array([[1, 2]], np.int8))
    response = Response("m", "1", {"y": values, "plain": plain}, "7", {"timing": 1})
    got: list[Response | Exception] = []
    classifying(WANTED, Model({"y": [b"no", b"yes"]}), got.append)(response)
    (answer,) = got
    assert isinstance(answer, Response)
    assert list(answer.outputs) == ["y", "plain"]
    assert answer.outputs["y"].array.tolist() == [[b"2:1:yes"]]
    assert answer.outputs["plain"] is plain
    assert (answer.id, answer.parameters) == ("7", {"timing": 1})
    assert response.outputs["y"] is values


def test_a_response_of_another_rank_has_no_rows() -> None:
    got: list[Any] = []
    classifying(WANTED, Model(), got.append)(Response("m", "1", {"y": Tensor("INT8", np.array([1, 2], np.int8))}))
    assert got[0].outputs["y"].array.tolist() == [b"2:1"]


def test_there_is_one_answer_whatever_goes_wrong() -> None:
    got: list[Any] = []
    reply = classifying(WANTED, Model(), got.append)
    reply(error := InvalidArgument("no"))
    reply(Response("m", "1", {"y": Tensor("INT8", np.array(["a"], np.object_))}))  # not what its datatype says
    assert got[0] is error
    assert isinstance(got[1], TypeError)
    assert len(got) == 2
