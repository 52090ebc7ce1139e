"""The rows about the life of a model: what reloads cost a neighbour, and what models cost a start that nobody asks for.

Load comes from `caller.py`. Servers take a change at once, without the time that it otherwise has to rest, so that
nothing is measured but the reload.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Final

from bench import messages, models, servers
from bench.arrivals import Trace, percentile
from bench.caller import Caller
from bench.load import LoadError
from bench.measure import Comparison, Limit, Sample, Target, alternate
from bench.plan import Plan
from bench.process import ProcessError
from bench.servers import Server

RELOADS: Final = 20
"""In one sample, one after the other."""

MODELS: Final = 200
PATIENCE_SECONDS: Final = 30.0
HOT, CHANGED = "mlp", "first_pixels"


def model_life(plan: Plan) -> Iterator[Comparison]:
    """Both parts."""
    yield _reloads(plan)
    yield _start(plan)


def _reloads(plan: Plan) -> Comparison:
    """The p99 of a small model, one request in flight, while another one gets new versions."""
    repository = models.make_repository(plan.site.directory / "repository-life", HOT, CHANGED)
    with (
        servers.vintner(plan.site, repository, "model-life", "--repository-settle-seconds=0") as server,
        Caller(server.grpc) as caller,
    ):

        def quiet() -> None:
            time.sleep(plan.seconds)

        samples = alternate(
            plan.repeats,
            lambda: _p99_during(caller, lambda: _change(server, repository / CHANGED, plan.site.directory)),
            lambda: _p99_during(caller, quiet),
        )
    return Comparison("model-life", f"MLP's p99 during {RELOADS} reloads of another", "quiet", "ms", *samples)


def _p99_during(caller: Caller, happens: Callable[[], None]) -> Sample:
    """In ms, of requests one after the other for as long as it takes. Raises LoadError if one failed."""
    body = messages.infer_request(HOT, {"features": models.mlp_features()})
    enough = Event()
    with ThreadPoolExecutor(1) as threads:
        bodies = iter(lambda: None if enough.is_set() else body, None)
        trace = threads.submit(caller.closed_loop, bodies, 1)
        try:
            happens()
        finally:
            enough.set()
        return Sample(_p99(trace.result()))


def _p99(trace: Trace) -> float:
    if len(trace.served) != len(trace.answers):
        raise LoadError(f"{len(trace.answers) - len(trace.served)} of {len(trace.answers)} requests failed")
    return percentile([answer.latency for answer in trace.answers], 0.99) * 1e3


def _change(server: Server, model: Path, site: Path) -> None:
    """Renames new versions into place, each of which takes the place of the one before. Raises ProcessError."""
    for _ in range(RELOADS):
        newest = max(int(version.name) for version in model.iterdir() if version.name.isdigit())
        staged = site / "staged-version"
        shutil.rmtree(staged, ignore_errors=True)
        shutil.copytree(model / str(newest), staged)
        loads = servers.loads(server)
        staged.rename(model / str(newest + 1))
        end = time.monotonic() + PATIENCE_SECONDS
        while servers.loads(server) == loads:
            if time.monotonic() > end:
                raise ProcessError(f"{server.process} did not load version {newest + 1} of {model.name}")
            time.sleep(0.05)


def _start(plan: Plan) -> Comparison:
    """Seconds from the start of the process to the line that says it is ready."""
    config = "load: on_demand\n"
    many = models.make_copies(plan.site.directory / "repository-many", "mlp", MODELS, config)
    one = models.make_copies(plan.site.directory / "repository-one", "mlp", 1, config)

    def start(repository: Path) -> Callable[[], Sample]:
        def sample() -> Sample:
            began = time.monotonic()
            with servers.vintner(plan.site, repository, "model-life-start"):
                return Sample(time.monotonic() - began)

        return sample

    samples = alternate(plan.repeats, start(many), start(one))
    name = f"start with {MODELS} models that are loaded on demand"
    return Comparison("model-life", name, "with one", "s", *samples, Target(Limit.AT_MOST, 1.5))
