"""The queue and the batch decision, by tables and by stating what always holds."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vintner.batching import AGEING, PATIENCE, BatchQueue, Pending, QueueLimits
from vintner.errors import QueueFull

NOW = 100.0


def pending(
    rows: int = 1,
    signature: object = None,
    size: int = 1,
    deadline: float | None = None,
    level: int = 1,
    arrived: float = NOW,
) -> Pending:
    return Pending(rows, size, signature, deadline, level, arrived)


def queue(*items: Pending, max_rows: int = 8, limits: QueueLimits | None = None) -> BatchQueue[Pending]:
    made: BatchQueue[Pending] = BatchQueue(limits or QueueLimits(), max_rows)
    for item in items:
        made.push(item)
    return made


def test_the_oldest_request_leads_whatever_its_signature() -> None:
    first, second = pending(signature="a"), pending(signature="b")
    waiting = queue(first, second)
    assert waiting.pop() is first
    assert waiting.pop() is second


def test_a_batch_holds_one_signature_in_order_of_arrival() -> None:
    items = [pending(signature="a"), pending(signature="b"), pending(signature="a"), pending(signature="a")]
    waiting = queue(*items)
    leader = waiting.pop()
    assert waiting.cut(leader, NOW)[0] == [items[2], items[3]]
    assert waiting.pop() is items[1]


def test_a_request_that_does_not_fit_is_passed_over_and_leads_later() -> None:
    small, big, tiny = pending(rows=5), pending(rows=6), pending(rows=3)
    waiting = queue(small, big, tiny)
    assert waiting.cut(waiting.pop(), NOW)[0] == [tiny]
    assert waiting.pop() is big


def test_a_request_larger_than_a_batch_runs_alone() -> None:
    waiting = queue(pending(rows=20), pending(rows=1))
    assert waiting.cut(waiting.pop(), NOW)[0] == []


def preferring(*sizes: int, items: Sequence[Pending]) -> BatchQueue[Pending]:
    made: BatchQueue[Pending] = BatchQueue(QueueLimits(), 16, sizes)
    for item in items:
        made.push(item)
    return made


@pytest.mark.parametrize(
    ("waiting", "followers"),
    [
        (1, 0),
        (3, 2),  # too few for a preferred size: all of them
        (4, 3),
        (7, 3),
        (8, 7),
        (15, 7),
        (40, 7),
    ],
)
def test_a_batch_has_the_largest_preferred_size_that_waits(waiting: int, followers: int) -> None:
    queue = preferring(4, 8, items=[pending() for _ in range(waiting)])
    assert len(queue.cut(queue.pop(), NOW)[0]) == followers


def test_a_request_larger_than_every_preferred_size_takes_what_fits_beside_it() -> None:
    queue = preferring(4, items=[pending(rows=6), pending(), pending()])
    assert len(queue.cut(queue.pop(), NOW)[0]) == 2


@pytest.mark.parametrize(
    ("rows_and_signatures", "bound", "reason"),
    [
        (["1a"], None, "idle"),
        (["1a", "1a"], None, "idle"),
        (["1a", "1b"], None, "shape"),
        (["8a"], None, "full"),
        (["5a", "5a"], None, "full"),
        (["4a", "4a", "1b"], None, "full"),
        (["9a"], None, "full"),
        (["1a", "1a", "1a", "1a"], 2, "share"),
        (["1a", "1a", "1b"], 2, "shape"),
        (["1a", "1a"], 2, "idle"),
    ],
)
def test_a_cut_says_why_no_more_went_along(rows_and_signatures: list[str], bound: int | None, reason: str) -> None:
    waiting = queue(*(pending(rows=int(item[0]), signature=item[1]) for item in rows_and_signatures))
    assert waiting.cut(waiting.pop(), NOW, bound)[1] == reason


def test_an_unbatched_model_says_so() -> None:
    waiting = queue(pending(), pending(), max_rows=1)
    assert waiting.cut(waiting.pop(), NOW) == ([], "unbatched")


@pytest.mark.parametrize(("ahead", "leader"), [(0, 0), (1, 1), (2, 1), (3, 1), (4, 2), (9, 2), (10, None)])
def test_what_is_left_to_a_faster_pool_is_passed_over_in_whole_requests(ahead: int, leader: int | None) -> None:
    items = [pending(rows=1), pending(rows=3), pending(rows=6)]
    waiting = queue(*items)
    assert waiting.pop(ahead) is (None if leader is None else items[leader])


def test_an_unbatched_queue_stacks_nothing() -> None:
    waiting = queue(pending(), pending(rows=0), pending(), max_rows=1)
    assert waiting.cut(waiting.pop(), NOW)[0] == []
    assert waiting.cut(waiting.pop(), NOW)[0] == []


def test_an_expired_request_is_left_for_its_owner() -> None:
    late = pending(deadline=NOW)
    waiting = queue(pending(arrived=NOW - PATIENCE), late, pending(deadline=NOW + 1))
    assert late not in waiting.cut(waiting.pop(), NOW)[0]
    assert waiting.remove(late)


def test_removing_frees_the_place_and_happens_once() -> None:
    item = pending(size=7)
    waiting = queue(item, limits=QueueLimits(max_requests=1))
    assert waiting.bytes == 7
    assert waiting.remove(item)
    assert not waiting.remove(item)
    assert (len(waiting), waiting.bytes) == (0, 0)
    waiting.push(pending())


def test_a_full_queue_refuses_in_the_words_that_clients_match() -> None:
    waiting = queue(pending(), limits=QueueLimits(max_requests=1))
    with pytest.raises(QueueFull, match="Exceeds maximum queue size"):
        waiting.push(pending())
    assert len(waiting) == 1


def test_the_bound_in_bytes_refuses_all_but_a_lone_request() -> None:
    waiting = queue(pending(size=50), limits=QueueLimits(max_bytes=10))
    with pytest.raises(QueueFull, match="50 of 10 bytes"):
        waiting.push(pending(size=1))


@given(
    st.lists(st.tuples(st.integers(0, 12), st.sampled_from("abc"), st.booleans()), max_size=30),
    st.integers(1, 10),
)
def test_every_request_leaves_exactly_once_in_batches_within_the_limit(
    shapes: list[tuple[int, str, bool]], max_rows: int
) -> None:
    items = [pending(rows, signature, deadline=NOW if late else None) for rows, signature, late in shapes]
    waiting = queue(*items, max_rows=max_rows)
    left: list[Pending] = []
    while waiting:
        first = next(item for item in sorted(items, key=lambda item: not item.expired(NOW)) if item not in left)
        leader = waiting.pop()
        assert leader is first
        batch = [leader, *waiting.cut(leader, NOW)[0]]
        assert len({item.signature for item in batch}) == 1
        assert len(batch) == 1 or sum(item.rows for item in batch) <= max_rows
        assert not any(item.expired(NOW) for item in batch[1:])
        left += batch
    assert sorted(map(id, left)) == sorted(map(id, items))
    assert waiting.bytes == 0


def test_the_nearest_deadline_leads_and_then_who_came_first() -> None:
    items = [pending(), pending(deadline=NOW + 0.5), pending(deadline=NOW + 0.2), pending(deadline=NOW + 3600)]
    waiting = queue(*items, max_rows=1)
    assert [waiting.pop() for _ in items] == [items[2], items[1], items[0], items[3]]


def test_a_higher_level_goes_first_but_not_for_ever() -> None:
    low = pending(level=2, arrived=NOW)
    soon, later = pending(arrived=NOW + AGEING - 0.1), pending(arrived=NOW + AGEING + 0.1)
    waiting = queue(low, later, soon, max_rows=1)
    assert [waiting.pop() for _ in range(3)] == [soon, low, later]


def test_a_request_without_a_deadline_is_not_starved_by_those_that_have_one() -> None:
    patient = pending(arrived=NOW)
    hurried = [pending(arrived=NOW + after, deadline=NOW + after + 0.1) for after in (0.0, PATIENCE, 2 * PATIENCE)]
    waiting = queue(patient, *hurried, max_rows=1)
    assert [waiting.pop() for _ in range(4)] == [hurried[0], patient, *hurried[1:]]


def test_what_is_postponed_goes_last_in_order() -> None:
    items = [pending(size=3), pending(level=9), pending()]
    waiting = queue(*items, max_rows=1)
    waiting.postpone(items[0])
    taken = waiting.pop()
    waiting.postpone(taken)
    assert [waiting.pop() for _ in range(3)] == [items[1], items[0], items[2]]
    assert (len(waiting), waiting.bytes, waiting.rows) == (0, 0, 0)


def test_a_level_has_a_bound_of_its_own() -> None:
    limits = QueueLimits(levels={2: 1})
    first = pending(level=2)
    waiting = queue(first, pending(level=1), pending(level=3), limits=limits)
    with pytest.raises(QueueFull, match="1 requests of priority 2"):
        waiting.push(pending(level=2))
    waiting.postpone(first)
    with pytest.raises(QueueFull):
        waiting.push(pending(level=2))
    waiting.remove(first)
    waiting.push(pending(level=2))


@given(
    st.lists(
        st.tuples(st.floats(0, 100), st.integers(1, 4), st.none() | st.floats(0, 200), st.sampled_from("ab")),
        max_size=40,
    )
)
def test_nobody_waits_for_what_came_much_later(requests: list[tuple[float, int, float | None, str]]) -> None:
    """Whatever the levels and deadlines: what leads before a request did not arrive after that was due."""
    items = [pending(arrived=at, level=level, deadline=end, signature=kind) for at, level, end, kind in requests]
    waiting = queue(*items, max_rows=1)
    order = [waiting.pop() for _ in items]
    for index, item in enumerate(order):
        latest = item.arrived + PATIENCE + (item.level - 1) * AGEING
        assert all(before.arrived <= latest or before.expired(latest) for before in order[:index])


@given(st.lists(st.tuples(st.sampled_from(["push", "pop", "remove", "postpone"]), st.integers(0, 9)), max_size=60))
def test_the_books_balance_whatever_is_done(steps: list[tuple[str, int]]) -> None:
    waiting, inside = queue(limits=QueueLimits(levels={1: 50, 2: 50})), []
    for step, number in steps:
        if step == "push":
            item = pending(rows=number, size=number, level=1 + number % 3, signature=number % 2)
            waiting.push(item)
            inside.append(item)
        elif inside and step == "pop":
            inside.remove(waiting.pop())
        elif inside and step == "remove":
            assert waiting.remove(inside.pop(number % len(inside)))
        elif inside:
            waiting.postpone(inside[number % len(inside)])
        assert (len(waiting), waiting.rows, waiting.bytes) == (
            len(inside),
            sum(item.rows for item in inside),
            sum(item.size for item in inside),
        )
        assert set(waiting) == set(inside)
