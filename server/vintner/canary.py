"""Whether a version on trial does well enough to keep its share of the requests: pure, the clock is passed in.

Only what the server did counts: a request that was refused because of what it asked says nothing of the version. One
that its client gave up counts if it had taken longer than is allowed by then, because it would have been as slow.

p99 is above a bound if and only if more than one request in a hundred took longer than that. So these are counted, and
nothing has to be sorted or estimated. A single slow request is never enough.

Invariant: a trial that was lost stays lost; another configuration, or other files, make another trial.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

from vintner.model_config import CanaryConfig

FAILURES: Final = frozenset(
    {"backend", "internal", "queue_full", "queue_timeout", "unavailable", "not_ready", "deadline_exceeded"}
)
"""Outcomes that are held against a version."""

SLOTS: Final = 12
"""Parts of a window. What is older than the window leaves it a part at a time."""

SLOW_SHARE: Final = 0.01


@dataclass(slots=True)
class Counts:
    """Requests, and those of them that failed, and that took longer than the bound."""

    requests: int = 0
    failed: int = 0
    slow: int = 0

    def add(self, other: Counts, sign: int = 1) -> None:
        self.requests += sign * other.requests
        self.failed += sign * other.failed
        self.slow += sign * other.slow


class Window:
    """What was counted in the last so many seconds, to within a part of `SLOTS` of these."""

    def __init__(self, seconds: float) -> None:
        self._width = seconds / SLOTS
        self._slots: deque[tuple[int, Counts]] = deque()
        self.total = Counts()

    def add(self, counts: Counts, now: float) -> None:
        """`now` is in seconds of any clock that does not go back; of threads that pass each other, the later counts."""
        number = int(now // self._width)
        while self._slots and self._slots[0][0] <= number - SLOTS:
            self.total.add(self._slots.popleft()[1], sign=-1)
        if not self._slots or self._slots[-1][0] < number:
            self._slots.append((number, Counts()))
        self._slots[-1][1].add(counts)
        self.total.add(counts)


def judge(counts: Counts, config: CanaryConfig) -> str:
    """Why a version is not to be tried on, with the figures; empty if it is."""
    if counts.requests < config.min_requests:
        return ""
    if counts.failed > config.max_error_rate * counts.requests:
        return f"{counts.failed} of {counts.requests} requests failed, more than {100 * config.max_error_rate:g} %"
    if config.max_p99_seconds is not None and counts.slow > max(1, SLOW_SHARE * counts.requests):
        return (
            f"{counts.slow} of {counts.requests} requests took longer than {config.max_p99_seconds:g} s,"
            f" more than {100 * SLOW_SHARE:g} %"
        )
    return ""


class Trial:
    """One version under the bounds of its configuration. Not synchronised."""

    def __init__(self, config: CanaryConfig) -> None:
        self._config = config
        self._window = Window(config.window_seconds)
        self.lost = ""
        """Why the version was rolled back; empty while it is not."""

    def observe(self, outcome: str, seconds: float, now: float) -> bool:
        """Counts a request by its outcome in the metrics. True if it is the one by which the trial is lost."""
        if self.lost:
            return False
        counts = self._counts(outcome, seconds)
        if counts is None:
            return False
        self._window.add(counts, now)
        self.lost = judge(self._window.total, self._config)
        return bool(self.lost)

    def _counts(self, outcome: str, seconds: float) -> Counts | None:
        bound = self._config.max_p99_seconds
        slow = bound is not None and seconds > bound
        if outcome == "ok" or outcome in FAILURES:
            return Counts(1, int(outcome != "ok"), int(slow))
        return Counts(1, 0, 1) if outcome == "cancelled" and slow else None
