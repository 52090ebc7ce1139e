"""Threads that take turns at waiting for events and run the work that these bring themselves, with no hand-over.

Knows nothing of what is polled. Invariant: while fewer than `max_threads` threads are busy with work, at least one
polls. A thread that leaves the poll to run work is replaced by a parked thread, or a new one, only if it was the last
that polled; so work that does not block costs no thread switch.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from threading import Lock, Thread
from typing import Final

logger = logging.getLogger(__name__)

Work = Callable[[], None]

POLLING: Final = 2
"""Threads that poll when there is nothing to run. While one runs short work the other waits, so that nobody has to be
woken; more than that are woken in turn, only to contend for the interpreter's lock (measured: 2 beat 1 and 4)."""

PARKED_SECONDS: Final = 30.0
"""How long a thread is kept that has nothing to do."""


class PollingEnded(Exception):
    """Raised by `poll`: no event will come any more."""


class Pollers:
    """Calls `poll` from several threads, and runs the work that it returns in the thread that got it.

    Threads: the lock guards the counts and the parked threads' locks. It is never held in `poll` or in work.
    """

    def __init__(self, poll: Callable[[], Work | None], *, max_threads: int, name: str) -> None:
        """`poll` waits for one event, deals with it, and returns what may block, or None. It raises PollingEnded."""
        self._poll = poll
        self._max_threads = max_threads
        self._name = name
        self._lock = Lock()
        self._polling = 0
        self._threads = 0
        self._parked: list[Lock] = []
        self._ending = False

    @property
    def counts(self) -> tuple[int, int, int]:
        """Threads that poll, that are parked, and all."""
        with self._lock:
            return self._polling, len(self._parked), self._threads

    def start(self) -> None:
        with self._lock:
            self._succeed()

    def end(self) -> None:
        """To be called when `poll` raises PollingEnded: lets the parked threads come and see it."""
        with self._lock:
            self._ending = True
            while self._parked:
                self._succeed()

    def _run(self) -> None:
        try:
            while True:
                work = self._poll()
                if work is not None:
                    self._leave()
                    self._do(work)
                    work = None  # a parked thread would keep its last request's buffers
                    if not self._return():
                        return
        except PollingEnded:
            with self._lock:
                self._polling -= 1
                self._threads -= 1

    @staticmethod
    def _do(work: Work) -> None:
        try:
            work()
        except Exception:
            logger.exception("a call failed outside of its handler")

    def _leave(self) -> None:
        """Counts this thread out of the poll, and somebody else in if it was the last."""
        with self._lock:
            self._polling -= 1
            if not self._polling:
                self._succeed()

    def _succeed(self) -> None:
        """Makes one more thread poll, if one may. Needs the lock."""
        if self._parked:
            self._polling += 1
            self._parked.pop().release()  # the one that ran last: its memory is warm, and the others can end
        elif self._threads < self._max_threads:
            self._start_thread()

    def _start_thread(self) -> None:
        try:
            Thread(target=self._run, name=f"{self._name}-{self._threads}", daemon=True).start()
        except RuntimeError:
            logger.warning("no further thread can be started; %d serve", self._threads)
            return
        self._polling += 1
        self._threads += 1

    def _return(self) -> bool:
        """Polls again if needed, else waits to be needed. False if the thread is to end."""
        wakeup = Lock()
        with self._lock:
            if self._polling < POLLING or self._ending:
                self._polling += 1
                return True
            wakeup.acquire()
            self._parked.append(wakeup)
        if not wakeup.acquire(timeout=PARKED_SECONDS):
            with self._lock:
                if wakeup in self._parked:
                    self._parked.remove(wakeup)
                    self._threads -= 1
                    return False
        return True
