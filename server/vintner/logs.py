"""Logging to standard error, as text for people or as JSON lines for machines.

Knows nothing of the server. Details of an event are passed as `logger.info("loaded", extra={"model": name})`.
Invariant: an event is one line; in text, the lines of a traceback follow it, indented. Whatever a client sent cannot
begin a line, nor add a field, because unprintable characters are escaped and values that need it are quoted.

Which levels are shown can change at any time, each by a switch of its own. The access log has a logger of its own,
which no switch concerns: who asked for it gets it.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from math import isfinite
from typing import Any, Final, Literal

LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["text", "json"]

STANDARD_ATTRIBUTES: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
BARE_VALUE: Final = re.compile(r"[\w.,:;/@+*%\[\]()-]+")
ACCESS: Final = "vintner.access"
"""The logger of the access log."""


@dataclass(frozen=True, slots=True)
class Switches:
    """Which levels are shown; `verbose` above 0 shows debugging."""

    info: bool = True
    warning: bool = True
    error: bool = True
    verbose: int = 0

    @classmethod
    def of(cls, level: LogLevel) -> Switches:
        """Those that show this level and all that are more severe."""
        return cls(info=level in ("debug", "info"), warning=level != "error", verbose=int(level == "debug"))

    def show(self, level: int) -> bool:
        """Whether a record of this level of `logging` is shown."""
        if level >= logging.ERROR:
            return self.error
        if level >= logging.WARNING:
            return self.warning
        return self.info if level >= logging.INFO else self.verbose > 0

    @property
    def threshold(self) -> int:
        """The least severe level that is shown."""
        levels = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR)
        return next(filter(self.show, levels), logging.CRITICAL + 1)


def configure(level: LogLevel, log_format: LogFormat) -> None:
    """Sends all logging of the process to standard error, in place of whatever was configured before.

    `level` is for Vintner's own loggers; of other libraries, only what is a warning or worse is shown.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    logging.basicConfig(handlers=[handler], force=True)
    logging.getLogger(ACCESS).setLevel(logging.INFO)
    switch(Switches.of(level))
    logging.captureWarnings(True)


def switch(switches: Switches) -> None:
    """Shows these levels from now on. To be called after `configure`. Threads: one at a time."""
    logging.root.setLevel(max(switches.threshold, logging.WARNING))
    logging.getLogger("vintner").setLevel(switches.threshold)
    for handler in logging.root.handlers:
        handler.filters = [_Shown(switches)]


class _Shown(logging.Filter):
    """Passes what the switches show, and the access log."""

    def __init__(self, switches: Switches) -> None:
        super().__init__()
        self._switches = switches

    def filter(self, record: logging.LogRecord) -> bool:
        return record.name == ACCESS or self._switches.show(record.levelno)


class TextFormatter(logging.Formatter):
    """`2026-01-31T12:00:00.000Z INFO vintner.manager: loaded model=digits version=2`."""

    def format(self, record: logging.LogRecord) -> str:
        message = escape(record.getMessage())
        pairs = [f"{key}={_quote(value)}" for key, value in _fields(record).items()]
        line = " ".join([_timestamp(record), record.levelname, f"{record.name}:", message, *pairs])
        return "\n".join([line, *("    " + escape(part) for part in _traceback_text(record).splitlines())])


class JsonFormatter(logging.Formatter):
    """One object: `time`, `level`, `logger`, `message`, the event's own fields, and `exception` if there was one."""

    def format(self, record: logging.LogRecord) -> str:
        event: dict[str, Any] = {
            "time": _timestamp(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        event |= {key: _plain(value) for key, value in _fields(record).items()}
        if traceback := _traceback_text(record):
            event["exception"] = traceback
        return json.dumps(event)


def _timestamp(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _fields(record: logging.LogRecord) -> Mapping[str, object]:
    """What the caller passed as `extra`."""
    return {key: value for key, value in vars(record).items() if key not in STANDARD_ATTRIBUTES}


def _traceback_text(record: logging.LogRecord) -> str:
    """The exception's traceback and the requested stack, or ""."""
    raised = record.exc_info and record.exc_info[0]
    exception = logging.Formatter().formatException(record.exc_info) if record.exc_info and raised else ""
    return "\n".join(filter(None, [exception, record.stack_info]))


def escape(text: str) -> str:
    r"""Makes a text fit for one line: `\n` and the like for all that is not printable, bidi controls included."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _quote(value: object) -> str:
    """A field's value in text: bare where that cannot be mistaken, else in quotes as JSON has them."""
    text = str(value)
    if type(value) is int or type(value) is float:  # most fields of the access log are
        return text
    return text if BARE_VALUE.fullmatch(text) else escape(json.dumps(text, ensure_ascii=False))


def _plain(value: object) -> bool | int | float | str | None:
    """A field's value in JSON: itself if JSON has such a thing, else its text."""
    if value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and isfinite(value)):
        return value
    return str(value)
