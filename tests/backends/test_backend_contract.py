"""What every backend promises, whatever library is behind it; the in-memory fake of the core's tests included."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_backend import FakeBackend, fake_model, write_model
from model_builders import onnx_doubling, onnx_heavy, openvino_doubling, openvino_heavy
from vintner.backend import Backend, LoadedModel, LoadSpec
from vintner.errors import ConfigError, LoadError
from vintner.types import DTYPES, Array, bf16_to_fp32, fp32_to_bf16
from vintner_backends.onnxruntime import OnnxRuntimeBackend
from vintner_backends.openvino import OpenVINOBackend

Builder = Callable[..., Path]


def fake_doubling(directory: Path, datatype: str = "FP32", shape: Sequence[int] = (-1, 4)) -> Path:
    return write_model(directory, fake_model(datatype, shape))


@dataclass(frozen=True, slots=True)
class Kit:
    """A backend and how to make a model for it."""

    backend: Backend
    doubling: Builder

    def load(self, directory: Path, *model: Any, **settings: Any) -> LoadedModel:
        return self.backend.load(LoadSpec(path=self.doubling(directory, *model), **settings))


@pytest.fixture(params=["openvino", "onnxruntime", "fake"])
def kit(request: pytest.FixtureRequest) -> Kit:
    kits = {
        "openvino": (OpenVINOBackend, openvino_doubling),
        "onnxruntime": (OnnxRuntimeBackend, onnx_doubling),
        "fake": (FakeBackend, fake_doubling),
    }
    backend, doubling = kits[request.param]
    return Kit(backend(), doubling)


def values(datatype: str, rows: int) -> Array:
    """Rows of four, each of them different, that can be doubled within the datatype."""
    numbers = np.arange(rows * 4).reshape(rows, 4) % 60
    if datatype == "BYTES":
        texts = np.empty(rows * 4, np.object_)
        texts[:] = [f"{number}\0é".encode() * (number % 3) for number in numbers.flat]
        return texts.reshape(rows, 4)
    if datatype == "BF16":
        return fp32_to_bf16(numbers.astype(np.float32) + 0.5)
    return (numbers % 2 if datatype == "BOOL" else numbers).astype(DTYPES[datatype])


def doubled(datatype: str, array: Array) -> Array:
    if datatype in ("BOOL", "BYTES"):
        return array
    return fp32_to_bf16(bf16_to_fp32(array) * 2) if datatype == "BF16" else array * 2


def run(model: LoadedModel, array: Array, instance: int = 0) -> Array:
    outputs = model.instances[instance].run({"input": array})
    assert list(outputs) == ["output"]
    return outputs["output"]


def read_only(array: Array) -> Array:
    if array.dtype == np.object_:
        copy = array.copy()
        copy.flags.writeable = False
        return copy
    return np.frombuffer(array.tobytes(), array.dtype).reshape(array.shape)


@pytest.mark.parametrize("datatype", DTYPES)
def test_specs_tell_names_datatypes_and_shapes_of_the_model(kit: Kit, tmp_path: Path, datatype: str) -> None:
    model = kit.load(tmp_path, datatype, (-1, 3, 2))
    assert [(spec.name, spec.datatype, spec.shape) for spec in model.inputs] == [("input", datatype, (-1, 3, 2))]
    assert [(spec.datatype, spec.shape) for spec in model.outputs] == [(datatype, (-1, 3, 2))]


@pytest.mark.parametrize("rows", [1, 3, 0, 2])
@pytest.mark.parametrize("datatype", DTYPES)
def test_every_datatype_is_computed_for_any_number_of_rows(kit: Kit, tmp_path: Path, datatype: str, rows: int) -> None:
    model = kit.load(tmp_path, datatype)
    given = values(datatype, rows)
    answer = run(model, given)
    assert answer.dtype == DTYPES[datatype]
    assert answer.shape == given.shape
    np.testing.assert_array_equal(answer, doubled(datatype, given))


@pytest.mark.parametrize("datatype", DTYPES)
def test_the_number_of_rows_may_change_from_run_to_run(kit: Kit, tmp_path: Path, datatype: str) -> None:
    model = kit.load(tmp_path, datatype)
    for rows in (2, 5, 0, 1, 5, 0, 0, 3):
        given = values(datatype, rows)
        np.testing.assert_array_equal(run(model, given), doubled(datatype, given))


@pytest.mark.parametrize("datatype", DTYPES)
def test_an_input_may_be_read_only_and_stays_as_it_was(kit: Kit, tmp_path: Path, datatype: str) -> None:
    model = kit.load(tmp_path, datatype)
    given = read_only(values(datatype, 3))
    np.testing.assert_array_equal(run(model, given), doubled(datatype, values(datatype, 3)))
    np.testing.assert_array_equal(given, values(datatype, 3))


@pytest.mark.parametrize("columns", [4, 200_000])
def test_large_and_small_inputs_may_take_turns(kit: Kit, tmp_path: Path, columns: int) -> None:
    model = kit.load(tmp_path, "FP32", (-1, -1))
    for rows, width in ((1, columns), (2, 4), (1, columns), (2, 4), (3, 200_000), (1, 4)):
        given = read_only(np.random.default_rng(rows).normal(size=(rows, width)).astype(np.float32))
        np.testing.assert_array_equal(run(model, given), given * 2)


@pytest.mark.parametrize("datatype", DTYPES)
def test_an_output_survives_the_runs_after_it(kit: Kit, tmp_path: Path, datatype: str) -> None:
    model = kit.load(tmp_path, datatype)
    first = run(model, values(datatype, 3))
    for _ in range(3):
        run(model, doubled(datatype, values(datatype, 3)))
    np.testing.assert_array_equal(first, doubled(datatype, values(datatype, 3)))


def test_an_output_survives_its_model(kit: Kit, tmp_path: Path) -> None:
    model = kit.load(tmp_path)
    answer = run(model, values("FP32", 3))
    model.close()
    del model
    np.testing.assert_array_equal(answer, doubled("FP32", values("FP32", 3)))


def test_an_output_does_not_change_with_the_input_that_it_came_from(kit: Kit, tmp_path: Path) -> None:
    model = kit.load(tmp_path, "BOOL")
    given = values("BOOL", 2)
    answer = run(model, given)
    given[...] = ~given
    np.testing.assert_array_equal(answer, values("BOOL", 2))


def test_a_scalar_is_computed(kit: Kit, tmp_path: Path) -> None:
    model = kit.load(tmp_path, "FP32", ())
    assert model.inputs[0].shape == ()
    answer = run(model, np.array(21, np.float32))
    assert (answer.shape, answer.item()) == ((), 42)


def test_strings_keep_every_byte_and_may_differ_wildly_in_length(kit: Kit, tmp_path: Path) -> None:
    model = kit.load(tmp_path, "BYTES", (-1,))
    given = np.array(
        [b"", b"\0", b"trailing\0\0", b"in\0side", "Grüße, 世界".encode(), b"x" * 1_000_000, b""], np.object_
    )
    answer = run(model, given)
    assert answer.tolist() == given.tolist()


def test_as_many_instances_are_made_as_were_asked_for(kit: Kit, tmp_path: Path) -> None:
    assert len(kit.load(tmp_path, instances=3, cores=4).instances) == 3


def test_instances_run_at_the_same_time_without_mixing_their_rows(kit: Kit, tmp_path: Path) -> None:
    model = kit.load(tmp_path, "FP32", (-1, 4), instances=4, cores=4)

    def answers_are_right(instance: int) -> bool:
        mine = np.full((1 + instance, 4), instance + 1, np.float32)
        return all(np.array_equal(run(model, mine + turn, instance), (mine + turn) * 2) for turn in range(200))

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(answers_are_right, range(4))) == [True] * 4


def test_an_instance_may_be_run_by_one_thread_after_another(kit: Kit, tmp_path: Path) -> None:
    model = kit.load(tmp_path)
    for rows in range(4):
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(run, model, values("FP32", rows)).result()
        np.testing.assert_array_equal(answer, doubled("FP32", values("FP32", rows)))


def test_models_load_from_several_threads_at_once(kit: Kit, tmp_path: Path) -> None:
    specs = [LoadSpec(path=kit.doubling(tmp_path / str(number))) for number in range(6)]
    with ThreadPoolExecutor(6) as pool:
        models = list(pool.map(kit.backend.load, specs))
    for model in models:
        np.testing.assert_array_equal(run(model, values("FP32", 2)), doubled("FP32", values("FP32", 2)))


def test_a_model_that_was_closed_leaves_the_others_running(kit: Kit, tmp_path: Path) -> None:
    first, second = kit.load(tmp_path / "first"), kit.load(tmp_path / "second")
    first.close()
    np.testing.assert_array_equal(run(second, values("FP32", 2)), doubled("FP32", values("FP32", 2)))


@pytest.mark.parametrize(
    ("backend", "heavy"), [(OpenVINOBackend, openvino_heavy), (OnnxRuntimeBackend, onnx_heavy)], ids=["ov", "ort"]
)
def test_closing_gives_the_memory_back(
    tmp_path: Path, backend: Callable[[], Backend], heavy: Callable[..., Path]
) -> None:
    path = heavy(tmp_path, width=256, layers=8)
    weights = sum(file.stat().st_size for file in tmp_path.iterdir())
    image = np.ones((1, 256, 56, 56), np.float32)

    def resident_after_a_life() -> int:
        model = backend().load(LoadSpec(path=path))
        model.instances[0].run({"input": image})
        model.close()
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    _, _, settled, *_, last = [resident_after_a_life() for _ in range(8)]
    assert last - settled < 2 * weights, "five models that stayed would hold five times their weights"


def test_a_file_that_is_no_model_is_a_load_error_in_one_line(kit: Kit, tmp_path: Path) -> None:
    path = kit.doubling(tmp_path)
    path.write_bytes(b"not a model")
    with pytest.raises(LoadError, match=path.name) as error:
        kit.backend.load(LoadSpec(path=path))
    assert "\n" not in error.value.message
    assert str(tmp_path) not in error.value.message


def test_a_file_that_is_gone_is_a_load_error(kit: Kit, tmp_path: Path) -> None:
    path = kit.doubling(tmp_path)
    path.unlink()
    with pytest.raises(LoadError, match=path.name):
        kit.backend.load(LoadSpec(path=path))


def test_devices_are_named_and_a_model_loads_on_the_first(kit: Kit, tmp_path: Path) -> None:
    devices = kit.backend.devices()
    assert "CPU" in [device.name for device in devices]
    assert all(device.description for device in devices)
    kit.load(tmp_path, device="CPU")


def test_nothing_is_written_beside_a_model(kit: Kit, tmp_path: Path) -> None:
    path = kit.doubling(tmp_path / "model")
    before = {entry: entry.stat().st_mtime_ns for entry in path.parent.rglob("*")}
    run(kit.backend.load(LoadSpec(path=path, cache_dir=tmp_path / "cache")), values("FP32", 1))
    assert {entry: entry.stat().st_mtime_ns for entry in path.parent.rglob("*")} == before


def test_find_returns_the_model_in_a_directory(kit: Kit, tmp_path: Path) -> None:
    path = kit.doubling(tmp_path)
    assert kit.backend.find(tmp_path) == path


def test_find_returns_none_where_there_is_no_model(kit: Kit, tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    assert kit.backend.find(tmp_path) is None


def test_find_names_the_candidates_if_it_cannot_tell_which_is_meant(kit: Kit, tmp_path: Path) -> None:
    path = kit.doubling(tmp_path)
    for name in ("left", "right"):
        for file in list(tmp_path.glob("model.*")):
            (tmp_path / f"{name}{file.suffix}").write_bytes(file.read_bytes())
    for file in tmp_path.glob("model.*"):
        file.unlink()
    with pytest.raises(ConfigError, match=rf"left{path.suffix}, right{path.suffix}"):
        kit.backend.find(tmp_path)


@pytest.mark.parametrize("kit", ["openvino", "onnxruntime"], indirect=True)
def test_a_device_that_is_not_here_is_a_load_error_that_lists_what_is(kit: Kit, tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"device 'GPU\.7' is not available here; .* CPU"):
        kit.load(tmp_path, device="GPU.7")


@pytest.mark.parametrize("kit", ["openvino", "onnxruntime"], indirect=True)
def test_more_instances_than_cores_are_cut_and_the_log_says_so(
    kit: Kit, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = kit.load(tmp_path, instances=5, cores=2)
    assert len(model.instances) == 2
    assert "5 instances asked for, 2 used" in caplog.text


@pytest.mark.parametrize("kit", ["openvino", "onnxruntime"], indirect=True)
def test_the_latency_hint_takes_one_instance(kit: Kit, tmp_path: Path) -> None:
    assert len(kit.load(tmp_path, performance_hint="latency", cores=2).instances) == 1
