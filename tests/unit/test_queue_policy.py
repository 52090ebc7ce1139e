"""Priorities and time-outs, from the configuration and from requests."""

from __future__ import annotations

from typing import Any

import pytest
from vintner.errors import ConfigError, InvalidArgument
from vintner.model_config import QueueConfig, parse_model_config
from vintner.queue_policy import Place, QueuePolicy


def policy(**queue: Any) -> QueuePolicy:
    return QueuePolicy(QueueConfig.model_validate(queue))


def test_without_a_configuration_there_is_one_level_and_no_timeout() -> None:
    assert policy().place({}) == Place(1, None, False)
    assert policy().place({"priority": 7, "other": "x"}) == Place(1, None, False)


@pytest.mark.parametrize(("asked", "level"), [(1, 1), (3, 3), (0, 2), (4, 2), (2**64 - 1, 2), ("3", 3)])
def test_a_priority_beyond_the_levels_is_the_default(asked: Any, level: int) -> None:
    assert policy(priority_levels=3).place({"priority": asked}).level == level


def test_the_default_priority_can_be_set() -> None:
    assert policy(priority_levels=3, default_priority=3).usual.level == 3


@pytest.mark.parametrize(
    ("configured", "override", "asked", "seconds"),
    [
        (None, True, 500_000, 0.5),
        (2.0, True, 500_000, 0.5),
        (0.25, True, 500_000, 0.25),
        (2.0, False, 500_000, 2.0),
        (None, False, 500_000, None),
        (2.0, True, 0, 2.0),
    ],
)
def test_a_request_may_wait_for_as_long_as_both_allow(
    configured: float | None, override: bool, asked: int, seconds: float | None
) -> None:
    made = policy(timeout_seconds=configured, timeout_override=override)
    assert made.place({"timeout": asked}).timeout == seconds


def test_a_level_may_differ() -> None:
    made = policy(
        priority_levels=2, timeout_seconds=1.0, levels={2: {"timeout_seconds": 3.0, "timeout_action": "delay"}}
    )
    assert made.place({"priority": 1}) == Place(1, 1.0, False)
    assert made.place({"priority": 2}) == Place(2, 3.0, True)


@pytest.mark.parametrize("name", ["priority", "timeout"])
@pytest.mark.parametrize("value", [-1, 1.5, True, "high", "", "-3", "9" * 30])
def test_what_is_no_whole_number_is_refused(name: str, value: Any) -> None:
    with pytest.raises(InvalidArgument, match=f"'{name}': expected a whole number"):
        policy().place({name: value})


@pytest.mark.parametrize(
    ("queue", "message"),
    [
        ({"priority_levels": 2, "default_priority": 3}, "default_priority: there are 2 priority_levels, got 3"),
        ({"levels": {2: {}}}, "levels.2: there are 1 priority_levels"),
        ({"priority_levels": 0}, "priority_levels"),
        ({"timeout_seconds": 0}, "timeout_seconds"),
        ({"timeout_action": "drop"}, "timeout_action"),
        ({"levels": {1: {"max_request": 3}}}, "max_requests"),
    ],
)
def test_a_wrong_configuration_says_what_was_expected(queue: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_model_config({"queue": queue}, "config.yaml")
    assert message in str(caught.value)
