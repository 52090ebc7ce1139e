"""One thread that takes events as they come and runs the work that these bring itself, several at a time.

Knows nothing of what is polled. An event may bring a turn, work that is worth putting off until the other events that
are there have been taken: so requests that arrived together are run together, and their answers leave together. One
thread, because two that share an interpreter spend more on each other than they gain (measured: a second one that
polls during the work of the first costs a quarter of the throughput of a tiny model).

Work that is not expected to be brief is passed on to another thread. If brief work does not come back, another thread
takes the poller's place, and the late one leaves when it does.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from threading import Lock, Thread
from typing import Final, Protocol

logger = logging.getLogger(__name__)

GATHERING: Final = 5e-3
"""Seconds for which events are taken at most before the work that they brought is run."""

LATE: Final = 0.05
"""Seconds after which work that was expected to be brief is not waited for any more; twice that at most."""


class PollingEnded(Exception):
    """Raised by `poll`: no event will come any more."""


class NothingReady(Exception):
    """Raised by `poll` when it was not to wait."""


class Turn(Protocol):
    """Work in steps. It has to be run to its end by whoever got it, or passed on."""

    @property
    def brief(self) -> bool: ...

    def step(self) -> bool:
        """Does a part. True if there is more to do."""

    def pass_on(self) -> None:
        """Lets another thread do it."""


Poll = Callable[[bool], Turn | None]
"""Takes one event and deals with it; returns what is to be run after. With True it waits for an event; with False it
raises NothingReady if there is none. Raises PollingEnded at the end."""


class Poller:
    """Polls until `poll` says that it is over.

    Threads: `_current` is the one that polls. Its successor, if it is late, is started by the watchman, who sleeps
    while nothing is run. The lock guards who polls and whether it works: a thread is superseded only while it works.
    """

    def __init__(self, poll: Poll, *, name: str) -> None:
        self._poll = poll
        self._name = name
        self._turns: deque[Turn] = deque()
        self._lock = Lock()
        self._current: object = None
        self._steps = 0
        self._working = False
        self._asleep = False  # the watchman
        self._wake = Lock()
        self._wake.acquire()
        self._ended = False

    def start(self) -> None:
        self._current = me = object()
        Thread(target=self._watch, name=f"{self._name}-watch", daemon=True).start()
        self._start(me)

    def _start(self, me: object) -> None:
        Thread(target=self._run, args=(me,), name=self._name, daemon=True).start()

    def _run(self, me: object) -> None:
        try:
            while self._current is me:
                self._gather()
                self._work(me)
        except PollingEnded:
            while self._turns:
                self._turns.popleft().pass_on()
            self._ended = True
            self._rouse()

    def _gather(self) -> None:
        """Takes the events that are there, and waits for one if there is nothing else to do."""
        until = time.monotonic() + GATHERING if self._turns else math.inf
        while time.monotonic() < until:
            try:
                turn = self._poll(not self._turns)
            except NothingReady:
                return
            if turn is None:
                continue
            if not turn.brief:
                turn.pass_on()
                continue
            self._turns.append(turn)
            until = min(until, time.monotonic() + GATHERING)

    def _work(self, me: object) -> None:
        """A step of each turn."""
        for _ in range(len(self._turns)):
            turn = self._turns.popleft()
            if not turn.brief:
                turn.pass_on()
                continue
            with self._lock:
                self._steps += 1
                self._working = True
            if self._asleep:
                self._rouse()
            more = False
            try:
                more = turn.step()
            except BaseException:  # whatever it is, it must not end the only thread that polls
                logger.exception("work failed")
            with self._lock:
                superseded = self._current is not me
                if not superseded:
                    self._working = False
            if superseded:
                if more:
                    turn.pass_on()
                return
            if more:
                self._turns.append(turn)

    # -- the watchman ----------------------------------------------------------------------------------------

    def _rouse(self) -> None:
        self._asleep = False
        with suppress(RuntimeError):  # somebody else did
            self._wake.release()

    def _watch(self) -> None:
        seen = 0
        while not self._ended:
            if not self._working and self._steps == seen:
                self._asleep = True
                if not self._working and not self._ended:  # looked at again, for the poller looks in the other order
                    self._wake.acquire()
                self._asleep = False
            seen = self._steps
            time.sleep(LATE)
            self._succeed(seen)

    def _succeed(self, seen: int) -> None:
        """Lets another thread poll if the step of this number is still under way."""
        with self._lock:
            if not self._working or self._steps != seen:
                return
            late, self._current = self._current, object()
            try:
                self._start(self._current)
            except RuntimeError as exc:
                self._current = late
                logger.warning("brief work takes long, and no other thread can be started to poll: %s", exc)
                return
            self._working = False
        logger.info("brief work takes long: another thread polls")
