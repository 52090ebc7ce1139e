"""A model under rising load, served by several servers in turn: what each of them does at every point.

Closed loops show how much a server can do with so many callers; open ones, at shares of what it can, how long its
callers wait. Invariant: at a point every server gets the same requests, and in an open loop at the same times.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from bench.arrivals import Stretch, percentile, poisson
from bench.caller import Caller
from bench.measure import Sample, check_served
from bench.servers import Server, batches

IN_FLIGHT = (1, 4, 16, 64)
SHARES = (0.3, 0.6, 0.8, 0.95)
WARM_UP_IN_FLIGHT = 16
LEAST_ARRIVALS = 20
"""Of a sample of an open loop, however slow the model."""


@dataclass(frozen=True, slots=True)
class Point:
    """What one server did at one load, all repeats together. Times in ms, rates per second."""

    row: str
    server: str
    loop: str
    """`closed` or `open`."""

    load: float
    """Requests in flight, or the share of the capacity that is sent."""

    offered: float | None
    throughput: float
    mean: float
    p50: float
    p95: float
    p99: float
    mean_batch: float
    refused: float
    """The share of the requests that the server refused."""

    requests: int

    @property
    def place(self) -> str:
        return f"{self.load:g} in flight" if self.loop == "closed" else f"{self.load:.0%} of capacity"


@dataclass(frozen=True, slots=True)
class Sampled:
    """One load on one server: what counts of it, the share of its core that the server used, its batches."""

    stretch: Stretch
    busy: float
    rows: int
    runs: int

    @property
    def milliseconds(self) -> list[float]:
        return [answer.latency * 1e3 for answer in self.stretch.trace.served]


@dataclass(frozen=True, slots=True)
class Samples:
    """Of one server at one point, one for each repeat."""

    each: Sequence[Sampled]

    @property
    def rates(self) -> tuple[Sample, ...]:
        return tuple(Sample(one.stretch.rate, one.busy) for one in self.each)

    @property
    def means(self) -> tuple[Sample, ...]:
        """Mean latencies in ms."""
        return tuple(Sample(statistics.fmean(one.milliseconds), one.busy) for one in self.each)

    def percentiles(self, share: float) -> tuple[Sample, ...]:
        """In ms."""
        return tuple(Sample(percentile(one.milliseconds, share), one.busy) for one in self.each)

    def point(self, row: str, server: str, loop: str, load: float, offered: float | None) -> Point:
        times = [time for one in self.each for time in one.milliseconds]
        traces = [one.stretch.trace for one in self.each]
        requests = sum(len(trace.answers) for trace in traces)
        return Point(
            row=row,
            server=server,
            loop=loop,
            load=load,
            offered=offered,
            throughput=statistics.median(rate.value for rate in self.rates),
            mean=statistics.fmean(times),
            p50=percentile(times, 0.5),
            p95=percentile(times, 0.95),
            p99=percentile(times, 0.99),
            mean_batch=sum(one.rows for one in self.each) / sum(one.runs for one in self.each),
            refused=sum(len(trace.refused) for trace in traces) / requests,
            requests=requests,
        )


@dataclass(frozen=True, slots=True)
class Track:
    """The servers of a row, by name, each with a channel to it, and the request that all of them are sent."""

    seconds: float
    repeats: int
    servers: Mapping[str, Server]
    callers: Mapping[str, Caller]
    body: bytes

    def warm_up(self) -> float:
        """Returns the rate of the slowest server. Larger batches are warmed up by the part that does not count."""
        most = WARM_UP_IN_FLIGHT
        return min(caller.closed_loop([self.body] * 2 * most, most).rate for caller in self.callers.values())

    def closed(self, in_flight: int, rate: float) -> dict[str, Samples]:
        """`rate` is what to expect, for the number of requests."""
        bodies = [self.body] * (max(in_flight, int(rate * self.seconds)) + 2 * in_flight)
        return self._in_turn(lambda caller, _: caller.closed_loop(bodies, in_flight).steady(in_flight))

    def open(self, rate: float) -> dict[str, Samples]:
        requests = max(LEAST_ARRIVALS, int(rate * self.seconds))
        bodies = [self.body] * requests
        return self._in_turn(lambda caller, repeat: caller.open_loop(bodies, poisson(rate, requests, repeat)).whole())

    def _in_turn(self, load: Callable[[Caller, int], Stretch]) -> dict[str, Samples]:
        """A sample of each server, and again, another one first each time; the load is told which time it is."""
        each: dict[str, list[Sampled]] = {name: [] for name in self.servers}
        names = list(self.servers)
        for repeat in range(self.repeats):
            first = repeat % len(names)
            for name in names[first:] + names[:first]:
                each[name].append(sampled(self.servers[name], partial(load, self.callers[name], repeat)))
        return {name: Samples(samples) for name, samples in each.items()}


def sampled(server: Server, load: Callable[[], Stretch]) -> Sampled:
    """Makes the load. Raises CountError unless the server answered as many requests as it says."""
    rows, runs = batches(server)
    before, cpu, start = server.served(), server.process.cpu_seconds(), time.monotonic()
    stretch = load()
    busy = (server.process.cpu_seconds() - cpu) / (time.monotonic() - start)
    check_served(server, before, stretch.served)
    rows_after, runs_after = batches(server)
    return Sampled(stretch, busy, rows_after - rows, runs_after - runs)
