"""Stop strings, against their definition on the whole text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vintner.errors import InvalidArgument
from vintner.stop_strings import LONGEST_STOP, MOST_STOPS, StopStrings

PIECES = st.lists(st.text("abc", max_size=4), max_size=12)
STOPS = st.lists(st.text("abc", min_size=1, max_size=4), max_size=4)


def defined(text: str, stops: list[str], include: bool) -> tuple[str, str | None]:
    for end in range(len(text) + 1):
        hits = [stop for stop in stops if text[:end].endswith(stop)]
        if hits:
            hit = max(hits, key=len)
            return text[: end if include else end - len(hit)], hit
    return text, None


@given(PIECES, STOPS, st.booleans())
def test_the_text_ends_at_the_stop_string_that_is_complete_first(
    pieces: list[str], stops: list[str], include: bool
) -> None:
    cutter = StopStrings(stops, include_stop=include)
    fed = [cutter.feed(piece) for piece in pieces]
    hit = fed[-1][1] if fed else None
    emitted = "".join(text for text, _ in fed) + ("" if hit else cutter.finish())
    assert (emitted, hit) == defined("".join(pieces), stops, include)


@given(PIECES, STOPS)
def test_no_more_is_held_back_than_what_may_begin_a_stop_string(pieces: list[str], stops: list[str]) -> None:
    cutter = StopStrings(stops)
    sent = text = ""
    for piece in pieces:
        emitted, hit = cutter.feed(piece)
        if hit:
            return
        sent, text = sent + emitted, text + piece
        held = text[len(sent) :]
        assert not held or any(stop.startswith(held) for stop in stops)


def test_what_looked_like_a_stop_string_comes_in_the_end() -> None:
    cutter = StopStrings(["\nUser:"])
    assert cutter.feed("Hello\nUse") == ("Hello", None)
    assert cutter.finish() == "\nUse"
    assert cutter.finish() == ""


def test_after_a_hit_everything_is_dropped() -> None:
    cutter = StopStrings(["###"])
    assert cutter.feed("a##") == ("a", None)
    assert cutter.feed("# b ###") == ("", "###")
    assert cutter.feed("more") == ("", "###")
    assert cutter.finish() == ""


def test_without_stop_strings_nothing_waits() -> None:
    assert StopStrings([]).feed("anything") == ("anything", None)


@pytest.mark.parametrize("stops", [[""], ["a", ""], ["a" * (LONGEST_STOP + 1)], ["a"] * (MOST_STOPS + 1)])
def test_stop_strings_of_no_use_are_refused(stops: list[str]) -> None:
    with pytest.raises(InvalidArgument, match="stop"):
        StopStrings(stops)


def test_the_limits_themselves_are_allowed() -> None:
    stop = "a" * LONGEST_STOP
    assert StopStrings([stop] * MOST_STOPS).feed(stop) == ("", stop)
