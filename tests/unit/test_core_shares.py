"""How models divide the cores by weight."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vintner.core_shares import CoreShares, divide_cores, share_cores
from vintner.model_config import ModelConfig, RateLimiterConfig
from vintner.rate_limiter import Claim

weights = st.dictionaries(st.text("abcdefgh", min_size=1, max_size=2), st.floats(0.001, 1000), max_size=12)


@pytest.mark.parametrize(
    ("cores", "given_weights", "shares"),
    [
        (8, {"a": 1, "b": 1}, {"a": 4, "b": 4}),
        (8, {"a": 3, "b": 1}, {"a": 6, "b": 2}),
        (7, {"a": 1, "b": 1}, {"a": 4, "b": 3}),
        (10, {"a": 1, "b": 1, "c": 1}, {"a": 4, "b": 3, "c": 3}),
        (4, {"a": 100, "b": 1, "c": 1}, {"a": 2, "b": 1, "c": 1}),
        (6, {"a": 1, "b": 2.5, "c": 2.5}, {"a": 1, "b": 3, "c": 2}),
        (2, {"a": 9, "b": 1}, {"a": 1, "b": 1}),
        (1, {"a": 9, "b": 1}, {"a": 1, "b": 1}),
        (4, {"a": 0.5}, {"a": 4}),
        (4, {}, {}),
    ],
)
def test_shares(cores: int, given_weights: dict[str, float], shares: dict[str, int]) -> None:
    assert share_cores(cores, given_weights) == shares


@given(st.integers(1, 64), weights)
def test_all_cores_are_shared_out_each_model_has_one_and_more_weight_is_not_less(
    cores: int, given_weights: dict[str, float]
) -> None:
    shares = share_cores(cores, given_weights)
    assert shares.keys() == given_weights.keys()
    assert all(share >= 1 for share in shares.values())
    if shares:
        assert sum(shares.values()) == max(cores, len(shares))
    for one, weight in given_weights.items():
        for other, less in given_weights.items():
            assert weight <= less or shares[one] >= shares[other]
        if len(shares) < cores:
            # Those that are raised to one core take from the others; nobody gets a core more than his part.
            assert shares[one] <= max(1, math.ceil(cores * weight / sum(given_weights.values())))


def config(**keys: object) -> ModelConfig:
    return ModelConfig.model_validate(keys)


def test_without_weights_nothing_is_divided() -> None:
    assert divide_cores(4, {"a": (config(), (1,)), "b": (config(), (1,))}) == CoreShares()


def test_one_weight_divides_the_cores_among_all_that_compute_on_them() -> None:
    shares = divide_cores(
        8,
        {
            "a": (config(core_weight=2), (1,)),
            "b": (config(), (1, 2)),
            "c": (config(device="GPU.1"), (1,)),
            "e": (config(pools=[{"device": "GPU.0"}, {"device": "GPU.1"}]), (1,)),
            "d": (config(device="AUTO:GPU,CPU"), (1,)),
        },
    )
    assert shares.cores == {("a", 1): 4, ("b", 1): 1, ("b", 2): 1, ("d", 1): 2}
    assert not shares.in_turns
    assert shares.claim("a", 1, config(core_weight=2)) is None


def test_more_models_than_cores_use_them_in_turns_by_weight() -> None:
    configs = {"a": config(core_weight=3), "b": config(rate_limiter={"resources": {"disk": 2}, "priority": 2})}
    shares = divide_cores(1, {name: (each, (1,)) for name, each in configs.items()})
    assert shares.cores == {("a", 1): 1, ("b", 1): 1}
    assert shares.claim("a", 1, configs["a"]) == Claim({"cores": 1}, 3.0)
    assert shares.claim("b", 1, configs["b"]) == Claim({"disk": 2, "cores": 1}, 0.5)
    assert shares.claim("gpu", 1, config(device="GPU")) is None


def test_a_rate_limiter_needs_no_weights() -> None:
    limited = config(rate_limiter=RateLimiterConfig(resources={"disk": 1}, priority=4))
    assert CoreShares().claim("a", 1, limited) == Claim({"disk": 1}, 0.25)
    assert CoreShares().claim("a", 1, config()) is None
