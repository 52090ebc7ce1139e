"""The manager, stepped by hand with its threads off: whatever happens in whatever order, what works is kept."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
from fake_backend import FakeBackend, FakeModel, fake_model
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from vintner.alarms import Alarm
from vintner.backend import Backends, LoadSpec
from vintner.errors import LoadError, NotFound, Unavailable
from vintner.loaders import Load
from vintner.manager import Manager
from vintner.model_config import ModelConfig
from vintner.model_source import ModelSource, Scan
from vintner.servable import Servable
from vintner.turns import Threads

MODELS = ("a", "b")
VERSIONS = (1, 2, 3)
REVISIONS = ("good", "better", "bad")
WANTED = st.dictionaries(st.sampled_from(VERSIONS), st.sampled_from(REVISIONS))


class Queue:
    """Stands for the loader threads, the workers and the clock: what is submitted waits until it is run by hand."""

    def __init__(self) -> None:
        self.tasks: deque[Callable[[], Any]] = deque()

    def submit(self, task: Callable[..., Any], *args: Any) -> None:
        self.tasks.append(lambda: task(*args))

    def run(self, index: int) -> None:
        self.tasks.rotate(-index % len(self.tasks))
        self.tasks.popleft()()


class HandLoaders(Queue):
    def submit(self, task: Callable[[Load], None], urgent: bool = False) -> Load:  # type: ignore[override]
        load = Load(task)

        def begin() -> None:
            load.started = load.queued
            task(load)

        self.tasks.append(begin)
        return load

    def lend(self, load: Load) -> None:
        pass

    def cancel(self, load: Load) -> bool:
        return False

    def stop(self, timeout: float) -> bool:
        return True


class NoAlarms:
    def set(self, at: float, callback: Callable[[], None]) -> Alarm:
        return Alarm(at, callback)

    def cancel(self, alarm: Alarm) -> None:
        pass


class Files(FakeBackend):
    """Finds a model in every directory, and fails to load the revision that is `bad` there."""

    def __init__(self) -> None:
        super().__init__()
        self.revisions: dict[str, str] = {}

    def find(self, directory: Path) -> Path:
        return directory / "model.fake"

    def load(self, spec: LoadSpec) -> FakeModel:
        if self.revisions.get(spec.path.parent.as_posix()) == "bad":
            raise LoadError("bad")
        return super().load(spec)


class ManagerMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loaders, self.workers = HandLoaders(), Queue()
        self.files = Files()
        self.files.models["model.fake"] = fake_model()
        threads = Threads(workers=self.workers, closers=self.workers, alarms=NoAlarms())  # type: ignore[arg-type]
        self.manager = Manager(Backends(made={"fake": self.files}), threads=threads, loaders=self.loaders)  # type: ignore[arg-type]
        self.manager.aspire(Scan({}, {}))
        self.wanted: dict[str, dict[int, str]] = {}
        self.leases: list[Servable] = []
        self.changes = 0
        self.stamps: dict[tuple[str, int], int] = {}

    @rule(model=st.sampled_from(MODELS), versions=WANTED, first=st.booleans())
    def change(self, model: str, versions: dict[int, str], first: bool) -> None:
        self.changes += 1
        for version, revision in versions.items():
            if self.wanted.get(model, {}).get(version) != revision:
                self.stamps[model, version] = self.changes  # a file's time, which does not come back with its content
            self.files.revisions[f"/{model}/{version}"] = revision
        self.wanted[model] = versions
        config = ModelConfig(resource_preserving=first)
        sources = {}
        for name, present in self.wanted.items():
            paths = {version: Path(f"/{name}/{version}") for version in present}
            if paths:
                signatures = {version: self.stamps[name, version] for version in present}
                sources[name] = ModelSource(name, Path(f"/{name}"), config, paths, paths, signatures)
        self.manager.aspire(Scan(sources, {}))

    @precondition(lambda self: self.loaders.tasks)
    @rule(index=st.integers(0, 9))
    def load(self, index: int) -> None:
        self.loaders.run(index)

    @precondition(lambda self: self.workers.tasks)
    @rule(index=st.integers(0, 9))
    def work(self, index: int) -> None:
        self.workers.run(index)

    @rule(model=st.sampled_from(MODELS))
    def lease(self, model: str) -> None:
        try:
            servable = self.manager.lease(model)
        except (NotFound, Unavailable):
            assert not self.manager.ready_versions(model)
        else:
            assert servable.version == self.manager.ready_versions(model)[-1]
            self.leases.append(servable)

    @precondition(lambda self: self.leases)
    @rule(index=st.integers(0, 9))
    def release(self, index: int) -> None:
        self.leases.pop(index % len(self.leases)).release()

    @rule(model=st.sampled_from(MODELS), version=st.sampled_from((None, *VERSIONS)))
    def pin(self, model: str, version: int | None) -> None:
        record = self.manager._models.get(model)
        if record is not None and (version is None or version in record.available):
            record.pin = version
            with self.manager._lock:  # `pin` would wait
                self.manager._steps.step(record)

    @rule()
    def come_to_rest(self) -> None:
        """When everything is done that was begun, what is wanted is served, unless it is bad."""
        while self.leases:
            self.leases.pop().release()
        self._run_all()
        for name, record in self.manager._models.items():
            assert not record.plan().load
            served = {version: each.serving for version, each in record.versions.items() if each.serving}
            good = {version for version in record.wanted if self.wanted[name].get(version) != "bad"}
            assert good <= served.keys()
            if len(good) == len(record.wanted):
                assert served.keys() == good
        assert self.manager.settled.is_set()

    def _run_all(self) -> None:
        while self.loaders.tasks or self.workers.tasks:
            (self.loaders if self.loaders.tasks else self.workers).run(0)

    @invariant()
    def nothing_is_closed_that_somebody_uses(self) -> None:
        for servable in (*self.leases, *self.manager.ready()):
            assert not servable._scheduler.closed

    @invariant()
    def everything_is_closed_at_most_once(self) -> None:
        assert all(model.times_closed <= 1 for model in self.files.loaded)

    def teardown(self) -> None:
        for servable in self.leases:
            servable.release()
        self._run_all()
        assert self.manager.stop(0)
        assert [model.times_closed for model in self.files.loaded] == [1] * len(self.files.loaded)


class KeepingMachine(ManagerMachine):
    """Without a model that is unloaded first: one that serves, and whose files or others' are there, never stops."""

    def __init__(self) -> None:
        super().__init__()
        self.serving: set[str] = set()

    @rule(model=st.sampled_from(MODELS), versions=WANTED.filter(bool), first=st.just(False))
    def change(self, model: str, versions: dict[int, str], first: bool) -> None:
        super().change(model, versions, first)

    @invariant()
    def a_model_that_served_goes_on(self) -> None:
        assert self.serving <= {servable.name for servable in self.manager.ready()}
        self.serving = {servable.name for servable in self.manager.ready()}


TestManager = ManagerMachine.TestCase
TestKeeping = KeepingMachine.TestCase
TestManager.settings = TestKeeping.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
