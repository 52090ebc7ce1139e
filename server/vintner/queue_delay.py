"""Whether an idle instance should wait for more requests, and until when.

Pure; the clock is passed in. A delay is only ever a ceiling here. With n rows waiting, running at once costs whoever
comes next a run of its own, behind this one; waiting for it costs all n the time until it comes. With runs that take
`fixed + each * rows` seconds and a request every `gap`, the sum of all latencies is less with waiting if

    (n + 1) * (gap + each) < fixed + each

So it pays where requests are frequent beside the fixed cost of a run, and for the first few of a batch only. Both sides
are measured. A request that does not come when it was expected ends the waiting: a rate that falls is noticed at once.
"""

from __future__ import annotations

import math
from typing import Final

from vintner.batching import Reason

WEIGHT: Final = 0.1
"""Of the newest arrival and the newest run in the means."""


class RunCost:
    """A line through measured runs: seconds by rows, by least squares over the recent ones."""

    def __init__(self) -> None:
        self._runs = 0
        self._rows = self._seconds = self._rows_rows = self._rows_seconds = 0.0

    def ran(self, rows: int, seconds: float) -> None:
        self._runs += 1
        weight = max(WEIGHT, 1 / self._runs)
        self._rows += weight * (rows - self._rows)
        self._seconds += weight * (seconds - self._seconds)
        self._rows_rows += weight * (rows * rows - self._rows_rows)
        self._rows_seconds += weight * (rows * seconds - self._rows_seconds)

    @property
    def each(self) -> float:
        """Seconds by which a row makes a run longer; 0 as long as all runs had as many rows."""
        spread = self._rows_rows - self._rows * self._rows
        if spread < 1e-6:
            return 0.0
        return max(0.0, (self._rows_seconds - self._rows * self._seconds) / spread)

    @property
    def fixed(self) -> float:
        """Seconds of a run that do not depend on its rows."""
        return max(0.0, self._seconds - self.each * self._rows)


class QueueDelay:
    """The delay of one model: at most `longest` seconds, for at most `rows`. Guarded by its owner's lock."""

    def __init__(self, longest: float, rows: int) -> None:
        self._longest = longest
        self._rows = rows
        self.cost = RunCost()
        self._gap = math.inf
        self._last = -math.inf
        self._reason: Reason = "idle"

    def arrived(self, now: float) -> None:
        gap, self._last = now - self._last, now
        if self._gap == math.inf:
            self._gap = gap
        else:  # a pause among many arrivals is not to be mistaken for their rate
            self._gap += WEIGHT * (min(gap, 4 * self._gap) - self._gap)

    def until(self, rows: int, oldest: float, deadline: float, now: float) -> float | None:
        """The time until which waiting pays, or None if it does not, with so many rows.

        `oldest` is when the first of them arrived, `deadline` the nearest one.
        """
        fixed, each = self.cost.fixed, self.cost.each
        longest_gap = (fixed + each) / (rows + 1) - each
        if rows >= self._rows or self._gap >= longest_gap:
            return None
        limits: list[tuple[float, Reason]] = [
            (oldest + self._longest, "delay"),
            (self._last + longest_gap, "delay"),
            (deadline - fixed - each * rows, "deadline"),
        ]
        end, reason = min(limits)
        if end <= now:
            return None
        self._reason = reason
        return end

    def cut(self) -> Reason:
        """Why a batch is cut now that nothing else waits: what was to end the waiting for it, if there was any."""
        reason, self._reason = self._reason, "idle"
        return reason
