"""What is counted of one loaded model version.

Knows neither other models nor how it is shown: `metrics` makes families of it when somebody scrapes, `statistics` a
document. The hot path adds to plain integers and floats, which are bound when a model is loaded.

Invariant: no count ever goes down.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Final, Literal, get_args

from vintner.batching import Reason
from vintner.exposition import label_pairs
from vintner.generation_metrics import GenerationMetrics
from vintner.histograms import Histogram
from vintner.response_metrics import ResponseMetrics

PROTOCOLS: Final = ("grpc", "rest")

Question = Literal["ModelMetadata", "ModelReady"]
"""What a client may ask about a model that is counted, if anybody wants it."""

SECONDS: Final = (
    50e-6, 100e-6, 250e-6, 500e-6,
    1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 250e-3, 500e-3,
    1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip
"""Upper bounds of the latency buckets: 50 microseconds to a minute."""

ROWS: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)
"""Upper bounds of the batch size buckets."""

MOST_SIZES: Final = 256
"""Batch sizes that are counted apart: clients choose them."""

CUT_REASONS: Final[Sequence[Reason]] = get_args(Reason)

OUTCOMES: Final = (
    "ok", "invalid_argument", "not_found", "too_large", "unsupported", "queue_full", "queue_timeout", "unavailable",
    "not_ready", "stopping", "deadline_exceeded", "cancelled", "backend", "internal",
)  # fmt: skip


class Stages:
    """How long executions were assembled, run and split, summed up. `count` of them."""

    __slots__ = ("count", "infer", "input", "output")

    def __init__(self) -> None:
        self.count = 0
        self.input = 0.0
        self.infer = 0.0
        self.output = 0.0

    def add(self, count: int, stages: tuple[float, float, float]) -> None:
        self.count += count
        self.input += count * stages[0]
        self.infer += count * stages[1]
        self.output += count * stages[2]


class SchedulerMetrics:
    """Executions of one model version, and why their batches were cut. `ran` is called under the scheduler's lock."""

    __slots__ = ("assembly", "by_rows", "compute", "cuts", "executions", "last", "requests", "rows", "split", "wait")

    def __init__(self) -> None:
        self.wait = Histogram(SECONDS)
        self.compute = Histogram(SECONDS)
        self.assembly = Histogram(SECONDS)
        self.split = Histogram(SECONDS)
        self.rows = Histogram(ROWS)
        self.cuts = dict.fromkeys(CUT_REASONS, 0)
        self.executions = 0
        self.requests = Stages()
        """Each execution counted for each of its requests: what they waited for it."""
        self.by_rows: dict[int, Stages] = {}
        self.last = 0.0
        """Seconds since the epoch."""

    def ran(self, rows: int, waits: Sequence[float], stages: tuple[float, float, float]) -> None:
        """Counts one execution: its rows, how long each member had waited, the seconds of its stages."""
        self.executions += 1
        self.last = time.time()
        self.rows.observe(rows)
        self.compute.observe(sum(stages))
        for wait in waits:
            self.wait.observe(wait)
        if len(waits) > 1:  # a request alone is neither assembled nor split
            self.assembly.observe(stages[0])
            self.split.observe(stages[2])
        self.requests.add(len(waits), stages)
        by_rows = self.by_rows.get(rows)
        if by_rows is None:
            if len(self.by_rows) >= MOST_SIZES:
                return
            by_rows = self.by_rows[rows] = Stages()
        by_rows.add(1, stages)


@dataclass(frozen=True, slots=True)
class PoolState:
    """For the metrics. `instances` are in service, `out` are not."""

    device: str
    busy: int
    instances: int
    out: int


class RequestMetrics:
    """Requests to one model version over one protocol."""

    __slots__ = ("_lock", "duration", "outcomes", "succeeded_seconds")

    def __init__(self) -> None:
        self._lock = Lock()
        self.duration = Histogram(SECONDS)
        self.outcomes = dict.fromkeys(OUTCOMES, 0)
        self.succeeded_seconds = 0.0

    def observe(self, outcome: str, seconds: float) -> None:
        with self._lock:
            self.outcomes[outcome] += 1
            self.duration.observe(seconds)
            if outcome == "ok":
                self.succeeded_seconds += seconds


class CacheMetrics:
    """Lookups of one model version in the response cache; the seconds of a miss include the keeping of its answer."""

    __slots__ = ("_lock", "hit_seconds", "hits", "last", "miss_seconds", "misses")

    def __init__(self) -> None:
        self._lock = Lock()
        self.hits = 0
        self.misses = 0
        self.hit_seconds = 0.0
        self.miss_seconds = 0.0
        self.last = 0.0
        """Seconds since the epoch."""

    def looked_up(self, hit: bool, seconds: float) -> None:
        with self._lock:
            self.last = time.time()
            if hit:
                self.hits += 1
                self.hit_seconds += seconds
            else:
                self.misses += 1
                self.miss_seconds += seconds

    def kept(self, seconds: float) -> None:
        with self._lock:
            self.miss_seconds += seconds


def _not_counted(question: Question, protocol: str, well: bool) -> None:
    """Nobody wants it."""


class ModelMetrics:
    """The series of one loaded model version."""

    def __init__(
        self,
        model: str,
        version: str,
        gauges: Callable[[], Mapping[str, float]] = dict,
        pools: Callable[[], Sequence[PoolState]] = tuple,
    ) -> None:
        """At scrape time `gauges` is asked for the current `in_flight`, `queue_requests`, `queue_bytes` and
        `queue_oldest`, and `pools` for the instances."""
        self.model = model
        self.version = version
        self.labels = label_pairs({"model": model, "version": version})
        """As the series have them."""
        self.tagged = self.labels
        """As those by Triton's names have them."""
        self.gauges = gauges
        self.pools = pools
        self.load_seconds = 0.0
        self.cached = False
        """Whether answers are looked up in the response cache."""
        self.asked: Callable[[Question, str, bool], None] = _not_counted
        """Told of a question about this version, by which protocol it came and whether it was answered well."""
        self.size = 0
        """Bytes that the version is expected to take."""
        self.scheduler = SchedulerMetrics()
        self.cache = CacheMetrics()
        self.responses = ResponseMetrics()
        """Of a decoupled model."""
        self.generation: GenerationMetrics | None = None
        """Of a language model."""
        self.requests: Mapping[str, RequestMetrics] = {protocol: RequestMetrics() for protocol in PROTOCOLS}

    def tag(self, tags: Mapping[str, str]) -> None:
        """Sets the labels that the configuration adds to Triton's; each has an underscore before it, as there."""
        tagged = {f"_{name}": text for name, text in tags.items()}
        self.tagged = label_pairs({"model": self.model, "version": self.version, **tagged})
