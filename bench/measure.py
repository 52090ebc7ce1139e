"""Two things measured in turn, A B A B, and what their ratio was each time.

The machine may be shared and slow down at any moment, so a figure means something only beside one taken seconds
later. The invariant: no sample is kept unless the server counted as many successes as the client made requests.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from bench.load import Load
from bench.process import Process
from bench.servers import Server

_COUNTING_SECONDS = 2.0


class CountError(RuntimeError):
    """The server did not count what the client sent: some requests failed."""


class WrongAnswerError(RuntimeError):
    """A server computes something else than the network."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A figure, with the share of its core that the server used meanwhile: far below 1, something else set the pace."""

    value: float
    busy: float | None = None


Sampler = Callable[[], Sample]


class Limit(StrEnum):
    AT_LEAST = "at least"
    AT_MOST = "at most"


@dataclass(frozen=True, slots=True)
class Target:
    limit: Limit
    ratio: float

    def met(self, ratio: float) -> bool:
        return ratio >= self.ratio if self.limit is Limit.AT_LEAST else ratio <= self.ratio


@dataclass(frozen=True, slots=True)
class Comparison:
    """One line of the table. Sample i of `measured` and of `reference` were taken one after the other."""

    row: str
    measured_name: str
    reference_name: str
    unit: str
    measured: tuple[Sample, ...]
    reference: tuple[Sample, ...]
    target: Target | None = None
    """None where a figure is only reported."""

    @property
    def ratios(self) -> tuple[float, ...]:
        return tuple(a.value / b.value for a, b in zip(self.measured, self.reference, strict=True))

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)

    @property
    def ratio_per_cpu(self) -> float | None:
        """The ratio of the rates per second of the server's CPU time; None where rates were not measured."""
        if not self.unit.endswith("/s"):
            return None
        pairs = zip(self.measured, self.reference, strict=True)
        return statistics.median((a.value / (a.busy or 1)) / (b.value / (b.busy or 1)) for a, b in pairs)

    @property
    def met(self) -> bool | None:
        return None if self.target is None else self.target.met(self.ratio)


def alternate(repeats: int, measured: Sampler, reference: Sampler) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    """Samples of both, taken in turn."""
    pairs = [(measured(), reference()) for _ in range(repeats)]
    return tuple(first for first, _ in pairs), tuple(second for _, second in pairs)


def throughput(server: Server, load: Load, seconds: float, size: float = 1.0) -> Sampler:
    """Samples requests per second times `size`, each over about that many seconds. Warms the server up first."""
    requests = requests_for(load.seconds, seconds, 2 * load.in_flight)

    def sample() -> Sample:
        before = server.served()
        taken, busy = timed(server.process, lambda: load.seconds(requests))
        check_served(server, before, requests)
        return Sample(requests * size / taken, busy)

    return sample


def timed(process: Process, run: Callable[[], float]) -> tuple[float, float]:
    """The seconds that `run` reports, and the share of its core that the process used while it ran."""
    cpu, start = process.cpu_seconds(), time.monotonic()
    seconds = run()
    return seconds, (process.cpu_seconds() - cpu) / (time.monotonic() - start)


def requests_for(run: Callable[[int], float], seconds: float, first: int) -> int:
    """How many requests take about that long, found by trying with more and more of them."""
    requests = first
    while (taken := run(requests)) < seconds / 4:
        requests = int(requests * min(10.0, 1 + seconds / 2 / taken))
    return max(first, int(requests * seconds / taken))


def check_served(server: Server, before: int, requests: int) -> None:
    """Raises CountError unless the server served exactly that many more. It may count just after it has replied."""
    end = time.monotonic() + _COUNTING_SECONDS
    while (served := server.served() - before) < requests and time.monotonic() < end:
        time.sleep(0.05)
    if served != requests:
        raise CountError(f"{server.process} counts {served} successes of {requests} requests")
