"""A language model asked for streams of tokens, over several ways of asking in turn: what each of them does.

Invariant: every way gets as many requests, of the same lengths, and no prompt is asked twice.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bench.arrivals import percentile
from bench.measure import CountError, Sample
from bench.process import Process
from bench.prompts import Prompt, prompt
from bench.token_streams import Streamed

Run = Callable[[int, int, int, float], Streamed]
"""Has so many requests answered, the second, whose numbers begin at the third: as many at once as the first, or as they
arrive, so many a second; 0 of these means the former."""


@dataclass(frozen=True, slots=True)
class Way:
    """One way to ask: the process that does the work, and what it counts of tokens, if it does."""

    process: Process
    run: Run
    counted: Callable[[], int] | None = None


@dataclass(frozen=True, slots=True)
class Taken:
    """One sample."""

    streamed: Streamed
    busy: float

    @property
    def rate(self) -> Sample:
        """Tokens per second."""
        return Sample(self.streamed.tokens / self.streamed.seconds, self.busy)


@dataclass(frozen=True, slots=True)
class StreamPoint:
    """What one way did with so many streams, all repeats together. Times in ms, rates per second."""

    row: str
    way: str
    streams: int
    tokens: float
    first_p50: float
    first_p99: float
    per_token_p50: float
    per_token_p99: float
    tokens_a_piece: float
    """In each part of an answer, as the client read it; 0 where there are no parts."""

    later: float
    """By how much its first token is later than that of the first way, at p50."""

    requests: int


class Asking:
    """The ways of a row; the first one is what the others are held against."""

    def __init__(self, ways: Mapping[str, Way], tokens: int) -> None:
        """`tokens` is the mean length of an answer."""
        self._ways = ways
        self._tokens = tokens
        self._number = 0

    def samples(self, streams: int, seconds: float, repeats: int, load: float = 0.0) -> dict[str, list[Taken]]:
        """Of each way as many, taken in turn, each of about that many seconds. With a `load` requests arrive by
        themselves, as many a second as this share of what the first way answers with so many streams."""
        first = next(iter(self._ways.values()))
        self._sample(first, streams, streams)
        tried = self._sample(first, streams, 2 * streams)
        answered = tried.rate.value / self._tokens
        rate = load * answered
        requests = max(2 * streams, int((rate or answered) * seconds))
        for way in self._ways.values():
            self._sample(way, streams, streams)
        each: dict[str, list[Taken]] = {name: [] for name in self._ways}
        for repeat in range(repeats):
            for name in sorted(self._ways, reverse=bool(repeat % 2)):
                each[name].append(self._sample(self._ways[name], streams, requests, rate))
        return each

    def _sample(self, way: Way, streams: int, requests: int, rate: float = 0.0) -> Taken:
        number, self._number = self._number, self._number + requests
        counted = way.counted() if way.counted else 0
        cpu, start = way.process.cpu_seconds(), time.monotonic()
        streamed = way.run(streams, requests, number, rate)
        busy = (way.process.cpu_seconds() - cpu) / (time.monotonic() - start)
        if way.counted and (made := way.counted() - counted) != streamed.tokens:
            raise CountError(f"{way.process} counts {made} tokens, the client asked for {streamed.tokens}")
        return Taken(streamed, busy)


def prompts(number: int, requests: int, tokens: int) -> Sequence[Prompt]:
    return [prompt(number + place, tokens) for place in range(requests)]


def points(row: str, streams: int, each: Mapping[str, Sequence[Taken]]) -> list[StreamPoint]:
    """One for each way."""
    made: list[StreamPoint] = []
    for name, samples in each.items():
        first = [seconds * 1e3 for one in samples for seconds in one.streamed.first]
        later = [seconds * 1e3 for one in samples for seconds in one.streamed.per_token]
        pieces = sum(one.streamed.pieces for one in samples)
        made.append(
            StreamPoint(
                row=row,
                way=name,
                streams=streams,
                tokens=statistics.median(one.rate.value for one in samples),
                first_p50=percentile(first, 0.5),
                first_p99=percentile(first, 0.99),
                per_token_p50=percentile(later, 0.5),
                per_token_p99=percentile(later, 0.99),
                tokens_a_piece=sum(one.streamed.tokens for one in samples) / pieces if pieces else 0.0,
                later=percentile(first, 0.5) - (made[0].first_p50 if made else percentile(first, 0.5)),
                requests=len(first),
            )
        )
    return made
