"""When what is on disk counts as come to rest."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vintner.settling import UNMARKED, WRITTEN, Record, Rules, Sight, accept, observe

RULES = Rules(settle_seconds=1.0)
FUTURE = 1e12
"""A time of change that tells nothing."""


def test_what_stays_the_same_for_long_enough_is_accepted() -> None:
    record = observe(None, Sight("a", FUTURE), 10.0, 0.0, RULES)
    assert record == Record(None, "a", 10.0, WRITTEN, 11.0)
    record = observe(record, Sight("a", FUTURE), 10.9, 0.0, RULES)
    assert (record.accepted, record.due) == (None, pytest.approx(11.0))
    assert observe(record, Sight("a", FUTURE), 11.0, 0.0, RULES).accepted == "a"


def test_a_change_starts_the_wait_anew_and_leaves_what_was_accepted() -> None:
    record = accept(Sight("a", 0.0), 0.0)
    for now, signature in ((1.0, "b"), (1.9, "c"), (2.8, "b")):
        record = observe(record, Sight(signature, FUTURE), now, 0.0, RULES)
        assert (record.accepted, record.due) == ("a", pytest.approx(now + 1.0))
    assert observe(record, Sight("b", FUTURE), 3.8, 0.0, RULES).accepted == "b"


def test_what_turns_back_into_what_was_accepted_waits_for_nothing() -> None:
    record = observe(accept(Sight("a", 0.0), 0.0), Sight("b", FUTURE), 1.0, 0.0, RULES)
    record = observe(record, Sight("a", FUTURE), 1.1, 0.0, RULES)
    assert (record.accepted, record.reason, record.due) == ("a", "", inf)


@pytest.mark.parametrize(
    ("newest", "wall", "accepted", "due"),
    [
        (98.9, 100.0, True, inf),
        (99.0, 100.0, True, inf),
        (99.6, 100.0, False, 50.6),
        (100.5, 100.0, False, 51.0),  # the future: only what is observed counts
        (5000.0, 100.0, False, 51.0),
        (0.0, None, False, 51.0),  # another machine's clock
    ],
)
def test_files_that_were_last_changed_long_ago_are_taken_at_first_sight(newest, wall, accepted, due) -> None:
    record = observe(None, Sight("a", newest), 50.0, wall, RULES)
    assert (record.accepted == "a", record.due) == (accepted, pytest.approx(due))


@pytest.mark.parametrize(
    ("sight", "rules", "reason"),
    [
        (Sight("a", FUTURE, complete=True), RULES, ""),
        (Sight("a", FUTURE, complete=True, partial="x.part"), RULES, "x.part is still being uploaded"),
        (Sight("a", 0.0, partial="x.part"), RULES, "x.part is still being uploaded"),
        (Sight("a", 0.0), Rules(1.0, require_marker=True), UNMARKED),
        (Sight("a", FUTURE, complete=True), Rules(1.0, require_marker=True), UNMARKED),
        (Sight("a", 0.0, marked=True), Rules(1.0, require_marker=True), ""),
        (Sight("a", FUTURE, marked=True), Rules(1.0, require_marker=True), WRITTEN),
        (Sight("a", FUTURE), Rules(0.0), ""),
    ],
)
def test_why_something_is_not_taken(sight: Sight, rules: Rules, reason: str) -> None:
    record = observe(None, sight, 0.0, 100.0, rules)
    assert record.reason == reason
    assert (record.accepted == "a") == (not reason)
    assert record.due == inf or reason == WRITTEN


looks = st.lists(st.tuples(st.floats(0.0, 2.0), st.sampled_from("abc"), st.booleans(), st.booleans()), max_size=30)


@given(looks)
def test_nothing_is_accepted_that_has_not_been_at_rest(steps) -> None:
    now, record, history = 0.0, None, []
    for pause, signature, complete, partial in steps:
        now += pause
        history.append((now, signature))
        sight = Sight(signature, FUTURE, complete=complete, partial="x.part" if partial else "")
        before, record = record, observe(record, sight, now, 0.0, RULES)
        if record.accepted == signature and (before is None or before.accepted != signature):
            same = []
            for then, other in reversed(history):
                if other != signature:
                    break
                same.append(then)
            assert not partial
            assert complete or now - min(same) >= RULES.settle_seconds - 1e-9  # both are sums of floats
        else:
            assert record.accepted == (before.accepted if before else None)


@given(looks)
def test_what_waits_for_time_alone_is_accepted_when_it_is_due(steps) -> None:
    now, record = 0.0, None
    for pause, signature, complete, partial in steps:
        now += pause
        record = observe(
            record, Sight(signature, FUTURE, complete=complete, partial="p" if partial else ""), now, 0.0, RULES
        )
        if record.due < inf:
            assert now < record.due <= now + RULES.settle_seconds
            assert observe(record, Sight(signature, FUTURE), record.due + 1e-6, 0.0, RULES).accepted == signature
