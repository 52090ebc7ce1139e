"""When an idle instance waits for more requests, and until when; time is a number."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vintner.queue_delay import QueueDelay, RunCost

LONGEST = 0.02


def delay(fixed: float, each: float, gap: float, rows: int = 8, longest: float = LONGEST) -> QueueDelay:
    """After many runs of such a cost and many arrivals with that gap, the last one at time 0."""
    made = QueueDelay(longest, rows)
    for number in range(200):
        made.cost.ran(number % 4 + 1, fixed + each * (number % 4 + 1))
        made.arrived(gap * (number - 199))
    return made


def test_the_cost_of_a_run_is_found_by_its_rows() -> None:
    cost = RunCost()
    for number in range(1000):
        cost.ran(number % 8 + 1, 0.004 + 0.001 * (number % 8 + 1))
    assert cost.fixed == pytest.approx(0.004, rel=0.01)
    assert cost.each == pytest.approx(0.001, rel=0.01)


def test_runs_that_all_had_as_many_rows_show_no_cost_of_a_row() -> None:
    cost = RunCost()
    for _ in range(5):
        cost.ran(1, 0.004)
    assert (cost.fixed, cost.each) == (pytest.approx(0.004), 0.0)


@pytest.mark.parametrize(
    ("fixed", "each", "gap", "rows", "waits"),
    [
        (0.010, 0.0, 0.001, 1, True),  # ten requests come during a run, and a run costs the same for all
        (0.010, 0.0, 0.001, 8, False),  # the batch is full
        (0.010, 0.0, 0.006, 1, False),  # two would wait 6 ms for one to save 10
        (0.010, 0.0, 0.004, 1, True),
        (0.010, 0.0, 0.004, 2, False),  # three would wait 4 ms
        (0.000, 0.010, 0.001, 1, False),  # rows do not get cheaper by being stacked
        (0.010, 0.010, 0.001, 1, False),  # (1 + 1) * (1 + 10) ms > 20 ms
        (0.010, 0.001, 0.001, 1, True),
    ],
)
def test_waiting_pays_if_the_next_request_saves_more_than_the_others_lose(
    fixed: float, each: float, gap: float, rows: int, waits: bool
) -> None:
    assert (delay(fixed, each, gap).until(rows, 0.0, math.inf, 0.0) is not None) is waits


def test_it_waits_until_the_next_request_would_be_too_late() -> None:
    made = delay(0.010, 0.0, 0.001)
    assert made.until(1, 0.0, math.inf, 0.0) == pytest.approx(0.005)
    assert made.until(1, 0.0, math.inf, 0.0051) is None
    assert (made.cut(), made.cut()) == ("delay", "idle")


def test_it_waits_no_longer_than_it_may() -> None:
    made = delay(0.100, 0.0, 0.001)
    assert made.until(1, -0.015, math.inf, 0.0) == pytest.approx(0.005)
    assert made.until(1, -LONGEST, math.inf, 0.0) is None


def test_it_waits_no_longer_than_a_deadline_allows_with_the_time_of_the_run() -> None:
    made = delay(0.010, 0.0, 0.001)
    assert made.until(1, 0.0, 0.012, 0.0) == pytest.approx(0.002)
    assert made.until(1, 0.0, 0.012, 0.0021) is None
    assert made.cut() == "deadline"


def test_nothing_is_waited_for_before_two_requests_have_come() -> None:
    made = QueueDelay(LONGEST, 8)
    made.cost.ran(1, 0.01)
    made.arrived(0.0)
    assert made.until(1, 0.0, math.inf, 0.0) is None


def test_one_long_pause_does_not_hide_a_high_rate() -> None:
    made = delay(0.010, 0.0, 0.001)
    made.arrived(60.0)
    assert made.until(1, 60.0, math.inf, 60.0) is not None


@given(
    gaps=st.lists(st.floats(0, 10), max_size=20),
    runs=st.lists(st.tuples(st.integers(1, 64), st.floats(0, 10)), max_size=20),
    rows=st.integers(0, 100),
    since=st.floats(0, 1),
)
def test_no_request_waits_longer_than_it_may(
    gaps: list[float], runs: list[tuple[int, float]], rows: int, since: float
) -> None:
    made = QueueDelay(LONGEST, 16)
    now = 0.0
    for gap in gaps:
        now += gap
        made.arrived(now)
    for run in runs:
        made.cost.ran(*run)
    until = made.until(rows, now - since, math.inf, now)
    assert until is None or now < until <= now - since + LONGEST
    assert until is None or rows < 16
