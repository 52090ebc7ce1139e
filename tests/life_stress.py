"""Everything at once: models that change, fail, hang, sleep, are evicted, loaded, unloaded and pinned under requests.

`stress` does so for some seconds, with threads that are switched as often as can be, and says what was wrong then.
Run as a program, it takes the seconds and the seeds.
"""

from __future__ import annotations

import logging
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
from fake_backend import FakeBackend, FakeInstance, FakeModel, fake_model, write_model
from vintner.backend import Backends, LoadSpec
from vintner.errors import LoadError, VintnerError
from vintner.manager import Admission, AwaitLoad, Manager
from vintner.model_config import ModelConfig, TrafficConfig
from vintner.model_source import ModelSource, Scan
from vintner.service import Service
from vintner.types import Array, Cancellation, Request, Response, Tensor

NAMES = ("a", "b", "c", "d")
VERSIONS = (1, 2, 3)
WAIT = 20.0


class _Instance(FakeInstance):
    """Its answers tell the version, and a run of what is closed is an error that is kept."""

    def __init__(self, model: FakeModel, factor: int, wrong: list[str]) -> None:
        super().__init__(model)
        self._factor = factor
        self._wrong = wrong

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        if self._model.closed:
            self._wrong.append(f"a run of {self._model.spec.path}, which is closed")
        self._model.enter(inputs)
        if self._model.closed:
            self._wrong.append(f"{self._model.spec.path} was closed during a run")
        return {"output": inputs["input"] * self._factor}


class _Backend(FakeBackend):
    """Loads that take a moment, fail, and sometimes hang until the end."""

    def __init__(self, seed: int, wrong: list[str]) -> None:
        super().__init__()
        self._random = random.Random(seed)
        self._wrong = wrong
        self.end = threading.Event()

    def load(self, spec: LoadSpec) -> FakeModel:
        chance = self._random.random()
        if chance < 0.1:
            raise LoadError("it failed by chance")
        if chance < 0.13:
            self.end.wait(WAIT)  # given up long before
        elif chance < 0.5:
            time.sleep(self._random.random() * 0.005)
        model = super().load(spec)
        model.instances = [_Instance(model, int(spec.path.parent.name) + 1, self._wrong)]
        model.gate = lambda: time.sleep(0.0005 if self._random.random() < 0.1 else 0)
        return model


