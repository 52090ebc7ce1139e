"""When an idle instance waits for more requests, and until when; time is a number."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vintner.gains import RunCost
from vintner.queue_delay import QueueDelay

LONGEST = 0.02
MANY = 100
"""Requests that were present of late, so that there is somebody to wait for."""

IDLE = 0.0


def cost(fixed: float, each: float = 0.0) -> RunCost:
    """After many runs of such a cost."""
    made = RunCost()
    for number in range(200):
        made.ran(number % 4 + 1, fixed + each * (number % 4 + 1))
    return made


def delay(gap: float) -> QueueDelay:
    """After many arrivals with that gap, the last one at time 0."""
    made = QueueDelay(LONGEST, 8)
    for number in range(200):
        made.arrived(MANY, gap * (number - 199))
    return made


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
    assert (delay(gap).until(cost(fixed, each), IDLE, rows, rows, math.inf, 0.0) is not None) is waits


def test_it_waits_until_the_next_request_would_be_too_late() -> None:
    made = delay(0.001)
    assert made.until(cost(0.01), IDLE, 1, 1, math.inf, 0.0) == pytest.approx(0.005)
    assert made.until(cost(0.01), IDLE, 1, 1, math.inf, 0.0051) is None
    assert (made.cut(), made.cut()) == ("delay", "idle")


def test_it_waits_no_longer_than_it_may_though_more_come() -> None:
    made = delay(0.001)
    assert made.until(cost(0.1), IDLE, 1, 1, math.inf, 0.0) == pytest.approx(LONGEST)
    made.arrived(MANY, 0.015)
    assert made.until(cost(0.1), IDLE, 2, 2, math.inf, 0.015) == pytest.approx(LONGEST)
    made.arrived(MANY, 0.0201)
    assert made.until(cost(0.1), IDLE, 3, 3, math.inf, 0.0201) is None
    assert made.cut() == "delay"
    assert made.until(cost(0.1), IDLE, 1, 1, math.inf, 0.0201) == pytest.approx(0.0201 + LONGEST), "for the next batch"


def test_it_waits_no_longer_than_a_deadline_allows_with_the_time_of_the_run() -> None:
    made = delay(0.001)
    assert made.until(cost(0.01), IDLE, 1, 1, 0.012, 0.0) == pytest.approx(0.002)
    assert made.until(cost(0.01), IDLE, 1, 1, 0.012, 0.0021) is None
    assert made.cut() == "deadline"


def test_callers_that_come_back_are_waited_for_though_nobody_comes_while_they_wait_themselves() -> None:
    made = QueueDelay(0.002, 64)
    for turn in range(100):  # two pairs of callers: while one pair's requests run, the other's wait
        made.answered(turn * 0.012)
        made.arrived(3, turn * 0.012 + 0.0004)
        made.arrived(4, turn * 0.012 + 0.0006)
    now = 100 * 0.012
    made.answered(now)
    until = made.until(cost(0.003, 0.003), 1.0, 2, 2, math.inf, now)
    assert until == pytest.approx(now + 0.002)


@pytest.mark.parametrize(
    ("load", "waits"),
    [
        (0.0, False),  # two would wait 1 ms, and take 20 ms instead of 11 and 20
        (0.5, False),
        (0.9, True),  # nine others for each of them gain the millisecond that is saved
        (1.0, True),
    ],
)
def test_where_it_is_busy_the_gain_of_those_behind_counts_as_well(load: float, waits: bool) -> None:
    line = cost(0.002, 0.009)
    assert (delay(0.001).until(line, load, 1, 1, math.inf, 0.0) is not None) is waits


def test_nobody_is_waited_for_when_all_callers_are_there() -> None:
    made = QueueDelay(LONGEST, 64)
    line = cost(0.010)
    for number in range(400):  # four callers, who come back as soon as they have their answers
        made.arrived(number % 4 + 1, number * 0.0005)
    assert made.until(line, 1.0, 3, 3, math.inf, 0.2) is not None
    assert made.until(line, 1.0, 4, 4, math.inf, 0.2) is None


def test_callers_who_leave_are_forgotten() -> None:
    made = QueueDelay(LONGEST, 64)
    line = cost(0.010)
    for present in (*range(1, 9), *[1, 2] * 200):
        made.arrived(present, present * 0.0005)
    assert made.until(line, 1.0, 2, 2, math.inf, 0.001) is None


def test_nothing_is_waited_for_before_two_requests_have_come() -> None:
    made = QueueDelay(LONGEST, 8)
    made.arrived(1, 0.0)
    assert made.until(cost(0.01), IDLE, 1, 1, math.inf, 0.0) is None


def test_one_long_pause_does_not_hide_a_high_rate() -> None:
    made = delay(0.001)
    made.arrived(MANY, 60.0)
    assert made.until(cost(0.01), IDLE, 1, 1, math.inf, 60.0) is not None


@given(
    gaps=st.lists(st.floats(0, 10), max_size=20),
    runs=st.lists(st.tuples(st.integers(1, 64), st.floats(0, 10)), max_size=20),
    load=st.floats(0, 1),
    present=st.integers(0, 2 * MANY),
    rows=st.integers(0, 100),
    looks=st.lists(st.floats(0, LONGEST / 3), max_size=8),
)
def test_no_request_waits_longer_than_it_may(
    gaps: list[float], runs: list[tuple[int, float]], load: float, present: int, rows: int, looks: list[float]
) -> None:
    made = QueueDelay(LONGEST, 16)
    now = 0.0
    for gap in gaps:
        now += gap
        made.arrived(MANY, now)
    line = RunCost()
    for run in runs:
        line.ran(*run)
    began = now
    for look in looks:
        until = made.until(line, load, present, rows, math.inf, now)
        assert until is None or now < until <= began + LONGEST + 1e-9
        assert until is None or rows < 16
        now += look
