"""What Triton's log settings are here, and how they change while the server runs.

Knows the settings and what may be asked of them; `logs.Switches` has the effect. Invariant: a request changes all that
it asks for, or nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from threading import Lock
from typing import Any, Final

from vintner.errors import InvalidArgument, Unsupported, nearest
from vintner.logs import Switches

Setting = bool | int | str

LARGEST: Final = 2**32 - 1
FORMATS: Final = ("default", "ISO8601")
READ_ONLY: Final[Mapping[str, Setting]] = {"log_file": "", "log_format": "ISO8601"}
"""Logs go to standard error, with times as ISO 8601 has them."""

SWITCHES: Final[Mapping[str, str]] = {
    "log_info": "info",
    "log_warning": "warning",
    "log_error": "error",
    "log_verbose_level": "verbose",
}
"""Setting -> the field of `Switches`."""

KNOWN: Final = ("log_file", "log_info", "log_warning", "log_error", "log_verbose_level", "log_format")


class LogSettings:
    """The settings of a server. Threads: any."""

    def __init__(self, switches: Switches, apply: Callable[[Switches], None]) -> None:
        """`switches` are those that hold already; `apply` is called with those that are to."""
        self._switches = switches
        self._apply = apply
        self._lock = Lock()

    def update(self, changes: Mapping[str, object]) -> Mapping[str, Setting]:
        """Makes the changes and returns what holds then, each setting with a value of its type.

        Raises InvalidArgument for an unknown setting or a value of another type, Unsupported for what cannot change.
        """
        wanted: dict[str, Any] = {}
        for name, value in changes.items():
            checked = _checked(name, value)
            if name in SWITCHES:
                wanted[SWITCHES[name]] = checked
        with self._lock:
            if wanted:
                self._switches = replace(self._switches, **wanted)
                self._apply(self._switches)
            held = self._switches
        return {name: getattr(held, SWITCHES[name]) if name in SWITCHES else READ_ONLY[name] for name in KNOWN}


def _checked(name: str, value: object) -> Setting:
    if name not in KNOWN:
        raise InvalidArgument(f"unknown log setting '{name}'{nearest(name, KNOWN)}")
    if name == "log_verbose_level":
        if type(value) is not int or not 0 <= value <= LARGEST:
            raise _wrong(name, f"an integer from 0 to {LARGEST}", value)
        return value
    if name in SWITCHES:
        if type(value) is not bool:
            raise _wrong(name, "a boolean", value)
        return value
    return _unchanged(name, value)


def _unchanged(name: str, value: object) -> str:
    if type(value) is not str or (name == "log_format" and value not in FORMATS):
        raise _wrong(name, "a string" if name == "log_file" else f"one of {', '.join(FORMATS)}", value)
    if value == READ_ONLY[name]:
        return value
    if name == "log_file":
        raise Unsupported("log_file cannot be changed: this server logs to standard error only")
    raise Unsupported("log_format cannot be changed: the times in this server's log are as ISO 8601 has them")


def _wrong(name: str, expected: str, value: object) -> InvalidArgument:
    return InvalidArgument(f"log setting '{name}': expected {expected}, got {value!r:.60}")
