"""The policy that picks the next load or unload."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from vintner.lifecycle import Plan, State, Status, plan

READY, LOADING = Status(State.READY), Status(State.LOADING)
FAILED = Status(State.UNAVAILABLE, "broken")


def test_everything_new_is_loaded_before_anything_old_goes() -> None:
    assert plan({2, 3}, {1: READY}) == Plan(load=(2, 3))
    assert plan({2}, {1: READY, 2: LOADING}) == Plan()
    assert plan({2}, {1: READY, 2: READY}) == Plan(unload=(1,))


def test_the_old_version_stays_when_the_new_one_fails() -> None:
    assert plan({2}, {1: READY, 2: FAILED}) == Plan()


def test_what_nobody_wants_is_unloaded() -> None:
    assert plan((), {1: READY, 2: FAILED}) == Plan(unload=(1,))


def test_a_failed_version_is_not_tried_in_a_loop() -> None:
    assert plan({1}, {1: FAILED}) == Plan()


@given(st.sets(st.integers(1, 5)), st.sets(st.integers(1, 5)), st.dictionaries(st.integers(1, 5), st.booleans()))
def test_the_policy_comes_to_rest_and_never_drops_the_last_ready_version_that_is_needed(
    before: set[int], wanted: set[int], loads: dict[int, bool]
) -> None:
    actual = dict.fromkeys(before, READY)
    for _ in range(20):
        step = plan(wanted, actual)
        if step == Plan():
            break
        for version in step.load:
            actual[version] = READY if loads.get(version, True) else FAILED
        for version in step.unload:
            actual[version] = Status(State.UNAVAILABLE, "unloaded")
        if before and wanted:
            assert any(status is READY for status in actual.values())
    assert plan(wanted, actual) == Plan()
    good = [version for version in wanted if actual[version] is READY]
    if good:
        assert {version for version, status in actual.items() if status is READY} == set(good)
