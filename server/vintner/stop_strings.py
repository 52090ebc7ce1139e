"""Cuts generated text at a stop string, while it is generated.

Knows nothing of tokens. Invariant: however the text is cut into pieces, what is emitted is the same: the text up to the
stop string whose end comes first, of several that end there the longest; all of the text if there is none. No more is
held back than what may begin a stop string.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from vintner.errors import InvalidArgument
from vintner.held_back import beginning_of

MOST_STOPS: Final = 64
LONGEST_STOP: Final = 1024


class StopStrings:
    """For one answer. After a hit everything further is dropped. Raises InvalidArgument for strings of no use."""

    def __init__(self, stops: Sequence[str], *, include_stop: bool = False) -> None:
        if len(stops) > MOST_STOPS:
            raise InvalidArgument(f"stop has {len(stops)} strings, at most {MOST_STOPS} are allowed")
        if not all(0 < len(stop) <= LONGEST_STOP for stop in stops):
            raise InvalidArgument(f"each string of stop must have 1 to {LONGEST_STOP} characters")
        self._stops = tuple(stops)
        self._include = include_stop
        self._held = ""
        self._hit: str | None = None

    def feed(self, text: str) -> tuple[str, str | None]:
        """What may be sent of the text so far, and the stop string that ended it."""
        if self._hit is not None or not self._stops:
            return ("" if self._hit else text), self._hit
        whole = self._held + text
        self._hit = self._first_in(whole)
        if self._hit is not None:
            self._held = ""
            place = whole.index(self._hit)
            return whole[: place + len(self._hit) if self._include else place], self._hit
        sent = len(whole) - beginning_of(self._stops, whole)
        self._held = whole[sent:]
        return whole[:sent], None

    def finish(self) -> str:
        """What was held back and turned out to be no stop string."""
        rest, self._held = self._held, ""
        return rest

    def _first_in(self, text: str) -> str | None:
        ends = [(place + len(stop), place, stop) for stop in self._stops if (place := text.find(stop)) >= 0]
        return min(ends)[2] if ends else None
