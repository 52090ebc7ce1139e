"""Models that keep to chosen cores: seen in where their threads may run, and where they spend their time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_builders import onnx_doubling, onnx_heavy, openvino_doubling, openvino_heavy
from vintner.backend import LoadSpec
from vintner.errors import BackendError, LoadError
from vintner_backends.onnxruntime import OnnxRuntimeBackend
from vintner_backends.openvino import OpenVINOBackend
from vintner_backends.pinning import PinnedInstance, bound

CORES = sorted(os.sched_getaffinity(0))
BACKENDS = ("openvino", "onnxruntime")
needs_two = pytest.mark.skipif(len(CORES) < 2, reason="on one core, every model keeps to it")

PROGRAM = """
import json, os, sys, threading
from pathlib import Path
from importlib.metadata import entry_points
import numpy as np
from vintner.backend import LoadSpec

backend, path, settings, cores = json.loads(sys.argv[1])
[point] = entry_points(group="vintner.backends", name=backend)
everywhere = os.sched_getaffinity(0)
model = point.load()().load(LoadSpec(path=Path(path), cores=len(cores), affinity=frozenset(cores), **settings))
image = np.ones((1, 64, 56, 56), np.float32)
stop = threading.Event()
looked = threading.Event()
finished = threading.Barrier(len(model.instances) + 1)
free = [os.sched_getaffinity(0) == everywhere]

def work(instance):
    while not stop.is_set():
        instance.run({"input": image})
    free.append(os.sched_getaffinity(0) == everywhere)
    finished.wait()
    looked.wait()

workers = [threading.Thread(target=work, args=(instance,)) for instance in model.instances]
for worker in workers:
    worker.start()
