"""The parameter `timing`, and what a response says of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vintner.errors import InvalidArgument
from vintner.timing import Timing, asks
from vintner.types import Parameter

SECONDS = st.floats(0, 100)


@pytest.mark.parametrize(("parameters", "asked"), [({}, False), ({"timing": True}, True), ({"timing": False}, False)])
def test_a_boolean_asks_or_does_not(parameters: dict[str, Parameter], asked: bool) -> None:
    assert asks(parameters) is asked


@pytest.mark.parametrize("value", [1, 0, 1.0, "true", ""])
def test_anything_else_is_refused(value: Parameter) -> None:
    with pytest.raises(InvalidArgument, match="parameter 'timing': expected a boolean, got"):
        asks({"timing": value})


def test_times_are_whole_microseconds_rounded_down() -> None:
    timing = Timing(started=10.0)
    timing.ran(queue=0.0015007, stages=(0.0001, 0.25, 9e-7), rows=5, requests=2)
    assert timing.parameters(ended=10.5) == {
        "timing_queue_us": 1500,
        "timing_assembly_us": 100,
        "timing_compute_us": 250_000,
        "timing_split_us": 0,
        "timing_total_us": 500_000,
        "timing_batch_rows": 5,
        "timing_batch_requests": 2,
        "timing_cached": False,
    }


def test_what_ran_in_no_batch_came_from_the_cache() -> None:
    told = Timing(started=10.0).parameters(ended=10.25)
    assert told.pop("timing_cached") is True
    assert told.pop("timing_total_us") == 250_000
    assert set(told.values()) == {0}


@given(SECONDS, st.tuples(SECONDS, SECONDS, SECONDS), st.floats(1e-6, 1))
def test_the_parts_are_no_more_than_the_total(queue: float, stages: tuple[float, float, float], rest: float) -> None:
    timing = Timing(started=0.0)
    timing.ran(queue, stages, 1, 1)
    told = timing.parameters(queue + sum(stages) + rest)
    parts = [told[f"timing_{part}_us"] for part in ("queue", "assembly", "compute", "split")]
    assert sum(map(int, parts)) <= int(told["timing_total_us"])
