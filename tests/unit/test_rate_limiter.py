"""Turns at shared resources: who gets them, in which proportion, and that nobody waits for ever."""

from __future__ import annotations

from collections import Counter, deque

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vintner.errors import LoadError
from vintner.rate_limiter import Claim, Member, RateLimiter

RESOURCES = ("disk", "gpu", "bus")
claims = st.builds(
    Claim,
    st.dictionaries(st.sampled_from(RESOURCES), st.integers(1, 3), min_size=1),
    st.sampled_from([0.25, 0.5, 1.0, 2.0, 3.0]),
)
capacities = st.dictionaries(st.sampled_from(RESOURCES), st.integers(3, 5))


def closed_loop(limiter: RateLimiter[int], members: list[Member], turns: int) -> list[int]:
    """The order of runs when every member always has another one."""
    running = deque(number for index, member in enumerate(members) for number in limiter.ask(member, index))
    order: list[int] = []
    while len(order) < turns:
        ended = running.popleft()
        order.append(ended)
        running += limiter.give_back(members[ended], again=ended)
    return order


def test_a_run_needs_all_its_resources_at_once() -> None:
    limiter: RateLimiter[str] = RateLimiter({"disk": 1, "gpu": 1})
    reader = limiter.join(Claim({"disk": 1}))
    both = limiter.join(Claim({"disk": 1, "gpu": 1}))
    assert limiter.ask(reader, "reader") == ["reader"]
    assert limiter.ask(both, "both") == []
    assert (limiter.out("disk"), limiter.out("gpu")) == (1, 0)
    assert limiter.give_back(reader) == ["both"]
    assert (limiter.out("disk"), limiter.out("gpu")) == (1, 1)


def test_who_needs_many_units_is_not_overtaken_by_those_that_need_few() -> None:
    limiter: RateLimiter[str] = RateLimiter({"gpu": 2})
    large, small = limiter.join(Claim({"gpu": 2})), limiter.join(Claim({"gpu": 1}))
    assert limiter.ask(small, "first") == ["first"]
    assert limiter.ask(large, "large") == []
    assert limiter.ask(small, "second") == [], "a unit is free, but it is being saved"
    assert limiter.give_back(small) == ["large"]
    assert limiter.give_back(large) == ["second"]


def test_models_that_share_nothing_do_not_wait_for_each_other() -> None:
    limiter: RateLimiter[str] = RateLimiter()
    disk, gpu = limiter.join(Claim({"disk": 1})), limiter.join(Claim({"gpu": 1}))
    assert limiter.ask(disk, "a") == ["a"]
    assert limiter.ask(disk, "b") == []
    assert limiter.ask(gpu, "c") == ["c"]


def test_a_resource_without_a_capacity_has_the_units_of_the_largest_claim_that_is_there() -> None:
    limiter: RateLimiter[str] = RateLimiter({"disk": 4})
    small, large = limiter.join(Claim({"gpu": 1, "disk": 1})), limiter.join(Claim({"gpu": 3}))
    assert (limiter.capacity("gpu"), limiter.capacity("disk")) == (3, 4)
    limiter.ask(large, "running")
    limiter.part(large)
    assert limiter.capacity("gpu") == 3, "it still runs"
    limiter.give_back(large)
    assert limiter.capacity("gpu") == 1
    assert limiter.ask(small, "small") == ["small"]


def test_a_claim_beyond_the_capacity_is_refused() -> None:
    with pytest.raises(LoadError, match="a run needs 3 of the resource 'gpu', of which there are 2"):
        RateLimiter({"gpu": 2}).join(Claim({"gpu": 3}))


@pytest.mark.parametrize(
    ("weights", "shares"),
    [([1, 1], [30, 30]), ([1, 1 / 2], [40, 20]), ([3, 2, 1], [30, 20, 10]), ([1, 1 / 3, 1 / 3], [36, 12, 12])],
)
def test_models_that_always_have_work_run_in_proportion_to_their_weights(
    weights: list[float], shares: list[int]
) -> None:
    limiter: RateLimiter[int] = RateLimiter()
    members = [limiter.join(Claim({"gpu": 1}, weight)) for weight in weights]
    counts = Counter(closed_loop(limiter, members, 60))
    assert [counts[index] for index in range(len(weights))] == pytest.approx(shares, abs=1)


def test_a_model_that_was_idle_neither_saves_up_turns_nor_has_lost_any() -> None:
    limiter: RateLimiter[int] = RateLimiter()
    members = [limiter.join(Claim({"gpu": 1})) for _ in range(2)]
    limiter.ask(members[0], 0)
    for _ in range(100):
        assert limiter.give_back(members[0], again=0) == [0]
    limiter.ask(members[1], 1)
    order = []
    running = 0
    for _ in range(10):
        [running] = limiter.give_back(members[running], again=running)
        order.append(running)
    assert Counter(order) == {0: 5, 1: 5}


