"""What waits to be sent to one client: from the threads that make it to the one that sends it.

Knows nothing of what is sent. Invariant: what was put in before `close` is taken out once, in that order; nothing waits
for a client for ever.

An item's way is a queue that is written in C: with a condition, which makes a lock for each wait, a message of a stream
took 6 % longer (measured).
"""

from __future__ import annotations

from queue import Empty, SimpleQueue
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
        self._items: SimpleQueue[Item | None] = SimpleQueue()  # None is the end
        self._most = most
        self._patience = patience
        self._room = Condition()
        self._waiting = 0  # for room
        self._taken = 0
        self.closed = False

    def put(self, item: Item) -> None:
        """At once. It is dropped if the outbox is closed."""
        if not self.closed:
            self._items.put(item)

    def has_room(self) -> bool:
        """Whether little is waiting."""
        return self._items.qsize() < self._most

    def wait_for_room(self) -> bool:
        """Blocks while much is waiting. False if the client takes nothing at all, or the outbox is closed."""
        if self.has_room():
            return not self.closed
        with self._room:
            self._waiting += 1  # before it is looked again: who takes looks in the other order
            try:
                while not self.has_room() and not self.closed:
                    taken = self._taken
                    if not self._room.wait(self._patience) and taken == self._taken:
                        return False
            finally:
                self._waiting -= 1
        return not self.closed

    def take(self, timeout: float | None = None) -> Item | None:
        """The next item; None if there was none in time, or if the outbox is closed and empty."""
        try:
            item = self._items.get(timeout=timeout)
        except Empty:
            return None
        if item is None:
            self._items.put(None)  # it stays at its end
            return None
        self._taken += 1
        if self._waiting:
            with self._room:
                self._room.notify_all()
        return item

    def close(self) -> None:
        """Nothing is put in any more; nobody waits any more."""
        self.closed = True
        self._items.put(None)
        with self._room:
            self._room.notify_all()