print("started", flush=True)
sys.stdin.read()
stop.set()
finished.wait()
bound = sum(os.sched_getaffinity(int(thread)) != everywhere for thread in os.listdir("/proc/self/task"))
looked.set()
print(json.dumps({"instances": len(workers), "free": all(free), "bound": bound}))
"""
TICKS = 60


@dataclass(frozen=True, slots=True)
class Measured:
    """`spent` are ticks by core, `together` is how often two threads were computing when looked at. `free` says whether
    all threads that called the model have their cores back, `bound` how many others have not."""

    spent: Mapping[int, int]
    together: float
    instances: int
    free: bool
    bound: int

    def share(self, core: int) -> float:
        return self.spent.get(core, 0) / sum(self.spent.values())


def measure(backend: str, path: Path, cores: list[int], **settings: object) -> Measured:
    """Runs all instances of a model in another process until they have spent some time."""
    argument = json.dumps([backend, str(path), settings, cores])
    command = [sys.executable, "-c", PROGRAM, argument]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        spent, together = spend(process.pid)
        process.stdin.close()
        return Measured(spent, together, **json.loads(process.stdout.read()))


def spend(process: int) -> tuple[Mapping[int, int], float]:
    """Ticks that the threads of a process spend, by the core that they are on when looked at; how often two compute."""
    spent: Counter[int] = Counter()
    together: list[bool] = []
    pause = threading.Event()
    before = ticks(process)
    while spent.total() < TICKS:
        pause.wait(0.01)
        now = ticks(process)
        for thread, (count, core, _) in now.items():
            spent[core] += count - before.get(thread, (count,))[0]
        together.append(sum(running for _, _, running in now.values()) >= 2)
        before = now
    return spent, sum(together) / len(together)


def ticks(process: int) -> dict[str, tuple[int, int, bool]]:
    """For each thread the ticks that it has spent, the core that it was on last, and whether it has something to do."""
    found = {}
    for thread in Path(f"/proc/{process}/task").iterdir():
        fields = (thread / "stat").read_text().rpartition(")")[2].split()
        found[thread.name] = (int(fields[11]) + int(fields[12]), int(fields[36]), fields[0] == "R")
    return found


def heavy(backend: str, directory: Path) -> Path:
    return (openvino_heavy if backend == "openvino" else onnx_heavy)(directory)


@needs_two
@pytest.mark.parametrize("core", CORES[:2])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_pinned_model_computes_on_its_core(tmp_path: Path, backend: str, core: int) -> None:
    measured = measure(backend, heavy(backend, tmp_path), [core])
    # Between two runs, a thread is free to go.
    assert measured.share(core) >= 0.9
    assert measured.instances == 1
    assert measured.free, "a caller's thread was not given back"
    assert measured.bound == 0, "a thread that others share was bound"


@needs_two
@pytest.mark.parametrize("settings", [{"threads": 3}, {"instances": 1}, {"performance_hint": "latency"}], ids=str)
def test_onnxruntimes_own_threads_keep_to_the_cores(tmp_path: Path, settings: dict[str, object]) -> None:
    """Of a machine with more cores; here they share one."""
    path = heavy("onnxruntime", tmp_path)
    before = set(os.listdir("/proc/self/task"))
    model = OnnxRuntimeBackend().load(
        LoadSpec(path=path, cores=3, affinity=frozenset(CORES[1:2]), options={"inter_op_threads": 2}, **settings)  # type: ignore[arg-type]
    )
    started = set(os.listdir("/proc/self/task")) - before
    assert [os.sched_getaffinity(int(thread)) for thread in started] == [{CORES[1]}] * len(started)
    assert len(started) + len(model.instances) == 3
    model.close()


@needs_two
def test_openvino_computes_all_pinned_instances_at_the_same_time(tmp_path: Path) -> None:
    measured = measure("openvino", heavy("openvino", tmp_path), CORES[:2])
    assert measured.instances == 2
    assert measured.together >= 0.85


def test_pinned_models_answer_as_others_do(tmp_path: Path) -> None:
    affinity = frozenset(CORES[:1])
    rows = np.arange(8, dtype=np.float32).reshape(2, 4)
    for backend, path in (
        (OpenVINOBackend(), openvino_doubling(tmp_path / "ov")),
        (OnnxRuntimeBackend(), onnx_doubling(tmp_path / "onnx")),
    ):
        model = backend.load(LoadSpec(path=path, affinity=affinity))
        assert np.array_equal(model.instances[0].run({"input": rows})["output"], rows * 2)
        model.close()
        assert not model.instances


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cores": 4, "performance_hint": "latency"}, "1 instances on 4 threads were asked for"),
        ({"cores": 4, "instances": 2}, "2 instances on 4 threads were asked for"),
        ({"cores": 4, "streams": 2}, "4 instances on 4 threads"),
        ({"options": {"ENABLE_CPU_PINNING": True}}, "'ENABLE_CPU_PINNING' and chosen cores contradict each other"),
        ({"device": "AUTO:CPU"}, "cores can be chosen for the device CPU alone, not for AUTO:CPU"),
    ],
    ids=str,
)
def test_openvino_refuses_what_it_cannot_pin(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    spec = LoadSpec(path=openvino_doubling(tmp_path), affinity=frozenset(CORES[:1]), **settings)
    with pytest.raises(LoadError) as raised:
        OpenVINOBackend().load(spec)
    assert message in str(raised.value)


def test_onnxruntime_refuses_cores_for_another_device(tmp_path: Path) -> None:
    others = [device.name for device in OnnxRuntimeBackend().devices() if device.name != "CPU"]
    for device in others:
        spec = LoadSpec(path=onnx_doubling(tmp_path), affinity=frozenset(CORES[:1]), device=device)
        with pytest.raises(LoadError, match=f"cores can be chosen for the CPU alone, not for {device}"):
            OnnxRuntimeBackend().load(spec)


def test_openvino_pins_as_many_instances_as_threads(tmp_path: Path) -> None:
    spec = LoadSpec(path=openvino_doubling(tmp_path), cores=4, threads=2, instances=2, affinity=frozenset(CORES[:1]))
    assert len(OpenVINOBackend().load(spec).instances) == 2


class Watched:
    """An instance that notes where it is run, and fails if it is told to."""

    def __init__(self, fail: bool = False) -> None:
        self.cores: set[int] = set()
        self.fail = fail

    def run(self, inputs: Any) -> Any:
        self.cores = os.sched_getaffinity(0)
        if self.fail:
            raise BackendError("out of memory")
        return inputs


@pytest.mark.parametrize("fail", [False, True])
def test_a_callers_thread_is_bound_for_the_run_alone(fail: bool) -> None:
    watched = Watched(fail)
    try:
        PinnedInstance(watched, frozenset(CORES[:1])).run({})
    except BackendError:
        assert fail
    assert watched.cores == set(CORES[:1])
    assert os.sched_getaffinity(0) == set(CORES)


def test_cores_that_were_taken_away_fail_the_run_with_a_reason() -> None:
    with pytest.raises(BackendError, match=r"cannot compute on the cores \[1023\]"):
        PinnedInstance(Watched(), frozenset([1023])).run({})


def test_a_thread_that_is_started_while_bound_stays_so() -> None:
    seen: list[set[int]] = []
    with bound(frozenset(CORES[:1])):
        thread = threading.Thread(target=lambda: seen.append(os.sched_getaffinity(0)))
        thread.start()
        thread.join()
    assert seen == [set(CORES[:1])]
    assert os.sched_getaffinity(0) == set(CORES)


def test_without_cores_nothing_is_bound() -> None:
    with bound(frozenset()):
        assert os.sched_getaffinity(0) == set(CORES)
