"""Tokens become arrays: special tokens around them, too many cut or refused, padding on the right, groups by length."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from vintner.errors import ContextExceeded
from vintner_backends.token_batches import GROUP_TOKENS, Template, cut, groups, mask, padded, sequences

SINGLE = Template((101, -1, 102), (0, 0, 0))
PAIR = Template((101, -1, 102, -2, 102), (0, 0, 0, 1, 1))


def test_special_tokens_stand_around_one_text_and_between_two() -> None:
    ids, types = PAIR.fill([np.array([7, 8]), np.array([9])])
    assert ids.tolist() == [101, 7, 8, 102, 9, 102]
    assert types.tolist() == [0, 0, 0, 0, 1, 1]
    assert SINGLE.fill([np.array([], np.int32)])[0].tolist() == [101, 102]


@pytest.mark.parametrize(("tokens", "fits"), [(7, True), (8, True), (9, False)])
def test_a_text_of_too_many_tokens_is_refused_with_both_numbers(tokens: int, fits: bool) -> None:
    row = [np.arange(tokens - SINGLE.special)]
    if fits:
        assert sequences(SINGLE, [row], 8, truncate=False).lengths.tolist() == [tokens]
        return
    with pytest.raises(ContextExceeded, match="the text has 9 tokens, and the model takes at most 8"):
        sequences(SINGLE, [row], 8, truncate=False)


def test_a_text_that_is_cut_keeps_its_last_special_token() -> None:
    assert sequences(SINGLE, [[np.arange(50)]], 5, truncate=True).ids[0].tolist() == [101, 0, 1, 2, 102]


@pytest.mark.parametrize(
    ("first", "second", "room", "expected"),
    [(10, 3, 8, (5, 3)), (3, 10, 8, (3, 5)), (10, 10, 7, (3, 4)), (11, 10, 7, (4, 3)), (1, 10, 4, (1, 3))],
)
def test_of_two_texts_the_longer_is_cut_first(first: int, second: int, room: int, expected: tuple[int, int]) -> None:
    """The lengths are those of Hugging Face's tokenizers 0.22 with the strategy `longest_first`."""
    left = cut([np.arange(first), np.arange(second)], room)
    assert tuple(map(len, left)) == expected


@given(st.lists(st.integers(0, 600), max_size=70))
def test_each_sequence_is_in_one_group_and_groups_are_small(lengths: list[int]) -> None:
    found = list(groups(np.array(lengths, np.int64)))
    assert sorted(index for group in found for index in group.tolist()) == list(range(len(lengths)))
    for group in found:
        longest = max(max(1, lengths[index]) for index in group)
        assert len(group) == 1 or len(group) * longest <= GROUP_TOKENS


def test_sequences_of_other_lengths_are_not_padded_to_the_longest() -> None:
    found = list(groups(np.array([20] * 8 + [300])))
    assert sorted(map(len, found)) == [1, 8]


@given(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=6), min_size=1, max_size=5))
def test_the_mask_keeps_what_was_given_and_nothing_else(rows: list[list[int]]) -> None:
    arrays = [np.array(row) for row in rows]
    filled, kept = padded(arrays, 0), mask(np.array([len(row) for row in rows]))
    assert [row[keep == 1].tolist() for row, keep in zip(filled, kept, strict=True)] == rows
    assert not filled[kept == 0].any()
