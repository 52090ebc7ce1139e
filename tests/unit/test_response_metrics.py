"""Where the time of a decoupled model's responses is counted, by a clock of the test's own."""

from __future__ import annotations

import pytest
from vintner.response_metrics import KINDS, MOST_PLACES, End, ResponseMetrics, ResponseTimes


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def counted(metrics: ResponseMetrics) -> list[dict[str, tuple[int, float]]]:
    """What is not nothing, by place."""
    places = metrics.places
    assert all(tuple(kinds) == KINDS for kinds in places)
    return [{kind: sums for kind, sums in kinds.items() if sums[0]} for kinds in places]


def follow(metrics: ResponseMetrics, responses: int, end: End) -> None:
    """A request whose n-th response takes n seconds to compute and a half to send, and its end ten."""
    clock = Clock()
    times = ResponseTimes(metrics, clock)
    for number in range(1, responses + 1):
        clock.now += number
        times.computed()
        clock.now += 0.5
        times.sent()
    clock.now += 10
    times.end(end)


def test_each_response_counts_at_its_place_and_the_end_after_the_last() -> None:
    metrics = ResponseMetrics()
    follow(metrics, 2, "empty_response")
    assert counted(metrics) == [
        {"compute_infer": (1, 1.0), "compute_output": (1, 0.5), "success": (1, 1.5)},
        {"compute_infer": (1, 2.0), "compute_output": (1, 0.5), "success": (1, 2.5)},
        {"compute_infer": (1, 10.0), "empty_response": (1, 10.0)},
    ]


@pytest.mark.parametrize(
    ("end", "expected"),
    [("fail", {"compute_infer": (1, 10.0), "fail": (1, 10.0)}), ("cancel", {"cancel": (1, 10.0)})],
)
def test_an_end_has_its_own_kind(end: End, expected: dict[str, tuple[int, float]]) -> None:
    metrics = ResponseMetrics()
    follow(metrics, 0, end)
    assert counted(metrics) == [expected]


def test_requests_are_added_up_place_by_place() -> None:
    metrics = ResponseMetrics()
    for responses in (2, 0, 1):
        follow(metrics, responses, "empty_response")
    assert [{kind: sums[0] for kind, sums in kinds.items()} for kinds in counted(metrics)] == [
        {"compute_infer": 3, "compute_output": 2, "success": 2, "empty_response": 1},
        {"compute_infer": 2, "compute_output": 1, "success": 1, "empty_response": 1},
        {"compute_infer": 1, "empty_response": 1},
    ]


@pytest.mark.parametrize("responses", [MOST_PLACES - 1, MOST_PLACES, MOST_PLACES + 1])
def test_the_places_that_are_counted_are_bounded(responses: int) -> None:
    metrics = ResponseMetrics()
    follow(metrics, responses, "fail")
    assert len(metrics.places) == MOST_PLACES
