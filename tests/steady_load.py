"""Callers that go on calling while something is done to the servers, and what became of each call.

Knows calls as functions. Invariant: each call has one outcome, and none is under way once the block is left.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from waiting import wait_until


@dataclass(frozen=True, slots=True)
class Outcome:
    number: int
    """Of the call, in the order in which they began."""
    error: Exception | None


class SteadyLoad:
    """Threads: those that call, and the test's."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ends = threading.Event()
        self.begun = 0
        self.outcomes: list[Outcome] = []

    def run(self, call: Callable[[], object]) -> None:
        while not self._ends.is_set():
            with self._lock:
                self.begun += 1
                number = self.begun
            try:
                call()
            except Exception as exc:
                self.outcomes.append(Outcome(number, exc))
            else:
                self.outcomes.append(Outcome(number, None))

    def wait_for_more(self, calls: int = 100) -> None:
        """Until so many more have been made than were begun until now."""
        enough = self.begun + calls
        wait_until(lambda: len(self.outcomes) >= enough)

    def errors(self, after: int = 0) -> list[Exception]:
        """Of the calls that began after that one."""
        return [each.error for each in self.outcomes if each.error is not None and each.number > after]

    def end(self) -> None:
        self._ends.set()


@contextmanager
def steady_load(calls: Sequence[Callable[[], object]]) -> Iterator[SteadyLoad]:
    """Each function is called again and again by a thread of its own."""
    load = SteadyLoad()
    threads = [threading.Thread(target=load.run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    try:
        yield load
    finally:
        load.end()
        for thread in threads:
            thread.join()
