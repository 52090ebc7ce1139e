"""Whether an idle instance should wait for more requests, and until when.

Pure; the clock is passed in. A delay is only ever a ceiling here. With n rows waiting and a request every `gap`,
waiting for the next one costs all n + 1 the time until it comes, and spares it a run of its own behind theirs. Besides,
the instance idles for the gap and saves the `fixed` part of a run, which all gain who come behind: with a utilisation
`load`, n * load / (1 - load) of them. So waiting pays if

    (n + 1) * (gap + each) - (fixed + each) < (n + 1) * (fixed - gap) * load / (1 - load)

that is, for the first few of a batch, or where it is busy and requests are frequent beside the fixed cost of a run. All
of it is measured. The gap is that soon after a request or an answer, since many callers send their next request when
they have their answer: the time in which one could have come, up to the longest delay each time, divided by those that
came. A request that does not come when it was expected ends the waiting, so a rate that falls is noticed at once. It
ends as well when as many are there as there were at the most of late, for then nobody may be left to wait for.
"""

from __future__ import annotations

import math
from typing import Final

from vintner.batching import Reason
from vintner.gains import RunCost

WEIGHT: Final = 0.05
"""Of what happened last in the means."""

MOST_BEHIND: Final = 50.0
"""For each request that waits, those that are taken to come behind it before the queue is empty, at the most."""

FADING: Final = 0.02
"""Of the distance to the present number of requests that the most of late loses with each arrival."""


class QueueDelay:
    """The delay of one model: at most `longest` seconds for a batch, of at most `rows`. Guarded by its owner's lock."""

    def __init__(self, longest: float, rows: int) -> None:
        self._longest = longest
        self._rows = rows
        self._last = -math.inf  # when a request came, or an answer was there
        self._waited = 0.0
        self._came = 0.0
        self._most = 0.0
        self._since: float | None = None  # when the waiting began
        self._reason: Reason = "idle"

    def reconfigure(self, longest: float, rows: int) -> None:
        """What was measured stays; it is at most the longest delay, as everything that is measured."""
        self._longest = longest
        self._rows = rows
        self._waited = min(self._waited, longest)

    def arrived(self, present: int, now: float) -> None:
        """Takes in a request; `present` counts those that wait or run, itself included."""
        self._happened(now, came=True)
        self._most = max(present, self._most - FADING * (self._most - present))

    def answered(self, now: float) -> None:
        """Takes in the end of a run."""
        self._happened(now, came=False)

    def _happened(self, now: float, came: bool) -> None:
        since, self._last = now - self._last, now
        self._waited += WEIGHT * (min(since, self._longest) - self._waited)
        self._came += WEIGHT * ((came and since <= self._longest) - self._came)

    def until(self, cost: RunCost, load: float, present: int, rows: int, deadline: float, now: float) -> float | None:
        """The time until which waiting pays, or None if it does not, with so many rows and runs that cost so much.

        `present` counts the requests that wait or run, `deadline` is the nearest of those that wait.
        """
        if rows >= self._rows or present > self._most - 0.5:
            return None
        longest_gap = _worth_waiting(cost, load, rows)
        if self._waited >= longest_gap * self._came:
            return None
        since = now if self._since is None else self._since
        limits: list[tuple[float, Reason]] = [
            (since + self._longest, "delay"),
            (self._last + longest_gap, "delay"),
            (deadline - cost.fixed - cost.each * rows, "deadline"),
        ]
        end, reason = min(limits)
        if end <= now:
            return None
        self._since, self._reason = since, reason
        return end

    def cut(self) -> Reason:
        """Ends the waiting, if there was any. Returns what was to end it, or that there was none."""
        reason, self._reason = self._reason, "idle"
        self._since = None
        return reason


def _worth_waiting(cost: RunCost, load: float, rows: int) -> float:
    """The longest gap that a request is worth waiting for: the inequality above, solved for it."""
    fixed, each = cost.fixed, cost.each
    behind = min(MOST_BEHIND, load / (1 - load)) if load < 1 else MOST_BEHIND
    return (fixed * behind + (fixed + each) / (rows + 1) - each) / (1 + behind)
