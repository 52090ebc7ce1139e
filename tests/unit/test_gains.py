"""What runs cost by their rows, and whether a batch of them gains anything; time is a number."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vintner.gains import MOST_SIGNATURES, Arrivals, RunCost, RunCosts, stacking_pays


def cost(fixed: float, each: float, runs: int = 400) -> RunCost:
    made = RunCost()
    for number in range(runs):
        made.ran(number % 8 + 1, fixed + each * (number % 8 + 1))
    return made


@pytest.mark.parametrize(("fixed", "each"), [(0.004, 0.001), (0.0, 0.05), (0.01, 0.0)])
def test_the_cost_of_a_run_is_found_by_its_rows(fixed: float, each: float) -> None:
    found = cost(fixed, each)
    assert found.fixed == pytest.approx(fixed, abs=1e-6)
    assert found.each == pytest.approx(each, abs=1e-6)


def test_runs_that_all_had_as_many_rows_show_no_cost_of_a_row() -> None:
    found = RunCost()
    for _ in range(5):
        found.ran(1, 0.004)
    assert (found.fixed, found.each) == (pytest.approx(0.004), 0.0)


def test_what_a_row_costs_is_remembered_for_a_while_and_then_tried_again() -> None:
    noise = random.Random(1)
    found = RunCost()
    for number in range(400):
        rows = number % 4 + 1
        found.ran(rows, 0.01 * rows * noise.uniform(0.95, 1.05))
    assert stacking_pays(found, 1.0, 1) == "no"
    kept = 0
    while stacking_pays(found, 1.0, 1) == "no" and kept < 5000:
        found.ran(1, 0.01 * noise.uniform(0.95, 1.05))
        kept += 1
    assert 20 < kept < 1000


def test_noise_does_not_hide_that_a_batch_gains() -> None:
    noise = random.Random(1)
    missed = 0
    for _ in range(100):
        found = RunCost()
        for number in range(100):
            rows = 1 if number % 4 else 2
            found.ran(rows, (0.0015 + 0.0039 * rows) * noise.uniform(0.7, 1.3))
        missed += stacking_pays(found, 150.0, 1) == "no"
    assert missed <= 5


def test_a_device_that_became_faster_is_noticed() -> None:
    found = cost(0.0, 0.05)
    for number in range(400):
        found.ran(number % 8 + 1, 0.01 * (number % 8 + 1))
    assert found.each < 0.012


@pytest.mark.parametrize(
    ("fixed", "each", "rate", "pays"),
    [
        (0.010, 0.000, 0.0, True),  # a run costs the same for all
        (0.010, 0.009, 0.0, True),  # two together take 28 ms, one after the other 19 and 38
        (0.010, 0.011, 0.0, False),
        (0.010, 0.030, 0.0, False),
        (0.010, 0.030, 12.0, False),  # busy for 48 %
        (0.010, 0.030, 13.0, True),  # for 52 %: those who come behind gain enough
        (0.010, 0.090, 7.9, False),
        (0.010, 0.090, 8.1, True),
        (0.010, 0.090, 1000.0, True),
        (0.000, 0.050, 1000.0, False),  # nothing is saved by it
        (0.0005, 0.0495, 1000.0, False),  # nothing that one could tell from noise
    ],
)
def test_a_batch_pays_if_those_behind_it_gain_more_than_those_in_it_lose(
    fixed: float, each: float, rate: float, pays: bool
) -> None:
    assert stacking_pays(cost(fixed, each), rate, 1) == ("yes" if pays else "no")


@pytest.mark.parametrize(("waiting", "pays"), [(0, False), (1, False), (2, True), (9, True)])
def test_a_queue_tells_sooner_than_the_rate_that_it_is_busy(waiting: int, pays: bool) -> None:
    assert stacking_pays(cost(0.010, 0.035), 0.0, 1, waiting) == ("yes" if pays else "no")


def test_a_batch_is_taken_to_pay_until_one_was_run() -> None:
    line = RunCost()
    assert stacking_pays(line, 0.0, 1) == "yes"
    line.ran(1, 0.010)
    assert stacking_pays(line, 0.0, 1) == "yes"
    line.ran(4, 0.040)
    assert stacking_pays(line, 0.0, 1) == "no"


def test_what_is_in_doubt_is_tried_with_two() -> None:
    line = RunCost()
    for rows, seconds in ((1, 0.006), (2, 0.021), (1, 0.014), (2, 0.019)):
        line.ran(rows, seconds)
    assert stacking_pays(line, 0.0, 1) == "maybe"


def test_several_instances_are_less_busy() -> None:
    assert stacking_pays(cost(0.01, 0.03), 20.0, 1) == "yes"
    assert stacking_pays(cost(0.01, 0.03), 20.0, 2) == "no"


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 100), st.floats(0, 100))
def test_a_batch_that_pays_still_pays_under_more_load(fixed: float, each: float, rate: float, more: float) -> None:
    line = cost(fixed, each, 20)
    ranks = {"no": 0, "maybe": 1, "yes": 2}
    assert ranks[stacking_pays(line, rate, 1)] <= ranks[stacking_pays(line, rate + more, 1)]


def test_a_steady_rate_is_found_and_forgotten() -> None:
    arrivals = Arrivals()
    assert arrivals.rate(0.0) == 0.0
    for number in range(1000):
        arrivals.arrived(2, number * 0.01)
    assert arrivals.rate(10.0) == pytest.approx(200, rel=0.02)
    assert arrivals.rate(20.0) < 0.1


def test_the_kinds_of_requests_whose_cost_is_known_are_bounded() -> None:
    costs = RunCosts()
    costs["first"].ran(1, 1.0)
    for number in range(MOST_SIGNATURES - 1):
        costs[number].ran(1, 2.0)
    assert costs["first"].fixed == 1.0
    costs["one more"].ran(1, 3.0)
    assert costs["first"].fixed == 0.0, "it was forgotten"
    assert costs["one more"].fixed == 3.0
