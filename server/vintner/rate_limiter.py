"""Which models may run, where they share what there is not enough of for all: units of named resources.

Pure: no threads, no locks, no clock. A run needs all units that its model claims, at once, and gives them back at its
end. Who has to wait is served by start-time fair queueing: a run's start tag is where its model's last run ended in
virtual time, at the earliest now, and a run takes 1 / weight of it. The least tag goes first, so models that always
have work run in proportion to their weights, and one that had none for a while neither saves up turns nor has lost any.
Each resource has a virtual time of its own, or models that share nothing would upset each other's proportions.

Nobody is overtaken at a resource by a later tag, so nobody starves who needs many units; and since nobody holds a part
of what it needs, there is no deadlock.

Invariant: of each resource no more units are out than there are, unless its number shrank since.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from vintner.errors import LoadError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Claim:
    """What each run of a model needs, and the model's share of the turns where others need it too."""

    resources: Mapping[str, int]
    weight: float = 1.0


class Member:
    """A model that has joined."""

    __slots__ = ("claim", "finish", "held", "parted", "waiting")

    def __init__(self, claim: Claim) -> None:
        self.claim = claim
        self.finish = 0.0
        self.held = 0
        """Runs that have their resources."""
        self.waiting = 0
        self.parted = False


@dataclass(frozen=True, slots=True, order=True)
class _Wait(Generic[T]):
    start: float
    number: int
    member: Member = field(compare=False)
    waiter: T = field(compare=False)


class RateLimiter(Generic[T]):
    """The resources, who holds them and who waits. A waiter is whatever the caller wants back when it is granted."""

    def __init__(self, capacities: Mapping[str, int] | None = None) -> None:
        """Of a resource without a capacity there are as many units as the largest claim of a member has."""
        self._given = dict(capacities or {})
        self._members: list[Member] = []
        self._capacities: dict[str, int] = {}
        self._out: dict[str, int] = {}
        self._times: dict[str, float] = {}
        self._waits: list[_Wait[T]] = []
        self._number = 0

    def capacity(self, resource: str) -> int:
        return self._given.get(resource, self._capacities.get(resource, 0))

    def out(self, resource: str) -> int:
        """Units that runs hold."""
        return self._out.get(resource, 0)

    # -- members ---------------------------------------------------------------------------------------------

    def join(self, claim: Claim) -> Member:
        """Raises LoadError if no run could ever get what it needs."""
        for name, count in claim.resources.items():
            if count > self._given.get(name, count):
                raise LoadError(f"a run needs {count} of the resource '{name}', of which there are {self._given[name]}")
        member = Member(claim)
        self._admit(member)
        return member

    def part(self, member: Member) -> None:
        """Lets go of a member, as soon as it neither waits nor runs."""
        member.parted = True
        self._let_go(member)

    def _admit(self, member: Member) -> None:
        self._members.append(member)
        self._count_capacities()

    def _let_go(self, member: Member) -> None:
        if member.parted and not member.held and not member.waiting and member in self._members:
            self._members.remove(member)
            self._count_capacities()

    def _count_capacities(self) -> None:
        self._capacities = {}
        for member in self._members:
            for name, count in member.claim.resources.items():
                self._capacities[name] = max(count, self._capacities.get(name, 0))

    # -- runs ------------------------------------------------------------------------------------------------

    def ask(self, member: Member, waiter: T) -> list[T]:
        """Asks for the resources of one run. Returns the waiters that have theirs now; this one may be among them."""
        self._queue(member, waiter)
        return self._grant()

    def give_back(self, member: Member, again: T | None = None, used: bool = True) -> list[T]:
        """Gives the resources of one run back; as `ask`.

        `again` asks for the next run before anybody else is served: a model that always has work would otherwise never
        be there when turns are given. With `used` False there was no run, and the turn does not count.
        """
        member.held -= 1
        for name, count in member.claim.resources.items():
            self._out[name] -= count
        if not used:
            member.finish -= 1 / member.claim.weight
        if again is not None:
            self._queue(member, again)
        self._let_go(member)
        return self._grant()

    def recall(self, member: Member) -> tuple[list[T], list[T]]:
        """Takes the member's waiters back. Returns them, and those of others that have their resources now."""
        recalled = [wait.waiter for wait in self._waits if wait.member is member]
        self._waits = [wait for wait in self._waits if wait.member is not member]
        member.waiting = 0
        member.finish -= len(recalled) / member.claim.weight
        self._let_go(member)
        return recalled, self._grant()

    def _queue(self, member: Member, waiter: T) -> None:
        if member not in self._members:  # it parted, and has a last one to run
            self._admit(member)
        start = max(member.finish, *(self._times.get(name, 0.0) for name in member.claim.resources))
        member.finish = start + 1 / member.claim.weight
        member.waiting += 1
        self._number += 1
        insort(self._waits, _Wait(start, self._number, member, waiter))

    def _grant(self) -> list[T]:
        """Serves who waits, in the order of their tags, leaving what the earlier ones wait for to them."""
        granted: list[T] = []
        kept: list[_Wait[T]] = []
        awaited: set[str] = set()
        for wait in self._waits:
            needs = wait.member.claim.resources
            if awaited.isdisjoint(needs) and all(self.out(name) + needs[name] <= self.capacity(name) for name in needs):
                self._hand_out(wait)
                granted.append(wait.waiter)
            else:
                awaited.update(needs)
                kept.append(wait)
        self._waits = kept
        return granted

    def _hand_out(self, wait: _Wait[T]) -> None:
        wait.member.waiting -= 1
        wait.member.held += 1
        for name, count in wait.member.claim.resources.items():
            self._out[name] = self.out(name) + count
            self._times[name] = max(self._times.get(name, 0.0), wait.start)
