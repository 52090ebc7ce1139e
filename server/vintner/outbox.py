"""What waits to be sent to one client: from the threads that make it to the one that sends it.

Knows nothing of what is sent. Invariant: what was put in before `close` is taken out once, in that order; nothing waits
for a client for ever.
"""

from __future__ import annotations

from collections import deque
from threading import Condition
from typing import Final, Generic, TypeVar

Item = TypeVar("Item")

MOST: Final = 64
"""Items that wait before those who make more wait too."""

PATIENCE: Final = 30.0
"""Seconds for which one who makes more waits, while the client takes nothing."""


class Outbox(Generic[Item]):
    """Threads: any number that put, one that takes."""

    def __init__(self, most: int = MOST, patience: float = PATIENCE) -> None:
        self._changed = Condition()
        self._items: deque[Item] = deque()
        self._most = most
        self._patience = patience
        self._taken = 0
        self.closed = False

    def put(self, item: Item) -> None:
        """At once. It is dropped if the outbox is closed."""
        with self._changed:
            if not self.closed:
                self._items.append(item)
                self._changed.notify_all()

    def wait_for_room(self) -> bool:
        """Blocks while much is waiting. False if the client takes nothing at all, or the outbox is closed."""
        with self._changed:
            while len(self._items) >= self._most and not self.closed:
                taken = self._taken
                if not self._changed.wait(self._patience) and taken == self._taken:
                    return False
            return not self.closed

    def take(self, timeout: float | None = None) -> Item | None:
        """The next item; None if there was none in time, or if the outbox is closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._items or self.closed, timeout)
            if not self._items:
                return None
            self._taken += 1
            self._changed.notify_all()
            return self._items.popleft()

    def close(self) -> None:
        """Nothing is put in any more; nobody waits any more."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()
