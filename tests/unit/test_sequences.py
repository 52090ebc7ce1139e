"""Sequence parameters: what says that there is a sequence is refused, and what clients send by default is not."""

from __future__ import annotations

from typing import Any

import pytest
from vintner.errors import InvalidArgument
from vintner.sequences import check_stateless


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"other": 1},
        {"sequence_id": 0},
        {"sequence_id": ""},
        {"sequence_id": 0, "sequence_start": False, "sequence_end": False},
    ],
)
def test_no_sequence_is_accepted(parameters: dict[str, Any]) -> None:
    check_stateless("m", parameters)


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({"sequence_id": 1}, "'sequence_id' is 1, but model 'm' keeps no state"),
        ({"sequence_id": 2**64 - 1}, "'sequence_id' is 18446744073709551615,"),
        ({"sequence_id": "0"}, "'sequence_id' is '0', but"),
        ({"sequence_id": "x" * 10**6}, "'sequence_id' is 'xxx"),
        ({"sequence_id": 0, "sequence_start": True}, "'sequence_start' is True, but model 'm' keeps no state"),
        ({"sequence_end": True}, "'sequence_end' is True, but model 'm' keeps no state"),
        ({"sequence_id": True}, "'sequence_id' must be an integer or a string"),
        ({"sequence_id": 0.0}, "'sequence_id' must be an integer or a string"),
        ({"sequence_start": 0}, "'sequence_start' must be a boolean"),
        ({"sequence_end": "no"}, "'sequence_end' must be a boolean"),
    ],
)
def test_a_sequence_is_refused(parameters: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        check_stateless("m", parameters)
    assert named in caught.value.message
    assert len(caught.value.message) < 300
