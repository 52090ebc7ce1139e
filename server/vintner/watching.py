"""Watches the model repository: looks when something may have changed, and hands on what it finds if that is new.

Knows nothing of files or of what becomes of a scan. Invariant: scans are handed on in the order in which they were
made, and one that fails is none: what was there stays.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from math import inf
from threading import Event, Lock, Thread

from vintner.errors import OperatorError
from vintner.model_source import Scan
from vintner.notices import Notices
from vintner.tracking import Repository

logger = logging.getLogger(__name__)

SPACING = 0.1
"""Seconds between two looks, however much is heard meanwhile: a large copy is thousands of changes."""
REST = 4
"""Times that a look took before the next: a look at 1,000 models takes 50 ms, of a core that serves them."""
STOP_SECONDS = 5.0
SAFETY_SECONDS = 30.0
"""How often to look where every change ought to be heard of."""


class Watcher:
    """Follows a repository in a thread of its own. `hand_on` gets each scan that differs from the one before it, from
    one thread at a time; it must be quick.

    Where changes are not heard of, it looks every `poll_seconds`.
    """

    def __init__(
        self,
        repository: Repository,
        hand_on: Callable[[Scan], None],
        *,
        poll_seconds: float = 2.0,
        safety_seconds: float = SAFETY_SECONDS,
        make_notices: Callable[[Callable[[], None]], Notices] = Notices,
    ) -> None:
        self._repository = repository
        self._hand_on = hand_on
        self._poll_seconds = poll_seconds
        self._safety_seconds = max(safety_seconds, poll_seconds)
        self._woken = Event()
        self._stopped = Event()
        self._lock = Lock()
        """Held during a look and the handing on."""
        self._notices = make_notices(self._woken.set)
        self._last: Scan | None = None
        self._trouble = ""
        self._thread = Thread(target=self._run, name="vintner-watch", daemon=True)

    def start(self) -> None:
        """Takes a first look, in the caller's thread, and watches from then on. Raises ConfigError for a repository
        that cannot be read, and then does not watch."""
        self._listen()  # before the look, so that no change falls between the two
        self._look(settle=True)
        self._thread.start()

    def refresh(self) -> Scan:
        """Looks now, waits for nothing to rest, and hands on what there is, whether it is new or not. Raises
        ConfigError for a repository that cannot be read. Threads: any."""
        return self._look(settle=False)

    def stop(self) -> None:
        """Nothing is handed on after this, except by `refresh`."""
        self._stopped.set()
        self._woken.set()
        if self._thread.is_alive():
            self._thread.join(STOP_SECONDS)  # it may look at a file system that hangs
        self._notices.stop()

    def _run(self) -> None:
        while not self._stopped.is_set():
            self._await_change()
            if self._stopped.is_set():
                return
            self._woken.clear()  # before the look: what changes while it looks wakes it again
            began = time.monotonic()
            self._try()
            self._stopped.wait(_pause(time.monotonic() - began))

    def _await_change(self) -> None:
        """Until there may be something to see. Of a root that is renamed nothing is heard, so that is asked for."""
        until = time.monotonic() + self._patience(time.monotonic())
        while not self._woken.wait(min(self._poll_seconds, max(0.0, until - time.monotonic()))):
            if time.monotonic() >= until or self._notices.misses(self._repository.roots):
                return

    def _patience(self, now: float) -> float:
        period = (
            self._poll_seconds
            if self._notices.blind or self._repository.has_given or self._trouble
            else self._safety_seconds
        )
        due = self._repository.due
        return max(0.0, min(period, due - now)) if due < inf else period

    def _try(self) -> None:
        try:
            self._listen()
            self._look(settle=True)
        except Exception as exc:
            trouble = str(exc) or type(exc).__name__
            if trouble != self._trouble:
                logger.error("models stay as they were: %s", trouble, exc_info=not isinstance(exc, OperatorError))
            self._trouble = trouble
        else:
            if self._trouble:
                logger.info("the model repository can be read again")
            self._trouble = ""

    def _listen(self) -> None:
        self._notices.listen(self._repository.roots, self._repository.leads_out)

    def _look(self, settle: bool) -> Scan:
        with self._lock:
            scan = self._repository.scan(time.monotonic(), settle)
            if scan != self._last or not settle:
                self._last = scan
                self._hand_on(scan)
            return scan


def _pause(took: float) -> float:
    """Seconds to the next look after one that took so long, however much is heard meanwhile."""
    return max(SPACING, REST * took)
