"""When requests are to be sent, and what is made of the times that they took: pure arithmetic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SERVED, REFUSED = "OK", "UNAVAILABLE"
"""gRPC's names for what may become of a request under load."""


def poisson(rate: float, requests: int, seed: int) -> list[float]:
    """Seconds from the start at which to send each: independent users, `rate` requests a second between them.

    Given how many there are, the arrivals of a Poisson process are uniform; so a short sample has the rate as well.
    """
    return [float(time) for time in np.sort(np.random.default_rng(seed).uniform(0, requests / rate, requests))]


def percentile(values: Sequence[float], share: float) -> float:
    """The least of the values that at least that share of them does not exceed (nearest rank); NaN of none."""
    if not values:
        return math.nan
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


@dataclass(frozen=True, slots=True)
class Answer:
    """When a request ought to have been sent, when its answer was there, and gRPC's name of its status."""

    intended: float
    ended: float
    status: str = SERVED

    @property
    def latency(self) -> float:
        """Seconds. From the intended time: what a slow answer holds up waits for it too, and that counts."""
        return self.ended - self.intended


@dataclass(frozen=True, slots=True)
class Trace:
    """The answers to a load, in the order in which they came."""

    answers: Sequence[Answer]

    @property
    def served(self) -> Sequence[Answer]:
        return [answer for answer in self.answers if answer.status == SERVED]

    @property
    def refused(self) -> Sequence[Answer]:
        return [answer for answer in self.answers if answer.status == REFUSED]

    @property
    def rate(self) -> float:
        """Served requests per second, from the first one's time to the last answer."""
        served = self.served
        return len(served) / (served[-1].ended - min(answer.intended for answer in self.answers)) if served else 0.0

    def steady(self, in_flight: int) -> Stretch:
        """The middle of a closed loop: without as many answers at either end as were in flight.

        Its rate is from the last answer before it to the last one in it.
        """
        middle = Trace(self.answers[in_flight : len(self.answers) - in_flight])
        taken = middle.answers[-1].ended - self.answers[in_flight - 1].ended
        return Stretch(middle, len(middle.served) / taken, len(self.served))

    def whole(self) -> Stretch:
        return Stretch(self, self.rate, len(self.served))


@dataclass(frozen=True, slots=True)
class Stretch:
    """The part of a load that counts, its served requests per second, and how many the load as a whole had served."""

    trace: Trace
    rate: float
    served: int
