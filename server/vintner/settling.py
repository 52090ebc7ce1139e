"""Whether what is on disk has come to rest, so that it may be loaded: pure, the clocks are passed in.

Knows no files. What is followed (a version, a configuration) has a signature, equal as long as nothing changes.
Invariant: what is accepted was either complete by itself, or unchanged for as long as is asked.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from math import inf
from typing import Final

WRITTEN: Final = "its files are still being written"
UNMARKED: Final = "it has no .ready marker that is as new as its files (--require-ready-marker)"


@dataclass(frozen=True, slots=True)
class Sight:
    """What was found at one look. `newest` is when the last of it changed, in seconds of the wall clock; `complete`
    says that nothing is to come, `marked` that there is a marker. `partial` names a file that is being uploaded."""

    signature: Hashable
    newest: float
    complete: bool = False
    marked: bool = False
    partial: str = ""


@dataclass(frozen=True, slots=True)
class Rules:
    """`settle_seconds` is for how long nothing may change."""

    settle_seconds: float
    require_marker: bool = False


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of something: the signature that was `accepted` last (None: none was), the one `seen` last, and
    `since` when; for one that is not accepted yet the `reason`, and when it can be, at the earliest, if nothing changes
    (`due`). Both times are of the monotonic clock."""

    accepted: Hashable | None
    seen: Hashable
    since: float
    reason: str = ""
    due: float = inf


def accept(sight: Sight, now: float) -> Record:
    """Takes what is there, whatever state it is in."""
    return Record(sight.signature, sight.signature, now)


def observe(before: Record | None, sight: Sight, now: float, wall: float | None, rules: Rules) -> Record:
    """What is known after another look.

    `now` is of a clock that only goes forward. `wall` is the clock that the files' times come from, None if that is not
    known: then only what is observed counts, and so it does for times that lie in the future.
    """
    accepted = before.accepted if before else None
    if before and before.accepted == sight.signature:
        return before if before.seen == before.accepted and not before.reason else accept(sight, now)
    since = before.since if before and before.seen == sight.signature else now
    if sight.partial:
        return Record(accepted, sight.signature, since, f"{sight.partial} is still being uploaded")
    if rules.require_marker and not sight.marked:
        return Record(accepted, sight.signature, since, UNMARKED)
    due = now if sight.complete else now + _left(sight, now - since, wall, rules.settle_seconds)
    if due <= now:
        return accept(sight, now)
    return Record(accepted, sight.signature, since, WRITTEN, due)


def _left(sight: Sight, observed: float, wall: float | None, settle_seconds: float) -> float:
    """For how much longer nothing may change."""
    age = wall - sight.newest if wall is not None else -inf
    return settle_seconds - (max(age, observed) if age >= 0 else observed)
