"""The incremental JSON automaton, against the standard library's parser."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st
from vintner.json_values import DEEPEST, SPACE, JsonValue, Reading

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
NEARLY_JSON = st.lists(
    st.sampled_from([*'{}[]:,"\\ \n-+.eE01un', "true", "false", "null", '"a"', "1.5", "\\u00e9", "é"]), max_size=12
).map("".join)


def accepted(text: str) -> bool:
    reader = JsonValue()
    rest = text[reader.take(text) :]
    if reader.state is Reading.MORE:
        reader.take(" ")  # a number ends only at the character after it
    return reader.state is Reading.DONE and not rest.strip(SPACE)


def valid(text: str) -> bool:
    try:
        json.loads(text, parse_constant=lambda literal: 1 / 0)
    except (ValueError, ZeroDivisionError):
        return False
    return True


@given(JSON, st.sampled_from([None, 2]))
def test_every_document_is_accepted(document: object, indent: int | None) -> None:
    assert accepted(json.dumps(document, indent=indent, ensure_ascii=False))
    assert accepted(json.dumps(document, indent=indent))


@given(NEARLY_JSON)
def test_it_accepts_what_the_standard_library_accepts(text: str) -> None:
    assert accepted(text) is valid(text)


@given(NEARLY_JSON, st.integers(0, 12))
def test_it_stops_at_the_same_place_in_pieces(text: str, cut: int) -> None:
    whole, parts = JsonValue(), JsonValue()
    stopped = whole.take(text)
    first = parts.take(text[:cut])
    second = parts.take(text, first) if first == len(text[:cut]) else first
    assert (second, parts.state) == (stopped, whole.state)


def test_nesting_has_a_limit() -> None:
    assert accepted("[" * DEEPEST + "]" * DEEPEST)
    assert not accepted("[" * (DEEPEST + 1) + "]" * (DEEPEST + 1))
