"""The parts of the bench that are arithmetic: when requests are sent, what is made of the answers, and the page."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from vintner.batcher import Batching
from vintner.call import Call, Result
from vintner.pools import Pool
from vintner.types import Array

from bench import document, report
from bench.arrivals import Answer, Stretch, Trace, percentile, poisson
from bench.curves import Sampled, Samples
from bench.fixed_delay import FixedDelayScheduler, remaining
from bench.measure import Comparison, Limit, Sample, Target

HOUR = 3600.0
WAIT = 10.0

times = st.lists(st.floats(0, 1e6), min_size=1)


def answers(*ended: float, status: str = "OK") -> list[Answer]:
    return [Answer(0.0, end, status) for end in ended]


def test_arrivals_are_in_order_and_have_the_rate_and_the_spread_of_a_poisson_process() -> None:
    arrivals = poisson(50, 20_000, seed=1)
    gaps = [after - before for before, after in zip([0.0, *arrivals], arrivals, strict=False)]
    assert min(gaps) >= 0
    assert arrivals[-1] <= 20_000 / 50
    assert statistics.fmean(gaps) == pytest.approx(1 / 50, rel=0.03)
    assert statistics.stdev(gaps) == pytest.approx(1 / 50, rel=0.03)


def test_a_seed_gives_the_same_arrivals_again_and_another_gives_others() -> None:
    assert poisson(50, 100, seed=1) == poisson(50, 100, seed=1) != poisson(50, 100, seed=2)


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        ([7.0], 0.99, 7.0),
        ([3.0, 1.0, 2.0], 0.5, 2.0),
        ([4.0, 3.0, 2.0, 1.0], 0.5, 2.0),
        (list(map(float, range(1, 101))), 0.99, 99.0),
        (list(map(float, range(1, 101))), 1.0, 100.0),
    ],
)
def test_a_percentile_is_one_of_the_values(values: list[float], share: float, expected: float) -> None:
    assert percentile(values, share) == expected


def test_nothing_has_no_percentile() -> None:
    assert math.isnan(percentile([], 0.5))


@given(times, st.floats(0.01, 1))
def test_at_least_the_share_is_not_above_the_percentile_and_less_is_below_it(values: list[float], share: float) -> None:
    found = percentile(values, share)
    assert sum(value <= found for value in values) >= share * len(values)
    assert sum(value < found for value in values) < share * len(values)


def test_a_latency_counts_from_the_time_at_which_the_request_was_due() -> None:
    assert Answer(intended=1.0, ended=1.5).latency == 0.5


def test_a_rate_counts_what_was_served_until_the_last_of_it() -> None:
    trace = Trace(
        [*answers(1.0, 2.0), *answers(2.5, status="UNAVAILABLE"), *answers(4.0), *answers(9.0, status="INTERNAL")]
    )
    assert trace.rate == 3 / 4
    assert len(trace.refused) == 1


def test_nothing_served_is_a_rate_of_none() -> None:
    assert Trace(answers(1.0, status="UNAVAILABLE")).rate == 0


def test_the_ends_of_a_closed_loop_do_not_count() -> None:
    slow_start, middle, drained = [8.0, 9.0], [10.0, 10.5, 11.0, 11.5], [30.0, 31.0]
    stretch = Trace(answers(*slow_start, *middle, *drained)).steady(in_flight=2)
    assert [answer.ended for answer in stretch.trace.answers] == middle
    assert stretch.rate == 4 / (11.5 - 9.0)
    assert stretch.served == 8


@pytest.mark.parametrize(
    ("rows", "now", "delay", "expected"),
    [
        (1, 100.0, 0.002, 0.002),  # one that has just come waits the whole delay
        (1, 100.001, 0.002, 0.001),
        (1, 100.002, 0.002, 0.0),  # due
        (1, 107.0, 0.002, 0.0),  # overdue
        (64, 100.0, 0.002, 0.0),  # full
        (65, 100.0, 0.002, 0.0),
        (1, 100.0, 0.0, 0.0),  # no delay
    ],
)
def test_a_fixed_delay_ends_with_a_full_batch_or_with_the_oldest_request(
    rows: int, now: float, delay: float, expected: float
) -> None:
    assert remaining(rows, 64, 100.0, now, delay) == pytest.approx(expected, abs=1e-9)


class Echo:
    """An instance that keeps the sizes of its batches."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        self.batches.append(len(inputs["x"]))
        return inputs


