"""Small models have no threads of their own, unless they are asked for; others are as they were."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_builders import onnx_heavy, onnx_mlp, openvino_heavy, openvino_mlp
from vintner.backend import Backend, LoadSpec
from vintner.errors import BackendError
from vintner.types import Array, TensorSpec
from vintner_backends.brevity import BRIEF, PATIENCE, ROWS, SMALL, is_brief, worth_trying

MODELS = 16
PROGRAM = """
import json, os, sys
from pathlib import Path
from importlib.metadata import entry_points
from vintner.backend import LoadSpec

backend, path, count, settings = json.loads(sys.argv[1])
[point] = entry_points(group="vintner.backends", name=backend)
load = point.load()().load
idle = len(os.listdir("/proc/self/task"))
models = [load(LoadSpec(path=Path(path), **settings)) for _ in range(count)]
print(len(os.listdir("/proc/self/task")) - idle)
"""


def threads_of(backend: str, path: Path, count: int, **settings: object) -> int:
    """How many more a process has once it has loaded a model so many times."""
    argument = json.dumps([backend, str(path), count, settings])
    done = subprocess.run([sys.executable, "-c", PROGRAM, argument], capture_output=True, text=True, check=True)
    return int(done.stdout)


def write_mlp(backend: str, directory: Path) -> Path:
    return (openvino_mlp if backend == "openvino" else onnx_mlp)(directory, 16, 64, 4)


@pytest.fixture(params=["openvino", "onnxruntime"])
def backend(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.mark.parametrize("hint", ["throughput", "latency"])
def test_many_small_models_need_fewer_threads_than_one_each(tmp_path: Path, backend: str, hint: str) -> None:
    path = write_mlp(backend, tmp_path)
    assert threads_of(backend, path, MODELS, cores=4, performance_hint=hint) < MODELS


def load(backend: str, path: Path, **settings: Any) -> Any:
    [point] = entry_points(group="vintner.backends", name=backend)
    adapter: Backend = point.load()()
    return adapter.load(LoadSpec(path=path, cores=4, **settings))


def test_instances_that_were_asked_for_are_there(tmp_path: Path, backend: str) -> None:
    assert len(load(backend, write_mlp(backend, tmp_path), instances=3).instances) == 3


def test_a_model_that_takes_long_with_few_weights_has_its_instances_and_threads(tmp_path: Path, backend: str) -> None:
    path = (openvino_heavy if backend == "openvino" else onnx_heavy)(tmp_path, width=24, layers=4)
    assert sum(file.stat().st_size for file in path.parent.iterdir()) < SMALL
    assert len(load(backend, path).instances) > 1
    if backend == "onnxruntime":
        assert threads_of(backend, path, 2, cores=4, performance_hint="latency") == 2 * 3


# -- what is measured ------------------------------------------------------------------------------------------


class Timed:
    """An instance that keeps the processor busy for the seconds that it is given, one after the other."""

    def __init__(self, *seconds: float, fail: bool = False) -> None:
        self.inputs: list[Mapping[str, Array]] = []
        self._seconds = seconds
        self._fail = fail

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        self.inputs.append(inputs)
        until = time.thread_time() + self._seconds[min(len(self.inputs), len(self._seconds)) - 1]
        while time.thread_time() < until:
            pass
        if self._fail:
            raise BackendError("not with zeros")
        return {}


def spec(*shape: int, datatype: str = "FP32") -> TensorSpec:
    return TensorSpec("x", datatype, shape)


def test_one_brief_run_of_a_full_batch_is_enough() -> None:
    instance = Timed(5 * BRIEF, 2 * BRIEF, 0.0)
    assert is_brief(instance, [spec(-1, 4)])
    assert len(instance.inputs) == 3
    assert instance.inputs[0]["x"].shape == (ROWS, 4)
    assert instance.inputs[0]["x"].dtype == np.float32


def test_a_long_run_is_not_tried_often() -> None:
    instance = Timed(2 * PATIENCE)
    assert not is_brief(instance, [spec(1, 4)])
    assert len(instance.inputs) == 1


@pytest.mark.parametrize("inputs", [spec(-1, -1), spec(-1, 4, datatype="BYTES")], ids=str)
def test_what_cannot_be_known_beforehand_is_not_tried(inputs: TensorSpec) -> None:
    instance = Timed(0.0)
    assert not is_brief(instance, [inputs])
    assert not instance.inputs


def test_a_model_that_fails_with_zeros_is_not_brief() -> None:
    assert not is_brief(Timed(0.0, fail=True), [spec(1, 4)])


def settled(**settings: Any) -> bool:
    return worth_trying(LoadSpec(path=Path("m"), **{"cores": 2, **settings}), SMALL)


WORTH: Mapping[str, Callable[[], bool]] = {
    "nothing asked": settled,
    "one instance": lambda: settled(instances=1),
    "any rows": lambda: settled(rows=-1),
}
NOT_WORTH: Mapping[str, Callable[[], bool]] = {
    "two instances": lambda: settled(instances=2),
    "streams": lambda: settled(streams=1),
    "threads": lambda: settled(threads=2),
    "cores chosen": lambda: settled(affinity=frozenset({0})),
    "options": lambda: settled(options={"A": 1}),
    "one of several sizes": lambda: settled(rows=4),
    "another device": lambda: settled(device="GPU"),
    "one core": lambda: settled(cores=1),
    "many weights": lambda: worth_trying(LoadSpec(path=Path("m"), cores=2), SMALL + 1),
}


@pytest.mark.parametrize("case", WORTH)
def test_a_small_model_of_which_nothing_is_asked_is_tried(case: str) -> None:
    assert WORTH[case]()


@pytest.mark.parametrize("case", NOT_WORTH)
def test_what_was_asked_for_or_cannot_be_brief_is_not_tried(case: str) -> None:
    assert not NOT_WORTH[case]()
