"""A reload that an operator asks for: look again now, and wait until what is wanted is there.

Knows neither what is looked at nor how versions are loaded: it is given the one function that looks and hands over, and
the manager that follows. Invariant: one reload at a time, and none waits longer than `PATIENCE`.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Final

from vintner import ovms_view
from vintner.errors import ConfigError, InvalidArgument, Unavailable, VintnerError
from vintner.managed_model import IndexEntry
from vintner.manager import Manager
from vintner.model_source import Scan
from vintner.ovms_file import ConfigFileMissing

PATIENCE: Final = 300.0
"""Seconds after which a reload is answered although something still loads."""


Refresh = Callable[[], Scan]
"""Looks again, hands over to the manager what is wanted by now, and returns that. Raises ConfigError."""


class ReloadFailed(VintnerError):
    """The server's own trouble, which nothing that the client sends can mend."""


class ReloadRunning(Unavailable):
    """Another reload is not done yet."""


class Reloading:
    """Threads: any."""

    def __init__(self, manager: Manager, refresh: Refresh, patience: float = PATIENCE) -> None:
        self._manager = manager
        self._refresh = refresh
        self._patience = patience
        self._lock = Lock()

    def reload(self) -> bool:
        """Whether any version is another, or in another state, than before. What was served is served on, if it fails.

        Raises InvalidArgument if the configuration is wrong or something could not be loaded, ReloadFailed if there is
        no file to read, and ReloadRunning: whoever waited for another's reload would keep a thread from health checks.
        """
        if not self._lock.acquire(blocking=False):
            raise ReloadRunning("a reload is running already")
        try:
            before = self._state()
            wanted = self._look()
            self._manager.settled.wait(self._patience)
        finally:
            self._lock.release()
        failures = ovms_view.failures(entry for entry in self._manager.index() if _is_in(wanted, entry))
        if failures:
            raise InvalidArgument(f"Reloading models versions failed - {'; '.join(failures)}")
        return self._state() != before

    def _state(self) -> object:
        """Equal as long as the same versions, loaded once, are in the same states."""
        return [(e.name, e.version, e.state) for e in self._manager.index()], self._manager.ready()

    def _look(self) -> Scan:
        try:
            return self._refresh()
        except ConfigFileMissing as exc:
            raise ReloadFailed(f"Config file not found or cannot open - {exc}") from exc
        except ConfigError as exc:
            raise InvalidArgument(f"Reloading config file failed - {exc}") from exc


def _is_in(wanted: Scan, entry: IndexEntry) -> bool:
    """Whether an entry of the index is about something that is wanted."""
    source = wanted.models.get(entry.name)
    if source is None or not entry.version:
        return entry.name in wanted.faults
    return int(entry.version) in source.versions
