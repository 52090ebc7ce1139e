"""How long the responses of a decoupled model took, apart by their place among those to one request.

Knows neither models nor protocols. The kinds are those of Triton's response statistics. Invariant: a request counts at
each place once, in the end at the place after its last response.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from threading import Lock
from typing import Final, Literal

MOST_PLACES: Final = 256
"""Places that are counted apart: clients choose how many responses they ask for."""

KINDS: Final = ("compute_infer", "compute_output", "success", "fail", "empty_response", "cancel")

End = Literal["fail", "empty_response", "cancel"]
"""Of a request: an error, the end without a further response, or nobody who wants more."""


class ResponseMetrics:
    """Of one model version. Threads: any."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._places: list[dict[str, tuple[int, float]]] = []

    def add(self, place: int, seconds: Mapping[str, float]) -> None:
        """One more of each of these kinds, and its seconds."""
        if place >= MOST_PLACES:
            return
        with self._lock:
            if place == len(self._places):
                self._places.append(dict.fromkeys(KINDS, (0, 0.0)))
            sums = self._places[place]
            for kind, more in seconds.items():
                count, total = sums[kind]
                sums[kind] = count + 1, total + more

    @property
    def places(self) -> Sequence[Mapping[str, tuple[int, float]]]:
        """For each place the number and the seconds of every kind."""
        with self._lock:
            return [dict(sums) for sums in self._places]


class ResponseTimes:
    """Follows one request from the begin of its run. Thread: that of the run."""

    def __init__(self, metrics: ResponseMetrics, clock: Callable[[], float] = time.monotonic) -> None:
        self._metrics = metrics
        self._clock = clock
        self._place = 0
        self._since = self._computed = clock()

    def computed(self) -> None:
        """The next response is there."""
        self._computed = self._clock()

    def sent(self) -> None:
        """It was taken."""
        now = self._clock()
        infer, output = self._computed - self._since, now - self._computed
        self._add({"compute_infer": infer, "compute_output": output, "success": infer + output})
        self._since = now

    def end(self, how: End) -> None:
        """No further response was sent."""
        seconds = self._clock() - self._since
        self._add({how: seconds} if how == "cancel" else {how: seconds, "compute_infer": seconds})

    def _add(self, seconds: Mapping[str, float]) -> None:
        self._metrics.add(self._place, seconds)
        self._place += 1
