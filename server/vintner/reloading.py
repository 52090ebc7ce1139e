"""A reload that an operator asks for: look again now, and wait until what is wanted is there.

Knows neither what is looked at nor how versions are loaded: it is given the one function that looks and hands over, and
the manager that follows. Invariant: one reload at a time, and none waits longer than `PATIENCE`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import Final

from vintner import ovms_view
from vintner.errors import ConfigError, InvalidArgument, Unavailable, VintnerError
from vintner.manager import IndexEntry, Manager
from vintner.ovms_file import ConfigFileMissing
from vintner.repository import Scan

PATIENCE: Final = 300.0
"""Seconds after which a reload is answered although something still loads."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is wanted by now, and whether it is not what was wanted before."""

    scan: Scan
    changed: bool

    def has(self, entry: IndexEntry) -> bool:
        """Whether an entry of the index is about something that is wanted."""
        source = self.scan.models.get(entry.name)
        if source is None or not entry.version:
            return entry.name in self.scan.faults
        return int(entry.version) in source.versions


Refresh = Callable[[], Wanted]
"""Looks again, and hands over to the manager what is wanted by now. Raises ConfigError."""


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
        """Whether anything was not as before. What was served goes on being served, if it fails.

        Raises InvalidArgument if the configuration is wrong or something could not be loaded, ReloadFailed if there is
        no file to read, and ReloadRunning: whoever waited for another's reload would keep a thread from health checks.
        """
        if not self._lock.acquire(blocking=False):
            raise ReloadRunning("a reload is running already")
        try:
            wanted = self._look()
            self._manager.settled.wait(self._patience)
        finally:
            self._lock.release()
        failures = ovms_view.failures(entry for entry in self._manager.index() if wanted.has(entry))
        if failures:
            raise InvalidArgument(f"Reloading models versions failed - {'; '.join(failures)}")
        return wanted.changed

    def _look(self) -> Wanted:
        try:
            return self._refresh()
        except ConfigFileMissing as exc:
            raise ReloadFailed(f"Config file not found or cannot open - {exc}") from exc
        except ConfigError as exc:
            raise InvalidArgument(f"Reloading config file failed - {exc}") from exc
