"""Gives answers in the order in which their requests arrived, whatever the order in which they were run.

Invariant: a call that ran is answered after every call that was queued before it; one that leaves the queue without a
run (refused, expired, cancelled) holds up nobody.
"""

from __future__ import annotations

from collections import deque
from threading import Lock

from vintner.call import Call, answer


class AnswerOrder:
    """The calls of one model whose answers are still to come. Threads: any."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._calls: deque[Call] = deque()
        self._answering = False  # a thread is at it: it takes along what others add

    def expect(self, call: Call) -> None:
        """Notes a call that has just been queued."""
        with self._lock:
            self._calls.append(call)

    def leave(self, call: Call) -> None:
        """Forgets a call that is answered without a run."""
        with self._lock:
            if call in self._calls:
                self._calls.remove(call)

    def answer(self) -> None:
        """Answers every call that is done and has none before it that is not."""
        with self._lock:
            if self._answering:
                return
            self._answering = True
        while ready := self._ready():
            answer(ready)

    def _ready(self) -> list[Call]:
        ready: list[Call] = []
        with self._lock:
            while self._calls and self._calls[0].state == "done":
                ready.append(self._calls.popleft())
            self._answering = bool(ready)
        return ready
