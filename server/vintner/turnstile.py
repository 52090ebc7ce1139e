"""Where a model's turns get the resources of their runs: the rate limiter behind a lock, and who is told of a grant.

Knows nothing of queues and instances. A turn that does not get its resources at once is kept here, costs no thread, and
is passed on to a worker by whoever gives back what it waits for.

Invariant: a turn that entered leaves once; one that waits is granted or recalled, once. The lock is held while nothing
is called but the limiter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Any, Generic, Protocol, TypeVar

from vintner.rate_limiter import Claim, Member, RateLimiter


class Waiter(Protocol):
    """A turn. `granted` says that it has the resources of its next run."""

    granted: bool

    def pass_on(self) -> None:
        """Has it run by another thread."""
        ...


TurnT = TypeVar("TurnT", bound=Waiter)


class Turnstile(Generic[TurnT]):
    """A model's way to the resources. Threads: any."""

    def __init__(self, limiter: RateLimiter[Any], lock: Lock, member: Member) -> None:
        self._limiter = limiter
        self._lock = lock
        self._member = member

    @property
    def waiting(self) -> int:
        """Turns that wait for resources."""
        return self._member.waiting

    def enter(self, turn: TurnT) -> bool:
        """Whether the turn has its resources. If not, it is passed on once it has; the caller is done with it."""
        if turn.granted:
            return True
        with self._lock:
            granted = self._limiter.ask(self._member, turn)
            turn_is_in = _mark(granted, turn)
        _pass_on(granted, turn)
        return turn_is_in

    def leave(self, again: TurnT | None = None, used: bool = True) -> bool:
        """Gives back what one run had, before its answers are sent.

        `again` is a turn that has more to run, and competes with those that wait: True if it has its resources, and is
        the caller's to run; else it is passed on once it has. With `used` False there was no run.
        """
        with self._lock:
            granted = self._limiter.give_back(self._member, again, used)
            again_is_in = _mark(granted, again)
        _pass_on(granted, again)
        return again_is_in

    def recall(self) -> Sequence[TurnT]:
        """Takes back the model's turns that wait, when there is nothing left for them to run."""
        with self._lock:
            recalled, granted = self._limiter.recall(self._member)
            _mark(granted)
        _pass_on(granted)
        return recalled

    def close(self) -> None:
        """The model is unloaded. What it still runs leaves as usual."""
        with self._lock:
            self._limiter.part(self._member)


class Turnstiles:
    """The turnstiles of a server, which share its resources."""

    def __init__(self, capacities: Mapping[str, int] | None = None) -> None:
        self._limiter: RateLimiter[Any] = RateLimiter(capacities)
        self._lock = Lock()

    def open(self, claim: Claim) -> Turnstile[Any]:
        """Raises LoadError if the claim is for more than there is."""
        with self._lock:
            return Turnstile(self._limiter, self._lock, self._limiter.join(claim))


def _mark(granted: Sequence[Waiter], own: Waiter | None = None) -> bool:
    """Marks the turns. Whether `own` is among them. Under the lock: as soon as it is free, a turn may be run."""
    for turn in granted:
        turn.granted = True
    return own in granted


def _pass_on(granted: Sequence[Waiter], own: Waiter | None = None) -> None:
    for turn in granted:
        if turn is not own:
            turn.pass_on()
