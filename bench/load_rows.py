"""The rows about scheduling: curves of latency over load, overload, mixed shapes, neighbours, and the core alone.

Load comes from `caller.py`, because h2load can neither wait for a request's time nor tell a refusal from an answer.
"""

from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2

from bench import messages, models, servers
from bench.arrivals import Trace, percentile, poisson
from bench.caller import Caller
from bench.curves import IN_FLIGHT, SHARES, Point, Sampled, Samples, Track, sampled
from bench.load import LoadError
from bench.measure import Comparison, Limit, Sample, Target, WrongAnswerError, alternate, requests_for
from bench.plan import Plan
from bench.servers import Server

Inputs = Mapping[str, NDArray[Any]]

SHORT, LONG = 16, 128
"""Tokens of MiniLM's requests."""

VINTNER: Final = "vintner"
WAITING: Final = "vintner, up to 2 ms"
"""With a `max_queue_delay_seconds`: shown, and not among the others."""

UNBATCHED: Final = "unbatched"
TOGETHER: Final = 8
"""Requests whose answers are checked, sent at once so that some of them make a batch."""

QUEUE: Final = 64
"""Requests that may wait in the row of overload."""

OVERLOAD: Final = 3.0
REFUSAL_MILLISECONDS: Final = 10.0
MEGABYTE: Final = 1e6
CALLS_PER_SECOND: Final = 100.0
"""To the small neighbour."""

NEIGHBOUR_IN_FLIGHT: Final = 4
"""To the large one."""


# -- curves ------------------------------------------------------------------------------------------------------


def minilm_curve(plan: Plan) -> Iterator[Comparison | Point]:
    """Sentence embeddings, which gain from batches."""
    return _curve(plan, "minilm-curve", "minilm", models.sentence(SHORT), plan.curve_repeats)


def resnet_curve(plan: Plan) -> Iterator[Comparison | Point]:
    """Pictures, which gain little on a CPU, and are large."""
    model = "resnet50_in_batches"
    inputs = {models.RESNET_INPUT: models.image()}
    return _curve(plan, "resnet-curve", model, inputs, max(1, plan.curve_repeats - 1))  # its samples take longer


def _curve(plan: Plan, row: str, model: str, inputs: Inputs, repeats: int) -> Iterator[Comparison | Point]:
    with _track(plan, row, model, inputs, repeats) as track:
        rate = track.warm_up()
        capacity = 0.0
        for in_flight in IN_FLIGHT:
            samples = track.closed(in_flight, rate)
            rate = statistics.median(sample.value for sample in samples[VINTNER].rates)
            capacity = max(capacity, rate)
            yield _judged(row, f"{in_flight} in flight", "1/s", {name: one.rates for name, one in samples.items()})
            yield from (one.point(row, name, "closed", in_flight, None) for name, one in samples.items())
        for share in SHARES:
            samples = track.open(share * capacity)
            place = f"{share:.0%} of capacity"
            yield _judged(row, f"{place}, mean latency", "ms", {name: one.means for name, one in samples.items()})
            if share == SHARES[0]:
                yield _beside_unbatched(row, f"{place}, p99", samples)
            yield from (one.point(row, name, "open", share, share * capacity) for name, one in samples.items())


@contextmanager
def _track(plan: Plan, row: str, model: str, inputs: Inputs, repeats: int) -> Iterator[Track]:
    """Vintner as it ships, first, and what it is compared with."""
    batched = plan.configured(f"{row}-batched", model, "")
    waiting = plan.configured(f"{row}-waiting", model, "batching: {max_queue_delay_seconds: 0.002}\n")
    alone = plan.configured(f"{row}-unbatched", model, "batching: false\n")
    with ExitStack() as stack:
        running = {
            VINTNER: stack.enter_context(servers.vintner(plan.site, batched, f"{row}-vintner")),
            WAITING: stack.enter_context(servers.vintner(plan.site, waiting, f"{row}-waiting")),
            UNBATCHED: stack.enter_context(servers.vintner(plan.site, alone, f"{row}-unbatched")),
            "delay 0": stack.enter_context(servers.fixed_delay(plan.site, batched, 0.0, f"{row}-delay-0")),
            "delay 2 ms": stack.enter_context(servers.fixed_delay(plan.site, batched, 0.002, f"{row}-delay-2ms")),
        }
        callers = {name: stack.enter_context(Caller(server.grpc)) for name, server in running.items()}
        for caller in callers.values():
            _check(caller, batched, model, inputs)
        yield Track(plan.seconds, repeats, running, callers, messages.infer_request(model, inputs))


