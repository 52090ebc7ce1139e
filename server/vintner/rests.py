"""For how long a run has waited for its client, which is no time that the model took.

Pure: the clock is passed in. Invariant: who sees that a run does not rest sees all of its rests in `seconds`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Rests:
    """Of one run. Written by the thread that runs, read by any."""

    __slots__ = ("_clock", "resting", "seconds")

    def __init__(self, clock: Callable[[], float]) -> None:
        """The clock is in seconds."""
        self._clock = clock
        self.resting = False
        self.seconds = 0.0
        """Of the rests that are over."""

    @contextmanager
    def one(self) -> Iterator[None]:
        """Around a rest."""
        began = self._clock()
        self.resting = True
        try:
            yield
        finally:
            self.seconds += self._clock() - began
            self.resting = False