def test_what_others_do_elsewhere_does_not_change_the_proportions() -> None:
    limiter: RateLimiter[int] = RateLimiter()
    elsewhere = limiter.join(Claim({"disk": 1}, 0.001))
    limiter.ask(elsewhere, 9)
    members = [limiter.join(Claim({"gpu": 1}, weight)) for weight in (2, 1)]
    counts: Counter[int] = Counter()
    [running] = limiter.ask(members[0], 0)
    limiter.ask(members[1], 1)
    for _ in range(60):
        assert limiter.give_back(elsewhere, again=9) == [9]
        counts[running] += 1
        [running] = limiter.give_back(members[running], again=running)
    assert counts == {0: 40, 1: 20}


def test_a_turn_that_ran_nothing_does_not_count() -> None:
    limiter: RateLimiter[str] = RateLimiter()
    light, heavy = limiter.join(Claim({"gpu": 1}, 0.1)), limiter.join(Claim({"gpu": 1}))
    assert limiter.ask(light, "nothing") == ["nothing"]
    assert limiter.give_back(light, used=False) == []
    assert limiter.ask(heavy, "heavy") == ["heavy"]
    assert limiter.ask(light, "light") == []
    assert limiter.give_back(heavy, again="heavy again") == ["light"]


def test_who_is_recalled_makes_room_for_those_behind() -> None:
    limiter: RateLimiter[str] = RateLimiter({"disk": 1, "gpu": 1})
    disk, both, gpu = (limiter.join(Claim(dict.fromkeys(names, 1))) for names in (["disk"], ["disk", "gpu"], ["gpu"]))
    limiter.ask(disk, "disk")
    assert limiter.ask(both, "both") == []
    assert limiter.ask(gpu, "gpu") == [], "the gpu is being saved"
    assert limiter.recall(both) == (["both"], ["gpu"])
    assert limiter.give_back(disk) == []
    assert both.waiting == 0


@given(capacities, st.lists(claims, min_size=1, max_size=5), st.data())
def test_no_more_is_out_than_there_is_and_everybody_gets_his_turn(
    given_capacities: dict[str, int], wanted: list[Claim], data: st.DataObject
) -> None:
    limiter: RateLimiter[int] = RateLimiter(given_capacities)
    members = [limiter.join(claim) for claim in wanted]
    running: list[tuple[Member, int]] = []
    waiting: dict[int, Member] = {}

    def take(granted: list[int]) -> None:
        running.extend((waiting.pop(each), each) for each in granted)

    def check() -> None:
        for name in RESOURCES:
            held = sum(member.claim.resources.get(name, 0) for member, _ in running)
            assert held == limiter.out(name) <= max(limiter.capacity(name), 0)
        assert running or not waiting, "deadlock"

    for number in range(data.draw(st.integers(0, 60))):
        index = data.draw(st.integers(0, len(members) - 1))
        action = data.draw(st.sampled_from(["ask", "give back", "again", "unused", "recall"]))
        if action == "recall":
            recalled, granted = limiter.recall(members[index])
            assert recalled == [each for each, member in waiting.items() if member is members[index]]
            for each in recalled:
                del waiting[each]
            take(granted)
        elif action == "ask" or not running:
            waiting[number] = members[index]
            take(limiter.ask(members[index], number))
        else:
            member, _ = running.pop(index % len(running))
            if action == "again":
                waiting[number] = member
            take(limiter.give_back(member, number if action == "again" else None, used=action != "unused"))
        check()
    while running:
        member, _ = running.pop(0)
        take(limiter.give_back(member))
        check()
    assert not waiting
    assert all(limiter.out(name) == 0 for name in RESOURCES)


@given(st.lists(st.sampled_from([1.0, 2.0, 3.0, 5.0]), min_size=2, max_size=5))
def test_of_one_unit_nobody_is_ever_more_than_a_turn_behind_his_share(weights: list[float]) -> None:
    limiter: RateLimiter[int] = RateLimiter()
    members = [limiter.join(Claim({"gpu": 1}, weight)) for weight in weights]
    order = closed_loop(limiter, members, 200)
    counts = [0] * len(weights)
    for turns, index in enumerate(order, 1):
        counts[index] += 1
        assert all(
            count >= turns * weight / sum(weights) - len(weights) for count, weight in zip(counts, weights, strict=True)
        )


@given(st.lists(claims, min_size=2, max_size=4), st.integers(0, 3))
def test_the_number_of_runs_that_go_before_a_waiter_is_bounded(wanted: list[Claim], index: int) -> None:
    """However the others claim and ask, by the tags: each of them has at most its share of a turn, and one more."""
    limiter: RateLimiter[int] = RateLimiter()
    members = [limiter.join(claim) for claim in wanted]
    index %= len(members)
    order = closed_loop(limiter, members, 200)
    longest = max(len(run) for run in _between(order, index))
    bound = sum(member.claim.weight / members[index].claim.weight + 2 for member in members)
    assert longest <= bound * 3


def _between(order: list[int], index: int) -> list[list[int]]:
    """The runs of others between two of one member's, the beginning and the end included."""
    runs: list[list[int]] = [[]]
    for each in order:
        if each == index:
            runs.append([])
        else:
            runs[-1].append(each)
    return runs
