"""Parameters of requests to the OpenAI API are read, or refused by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from vintner.errors import InvalidArgument, Unsupported
from vintner.openai_request import Parameters, shown


@pytest.mark.parametrize(
    ("given", "read", "expected"),
    [
        ("x", lambda p: p.text("a"), "x"),
        (None, lambda p: p.text("a"), None),
        (None, lambda p: p.text("a", "d"), "d"),
        ("x", lambda p: p.required("a"), "x"),
        (True, lambda p: p.flag("a"), True),
        (None, lambda p: p.flag("a", True), True),
        (3, lambda p: p.whole("a", 1), 3),
        (3.0, lambda p: p.whole("a", 1, 3), 3),
        (None, lambda p: p.whole("a", 1), None),
        (3, lambda p: p.number("a"), 3.0),
        (None, lambda p: p.number("a"), None),
        ("x", lambda p: p.strings("a"), ("x",)),
        (["x", "y"], lambda p: p.strings("a"), ("x", "y")),
        (None, lambda p: p.strings("a"), ()),
        ([1, 2], lambda p: p.whole_numbers("a"), (1, 2)),
        ("x", lambda p: p.choice("a", ("x", "y"), "y"), "x"),
        (None, lambda p: p.choice("a", ("x", "y"), "y"), "y"),
    ],
)
def test_a_parameter_is_read(given: Any, read: Callable[[Parameters], Any], expected: Any) -> None:
    parameters = Parameters({"a": given})
    assert read(parameters) == expected
    parameters.finish()


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (1, lambda p: p.text("a")),
        (None, lambda p: p.required("a")),
        ("", lambda p: p.required("a")),
        (1, lambda p: p.flag("a")),
        (True, lambda p: p.whole("a", 0)),
        (0, lambda p: p.whole("a", 1)),
        (4, lambda p: p.whole("a", 1, 3)),
        (1.5, lambda p: p.whole("a", 1)),
        (float("nan"), lambda p: p.whole("a", 1)),
        (float("nan"), lambda p: p.number("a")),
        (True, lambda p: p.number("a")),
        ([1], lambda p: p.strings("a")),
        ({}, lambda p: p.strings("a")),
        ([True], lambda p: p.whole_numbers("a")),
        (["x"], lambda p: p.choice("a", ("x",), "x")),
        ([], lambda p: p.inner("a")),
    ],
)
def test_what_is_not_expected_is_refused_by_name(given: Any, read: Callable[[Parameters], Any]) -> None:
    with pytest.raises(InvalidArgument, match="'a'") as caught:
        read(Parameters({"a": given}))
    assert caught.value.param == "a"


def test_an_inner_object_says_where_it_is() -> None:
    parameters = Parameters({"options": {"flags": True}})
    inner = parameters.inner("options")
    assert inner is not None
    inner.flag("flag")
    with pytest.raises(InvalidArgument, match=r"unknown parameter 'options.flags'; did you mean 'flag'\?") as caught:
        inner.finish()
    assert caught.value.param == "options.flags"


def test_what_is_not_there_here_is_refused_unless_it_asks_for_nothing() -> None:
    neutral = {"best_of": (1,), "store": (False,)}
    Parameters({"best_of": 1, "store": False, "other": None}).finish(neutral)
    for name, value in (("best_of", 2), ("best_of", True), ("store", 0)):
        with pytest.raises(Unsupported, match=f"'{name}' is not supported") as caught:
            Parameters({name: value}).finish(neutral)
        assert caught.value.param == name


class Unwritten(int):
    """A number that may not be written."""

    def __repr__(self) -> str:
        raise AssertionError


@pytest.mark.parametrize(
    "value", [None, 1.5, "a'b", [1, [2, {"a": "b"}], []], {"a": {"b": [None] * 50}}, ["x" * 99] * 99, "x" * 200]
)
def test_what_was_got_is_shown_as_it_begins(value: Any) -> None:
    assert shown(value) == f"{value!r:.100}"


def test_no_more_is_looked_at_than_is_shown() -> None:
    assert len(shown([0] * 100 + [Unwritten(1)])) == 100
    assert len(shown([[0, 1]] * 100 + [Unwritten(1)])) == 100
    assert len(shown({str(place): place if place < 100 else Unwritten(1) for place in range(200)})) == 100
    assert len(shown("x" * 10**6)) == 100
