"""What logging writes, and that nobody can forge a line of it."""

from __future__ import annotations

import json
import logging
import re
import sys
import warnings
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vintner.logs import ACCESS, JsonFormatter, LogFormat, LogLevel, Switches, TextFormatter, configure, escape, switch

HOSTILE = "x\n2026-01-01T00:00:00.000Z ERROR vintner: forged\r\x1b[31m\x85\u2028\u202e"


@pytest.fixture(autouse=True)
def restored_logging(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keeps pytest's own handlers away from `configure`, which closes those that it replaces."""
    ours = logging.getLogger("vintner")
    levels = logging.root.level, ours.level
    monkeypatch.setattr(logging.root, "handlers", [])
    yield
    logging.captureWarnings(False)
    logging.root.setLevel(levels[0])
    ours.setLevel(levels[1])


def record(message: str, *arguments: object, **more: Any) -> logging.LogRecord:
    made = logging.LogRecord("vintner.manager", logging.WARNING, __file__, 1, message, arguments, None)
    vars(made).update(more)
    return made


def failure(text: str) -> Any:
    try:
        raise RuntimeError(text)
    except RuntimeError:
        return sys.exc_info()


def test_text_has_time_level_logger_message_and_fields() -> None:
    line = TextFormatter().format(record("loaded %s", "digits", created=0.25, version=2, device="CPU", seconds=0.5))
    expected = "WARNING vintner.manager: loaded digits version=2 device=CPU seconds=0.5"
    assert line == f"1970-01-01T00:00:00.250Z {expected}"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("digits/1", "digits/1"),
        ("", '""'),
        ("a b", '"a b"'),
        ("x outcome=ok", '"x outcome=ok"'),
        ("a=b", '"a=b"'),
        ('"', r'"\""'),
        ("a\nb", r'"a\nb"'),
        ("\u2028", r'"\u2028"'),
        ("größe", "größe"),
        (None, "None"),
    ],
)
def test_a_field_in_text_is_quoted_where_it_could_be_mistaken(value: object, shown: str) -> None:
    assert TextFormatter().format(record("event", field=value)).endswith(f"event field={shown}")


def test_json_is_an_object_with_the_fields_of_the_event() -> None:
    line = JsonFormatter().format(
        record("loaded %s", "digits", created=0.25, version=2, ratio=float("nan"), ok=True, shape=[1, 2], reason=None)
    )
    assert json.loads(line, parse_constant=pytest.fail) == {
        "time": "1970-01-01T00:00:00.250Z",
        "level": "warning",
        "logger": "vintner.manager",
        "message": "loaded digits",
        "version": 2,
        "ratio": "nan",
        "ok": True,
        "shape": "[1, 2]",
        "reason": None,
    }


def test_a_traceback_in_text_is_indented_lines() -> None:
    lines = TextFormatter().format(record("failed", exc_info=failure(HOSTILE))).splitlines()
    assert lines[0].endswith("vintner.manager: failed")
    assert lines[1] == "    Traceback (most recent call last):"
    assert any("RuntimeError: x" in line for line in lines)
    assert all(line.startswith("    ") and line.isprintable() for line in lines[1:])


def test_a_traceback_in_json_is_a_field() -> None:
    line = JsonFormatter().format(record("failed", exc_info=failure(HOSTILE)))
    assert line.isprintable()
    exception = json.loads(line)["exception"]
    assert exception.startswith("Traceback (most recent call last):\n")
    assert exception.endswith(f"RuntimeError: {HOSTILE}")


def test_a_stack_that_was_asked_for_is_shown() -> None:
    assert TextFormatter().format(record("here", stack_info="Stack:\n  line")).endswith("here\n    Stack:\n      line")
    assert json.loads(JsonFormatter().format(record("here", stack_info="Stack")))["exception"] == "Stack"


def test_exc_info_without_an_exception_adds_nothing() -> None:
    nothing = (None, None, None)
    assert "exception" not in json.loads(JsonFormatter().format(record("fine", exc_info=nothing)))
    assert TextFormatter().format(record("fine", exc_info=nothing)).endswith("fine")


