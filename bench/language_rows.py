"""The rows about language models: streams of tokens beside the runtime that is stepped in process, and many at once."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

from bench import servers
from bench.arrivals import poisson
from bench.measure import Comparison, Limit, Sample, Target
from bench.plan import Plan
from bench.servers import Server, Site
from bench.stream_wires import GrpcWire, SseRoute, Wire, completion_body, generate_body
from bench.streaming import Asking, StreamPoint, Taken, Way, points, prompts
from bench.token_streams import Streamed, TokenStreams

STREAMS: Final = (1, 8, 32, 64)
BARE: Final = "bare runtime"
LEAST: Final = Target(Limit.AT_LEAST, 0.9)
ARRIVING: Final = "tokens-arriving"
LOAD: Final = 0.7
"""Of what the bare runtime answers with so many streams: requests arrive as often, with nobody waiting for an answer
before the next. A stream that asks again at once, over a socket, comes when the step has begun that the bare runtime
would have taken it into; it waits for a step longer, whatever the server does."""

MOST_ARRIVED: Final = 4
"""Times the streams: requests under way at once; those beyond wait, and are counted as having waited."""

MANY: Final = 200
MEGABYTE: Final = 1e6


@dataclass(frozen=True, slots=True)
class Language:
    """A model that is measured, and the mean length of the answers that it is asked for."""

    name: str
    source: Path
    tokens: int


TINY: Final = Language("tiny_llm", servers.ROOT / "model_repository" / "tiny_llm", 64)
LARGER: Final = Language("bench_llm", servers.ROOT / "build" / "bench_llm", 32)


class NoModel(RuntimeError):
    """It has to be made first."""


def tiny(plan: Plan) -> Iterator[Comparison | StreamPoint]:
    """The shipped model: a token takes less time than to send it, so the server is measured."""
    return _beside_bare(plan, "tokens-tiny", TINY, plan.site, STREAMS)


def larger(plan: Plan) -> Iterator[Comparison | StreamPoint]:
    """90 million random weights: what of a model's rate is left."""
    return _beside_bare(plan, "tokens-90m", LARGER, plan.site, STREAMS, arriving=True)


def unpinned(plan: Plan) -> Iterator[Comparison | StreamPoint]:
    """The same, with all cores for all: servers, bare runtime and client."""
    cores = sorted(os.sched_getaffinity(0) | {int(plan.site.cores)})
    site = replace(plan.site, cores=",".join(map(str, cores)))
    mine = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield from _beside_bare(plan, "tokens-unpinned", LARGER, site, (8, 64))
    finally:
        os.sched_setaffinity(0, mine)


def many(plan: Plan) -> Iterator[Comparison]:
    """As many streams as a server is likely to see: all are answered, and memory stays as it was."""
    with _served(plan, TINY, plan.site) as server:
        ways = _ways(server, TINY)
        asking = {name: Asking({name: ways[name]}, TINY.tokens) for name in (SSE, GRPC_MANY)}
        for name, one in asking.items():
            one.samples(MANY, plan.seconds, 1)
            before = Sample(server.process.resident_bytes() / MEGABYTE)
            taken = one.samples(MANY, plan.overload_seconds, 1)[name][0]
            after = Sample(server.process.resident_bytes() / MEGABYTE, taken.busy)
            title = f"{MANY} streams over {name}, {len(taken.streamed.first):,} requests: resident memory"
            yield Comparison("tokens-many", title, "before", "MB", (after,), (before,), Target(Limit.AT_MOST, 1.05))


def _beside_bare(
    plan: Plan, row: str, language: Language, site: Site, streams: tuple[int, ...], *, arriving: bool = False
) -> Iterator[Comparison | StreamPoint]:
    with _served(plan, language, site) as server, servers.bare_genai(site, _version(language)) as (process, run):

        def bare(count: int, requests: int, number: int, rate: float) -> Streamed:
            return Streamed(**run(f"{count} {requests} {number} {language.tokens} {rate}"))

        asking = Asking({BARE: Way(process, bare), **_ways(server, language)}, language.tokens)
        for count in streams:
            each = asking.samples(count, plan.seconds, plan.curve_repeats)
            for name in each:
                if name != BARE:
                    yield _comparison(row, count, name, each[name], each[BARE])
            yield from points(row, count, each)
        for count in streams if arriving else ():
            yield from points(ARRIVING, count, asking.samples(count, plan.seconds, plan.curve_repeats, LOAD))


def _comparison(row: str, streams: int, name: str, taken: list[Taken], bare: list[Taken]) -> Comparison:
    rates = (tuple(one.rate for one in samples) for samples in (taken, bare))
    return Comparison(row, f"{streams} streams over {name}", BARE, "tokens/s", *rates, LEAST)


SSE: Final = "OpenAI's events"
GENERATE: Final = "generate_stream"
GRPC_ONE: Final = "gRPC, one channel"
GRPC_MANY: Final = "gRPC, a channel each"


def _ways(server: Server, language: Language) -> dict[str, Way]:
    name = language.name
    sse = SseRoute(name, "/v1/completions", completion_body)
    generate = SseRoute(name, f"/v2/models/{name}/generate_stream", generate_body)
    grpc = partial(GrpcWire, name)
    wires: dict[str, tuple[str, Callable[[], Wire], bool]] = {
        SSE: (server.http, sse.wire, False),
        GENERATE: (server.http, generate.wire, False),
        GRPC_ONE: (server.grpc, grpc, True),
        GRPC_MANY: (server.grpc, grpc, False),
    }

    def way(address: str, wire: Callable[[], Wire], together: bool) -> Way:
        def run(streams: int, requests: int, number: int, rate: float) -> Streamed:
            arrivals = poisson(rate, requests, number) if rate else ()
            most = MOST_ARRIVED * streams if rate else streams
            with TokenStreams(address, wire, 1 if together else most) as client:
                return client.run(most, prompts(number, requests, language.tokens), arrivals)

        return Way(server.process, run, lambda: servers.generated(server))

    return {title: way(*parts) for title, parts in wires.items()}


@contextmanager
def _served(plan: Plan, language: Language, site: Site) -> Iterator[Server]:
    _version(language)
    repository = plan.site.directory / f"repository-{language.name}"
    shutil.rmtree(repository, ignore_errors=True)
    shutil.copytree(language.source, repository / language.name)
    with servers.vintner(site, repository) as server:
        yield server


def _version(language: Language) -> Path:
    version = language.source / "1"
    if not version.is_dir():
        raise NoModel(f"there is no {version}: `make build/bench_llm/1/openvino_model.xml` makes it")
    return version
