"""Which version a request gets that names none; and what `traffic` may say."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vintner.errors import ConfigError, InvalidArgument
from vintner.model_config import TrafficConfig, VersionPolicy, parse_model_config, parse_traffic
from vintner.traffic import SILVER, Points, default_version, point_of

VERSIONS = st.integers(1, 6)


def traffic(default: int | None = None, canary: int | None = None, shadow: int | None = None) -> TrafficConfig:
    named: dict[str, Any] = {"default": default}
    named["canary"] = {"version": canary, "percent": 10} if canary else None
    named["shadow"] = {"version": shadow} if shadow else None
    return parse_traffic(named)


@pytest.mark.parametrize(
    ("ready", "given", "default"),
    [
        ([1, 2, 3], None, 3),
        ([1, 2, 3], traffic(default=2), 2),
        ([1, 3], traffic(default=2), 3),
        ([1, 2, 3, 4], traffic(default=2, canary=3, shadow=4), 2),
        ([1, 3, 4], traffic(default=2, canary=3, shadow=4), 1),
        ([3, 4], traffic(default=2, canary=3, shadow=4), 4),
        ([1, 2, 4], traffic(shadow=4), 2),
        ([4], traffic(shadow=4), 4),
    ],
)
def test_the_default_is_the_highest_that_is_not_on_trial(
    ready: list[int], given: TrafficConfig | None, default: int
) -> None:
    assert default_version(ready, given) == default


@pytest.mark.parametrize(
    ("policy", "given", "wanted"),
    [
        ("latest", None, (4,)),
        ("latest", traffic(canary=4), (3, 4)),
        ("latest", traffic(default=2, canary=4), (2, 3, 4)),
        ("latest", traffic(default=1), (1, 4)),
        ("latest", traffic(default=9, canary=8), (4,)),
        ({"latest": 2}, traffic(shadow=3), (2, 3, 4)),
        ({"specific": [1]}, traffic(default=2, canary=3, shadow=4), (1, 2, 3, 4)),
        ({"specific": [4]}, traffic(canary=4), (4,)),
        ("all", traffic(canary=2), (1, 2, 3, 4)),
    ],
)
def test_the_versions_that_are_named_are_wanted_beside_those_of_the_policy(
    policy: Any, given: TrafficConfig | None, wanted: tuple[int, ...]
) -> None:
    config = parse_model_config({"version_policy": policy}, "test").model_copy(update={"traffic": given})
    assert config.wanted_versions([1, 2, 3, 4]) == wanted


@pytest.mark.parametrize(
    ("labels", "given", "wanted"),
    [
        ({"stable": 2}, None, (2, 4)),
        ({"stable": 2, "newest": 4, "next": 9}, None, (2, 4)),
        ({"trial": 4}, traffic(canary=4), (3, 4)),
        ({"old": 1}, traffic(default=2, canary=4), (1, 2, 3, 4)),
    ],
)
def test_a_version_that_has_a_label_is_wanted(
    labels: dict[str, int], given: TrafficConfig | None, wanted: tuple[int, ...]
) -> None:
    config = parse_model_config({"version_labels": labels}, "test").model_copy(update={"traffic": given})
    assert config.wanted_versions([1, 2, 3, 4]) == wanted


@given(st.sets(VERSIONS), st.lists(VERSIONS, min_size=3, max_size=3, unique=True), st.sampled_from([None, 1, 2]))
def test_what_is_wanted_is_there_and_not_less_than_without_traffic(
    available: set[int], named: list[int], latest: int | None
) -> None:
    config = parse_model_config({}, "test").model_copy(
        update={"traffic": traffic(*named), "version_policy": VersionPolicy(latest=latest)}
    )
    wanted = config.wanted_versions(available)
    assert list(wanted) == sorted(set(wanted))
    assert set(named) & available <= set(wanted) <= available
    assert bool(wanted) == bool(available)


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        ({}, "expected at least one of default, canary and shadow"),
        ([], r"expected a mapping, got \[\]"),
        ({"defualt": 2}, "unknown key 'defualt'; did you mean 'default'?"),
        ({"default": 0}, "default: expected a number greater than or equal to 1, got 0"),
        ({"default": True}, "default: expected a valid integer, got True"),
        ({"canary": {"version": 3}}, "canary.percent: expected a value, there is none"),
        ({"canary": {"version": 3, "percent": 0}}, "canary.percent: expected a number greater than 0, got 0"),
        ({"canary": {"version": 3, "percent": 101}}, "canary.percent: expected a number less than or equal to 100"),
        ({"canary": {"version": 3, "percent": float("nan")}}, "canary.percent: expected"),
        ({"canary": {"version": 3, "percent": True}}, "canary.percent: expected a valid number, got True"),
        ({"canary": {"version": 3, "percent": 1, "max_p99_seconds": 0}}, "max_p99_seconds: expected a number greater"),
        ({"canary": {"version": 3, "percent": 1, "max_error_rate": 5}}, "max_error_rate: expected a number less"),
        (
            {"default": 3, "shadow": {"version": 3}},
            "shadow.version: expected another version than that of default, got 3",
        ),
        (
            {"canary": {"version": 3, "percent": 1}, "shadow": {"version": 3}},
            "shadow.version: expected another version than that of canary.version, got 3",
        ),
    ],
)
def test_what_traffic_cannot_be_is_refused_with_what_was_expected(document: Any, problem: str) -> None:
    with pytest.raises(InvalidArgument, match=f"^traffic: .*{problem}"):
        parse_traffic(document)
    if document:
        with pytest.raises(ConfigError, match=f"^config.yaml: traffic.*{problem}"):
            parse_model_config({"traffic": document}, "config.yaml")


def test_an_ids_point_is_the_same_for_ever_and_depends_on_the_model() -> None:
    # Written down, so that a server of another release sends an id to the version that it had.
    assert point_of("resnet", "user-17") == 0.3142566938329736
    assert point_of("bert", "user-17") != point_of("resnet", "user-17")


def test_points_of_ids_are_evenly_spread() -> None:
    points = [point_of("m", str(number)) for number in range(10_000)]
    for share in (0.01, 0.1, 0.5):
        assert sum(point < share for point in points) == pytest.approx(10_000 * share, rel=0.15)
    assert all(0 <= point < 1 for point in (*points, point_of("m", "\ud800")))


@given(st.floats(0.001, 1.0), st.integers(0, 2000), st.integers(1, 2000))
def test_of_any_requests_in_a_row_the_canary_gets_its_share_within_a_few(share: float, start: int, count: int) -> None:
    points = Points()
    taken = [points.next() for _ in range(start + count)][start:]
    assert all(0 <= point < 1 for point in taken)
    assert abs(sum(point < share for point in taken) - share * count) <= 4


def test_the_points_of_canary_and_shadow_are_independent() -> None:
    canary, shadow = Points(), Points(SILVER)
    pairs = [(canary.next() < 0.1, shadow.next() < 0.1) for _ in range(10_000)]
    assert sum(both == (True, True) for both in pairs) == pytest.approx(100, abs=20)
