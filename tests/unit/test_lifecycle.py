"""The policy that picks the next load or unload."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vintner.lifecycle import Held, Plan, plan

LOADING = Held(tried="a", busy=True)
FAILED = Held(tried="a")


def serves(revision: str = "a") -> Held:
    return Held(serving=revision, tried=revision, good=revision)


def there(*versions: int) -> dict[int, str]:
    return dict.fromkeys(versions, "a")


@pytest.mark.parametrize(
    ("wanted", "available", "held", "expected"),
    [
        ((2, 3), (1, 2, 3), {1: serves()}, Plan(load=(2, 3))),
        ((2,), (1, 2), {1: serves(), 2: LOADING}, Plan()),
        ((2,), (1, 2), {1: serves(), 2: serves()}, Plan(unload=(1,))),
        ((2,), (2,), {1: LOADING}, Plan(load=(2,))),
        ((2,), (2,), {1: LOADING, 2: serves()}, Plan()),
    ],
)
def test_everything_new_is_loaded_before_anything_old_goes(
    wanted: tuple[int, ...], available: tuple[int, ...], held: dict[int, Held], expected: Plan
) -> None:
    assert plan(there(*wanted), there(*available), held) == expected


def test_a_changed_version_is_loaded_again_beside_itself() -> None:
    assert plan({1: "b"}, {1: "b"}, {1: serves("a")}) == Plan(load=(1,))
    assert plan({1: "b"}, {1: "b"}, {1: Held("a", "b", "a", busy=True)}) == Plan()
    assert plan({1: "b"}, {1: "b"}, {1: Held("a", "b", "a")}) == Plan(), "it failed, and is not tried in a loop"
    assert plan({1: "c"}, {1: "c"}, {1: Held("a", "b", "a")}) == Plan(load=(1,))


def test_the_old_version_stays_when_the_new_one_fails() -> None:
    assert plan(there(2), there(1, 2), {1: serves(), 2: FAILED}) == Plan()
    assert plan(there(2, 3), there(1, 2, 3), {1: serves(), 2: serves(), 3: FAILED}) == Plan()


def test_a_version_whose_files_are_gone_stays_only_as_long_as_nothing_else_serves() -> None:
    assert plan(there(2, 3), there(2, 3), {1: serves(), 2: serves(), 3: FAILED}) == Plan(unload=(1,))
    assert plan(there(3), there(3), {1: serves(), 3: FAILED}) == Plan()


def test_what_nobody_wants_is_unloaded() -> None:
    assert plan({}, there(1), {1: serves(), 2: FAILED}) == Plan(unload=(1,))


def test_what_is_to_be_unloaded_first_makes_room_and_comes_back_if_the_new_fails() -> None:
    wanted, available = there(2), there(1, 2)
    assert plan(wanted, available, {1: serves()}, unload_first=True) == Plan(unload=(1,))
    unloading = replace(serves(), busy=True)
    assert plan(wanted, available, {1: unloading}, unload_first=True) == Plan()
    gone = Held(good="a")
    assert plan(wanted, available, {1: gone}, unload_first=True) == Plan(load=(2,))
    assert plan(wanted, available, {1: gone, 2: FAILED}, unload_first=True) == Plan(load=(1,))
    assert plan(wanted, {**available, 1: "b"}, {1: gone, 2: FAILED}, unload_first=True) == Plan()
    assert plan(wanted, available, {1: replace(gone, tried="a"), 2: FAILED}, unload_first=True) == Plan()
    assert plan(wanted, available, {1: serves(), 2: FAILED}, unload_first=True) == Plan()
    assert plan({2: "b"}, {1: "a", 2: "b"}, {1: serves(), 2: FAILED}, unload_first=True) == Plan(unload=(1,))


REVISIONS = st.sampled_from("abc")
VERSIONS = st.dictionaries(st.integers(1, 5), REVISIONS)


@given(VERSIONS, VERSIONS, st.data(), st.booleans(), st.sets(st.tuples(st.integers(1, 5), REVISIONS)))
def test_the_policy_comes_to_rest_and_never_drops_the_last_version_that_is_needed(
    before: dict[int, str],
    available: dict[int, str],
    data: st.DataObject,
    unload_first: bool,
    bad: set[tuple[int, str]],
) -> None:
    numbers = data.draw(st.sets(st.sampled_from(sorted(available)))) if available else set()
    wanted = {version: available[version] for version in numbers}
    held = {version: serves(revision) for version, revision in before.items()}
    for _ in range(30):
        step = plan(wanted, available, held, unload_first)
        if step == Plan():
            break
        for version in step.load:
            assert not held.get(version, Held()).busy
            revision = available[version]
            held[version] = replace(held.get(version, Held()), tried=revision)
            if (version, revision) not in bad:
                held[version] = serves(revision)
        for version in step.unload:
            held[version] = Held(good=held[version].good)
        if before and wanted and not unload_first:
            assert any(each.serving for each in held.values())
    assert plan(wanted, available, held, unload_first) == Plan()
    serving = {version: each.serving for version, each in held.items() if each.serving}
    if all(item not in bad for item in wanted.items()):
        assert serving == wanted
