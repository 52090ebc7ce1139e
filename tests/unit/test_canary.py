"""Whether a canary keeps its share: windows and bounds, the clock in the test's hands."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vintner.canary import SLOTS, Counts, Trial, Window, judge
from vintner.model_config import CanaryConfig
from vintner.model_metrics import OUTCOMES


def canary(**keys: Any) -> CanaryConfig:
    return CanaryConfig.model_validate({"version": 3, "percent": 10, **keys})


@pytest.mark.parametrize(
    ("counts", "reason"),
    [
        (Counts(49, failed=49), ""),
        (Counts(50, failed=2), ""),
        (Counts(60, failed=3), ""),
        (Counts(60, failed=7), "7 of 60 requests failed, more than 5 %"),
        (Counts(50, slow=1), ""),
        (Counts(50, slow=2), "2 of 50 requests took longer than 0.2 s, more than 1 %"),
        (Counts(300, slow=3), ""),
        (Counts(300, slow=4), "4 of 300 requests took longer than 0.2 s, more than 1 %"),
        (Counts(60, failed=60, slow=60), "60 of 60 requests failed, more than 5 %"),
    ],
)
def test_a_bound_is_passed_by_what_is_above_it(counts: Counts, reason: str) -> None:
    assert judge(counts, canary(max_p99_seconds=0.2)) == reason


def test_bounds_that_are_not_set_are_never_passed() -> None:
    assert judge(Counts(100, failed=100, slow=100), canary(max_error_rate=1)) == ""
    assert judge(Counts(2, failed=1), canary(max_error_rate=0, min_requests=1)) != ""


@given(st.lists(st.floats(0, 1), min_size=101, max_size=400), st.floats(0.01, 1))
def test_it_is_p99_that_is_judged(seconds: list[float], bound: float) -> None:
    p99 = sorted(seconds)[math.ceil(0.99 * len(seconds)) - 1]
    counts = Counts(len(seconds), slow=sum(one > bound for one in seconds))
    assert bool(judge(counts, canary(max_p99_seconds=bound))) == (p99 > bound)


@given(st.lists(st.tuples(st.floats(0, 20), st.booleans()), min_size=1, max_size=60))
def test_a_window_holds_what_is_not_older_than_itself(steps: list[tuple[float, bool]]) -> None:
    seconds, now = 24.0, 0.0
    window = Window(seconds)
    seen: list[tuple[float, bool]] = []
    for step, failed in steps:
        now += step
        seen.append((now, failed))
        window.add(Counts(1, int(failed)), now)
        recent = [was for at, was in seen if at > now - seconds * (SLOTS - 1) / SLOTS]
        all_of_it = [was for at, was in seen if at > now - seconds]
        assert len(recent) <= window.total.requests <= len(all_of_it)
        assert sum(recent) <= window.total.failed <= sum(all_of_it)


def test_threads_that_pass_each_other_lose_nothing() -> None:
    window = Window(12.0)
    window.add(Counts(1), 30.0)
    window.add(Counts(1), 29.0)
    assert window.total.requests == 2


def test_a_trial_is_lost_once_and_for_good() -> None:
    trial = Trial(canary(min_requests=10))
    lost = [trial.observe("backend" if number < 3 else "ok", 0.01, now=0.1 * number) for number in range(30)]
    assert lost.index(True) == 9
    assert lost.count(True) == 1
    assert trial.lost == "3 of 10 requests failed, more than 5 %"


def test_old_failures_are_forgiven() -> None:
    trial = Trial(canary(min_requests=10, window_seconds=60))
    for number in range(9):
        trial.observe("backend", 0.01, now=float(number))
    assert not any(trial.observe("ok", 0.01, now=100.0 + number) for number in range(50))


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_only_what_the_server_did_counts(outcome: str) -> None:
    trial = Trial(canary(min_requests=10))
    for number in range(100):
        trial.observe(outcome, 0.01, now=0.01 * number)
    servers = {"backend", "internal", "queue_full", "queue_timeout", "unavailable", "not_ready", "deadline_exceeded"}
    assert bool(trial.lost) == (outcome in servers)


@pytest.mark.parametrize(("seconds", "lost"), [(0.1, False), (0.3, True)])
def test_a_request_that_was_given_up_counts_if_it_had_taken_too_long(seconds: float, lost: bool) -> None:
    trial = Trial(canary(min_requests=10, max_p99_seconds=0.2))
    for number in range(100):
        trial.observe("cancelled", seconds, now=0.01 * number)
    assert bool(trial.lost) == lost
