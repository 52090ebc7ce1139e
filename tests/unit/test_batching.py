"""The queue and the batch decision, by tables and by stating what always holds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vintner.batching import BatchQueue, Pending, QueueLimits
from vintner.errors import QueueFull

NOW = 100.0


def pending(rows: int = 1, signature: object = None, size: int = 1, deadline: float | None = None) -> Pending:
    return Pending(rows, size, signature, deadline)


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
    assert waiting.cut(leader, NOW) == [items[2], items[3]]
    assert waiting.pop() is items[1]


def test_a_request_that_does_not_fit_is_passed_over_and_leads_later() -> None:
    small, big, tiny = pending(rows=5), pending(rows=6), pending(rows=3)
    waiting = queue(small, big, tiny)
    assert waiting.cut(waiting.pop(), NOW) == [tiny]
    assert waiting.pop() is big


def test_a_request_larger_than_a_batch_runs_alone() -> None:
    waiting = queue(pending(rows=20), pending(rows=1))
    assert waiting.cut(waiting.pop(), NOW) == []


def test_an_unbatched_queue_stacks_nothing() -> None:
    waiting = queue(pending(), pending(), max_rows=1)
    assert waiting.cut(waiting.pop(), NOW) == []


def test_an_expired_request_is_left_for_its_owner() -> None:
    late = pending(deadline=NOW)
    waiting = queue(pending(), late, pending(deadline=NOW + 1))
    assert late not in waiting.cut(waiting.pop(), NOW)
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
        oldest = next(item for item in items if item not in left)
        leader = waiting.pop()
        assert leader is oldest
        batch = [leader, *waiting.cut(leader, NOW)]
        assert len({item.signature for item in batch}) == 1
        assert len(batch) == 1 or sum(item.rows for item in batch) <= max_rows
        assert not any(item.expired(NOW) for item in batch[1:])
        left += batch
    assert sorted(map(id, left)) == sorted(map(id, items))
    assert waiting.bytes == 0
