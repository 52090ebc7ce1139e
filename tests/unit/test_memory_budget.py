"""Which models make room for another."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vintner.memory_budget import Room, Tenant, in_words, make_room

IDLE = [Tenant("b", 30, 2.0, True), Tenant("a", 20, 1.0, True), Tenant("busy", 40, 0.0, False)]


@pytest.mark.parametrize(
    ("need", "expected"),
    [(10, ()), (11, ("a",)), (30, ("a",)), (31, ("a", "b")), (60, ("a", "b"))],
)
def test_the_least_recently_used_of_the_idle_go_first(need: int, expected: tuple[str, ...]) -> None:
    room = make_room(need, 0, 100, IDLE)
    assert tuple(room.evict) == expected
    assert room.free == (not expected)


def test_nothing_goes_where_it_would_not_help() -> None:
    room = make_room(61, 0, 100, IDLE)
    assert room == Room((), room.refusal, never=False)
    assert room.refusal == (
        "it needs 61 B of the 100 B for models (--model-memory-budget), "
        "and other models, which are in use, take the rest"
    )
    assert not room.free


def test_what_is_larger_than_the_budget_never_fits() -> None:
    assert make_room(101, 0, 100, IDLE).never
    beside = make_room(60, 50, 100, [])
    assert beside.never
    assert "beside the 50 B of what is served (resource_preserving would unload that first)" in beside.refusal


TENANTS = st.lists(
    st.builds(Tenant, st.text(max_size=3), st.integers(0, 50), st.floats(0, 9), st.booleans()), max_size=6
)


@given(st.integers(0, 120), st.integers(0, 60), TENANTS)
def test_what_is_evicted_is_enough_and_no_more_than_needed(need: int, beside: int, tenants: list[Tenant]) -> None:
    budget = 100
    named = [Tenant(str(number), each.size, each.last_used, each.idle) for number, each in enumerate(tenants)]
    room = make_room(need, beside, budget, named)
    sizes = {each.name: each.size for each in named}
    left = sum(sizes.values()) - sum(sizes[name] for name in room.evict) + need + beside
    if room.refusal:
        assert not room.evict
        assert sum(each.size for each in named if not each.idle) + need + beside > budget
    else:
        assert left <= budget
        assert not room.evict or left + sizes[room.evict[-1]] > budget


@pytest.mark.parametrize(("size", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 40, "5120.0 GiB")])
def test_sizes_are_told_in_words(size: int, text: str) -> None:
    assert in_words(size) == text