def _check(caller: Caller, repository: Path, model: str, inputs: Inputs) -> None:
    """Raises WrongAnswerError unless requests that come together get what the runtime computes for one alone."""
    expected = models.outputs(repository, model, inputs)
    for reply in caller.replies([messages.infer_request(model, inputs)] * TOGETHER):
        (content,) = service_pb2.ModelInferResponse.FromString(reply).raw_output_contents
        answer = np.frombuffer(content, np.float32).reshape(expected.shape)
        if not np.allclose(answer, expected, atol=1e-4):
            raise WrongAnswerError(f"{model} answers {answer} where {expected} is right")


def _judged(row: str, place: str, unit: str, samples: Mapping[str, tuple[Sample, ...]]) -> Comparison:
    """Vintner beside the best of the others, which is another one at another point."""
    best = max if unit.endswith("/s") else min
    others = [name for name in samples if name not in (VINTNER, WAITING)]
    name = best(others, key=lambda other: statistics.median(sample.value for sample in samples[other]))
    target = Target(Limit.AT_LEAST, 0.97) if best is max else Target(Limit.AT_MOST, 1.03)
    return Comparison(row, place, f"best of others: {name}", unit, samples[VINTNER], samples[name], target)


def _beside_unbatched(row: str, place: str, samples: Mapping[str, Samples]) -> Comparison:
    ours, theirs = (samples[name].percentiles(0.99) for name in (VINTNER, UNBATCHED))
    return Comparison(row, place, UNBATCHED, "ms", ours, theirs, Target(Limit.AT_MOST, 1.1))


# -- overload ----------------------------------------------------------------------------------------------------


def overload(plan: Plan) -> Iterator[Comparison]:
    """Three times what the server can do, in slices, with its capacity measured between them."""
    repository = plan.configured("overload", "minilm", f"queue: {{max_requests: {QUEUE}}}\n")
    body = _sentence(SHORT)
    with servers.vintner(plan.site, repository, "overload") as server, Caller(server.grpc) as caller:
        capacity = caller.closed_loop([body] * 4 * QUEUE, QUEUE).steady(QUEUE).rate
        requests = int(OVERLOAD * capacity * plan.overload_seconds / plan.repeats)
        slices: list[Sampled] = []
        resident: list[Sample] = []

        def overloaded() -> Sample:
            arrivals = poisson(OVERLOAD * capacity, requests, len(slices))
            slices.append(sampled(server, lambda: caller.open_loop([body] * requests, arrivals).whole()))
            resident.append(Sample(server.process.resident_bytes() / MEGABYTE))
            return Sample(slices[-1].stretch.rate, slices[-1].busy)

        def at_capacity() -> Sample:
            bodies = [body] * (2 * QUEUE + int(capacity * plan.seconds))
            one = sampled(server, lambda: caller.closed_loop(bodies, QUEUE).steady(QUEUE))
            return Sample(one.stretch.rate, one.busy)

        samples = alternate(plan.repeats, overloaded, at_capacity)
    name = f"MiniLM, {OVERLOAD:g}x its capacity sent"
    yield Comparison("overload", f"{name}: goodput", "capacity", "1/s", *samples, Target(Limit.AT_LEAST, 0.95))
    refusals = tuple(Sample(_refusal_milliseconds(one)) for one in slices)
    allowed = (Sample(REFUSAL_MILLISECONDS),) * len(refusals)
    bound = f"{REFUSAL_MILLISECONDS:g} ms"
    yield Comparison("overload", f"{name}: p99 of refusals", bound, "ms", refusals, allowed, Target(Limit.AT_MOST, 1.0))
    first, last = (resident[0],), (resident[-1],)
    target = Target(Limit.AT_MOST, 1.01)
    yield Comparison("overload", f"{name}: resident memory", "after the first slice", "MB", last, first, target)


def _refusal_milliseconds(one: Sampled) -> float:
    """The p99. Raises LoadError if nothing was refused: it was no overload then."""
    refused = [answer.latency for answer in one.stretch.trace.refused]
    if not refused:
        raise LoadError(f"none of {len(one.stretch.trace.answers)} requests was refused")
    return percentile(refused, 0.99) * 1e3


# -- mixed shapes ------------------------------------------------------------------------------------------------


