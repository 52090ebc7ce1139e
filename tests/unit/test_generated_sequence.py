"""From the tokens of an engine's steps to pieces of text; a token is a byte."""

from __future__ import annotations

from typing import Any

from fake_engine import FakeDecoder
from hypothesis import given
from hypothesis import strategies as st
from vintner.generated_sequence import GeneratedSequence
from vintner.generation import Progress, Sampling
from vintner.prompts import Piece
from vintner.stop_strings import StopStrings

NOBODY: Any = None
TEXT = b"one two three four"


def fed(sizes: list[int], stop: str | None) -> Piece:
    """All that is told, of steps that give so many tokens each."""
    stops = StopStrings((stop,)) if stop else None
    sequence = GeneratedSequence(NOBODY, 0, [1], Sampling(99), FakeDecoder(), stops)
    begin = 0
    for size in [*sizes, len(TEXT)]:
        part = list(TEXT[begin : begin + size])
        begin += size
        if not sequence.finish:
            sequence.feed(Progress(1, part, [-1.0 - token for token in part], "stop" if begin >= len(TEXT) else ""))
    return sequence.piece()


@given(st.lists(st.integers(0, 9), max_size=9))
def test_what_a_step_makes_beyond_a_stop_string_is_not_counted(sizes: list[int]) -> None:
    piece = fed(sizes, "two")
    assert (piece.text, piece.finish, piece.stop) == ("one ", "stop", "two")
    assert piece.tokens == len("one two")
    assert [each.token for each in piece.logprobs] == list(b"one two")


@given(st.lists(st.integers(0, 9), max_size=9), st.sampled_from([None, "five"]))
def test_however_many_tokens_a_step_gives_the_answer_is_the_same(sizes: list[int], stop: str | None) -> None:
    piece = fed(sizes, stop)
    assert (piece.text, piece.tokens, piece.finish, piece.stop) == (TEXT.decode(), len(TEXT), "stop", None)
    assert [(each.token, each.logprob) for each in piece.logprobs] == [(token, -1.0 - token) for token in TEXT]