def submitted(scheduler: FixedDelayScheduler) -> Future[Result]:
    future: Future[Result] = Future()
    scheduler.submit(Call({"x": np.zeros((1, 1))}, 1, done=future.set_result))
    return future


def test_a_fixed_delay_keeps_requests_from_an_idle_instance_until_the_batch_is_full() -> None:
    instance = Echo()
    scheduler = FixedDelayScheduler(HOUR, [Pool([instance])], batching=Batching(3))
    for future in [submitted(scheduler) for _ in range(6)]:
        future.result(WAIT)
    assert instance.batches == [3, 3]


def test_without_a_delay_a_lone_request_runs_at_once() -> None:
    instance = Echo()
    submitted(FixedDelayScheduler(0.0, [Pool([instance])], batching=Batching(3))).result(WAIT)
    assert instance.batches == [1]


def test_figures_take_the_place_of_those_before() -> None:
    page = f"above\n{document.BEGIN}\nold\n{document.END}\nbelow\n"
    filled = document.filled(page, "new\n")
    assert filled == f"above\n{document.BEGIN}\n\nnew\n\n{document.END}\nbelow\n"
    assert document.filled(filled, "new\n") == filled


@pytest.mark.parametrize(
    "page", ["none", document.BEGIN, f"{document.END} {document.BEGIN}", f"{document.BEGIN * 2}{document.END}"]
)
def test_a_page_without_its_marks_is_refused(page: str) -> None:
    with pytest.raises(document.PageError, match="once each"):
        document.filled(page, "new")


def test_a_point_puts_the_repeats_together() -> None:
    first, second = Trace(answers(0.010, 0.020)), Trace([*answers(0.030), *answers(0.031, status="UNAVAILABLE")])
    samples = Samples([Sampled(Stretch(first, 100.0, 2), 0.9, 6, 2), Sampled(Stretch(second, 50.0, 1), 0.9, 2, 2)])
    point = samples.point("row", "vintner", "open", 0.3, 80.0)
    assert (point.mean, point.p50, point.p99) == pytest.approx((20, 20, 30))
    assert (point.throughput, point.mean_batch, point.refused, point.requests) == (75, 2, 0.25, 4)


def test_what_a_run_wrote_is_on_the_page(tmp_path: Path) -> None:
    samples = Samples([Sampled(Stretch(Trace(answers(0.25)), 4.0, 1), 0.9, 1, 1)])
    point = samples.point("some-curve", "delay 0", "open", 0.3, 80.0)
    judged = (
        Comparison("row", kind, "other", "1/s", (Sample(9.0),), (Sample(10.0),), target)
        for kind, target in {
            "a met one": Target(Limit.AT_LEAST, 0.8),
            "a missed one": Target(Limit.AT_LEAST, 0.95),
            "a reported one": None,
        }.items()
    )
    file = tmp_path / "bench.json"
    report.write_json(file, list(judged), [point], {"broken": "no reason"}, quick=True)
    lines = document.figures(json.loads(file.read_text())).splitlines()
    endings = {line.split(" | ")[1]: line.split(" | ")[-1] for line in lines if line.startswith("| `row`")}
    assert endings == {"a met one": "yes |", "a missed one": "**no** |", "a reported one": " |"}
    assert "| 30% of capacity | delay 0 | 80.0 | 4.0 | 250 | 250 | 250 | 250 | 1.0 |  |" in lines
    assert "`broken` was not measured: no reason" in lines
    assert "--quick" in lines[0]
