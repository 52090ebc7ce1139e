"""Histograms as Prometheus has them, for the hot path.

Invariant: no count ever goes down.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from functools import cache
from itertools import accumulate

from vintner.exposition import HistogramMetricFamily


@cache
def _bound_names(bounds: tuple[float, ...]) -> tuple[str, ...]:
    """As Prometheus writes them."""
    return (*map(repr, bounds), "+Inf")


class Histogram:
    """Counts per bucket, and the sum. Not synchronised: its owner's lock guards it.

    `names` are the bounds as they are shown.
    """

    __slots__ = ("_bounds", "counts", "names", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.names = _bound_names(tuple(bounds))
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    def cumulative(self) -> list[tuple[str, float]]:
        """Prometheus's buckets: (upper bound, observations at or below it), the last one `+Inf`."""
        return list(zip(self.names, map(float, accumulate(self.counts)), strict=True))

    def add_to(self, family: HistogramMetricFamily, pairs: str, scale: float = 1.0) -> None:
        """Adds it to a family, with labels that `label_pairs` has written; `scale` is what the sum is shown by."""
        family.add_counts(pairs, self.names, accumulate(self.counts), self.total * scale)

    def add_coarser_to(self, family: HistogramMetricFamily, pairs: str, bounds: tuple[float, ...]) -> None:
        """As `add_to`, with only these of its bounds: what is counted between them is in the next higher bucket."""
        below = [*accumulate(self.counts)]
        places = [bisect_left(self._bounds, bound) for bound in bounds]
        family.add_counts(pairs, _bound_names(bounds), [*(below[place] for place in places), below[-1]], self.total)
