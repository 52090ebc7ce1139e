"""Tells at once of changes below directories, where the system can: by watchdog, which uses inotify.

Knows no models and reads no files. Invariant: `blind` says why there is a directory of which nothing may be heard, so
that somebody looks instead.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from watchdog.events import (
    DirCreatedEvent,
    DirDeletedEvent,
    DirModifiedEvent,
    DirMovedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileModifiedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers.api import BaseObserver
from watchdog.observers.inotify import InotifyObserver

from vintner.mounts import read_mounts, silent

logger = logging.getLogger(__name__)

CHANGES: Final[list[type[FileSystemEvent]]] = [
    DirCreatedEvent,
    DirDeletedEvent,
    DirModifiedEvent,
    DirMovedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileModifiedEvent,
    FileMovedEvent,
]
"""Not that files are opened or closed, which looking does itself."""

Identity = tuple[str, int, int]
"""Of a directory: its real path, its file system and its inode."""


class Notices(FileSystemEventHandler):
    """What is heard of some directories. `wake` is called for each change, from a thread of watchdog's.

    Threads: `listen` and `stop` one at a time.
    """

    def __init__(self, wake: Callable[[], None], make_observer: Callable[[], BaseObserver] = InotifyObserver) -> None:
        self._wake = wake
        self._make_observer = make_observer
        self._observer: BaseObserver | None = None
        self._heard: Sequence[tuple[Identity | None, bool]] | None = None
        self.blind = ""

    def on_any_event(self, event: FileSystemEvent) -> None:
        self._wake()

    def listen(self, roots: Sequence[Path], leading_out: Sequence[Path]) -> None:
        """Listens to changes below `roots`, and below nothing else. Cheap where that is what it does already.

        A root that is another directory than before is listened to anew. In those of `leading_out` there are links to
        somewhere else, of which nothing is heard.
        """
        wanted = [(_identity(root), root in leading_out) for root in roots]
        if wanted == self._heard:
            return
        self.stop()
        self._heard = wanted
        reasons = (self._deafness(root, root in leading_out) for root in roots)
        blind = next(filter(None, reasons), "") or self._start(roots)
        if blind and blind != self.blind:
            logger.info("changes of the models are found by looking every few seconds: %s", blind)
        self.blind = blind

    def misses(self, roots: Sequence[Path]) -> bool:
        """Whether one of the roots is another directory than the one that is listened to. Reads no more than that."""
        return self._heard is not None and [which for which, _ in self._heard] != [_identity(root) for root in roots]

    def _deafness(self, root: Path, leads_out: bool) -> str:
        if root.is_symlink():
            return f"{root} is a link, which may be switched"
        if leads_out:
            return f"links in {root} lead out of it"
        if not os.path.exists(os.path.realpath(root)) or not os.path.samefile(root, os.path.realpath(root)):
            return f"{root} leads through another process's files, or is not there"
        if _identity(root) is None or os.path.realpath(root).startswith("/proc/"):
            return f"{root} is below /proc"
        return silent(root, read_mounts())

    def _start(self, roots: Sequence[Path]) -> str:
        """Why it cannot listen, such as that too many are watched by inotify; "" if it does."""
        observer = self._make_observer()
        try:
            observer.start()
            for root in roots:
                observer.schedule(self, os.path.realpath(root), recursive=True, event_filter=CHANGES)
            # A directory inside that could not be watched, since too many are, is passed over; one more would fail too.
            probe = observer.schedule(FileSystemEventHandler(), os.sep, event_filter=[DirDeletedEvent])
            observer.unschedule(probe)
        except (OSError, RuntimeError) as exc:
            _end(observer)
            return f"inotify cannot be used: {exc}"
        self._observer = observer
        return ""

    def stop(self) -> None:
        """Nothing is heard any more."""
        if self._observer is not None:
            _end(self._observer)
        self._observer = self._heard = None


def _end(observer: BaseObserver) -> None:
    with suppress(RuntimeError):  # it had not started
        observer.stop()
        observer.join(5)


def _identity(root: Path) -> Identity | None:
    """Which directory it is now; None if there is none."""
    try:
        status = os.stat(root)
    except OSError:
        return None
    return os.path.realpath(root), status.st_dev, status.st_ino