class Stress:
    def __init__(self, root: Path, seed: int) -> None:
        self.wrong: list[str] = []
        self.answers: dict[str, int] = {}
        self._root = root
        self._seed = seed
        self._over = threading.Event()
        self._backend = _Backend(seed, self.wrong)
        explicit = seed % 2 == 1
        self._explicit = explicit
        budget = 2500 if seed % 3 else None
        self.manager = Manager(
            Backends(made={"fake": self._backend}),
            admission=Admission(explicit, None),
            memory_budget=budget,
            load_threads=2,
        )
        self._service = Service(self.manager)
        for name in NAMES:
            for version in VERSIONS:
                write_model(root / name / str(version), fake_model())
        self._sources: dict[str, ModelSource] = {}
        self._changes = 0

    # -- what happens ----------------------------------------------------------------------------------------

    def change(self, chance: random.Random) -> None:
        """A scan that finds something else."""
        name = chance.choice(NAMES)
        self._changes += 1
        faults, unsettled = {}, {}
        if chance.random() < 0.15:
            self._sources.pop(name, None)
            if chance.random() < 0.5:
                (faults if chance.random() < 0.7 else unsettled)[name] = "it is so"
        else:
            self._sources[name] = self.source(name, chance)
        self.manager.aspire(Scan(dict(self._sources), faults, unsettled))

    def source(self, name: str, chance: random.Random) -> ModelSource:
        there = {version: self._root / name / str(version) for version in VERSIONS if chance.random() < 0.7}
        there = there or {1: self._root / name / "1"}
        wanted = {version: path for version, path in there.items() if chance.random() < 0.7} or there
        traffic = None
        if len(wanted) > 1 and chance.random() < 0.4:
            first, last = min(wanted), max(wanted)
            traffic = {"default": first, chance.choice(("canary", "shadow")): {"version": last, "percent": 50}}
        config = ModelConfig.model_validate(
            {
                "load": chance.choice(("at_start", "on_demand")),
                "idle_unload_seconds": chance.choice((None, 0.002, 0.01)),
                "resource_preserving": chance.random() < 0.3,
                "load_timeout_seconds": 0.05,
                "memory_bytes": chance.choice((500, 1000, 1500, 3000)),
                "queue": {"max_requests": chance.choice((8, 64))},
                "traffic": traffic,
            }
        )
        signatures = {version: chance.choice((self._seed, self._changes)) for version in there}
        changes = chance.random() < 0.05
        return ModelSource(name, self._root / name, config, wanted, there, signatures, unchanged=lambda _: not changes)

    def control(self, chance: random.Random) -> None:
        """A call of a client's."""
        name, kind = chance.choice(NAMES), chance.random()
        if kind < 0.3:
            given = self.source(name, chance) if chance.random() < 0.4 else None
            self.manager.load(name, given, timeout=WAIT) if self._explicit else time.sleep(0.002)
        elif kind < 0.5:
            self.manager.unload(name, timeout=chance.choice((0, WAIT))) if self._explicit else time.sleep(0.002)
        elif kind < 0.7:
            self.manager.pin(name, chance.choice((None, *VERSIONS)), timeout=WAIT)
        elif kind < 0.85:
            traffic = TrafficConfig.model_validate({"default": 1, "canary": {"version": 2, "percent": 50}})
            self.manager.direct(name, chance.choice((None, traffic)), timeout=WAIT)
        elif kind < 0.95:
            self.manager.index()
            self.manager.registry.render()
            list(self.manager.holdups(strict=chance.random() < 0.5))
        else:
            self._service.model_metadata(name)

    def ask(self, chance: random.Random) -> None:
        """A request, with what may end it early."""
        value = chance.randrange(1, 1000)
        answers: SimpleQueue[Response | Exception] = SimpleQueue()
        cancellation = Cancellation() if chance.random() < 0.2 else None
        request = Request(
            chance.choice(NAMES),
            chance.choice(("", "", "", "1", "2")),
            {"input": Tensor("FP32", np.full((1, 4), value, np.float32))},
            deadline=time.monotonic() + chance.random() * 0.05 if chance.random() < 0.2 else None,
            cancellation=cancellation,
        )
        turn = self._service.submit(request, "grpc", answers.put)
        if cancellation is not None:
            cancellation.cancel()
        if turn is not None:
            turn.run()
        try:
            self._judge(request, value, answers.get(timeout=WAIT))
        except Empty:
            self.wrong.append(f"no answer: {request.model_name}/{request.model_version} {self.manager.index()}")
        if not answers.empty():
            self.wrong.append("two answers")

    def _judge(self, request: Request, value: int, answer: Response | Exception) -> None:
        if isinstance(answer, Response):
            factor = int(answer.model_version) + 1
            if request.model_version not in ("", answer.model_version):
                self.wrong.append("another version than was asked for")
            if not (answer.outputs["output"].array == value * factor).all():
                self.wrong.append(f"{answer.outputs['output'].array} is not {value} * {factor}")
        elif not isinstance(answer, VintnerError):
            self.wrong.append(repr(answer))
        key = type(answer).__name__
        if isinstance(answer, AwaitLoad):
            key = "refused"
            if not answer.refusal:
                self.wrong.append("a request that would have to wait was refused")
        self.answers[key] = self.answers.get(key, 0) + 1

    # -- the run ---------------------------------------------------------------------------------------------

    def run(self, seconds: float, least: int = 0) -> None:
        """For that time at least, and until so many requests have been answered."""
        self.manager.aspire(Scan({}, {}))
        actors = [self.change, self.control, self.control, *[self.ask] * 6]
        threads = [
            threading.Thread(target=self._act, args=(act, random.Random(self._seed * 100 + number)), daemon=True)
            for number, act in enumerate(actors)
        ]
        for thread in threads:
            thread.start()
        time.sleep(seconds)
        _until(lambda: self.answers.get("Response", 0) >= least)  # however slow the machine is
        self._over.set()
        threads[0].join(WAIT)
        self.manager.aspire(Scan(dict(self._sources), {}))  # where nothing is unsettled, which calls would wait for
        for thread in threads:
            thread.join(3 * WAIT)
            if thread.is_alive():
                self.wrong.append(f"a thread is stuck: {thread.name}; {self.manager.index()}")
        if not self.wrong:
            self._rest()

    def _act(self, act: Callable[[random.Random], None], chance: random.Random) -> None:
        while not self._over.is_set():
            try:
                act(chance)
            except VintnerError as exc:
                if "still loading" in str(exc):
                    self.wrong.append(f"{exc}: {self.manager.index()}")
            except Exception as exc:
                logging.exception("what was called failed")
                self.wrong.append(repr(exc))

    def _rest(self) -> None:
        """What has to be when nothing happens any more."""
        self.manager.aspire(Scan({n: replace(s, unchanged=lambda _: True) for n, s in self._sources.items()}, {}))
        if not self.manager.settled.wait(WAIT):
            self.wrong.append(f"it does not settle: {self.manager.index()}")
        stuck = [each for each in self.manager.index() if each.state == "LOADING"]
        if stuck:
            self.wrong.append(f"loading, though settled: {stuck}")
        if not _until(lambda: not any(self._used())):
            self.wrong.append(f"leases or waiters are left: {self.manager.index()}")
        if not self.manager.stop(WAIT):
            self.wrong.append("the end was not in time")
        self._backend.end.set()
        _until(lambda: not any(thread.name == "vintner-load" for thread in threading.enumerate()))
        _until(lambda: all(model.closed for model in self._backend.loaded))
        open_ones = [f"{model.spec.path} {model.instances}" for model in self._backend.loaded if not model.closed]
        times = [model.times_closed for model in self._backend.loaded]
        if times != [1] * len(times):
            self.wrong.append(
                f"of {len(times)} models {times.count(0)} were not closed, {max(times)} times at most {open_ones}"
            )

    def _used(self) -> Iterator[object]:
        for model in list(self.manager._models.values()):
            yield model.waiters or model.resuming
        for servable in self.manager.ready():
            yield servable._leases


def _until(condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + WAIT
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    return condition()


def stress(seconds: float, seed: int, root: Path, least: int = 0) -> Stress:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        made = Stress(root, seed)
        made.run(seconds, least)
        return made
    finally:
        sys.setswitchinterval(interval)


def main(seconds: float, seeds: list[int]) -> Any:
    logging.disable(logging.ERROR)
    for seed in seeds:
        with tempfile.TemporaryDirectory() as root:
            done = stress(seconds, seed, Path(root))
            print(
                seed,
                len(done._backend.loaded),
                "loads",
                done._changes,
                "changes",
                done.answers,
                done.wrong[:3],
                flush=True,
            )


if __name__ == "__main__":
    main(float(sys.argv[1]), [int(seed) for seed in sys.argv[2:]])