@given(st.text(), st.text())
def test_whatever_a_client_sends_an_event_is_one_printable_line(name: str, value: str) -> None:
    event = record("request for %s", name, value=value)
    for formatter in TextFormatter(), JsonFormatter():
        assert formatter.format(event).isprintable()
    assert json.loads(JsonFormatter().format(event))["value"] == value


@given(st.text())
def test_a_field_cannot_add_another_field(value: str) -> None:
    line = TextFormatter().format(record("event", field=value, last="end"))
    pairs = re.fullmatch(r'.*: event field=(?P<value>"(?:[^"\\]|\\.)*"|[^\s"=]+) last=end', line)
    assert pairs is not None


@given(st.text())
def test_a_printable_text_stays_as_it_is(text: str) -> None:
    assert escape(text).isprintable()
    assert (escape(text) == text) == text.isprintable()


@pytest.mark.parametrize(
    ("level", "shown"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_the_level_decides_what_is_shown(level: LogLevel, shown: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    configure(level, "json")
    for name in "debug", "info", "warning", "error":
        getattr(logging.getLogger("vintner.x"), name)("event")
    assert [json.loads(line)["level"] for line in capsys.readouterr().err.splitlines()] == shown


@pytest.mark.parametrize(
    ("switches", "shown"),
    [
        (Switches(), ["info", "warning", "error"]),
        (Switches(verbose=3), ["debug", "info", "warning", "error"]),
        (Switches(info=False), ["warning", "error"]),
        (Switches(info=False, verbose=1), ["debug", "warning", "error"]),
        (Switches(warning=False), ["info", "error"]),
        (Switches(error=False), ["info", "warning"]),
        (Switches(info=False, warning=False, error=False), []),
    ],
)
def test_each_switch_is_for_its_own_level(
    switches: Switches, shown: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    configure("error", "json")
    switch(Switches(verbose=1))
    switch(switches)
    for name in ("vintner.x", "granian"):
        for level in ("debug", "info", "warning", "error"):
            getattr(logging.getLogger(name), level)("event")
    logging.getLogger("vintner.x").critical("event")
    logging.getLogger(ACCESS).info("asked for")
    events = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [event["level"] for event in events if event["logger"] == "granian"] == [
        level for level in shown if level in ("warning", "error")
    ]
    critical = ["critical"] if switches.error else []
    assert [event["level"] for event in events if event["logger"] == "vintner.x"] == shown + critical
    assert events[-1]["message"] == "asked for"


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_what_is_not_shown_is_not_even_made(level: LogLevel) -> None:
    configure("debug", "json")
    switch(Switches.of(level))
    for name in ("debug", "info", "warning", "error"):
        number = logging.getLevelNamesMapping()[name.upper()]
        assert logging.getLogger("vintner.x").isEnabledFor(number) == Switches.of(level).show(number)


def test_other_libraries_are_heard_from_warnings_on(capsys: pytest.CaptureFixture[str]) -> None:
    configure("debug", "json")
    logging.getLogger("granian").info("chatter")
    logging.getLogger("granian").warning("matter")
    assert [json.loads(line)["message"] for line in capsys.readouterr().err.splitlines()] == ["matter"]


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_second_configuration_replaces_the_first(log_format: LogFormat, capsys: pytest.CaptureFixture[str]) -> None:
    configure("debug", "text" if log_format == "json" else "json")
    configure("info", log_format)
    logging.getLogger("vintner").info("once")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("{") == (log_format == "json")


def test_the_time_of_an_event_is_utc(capsys: pytest.CaptureFixture[str]) -> None:
    configure("info", "text")
    logging.getLogger("vintner").info("now", extra={"model": "digits"})
    line = capsys.readouterr().err
    assert line.endswith("Z INFO vintner: now model=digits\n")
    assert datetime.fromisoformat(line.split()[0]).utcoffset() is not None


def test_python_warnings_are_log_lines_too(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        configure("info", "json")
        warnings.warn("old\nthing", stacklevel=1)
    event = json.loads(capsys.readouterr().err)
    assert event["logger"] == "py.warnings"
    assert "old\nthing" in event["message"]
