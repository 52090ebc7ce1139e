"""What a batch gains, by what runs were measured to take and how often requests come.

Pure; the clock is passed in. A run is taken to need `fixed + each * rows` seconds. Against running them one after the
other, n rows in one batch save `fixed * (n - 1)` seconds of work, which all who come behind them gain; but the first of
them wait for the last. With a utilisation `load` (by runs of single rows), as many as `n * load / (1 - load)` come
behind them before the queue is empty again, and the sum of all latencies is less with the batch if

    fixed * (1 + load) > each * (1 - load)

So a network whose runs cost much at any size is always batched, one whose rows cost what they cost alone never, and
one between the two where it is busy. How busy it is, the arrivals of the last second tell, or sooner the queue: that
load / (1 - load) requests wait is what is to be expected.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Final, Literal

WEIGHT: Final = 0.02
"""Of the newest run in the means."""

DOUBT: Final = 2.0
"""Standard errors by which a row may be cheaper than it seems: what is not known well is tried again."""

TINY: Final = 1e-6
"""Spread of rows that is none."""

NOTICEABLE: Final = 0.02
"""Share of a run that must be fixed at least; less is noise."""

SPAN: Final = 1.0
"""Seconds over which arrivals are counted, those longer ago counting less and less."""

MOST_SIGNATURES: Final = 256
"""Kinds of requests whose cost is known; clients choose them."""


Verdict = Literal["yes", "maybe", "no"]


class RunCost:
    """A line through the runs of one kind of request: seconds by rows, by least squares over the recent ones.

    Where runs of one size are all that there was of late, what was learned of others fades, and the line may be flatter
    than it seems. So a batch is tried again after a while, and a wrong impression is mended.
    """

    __slots__ = ("_covariance", "_rows", "_runs", "_seconds", "_spread", "_variance")

    def __init__(self) -> None:
        self._runs = 0
        self._rows = self._seconds = self._spread = self._covariance = self._variance = 0.0

    def ran(self, rows: int, seconds: float) -> None:
        self._runs += 1
        weight = max(WEIGHT, 1 / self._runs)
        more, longer = rows - self._rows, seconds - self._seconds
        self._rows += weight * more
        self._seconds += weight * longer
        self._spread = (1 - weight) * (self._spread + weight * more * more)
        self._covariance = (1 - weight) * (self._covariance + weight * more * longer)
        self._variance = (1 - weight) * (self._variance + weight * longer * longer)

    @property
    def each(self) -> float:
        """Seconds by which a row makes a run longer; 0 where that is not known."""
        return max(0.0, self._slope)

    @property
    def fixed(self) -> float:
        """Seconds of a run that do not depend on its rows."""
        return max(0.0, self._seconds - self.each * self._rows)

    @property
    def known(self) -> bool:
        """Whether there were runs of several sizes."""
        return self._spread >= TINY

    def at_best(self) -> tuple[float, float]:
        """What `fixed` and `each` may be if a row is cheaper than it seems."""
        each = max(0.0, self._slope - self._doubt)
        return max(0.0, self._seconds - each * self._rows), each

    @property
    def _slope(self) -> float:
        return self._covariance / self._spread if self.known else 0.0

    @property
    def _doubt(self) -> float:
        scatter = max(0.0, self._variance - self._slope * self._covariance)
        return DOUBT * math.sqrt(scatter / self._spread / min(self._runs, 1 / WEIGHT)) if self.known else 0.0


class RunCosts:
    """Of one pool of instances, by signature."""

    def __init__(self) -> None:
        self._costs: dict[Hashable, RunCost] = {}

    def __getitem__(self, signature: Hashable) -> RunCost:
        cost = self._costs.get(signature)
        if cost is None:
            if len(self._costs) >= MOST_SIGNATURES:
                del self._costs[next(iter(self._costs))]
            cost = self._costs[signature] = RunCost()
        return cost


class Arrivals:
    """Rows that come in a second, of late."""

    __slots__ = ("_at", "_rows")

    def __init__(self) -> None:
        self._rows = 0.0
        self._at = 0.0

    def arrived(self, rows: int, now: float) -> None:
        self._rows = self._left(now) + rows
        self._at = now

    def rate(self, now: float) -> float:
        return self._left(now) / SPAN

    def _left(self, now: float) -> float:
        return self._rows * math.exp((self._at - now) / SPAN)


def stacking_pays(cost: RunCost, rate: float, instances: int, waiting: int = 0) -> Verdict:
    """Whether requests are to be run in one batch, with so many rows coming in a second, and as many waiting.

    `maybe` if what was learned is in doubt: a batch of two tells. As long as nothing was learned, it is taken to pay.
    """
    fixed, each = cost.fixed, cost.each
    load = max(utilisation(cost, rate, instances), waiting / (waiting + 1))
    if not cost.known or _pays(fixed, each, load):
        return "yes"
    return "maybe" if _pays(*cost.at_best(), load) else "no"


def _pays(fixed: float, each: float, load: float) -> bool:
    return fixed >= NOTICEABLE * (fixed + each) and fixed * (1 + load) >= each * (1 - load)


def utilisation(cost: RunCost, rate: float, instances: int) -> float:
    """The share of their time for which instances would be busy with runs of single rows; 1 at the most."""
    return min(1.0, rate * (cost.fixed + cost.each) / max(1, instances))
