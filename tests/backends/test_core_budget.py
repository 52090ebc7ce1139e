"""How instances share the cores: the rule itself, and what the runtimes make of it, seen in the threads that worked."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from model_builders import onnx_heavy, openvino_heavy
from vintner.backend import LoadSpec
from vintner_backends.cpu_budget import CpuBudget, cpu_budget

PROGRAM = """
import json, os, sys, threading
from pathlib import Path
from importlib.metadata import entry_points
import numpy as np
from vintner.backend import LoadSpec

def ticks():
    found = {}
    for thread in os.listdir("/proc/self/task"):
        fields = Path(f"/proc/self/task/{thread}/stat").read_text().rpartition(")")[2].split()
        found[thread] = int(fields[11]) + int(fields[12])
    return found

backend, path, settings = json.loads(sys.argv[1])
[point] = entry_points(group="vintner.backends", name=backend)
idle = len(ticks())
model = point.load()().load(LoadSpec(path=Path(path), **settings))
image = np.ones((1, 64, 56, 56), np.float32)
measured = threading.Event()
ran = threading.Barrier(len(model.instances) + 1)

def work(instance):
    for _ in range(60):
        instance.run({"input": image})
    ran.wait()
    measured.wait()

before = ticks()
workers = [threading.Thread(target=work, args=(instance,)) for instance in model.instances]
for worker in workers:
    worker.start()
ran.wait()
spent = [now - before.get(thread, 0) for thread, now in ticks().items()]
measured.set()
busy = sum(one > sum(spent) / 20 for one in spent)
print(json.dumps({"busy": busy, "threads": len(spent) - idle, "instances": len(model.instances)}))
"""


def measure(backend: str, path: Path, **settings: object) -> dict[str, int]:
    argument = json.dumps([backend, str(path), settings])
    done = subprocess.run([sys.executable, "-c", PROGRAM, argument], capture_output=True, text=True, check=True)
    counts: dict[str, int] = json.loads(done.stdout)
    return counts


@pytest.mark.parametrize("settings", [{}, {"performance_hint": "latency"}, {"instances": 4}, {"threads": 9}], ids=str)
@pytest.mark.parametrize("cores", [1, 2])
@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_no_more_threads_compute_than_there_are_cores(
    tmp_path: Path, backend: str, cores: int, settings: dict[str, object]
) -> None:
    path = (openvino_heavy if backend == "openvino" else onnx_heavy)(tmp_path)
    counts = measure(backend, path, cores=cores, **settings)
    assert 1 <= counts["busy"] <= cores
    assert counts["threads"] <= 2 * cores + 2, "idle threads of the runtime included"


def budget(**settings: int) -> CpuBudget:
    return cpu_budget(LoadSpec(path=Path("model"), **settings))


def test_all_cores_are_used_if_nothing_is_said() -> None:
    assert budget(cores=4) == CpuBudget(threads=4, instances=None)


def test_fewer_threads_than_cores_are_kept() -> None:
    assert budget(cores=4, threads=2, instances=2) == CpuBudget(threads=2, instances=2)


def test_threads_are_cut_to_the_cores_and_instances_to_the_threads(caplog: pytest.LogCaptureFixture) -> None:
    assert budget(cores=4, threads=8, instances=6) == CpuBudget(threads=4, instances=4)
    assert budget(cores=4, threads=2, instances=3) == CpuBudget(threads=2, instances=2)
    assert [record.getMessage() for record in caplog.records] == [
        "model: 8 threads asked for, 4 used: that is what the cores allow",
        "model: 6 instances asked for, 4 used: that is what the cores allow",
        "model: 3 instances asked for, 2 used: that is what the cores allow",
    ]
