"""Triton's log settings: what may be asked of them, and what comes of it."""

from __future__ import annotations

from typing import Any

import pytest
from vintner.errors import InvalidArgument, Unsupported
from vintner.log_settings import KNOWN, LogSettings
from vintner.logs import Switches

AT_FIRST = {
    "log_file": "",
    "log_info": True,
    "log_warning": True,
    "log_error": True,
    "log_verbose_level": 0,
    "log_format": "ISO8601",
}


@pytest.fixture
def applied() -> list[Switches]:
    return []


@pytest.fixture
def settings(applied: list[Switches]) -> LogSettings:
    return LogSettings(Switches(), applied.append)


def test_asking_changes_nothing(settings: LogSettings, applied: list[Switches]) -> None:
    assert settings.update({}) == AT_FIRST
    assert settings.update({"log_file": "", "log_format": "ISO8601"}) == AT_FIRST
    assert applied == []


@pytest.mark.parametrize(
    ("changes", "switches"),
    [
        ({"log_info": False}, Switches(info=False)),
        ({"log_warning": False}, Switches(warning=False)),
        ({"log_error": False}, Switches(error=False)),
        ({"log_verbose_level": 2**32 - 1}, Switches(verbose=2**32 - 1)),
        ({"log_info": False, "log_verbose_level": 1, "log_file": ""}, Switches(info=False, verbose=1)),
    ],
)
def test_a_change_is_applied_and_told(
    settings: LogSettings, applied: list[Switches], changes: dict[str, Any], switches: Switches
) -> None:
    assert settings.update(changes) == AT_FIRST | changes
    assert applied == [switches]
    assert settings.update({}) == AT_FIRST | changes


def test_changes_add_up(settings: LogSettings, applied: list[Switches]) -> None:
    settings.update({"log_info": False})
    settings.update({"log_verbose_level": 2})
    assert settings.update({"log_info": True}) == AT_FIRST | {"log_verbose_level": 2}
    assert applied[-1] == Switches(verbose=2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"log_inf": True}, "unknown log setting 'log_inf'; did you mean 'log_info'?"),
        ({"x": 1}, "expected one of: log_error, log_file, log_format, log_info, log_verbose_level, log_warning"),
        ({"log_info": 1}, "'log_info': expected a boolean, got 1"),
        ({"log_error": "true"}, "expected a boolean, got 'true'"),
        ({"log_warning": None}, "expected a boolean, got None"),
        ({"log_verbose_level": True}, "expected an integer from 0 to 4294967295, got True"),
        ({"log_verbose_level": -1}, "got -1"),
        ({"log_verbose_level": 2**32}, "got 4294967296"),
        ({"log_verbose_level": 1.0}, "got 1.0"),
        ({"log_format": "text"}, "expected one of default, ISO8601, got 'text'"),
        ({"log_format": 1}, "expected one of"),
        ({"log_file": False}, "'log_file': expected a string, got False"),
        ({"log_info": "x" * 10_000}, "got 'xxxx"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    settings: LogSettings, applied: list[Switches], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        settings.update({"log_info": False} | changes)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 300
    assert applied == []
    assert settings.update({}) == AT_FIRST


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"log_file": "/tmp/x"}, "log_file cannot be changed: this server logs to standard error only"),
        ({"log_format": "default"}, "log_format cannot be changed"),
    ],
)
def test_what_would_have_no_effect_is_unsupported(
    settings: LogSettings, applied: list[Switches], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(Unsupported, match=message):
        settings.update({"log_info": False} | changes)
    assert applied == []
    assert settings.update({}) == AT_FIRST


def test_every_setting_is_told(settings: LogSettings) -> None:
    assert tuple(settings.update({})) == KNOWN
