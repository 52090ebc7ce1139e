"""Why was it slow? Where the time of a request went, for those that ask with the parameter `timing: true`.

Pure: the clock is passed in, in seconds. Whoever takes a request in starts a `Timing`, the scheduler fills it in, and
the response carries it as parameters. Invariant: the parts that are reported add up to no more than the total.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from vintner.errors import InvalidArgument
from vintner.types import Parameter

PARAMETER: Final = "timing"


def asks(parameters: Mapping[str, Parameter]) -> bool:
    """Whether a request asks for its timing. Raises InvalidArgument for a value that is no boolean."""
    asked = parameters.get(PARAMETER, False)
    if type(asked) is not bool:
        raise InvalidArgument(f"parameter '{PARAMETER}': expected a boolean, got {asked!r:.60}")
    return asked


@dataclass(slots=True)
class Timing:
    """One request's, in seconds. `stages` are the assembly, the run and the split of the batch that it went with."""

    started: float
    queue: float = 0.0
    stages: tuple[float, float, float] = (0.0, 0.0, 0.0)
    rows: int = 0
    requests: int = 0
    prompt_tokens: int = 0
    """Of a request to a language model."""
    generated_tokens: int = 0

    def ran(self, queue: float, stages: tuple[float, float, float], rows: int, requests: int) -> None:
        """Notes how long the request had waited, and the batch that was run then."""
        self.queue, self.stages, self.rows, self.requests = queue, stages, rows, requests

    def parameters(self, ended: float) -> dict[str, Parameter]:
        """As a response carries it. Times are rounded down to whole microseconds; from the cache, only the total."""
        assembly, compute, split = self.stages
        return {
            "timing_queue_us": _microseconds(self.queue),
            "timing_assembly_us": _microseconds(assembly),
            "timing_compute_us": _microseconds(compute),
            "timing_split_us": _microseconds(split),
            "timing_total_us": _microseconds(ended - self.started),
            "timing_batch_rows": self.rows,
            "timing_batch_requests": self.requests,
            "timing_cached": not self.requests,  # what ran in no batch was answered from the cache
        }


def _microseconds(seconds: float) -> int:
    return int(seconds * 1e6)