def mixed_shapes(plan: Plan) -> Iterator[Comparison]:
    """Short and long sentences in turn, which cannot be stacked with each other, beside the same ones in order."""
    most = max(IN_FLIGHT)
    short, long = _sentence(SHORT), _sentence(LONG)
    repository = plan.configured("mixed", "minilm", "")
    with servers.vintner(plan.site, repository, "mixed") as server, Caller(server.grpc) as caller:
        for tokens in (SHORT, LONG):
            _check(caller, repository, "minilm", models.sentence(tokens))
        rate = caller.closed_loop([short, long] * most, most).rate
        pairs = max(most, int(rate * plan.seconds / 2))

        def rate_of(bodies: Sequence[bytes]) -> Callable[[], Sample]:
            def sample() -> Sample:
                one = sampled(server, lambda: caller.closed_loop(bodies, most).whole())
                return Sample(one.stretch.rate, one.busy)

            return sample

        samples = alternate(plan.repeats, rate_of([short, long] * pairs), rate_of([short] * pairs + [long] * pairs))
    name = f"MiniLM, {SHORT} and {LONG} tokens in turn, {most} in flight"
    yield Comparison("mixed-shapes", name, "sorted", "1/s", *samples, Target(Limit.AT_LEAST, 0.8))


# -- neighbours --------------------------------------------------------------------------------------------------


def neighbours(plan: Plan) -> Iterator[Comparison]:
    """A small model's latency while a large one is busy in the same server, on both cores. Reported, no target."""
    own = ",".join(map(str, sorted(os.sched_getaffinity(0))))
    site = replace(plan.site, cores=f"{plan.site.cores},{own}")
    for name, config in (("without weights", ""), ("equal core weights", "core_weight: 1\n")):
        directory = plan.site.directory / "repository-neighbours"
        repository = models.make_repository(directory, "resnet50", "mlp", config=config)
        if config and (reason := servers.refusal(repository)):
            print(f"neighbours, {name}: left out, for Vintner refuses its configuration: {reason}", file=sys.stderr)
            continue
        with servers.vintner(site, repository, "neighbours") as server, Caller(server.grpc) as caller:
            samples = alternate(
                plan.repeats, partial(_p99_in_company, plan, server, caller), partial(_p99, plan, caller)
            )
        yield Comparison("neighbours", f"MLP's p99 beside a busy ResNet-50, {name}", "alone", "ms", *samples)


def _p99(plan: Plan, caller: Caller) -> Sample:
    """Of the small model, in ms; the arrivals are the same each time."""
    requests = int(CALLS_PER_SECOND * plan.seconds)
    body = messages.infer_request("mlp", {"features": models.mlp_features()})
    trace = _all_served(caller.open_loop([body] * requests, poisson(CALLS_PER_SECOND, requests, seed=0)))
    return Sample(percentile([answer.latency for answer in trace.answers], 0.99) * 1e3)


def _p99_in_company(plan: Plan, server: Server, caller: Caller) -> Sample:
    """The same, while the large model has `NEIGHBOUR_IN_FLIGHT` requests at any time."""
    body = messages.infer_request("resnet50", {models.RESNET_INPUT: models.image()})
    enough = Event()
    with Caller(server.grpc) as other, ThreadPoolExecutor(1) as threads:
        bodies = iter(lambda: None if enough.is_set() else body, None)
        company = threads.submit(other.closed_loop, bodies, NEIGHBOUR_IN_FLIGHT)
        try:
            sample = _p99(plan, caller)
        finally:
            enough.set()
        _all_served(company.result())
    return sample


def _all_served(trace: Trace) -> Trace:
    """Raises LoadError if one request was not."""
    if len(trace.served) != len(trace.answers):
        raise LoadError(f"{len(trace.answers) - len(trace.served)} of {len(trace.answers)} requests failed")
    return trace


# -- the core alone ----------------------------------------------------------------------------------------------


def hot_path(plan: Plan) -> Iterator[Comparison]:
    """What the core costs a request, in one process without sockets. Reported, no target."""
    with servers.hot_path(plan.site) as seconds:

        def each(threads: int) -> Callable[[], Sample]:
            requests = requests_for(lambda count: seconds(threads, count), plan.seconds, 10 * max(1, threads))
            return lambda: Sample(seconds(threads, requests) / requests * 1e6)

        alone = each(1)
        samples = alternate(plan.repeats, alone, each(0))
        yield Comparison("hot-path", "the core at batch 1, one thread", "the bare instance", "us", *samples)
        for threads in (8, 64):
            samples = alternate(plan.repeats, each(threads), alone)
            yield Comparison("hot-path", f"the core at batch 1, {threads} threads", "one thread", "us", *samples)


def _sentence(tokens: int) -> bytes:
    return messages.infer_request("minilm", models.sentence(tokens))
