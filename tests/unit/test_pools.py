"""Which slot leads, by measured run times, and what becomes of slots that leave service; time is a number."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vintner.pools import TRIALS, Opening, Pool, Pools, Slot
from vintner.types import Array

FAST, SLOW = 0.01, 0.1


class Still:
    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        raise AssertionError("pools run nothing")


def pool(seconds: float | None = None, instances: int = 1, device: str = "CPU") -> Pool:
    """A pool whose runs of one row take so long; None for one that was never tried."""
    made = Pool([Still() for _ in range(instances)], device)
    if seconds is not None:
        for _ in range(TRIALS):
            made.measured(seconds, 1)
    return made


def two(fast: float | None = FAST, slow: float | None = SLOW) -> tuple[Pools, Pool, Pool]:
    first, second = pool(slow, device="slow"), pool(fast, device="fast")
    return Pools([first, second]), second, first


def occupy(pools: Pools, now: float) -> Slot:
    slot = pools.take(1, now)
    assert slot is not None
    slot.begin(["a call"], now)
    return slot


def test_the_fastest_idle_pool_leads_whatever_its_place_in_the_configuration() -> None:
    pools, fast, _ = two()
    slot = pools.take(1, 0.0)
    assert slot is not None
    assert slot.pool is fast


@pytest.mark.parametrize(
    ("rows", "elapsed", "device"),
    [
        (1, 0.0, None),  # the fast one will be done with it in 20 ms, the slow one in 100
        (9, 0.0, None),  # it does nine runs in the time that the slow one takes
        (10, 0.0, "slow"),
        (1, 0.05, None),  # it is late, and may be as late again
        (1, 0.3, "slow"),  # it seems to hang
    ],
)
def test_an_idle_slow_pool_takes_only_what_the_busy_fast_one_would_finish_later(
    rows: int, elapsed: float, device: str | None
) -> None:
    pools, _, _ = two()
    occupy(pools, 0.0)
    slot = pools.take(rows, elapsed)
    assert (slot and slot.pool.device) == device


def test_patience_ends_when_the_busy_slot_should_be_done_and_doubles_when_it_is_not() -> None:
    pools, _, _ = two()
    occupy(pools, 0.0)
    assert pools.patience(0.004) == pytest.approx(0.006)
    assert pools.patience(0.03) == pytest.approx(0.02)


def test_a_pool_that_was_not_tried_yet_is_tried_first() -> None:
    pools, _, slow = two(slow=None)
    slot = pools.take(1, 0.0)
    assert slot is not None
    assert slot.pool is slow


def test_the_shortest_of_the_first_runs_counts_since_runtimes_put_things_off() -> None:
    tried = Pool([Still()])
    for seconds in (5.0, 0.02, 0.03):
        tried.measured(seconds, 1)
    assert tried.expected == 0.02


def test_a_pool_that_was_slow_for_a_while_gets_another_try() -> None:
    pools, fast, slow = two()
    for _ in range(10_000):
        slot = pools.take(1, 0.0)
        assert slot is not None
        if slot.pool is slow:
            break
        pools.measured(slot, FAST, 1)
        pools.put(slot)
    assert slot.pool is slow
    assert fast.expected == pytest.approx(FAST)


def test_idle_slots_of_one_pool_share_evenly_and_those_of_several_by_their_rates() -> None:
    alike = Pools([pool(SLOW, instances=4)])
    slot = occupy(alike, 0.0)
    assert alike.share(slot, 16) == 4
    pools, _, slow = two(FAST, 3 * FAST)
    assert pools.share(slow.idle[0], 16) == 4


def test_brief_runs_are_not_shared() -> None:
    pools = Pools([pool(1e-4, instances=4)])
    assert pools.share(occupy(pools, 0.0), 16) is None


def test_a_lost_slot_does_not_keep_its_model_from_being_at_rest_but_keeps_it_from_being_closed() -> None:
    only = Pool([Still()], close=lambda: None)
    pools = Pools([only])
    slot = occupy(pools, 0.0)
    assert not pools.at_rest
    pools.give_up(slot)
    assert pools.at_rest
    assert pools.retire() == []
    assert pools.put(slot), "the thread came back at last"


def test_a_slot_of_a_former_opening_is_not_used_again() -> None:
    only = Pool([Still()], close=lambda: None)
    pools = Pools([only])
    slot = occupy(pools, 0.0)
    former = only.open([Still()], lambda: None)
    assert not former.to_be_closed
    assert pools.put(slot)
    assert former.to_be_closed
    assert only.idle == only.opening.slots != former.slots


@given(
    instances=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    steps=st.lists(
        st.tuples(
            st.sampled_from(["take", "put", "suspect", "restore", "discard", "lose", "open"]), st.integers(0, 99)
        ),
        max_size=60,
    ),
)
def test_whatever_happens_a_slot_is_in_one_hand_and_a_model_is_closed_once_and_only_when_nobody_is_in_it(
    instances: list[int], steps: list[tuple[str, int]]
) -> None:
    every = [Pool([Still()] * number, close=lambda: None) for number in instances]
    pools = Pools(every)
    held: list[Slot] = []
    examined: list[Slot] = []
    closed: list[Opening] = []

    def back(slot: Slot, to_be_closed: bool) -> None:
        if to_be_closed:
            closed.append(slot.opening)

    for now, (step, pick) in enumerate(steps):
        if step == "take" and (slot := pools.take(pick, float(now))) is not None:
            assert slot not in held + examined
            assert slot.in_service
            slot.begin([pick], float(now))
            held.append(slot)
        elif step == "put" and held:
            slot = held.pop(pick % len(held))
            back(slot, pools.put(slot))
        elif step == "suspect" and held and (slot := held[pick % len(held)]).in_service:
            pools.take_out(slot)
            held.remove(slot)
            examined.append(slot)
            assert not pools.put(slot), "its leader puts it back, and the examiner has it"
        elif step in ("restore", "discard") and examined:
            slot = examined.pop(pick % len(examined))
            back(slot, getattr(pools, step)(slot))
        elif step == "lose" and held:
            pools.give_up(held[pick % len(held)])
        elif step == "open":
            former = every[pick % len(every)].open([Still()], lambda: None)
            if former.to_be_closed:
                closed.append(former)
        assert not any(slot.opening in closed for slot in held + examined)
        assert all(slot.in_service and not slot.busy for one in every for slot in one.idle)
    assert len(set(map(id, closed))) == len(closed)
