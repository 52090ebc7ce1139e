"""What is OpenVINO's own: formats, names, shapes, properties, devices, and its ways of failing."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
from model_builders import (
    onnx_doubling,
    openvino_doubling,
    openvino_heavy,
    openvino_parameter,
    openvino_result,
    save_openvino,
)
from openvino import opset15
from vintner.backend import LoadSpec
from vintner.errors import BackendError, ConfigError, LoadError
from vintner.types import Array, TensorSpec
from vintner_backends.cpu_budget import cpu_budget
from vintner_backends.openvino import OpenVINOBackend, OpenVINOModel, compile_audibly, port_names
from vintner_backends.openvino_config import compile_properties, known_options, loses_errors, named_devices
from vintner_backends.openvino_instance import OpenVINOInstance, reason
from vintner_backends.openvino_recovery import settle


@pytest.fixture(scope="module")
def backend() -> OpenVINOBackend:
    return OpenVINOBackend()


def load(backend: OpenVINOBackend, path: Path, **settings: object) -> OpenVINOModel:
    return backend.load(LoadSpec(path=path, **settings))  # type: ignore[arg-type]


def properties(path: Path = Path("model.xml"), **settings: object) -> dict[str, object]:
    spec = LoadSpec(path=path, **settings)  # type: ignore[arg-type]
    return compile_properties(partial(known_options, ov.Core()), spec, cpu_budget(spec))


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


# Finding


@pytest.mark.parametrize("name", ["net.onnx", "net.tflite"])
def test_a_single_file_format_is_found(backend: OpenVINOBackend, tmp_path: Path, name: str) -> None:
    assert backend.find(tmp_path) is None
    assert backend.find(touch(tmp_path / name).parent) == tmp_path / name


@pytest.mark.parametrize(("model", "weights"), [("net.xml", "net.bin"), ("net.pdmodel", "net.pdiparams")])
def test_a_model_in_two_files_is_found_only_as_a_pair(
    backend: OpenVINOBackend, tmp_path: Path, model: str, weights: str
) -> None:
    touch(tmp_path / model)
    with pytest.raises(ConfigError, match=f"{model} lacks its weights: there is no {weights} beside it"):
        backend.find(tmp_path)
    touch(tmp_path / weights)
    assert backend.find(tmp_path) == tmp_path / model


def test_a_saved_model_is_found_in_the_directory_or_one_below(backend: OpenVINOBackend, tmp_path: Path) -> None:
    touch(tmp_path / "below" / "model.savedmodel" / "saved_model.pb")
    assert backend.find(tmp_path / "below") == tmp_path / "below" / "model.savedmodel"
    touch(tmp_path / "here" / "saved_model.pb")
    touch(tmp_path / "here" / "variables" / "variables.index")
    assert backend.find(tmp_path / "here") == tmp_path / "here"


def test_among_several_the_one_called_model_is_taken(backend: OpenVINOBackend, tmp_path: Path) -> None:
    for name in ("a.onnx", "model.onnx", "z.xml", "z.bin"):
        touch(tmp_path / name)
    assert backend.find(tmp_path) == tmp_path / "model.onnx"
    touch(tmp_path / "model.xml")
    touch(tmp_path / "model.bin")
    assert backend.find(tmp_path) == tmp_path / "model.xml"


# Formats


def test_an_ir_says_so_and_so_does_an_onnx_file(backend: OpenVINOBackend, tmp_path: Path) -> None:
    assert load(backend, openvino_doubling(tmp_path)).platform == "openvino_ir"
    model = load(backend, onnx_doubling(tmp_path))
    assert model.platform == "onnx_onnxv1"
    answer = model.instances[0].run({"input": np.ones((2, 4), np.float32)})
    np.testing.assert_array_equal(answer["output"], np.full((2, 4), 2, np.float32))


@pytest.mark.parametrize("name", ["model.xml", "model.onnx", "model.tflite", "model.savedmodel"])
def test_garbage_of_any_format_is_a_load_error_in_one_line(backend: OpenVINOBackend, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    touch(path / "saved_model.pb" if name == "model.savedmodel" else path).write_bytes(b"garbage" * 100)
    with pytest.raises(LoadError) as error:
        load(backend, path)
    assert len(error.value.message) > 20
    assert "\n" not in error.value.message


def test_a_weights_file_that_is_too_short_is_a_load_error(backend: OpenVINOBackend, tmp_path: Path) -> None:
    path = openvino_heavy(tmp_path)
    with path.with_suffix(".bin").open("r+b") as weights:
        weights.truncate(100)
    with pytest.raises(LoadError):
        load(backend, path)


def test_weights_cut_short_after_loading_do_not_hurt_the_loaded_model(backend: OpenVINOBackend, tmp_path: Path) -> None:
    path = openvino_heavy(tmp_path, width=16, layers=1)
    model = load(backend, path)
    image = np.ones((1, 16, 56, 56), np.float32)
    before = model.instances[0].run({"input": image})["output"]
    with path.with_suffix(".bin").open("r+b") as weights:
        weights.truncate(10)
    np.testing.assert_array_equal(model.instances[0].run({"input": image})["output"], before)


# Names, datatypes, shapes


def test_an_output_that_is_listed_twice_is_answered_twice(backend: OpenVINOBackend, tmp_path: Path) -> None:
    parameters = [openvino_parameter("FP32", (-1,)) for _ in range(2)]
    for parameter, name in zip(parameters, ("first", "second"), strict=True):
        parameter.output(0).set_names({name})
    total = opset15.add(*parameters)
    difference = opset15.subtract(*parameters)
    results = [openvino_result(total, "total"), openvino_result(total, "total"), openvino_result(difference, "less")]
    model = load(backend, save_openvino(tmp_path, ov.Model(results, parameters, "m")))
    assert [spec.name for spec in model.outputs] == ["total", "output_1", "less"]
    one, two = np.array([1], np.float32), np.array([2], np.float32)
    outputs = model.instances[0].run({"second": two, "first": one})
    assert {name: array.tolist() for name, array in outputs.items()} == {
        "total": [3.0],
        "output_1": [3.0],
        "less": [-1.0],
    }


def test_ports_without_a_name_are_called_by_their_place() -> None:
    @dataclass
    class Port:
        names: set[str]
        any_name: str = "named"

    assert port_names([Port(set()), Port({"named"}), Port({"named"})], "input") == ["input_0", "named", "input_2"]


def test_a_type_without_a_kserve_datatype_is_a_load_error(backend: OpenVINOBackend, tmp_path: Path) -> None:
    parameter = opset15.parameter([-1], ov.Type.u4)
    parameter.output(0).set_names({"nibbles"})
    path = save_openvino(tmp_path, ov.Model([opset15.result(parameter)], [parameter], "m"))
    with pytest.raises(LoadError, match="input 'nibbles' is of type u4, which has no KServe datatype"):
        load(backend, path)


def test_an_input_of_open_rank_is_a_load_error_until_its_shape_is_given(
    backend: OpenVINOBackend, tmp_path: Path
) -> None:
    parameter = opset15.parameter(ov.PartialShape.dynamic(), ov.Type.f32)
    parameter.output(0).set_names({"input"})
    path = save_openvino(tmp_path, ov.Model([openvino_result(opset15.relu(parameter))], [parameter], "m"))
    with pytest.raises(LoadError, match="input 'input' leaves its number of dimensions open"):
        load(backend, path)
    assert load(backend, path, shapes={"input": (-1, 2)}).outputs[0].shape == (-1, 2)


def test_shapes_replace_those_of_the_model(backend: OpenVINOBackend, tmp_path: Path) -> None:
    model = load(backend, openvino_doubling(tmp_path), shapes={"input": (3, -1)})
    assert (model.inputs[0].shape, model.outputs[0].shape) == ((3, -1), (3, -1))


def test_a_shape_for_an_unknown_input_names_the_nearest(backend: OpenVINOBackend, tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"no input 'imput' to reshape; did you mean 'input'\?"):
        load(backend, openvino_doubling(tmp_path), shapes={"imput": (3, 4)})


def test_a_shape_that_the_model_cannot_take_is_a_load_error(backend: OpenVINOBackend, tmp_path: Path) -> None:
    path = openvino_heavy(tmp_path, width=4, layers=1)
    with pytest.raises(LoadError, match=r"cannot take the shape input \[1, 3, 56, 56\]"):
        load(backend, path, shapes={"input": (1, 3, 56, 56)})


# Strings


def strings(*values: bytes) -> Array:
    array = np.empty(len(values), np.object_)
    array[:] = values
    return array


def text_and_number(directory: Path) -> Path:
    """Two inputs of strings around a number, answered in another order, so that the places of the parts matter."""
    first, number, second = (openvino_parameter(datatype, (-1,)) for datatype in ("BYTES", "INT32", "BYTES"))
    for node, name in ((first, "first"), (number, "number"), (second, "second")):
        node.output(0).set_names({name})
    copies = [opset15.string_tensor_pack(*opset15.string_tensor_unpack(node).outputs()) for node in (second, first)]
    plus = opset15.add(number, np.array([1], np.int32))
    results = [
        openvino_result(copies[0], "second_copy"),
        openvino_result(plus, "plus"),
        openvino_result(copies[1], "first_copy"),
    ]
    return save_openvino(directory, ov.Model(results, [first, number, second], "m"))


def test_strings_and_numbers_keep_their_places(backend: OpenVINOBackend, tmp_path: Path) -> None:
    model = load(backend, text_and_number(tmp_path))
    assert [spec.name for spec in model.inputs] == ["first", "number", "second"]
    assert [(spec.name, spec.datatype) for spec in model.outputs] == [
        ("second_copy", "BYTES"),
        ("plus", "INT32"),
        ("first_copy", "BYTES"),
    ]
    for texts in ((b"a", b"bc"), (b"", b"\xff\xfe\0")):
        first, second = strings(*texts), strings(b"x", *texts)
        outputs = model.instances[0].run({"first": first, "number": np.array([4], np.int32), "second": second})
        assert outputs["first_copy"].tolist() == first.tolist()
        assert outputs["second_copy"].tolist() == second.tolist()
        assert outputs["plus"].tolist() == [5]


def test_bytes_that_are_not_text_pass_through_unchanged(backend: OpenVINOBackend, tmp_path: Path) -> None:
    model = load(backend, openvino_doubling(tmp_path, "BYTES", (-1,)))
    given = strings(b"\xff\xfe", b"\x80", bytes(range(256)))
    assert model.instances[0].run({"input": given})["output"].tolist() == given.tolist()


def test_no_strings_beside_some_numbers_are_a_backend_error(backend: OpenVINOBackend, tmp_path: Path) -> None:
    model = load(backend, text_and_number(tmp_path))
    inputs = {"first": strings(), "number": np.array([4], np.int32), "second": strings()}
    with pytest.raises(BackendError, match="holds no strings"):
        model.instances[0].run(inputs)
    empty = {**inputs, "number": np.array([], np.int32)}
    assert [array.shape for array in model.instances[0].run(empty).values()] == [(0,), (0,), (0,)]


# Properties


def test_each_setting_reaches_its_property() -> None:
    assert properties()["PERFORMANCE_HINT"] == "THROUGHPUT"
    assert properties(performance_hint="latency")["PERFORMANCE_HINT"] == "LATENCY"
    assert "INFERENCE_PRECISION_HINT" not in properties()
    assert properties(precision="bf16")["INFERENCE_PRECISION_HINT"] == "bf16"
    assert properties(cache_dir=Path("cache"))["CACHE_DIR"] == "cache"
    assert properties(options={"EXECUTION_MODE_HINT": "ACCURACY"})["EXECUTION_MODE_HINT"] == "ACCURACY"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"cores": 4}, {"INFERENCE_NUM_THREADS": 4}),
        ({"cores": 4, "threads": 3}, {"INFERENCE_NUM_THREADS": 3}),
        ({"cores": 4, "streams": 3}, {"INFERENCE_NUM_THREADS": 4, "NUM_STREAMS": 3}),
        ({"cores": 4, "instances": 2}, {"INFERENCE_NUM_THREADS": 4, "NUM_STREAMS": 2}),
        ({"cores": 1, "instances": 2}, {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 0}),
    ],
    ids=str,
)
def test_the_processor_is_told_threads_and_streams(settings: dict[str, int], expected: dict[str, int]) -> None:
    assert properties(**settings)["DEVICE_PROPERTIES"] == {"CPU": {**expected, "ENABLE_CPU_PINNING": False}}


def test_the_compiled_model_has_what_was_set(backend: OpenVINOBackend, tmp_path: Path) -> None:
    core, path = ov.Core(), openvino_heavy(tmp_path, width=4, layers=1)
    settings = properties(path, cores=2, streams=2, precision="f32", options={"ENABLE_CPU_PINNING": True})
    compiled = core.compile_model(core.read_model(path), "CPU", settings)
    assert compiled.get_property("NUM_STREAMS") == 2
    assert compiled.get_property("INFERENCE_NUM_THREADS") == 2
    assert compiled.get_property("INFERENCE_PRECISION_HINT") == ov.Type.f32
    assert compiled.get_property("ENABLE_CPU_PINNING") is True


def test_precision_changes_the_answer_where_the_processor_has_it(backend: OpenVINOBackend, tmp_path: Path) -> None:
    path = openvino_heavy(tmp_path, width=16, layers=2)
    image = np.random.default_rng(1).normal(size=(1, 16, 56, 56)).astype(np.float32)
    answers = {
        precision: load(backend, path, precision=precision).instances[0].run({"input": image})["output"]
        for precision in ("f32", "bf16")
    }
    has_bf16 = "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    assert np.array_equal(answers["f32"], answers["bf16"]) is not has_bf16


def test_a_compiled_model_is_kept_in_the_cache_directory(backend: OpenVINOBackend, tmp_path: Path) -> None:
    path = openvino_heavy(tmp_path / "model", width=4, layers=1)
    image = np.ones((1, 4, 56, 56), np.float32)
    first = load(backend, path, cache_dir=tmp_path / "cache").instances[0].run({"input": image})["output"]
    kept = sorted((tmp_path / "cache").iterdir())
    assert kept
    again = load(backend, path, cache_dir=tmp_path / "cache").instances[0].run({"input": image})["output"]
    np.testing.assert_array_equal(first, again)
    assert sorted((tmp_path / "cache").iterdir()) == kept


def test_an_unknown_property_names_the_nearest(backend: OpenVINOBackend, tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"CPU has no property 'PERF_COUNTS'; did you mean 'PERF_COUNT'\?"):
        load(backend, openvino_doubling(tmp_path), options={"PERF_COUNTS": True})


def test_a_property_that_has_a_setting_points_to_it(backend: OpenVINOBackend, tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="'INFERENCE_NUM_THREADS' has a setting of its own: threads"):
        load(backend, openvino_doubling(tmp_path), options={"INFERENCE_NUM_THREADS": 64})


def test_a_value_that_a_property_cannot_take_is_a_load_error(backend: OpenVINOBackend, tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="EXECUTION_MODE_HINT"):
        load(backend, openvino_doubling(tmp_path), options={"EXECUTION_MODE_HINT": "banana"})


# Devices


@pytest.mark.parametrize("device", ["CPU", "AUTO", "AUTO:CPU", "AUTO:-NPU,CPU", "HETERO:CPU", "MULTI:CPU"])
def test_a_model_runs_on_a_device_or_a_composition_of_devices(
    backend: OpenVINOBackend, tmp_path: Path, device: str
) -> None:
    model = load(backend, openvino_doubling(tmp_path), device=device, precision="f32")
    for rows in (2, 1, 70_000):
        given = np.ones((rows, 4), np.float32)
        np.testing.assert_array_equal(model.instances[0].run({"input": given})["output"], given * 2)


@pytest.mark.parametrize("device", ["GPU", "GPU.1", "NPU", "AUTO:GPU,CPU", "HETERO:GPU,CPU", "MULTI:CPU,NPU", "FPGA"])
def test_a_device_that_is_missing_is_named(backend: OpenVINOBackend, tmp_path: Path, device: str) -> None:
    if set(named_devices(device)) <= {one.name for one in backend.devices()}:
        load(backend, openvino_doubling(tmp_path), device=device)
        return
    with pytest.raises(LoadError, match=r"device '\w+(\.1)?' is not available here; OpenVINO sees .*CPU"):
        load(backend, openvino_doubling(tmp_path), device=device)


def test_devices_are_read_out_of_a_composition() -> None:
    assert list(named_devices("AUTO")) == []
    assert list(named_devices("AUTO:-NPU, GPU.1,CPU")) == ["GPU.1", "CPU"]
    assert list(named_devices("MULTI:GPU(4),CPU(2)")) == ["GPU", "CPU"]
    assert list(named_devices("GPU.1")) == ["GPU.1"]


# Running


def product(directory: Path) -> Path:
    """A model whose inputs may each be well formed and yet not fit together."""
    parameters = [openvino_parameter("FP32", (-1, -1)) for _ in range(2)]
    for parameter, name in zip(parameters, ("left", "right"), strict=True):
        parameter.output(0).set_names({name})
    result = openvino_result(opset15.matmul(*parameters, False, False))
    return save_openvino(directory, ov.Model([result], parameters, "product"))


def fail_and_recover(instance: OpenVINOInstance) -> None:
    left, right = np.ones((2, 3), np.float32), np.ones((4, 5), np.float32)
    for answer in (3, 6, 9):
        with pytest.raises(BackendError, match=r"incompatible shape A: \(2.3\) shape B: \(4.5\)") as error:
            instance.run({"left": left, "right": right})
        assert "\n" not in error.value.message
        assert "src/" not in error.value.message
        output = instance.run({"left": left * answer, "right": right[:3]})["output"]
        np.testing.assert_array_equal(output, np.full((2, 5), 3 * answer, np.float32))


@pytest.mark.parametrize("device", ["CPU", "AUTO:CPU", "HETERO:CPU"])
@pytest.mark.parametrize("cores", [1, 2])
def test_a_failing_run_is_a_backend_error_in_one_line_and_the_next_run_succeeds(
    backend: OpenVINOBackend, tmp_path: Path, cores: int, device: str
) -> None:
    model = load(backend, product(tmp_path), cores=cores, device=device)
    fail_and_recover(model.instances[0])


def test_one_stream_of_one_thread_which_keeps_silent_about_errors_is_never_run(tmp_path: Path) -> None:
    core = ov.Core()
    model = core.read_model(product(tmp_path))
    silent = {"PERFORMANCE_HINT": "LATENCY", "DEVICE_PROPERTIES": {"CPU": {"INFERENCE_NUM_THREADS": 1}}}
    assert loses_errors(core.compile_model(model, "CPU", silent))
    compiled = compile_audibly(core, model, "CPU", silent)
    assert not loses_errors(compiled)
    inputs = [TensorSpec(name, "FP32", (-1, -1)) for name in ("left", "right")]
    outputs = [TensorSpec("output", "FP32", (-1, -1))]
    fail_and_recover(OpenVINOInstance(compiled.create_infer_request(), inputs, outputs))


def test_the_fillings_that_settle_a_model_fit_its_inputs() -> None:
    seen: list[dict[str, tuple[int, ...]]] = []

    def run(inputs: Mapping[str, Array]) -> None:
        seen.append({name: array.shape for name, array in inputs.items()})
        if inputs["image"].shape[-1] < 7:
            raise RuntimeError("smaller than the kernel")

    settle(run, [TensorSpec("image", "FP32", (-1, 3, -1, -1)), TensorSpec("text", "BYTES", (-1,))], streams=2)
    assert [shapes["image"] for shapes in seen] == [
        (extent, 3, extent, extent) for extent in (1, 1, 2, 2, 32, 32, 64, 64)
    ]
    assert seen[0]["text"] == (1,)


def test_the_reason_keeps_what_tells_and_drops_where_it_was_raised() -> None:
    text = "Exception from src/a.cpp:1:\n[CPU] Check 'x == 1' failed at src/b.cpp:2:\nNo such thing\n  there\n\n"
    assert reason(RuntimeError(text)) == "[CPU] No such thing there"
    assert reason(RuntimeError("Exception from src/a.cpp:1:\n")) == "Exception from src/a.cpp:1:"
    assert reason(RuntimeError("")) == "RuntimeError"


@pytest.mark.parametrize("shape", [(1, 100_000), (-1, 100_000)])
def test_an_input_that_is_lent_is_never_written_to(
    backend: OpenVINOBackend, tmp_path: Path, shape: tuple[int, int]
) -> None:
    parameter = openvino_parameter("FP32", shape)
    parameter.output(0).set_names({"input"})
    folded = opset15.reshape(parameter, np.array([-1, 1000]), False)
    outputs = [opset15.relu(folded).output(0), *opset15.split(folded, np.array(1), 2).outputs()]
    outputs.append(opset15.multiply(opset15.concat([folded, folded], 0), np.float32(3)).output(0))
    model = load(backend, save_openvino(tmp_path, ov.Model([opset15.result(o) for o in outputs], [parameter], "m")))
    given = np.frombuffer(np.full(100_000, -2, np.float32).tobytes(), np.float32).reshape(1, -1)
    results = list(model.instances[0].run({"input": given}).values())
    assert (given == -2).all()
    assert [float(result.flat[0]) for result in results] == [0, -2, -2, -6]


def test_other_threads_run_while_openvino_computes(backend: OpenVINOBackend, tmp_path: Path) -> None:
    model = load(backend, openvino_heavy(tmp_path, layers=40))
    computing, counted = threading.Event(), []

    def count() -> None:
        computing.wait()
        while computing.is_set():
            counted.append(1)

    counter = threading.Thread(target=count)
    counter.start()
    image = np.ones((1, 64, 56, 56), np.float32)
    model.instances[0].run({"input": image})
    computing.set()
    model.instances[0].run({"input": image})
    computing.clear()
    counter.join()
    assert len(counted) > 1000


MIXED_SIZES = """
import sys, threading
from pathlib import Path
import numpy as np
from vintner.backend import LoadSpec
from vintner_backends.openvino import OpenVINOBackend

model = OpenVINOBackend().load(LoadSpec(Path(sys.argv[1]), cores=2, rows=-1, instances=2, precision="f32"))
random = np.random.default_rng(0)
images = [random.random((rows, 8, 56, 56), np.float32) for rows in (1, 4, 2, 6)]
expected = [model.instances[0].run({"input": image})["output"] for image in images]

def run(instance, order):
    for _ in range(400):
        for number in order:
            output = instance.run({"input": images[number].copy()})["output"]
            assert np.allclose(output, expected[number], atol=1e-3), number

threads = [threading.Thread(target=run, args=pair) for pair in zip(model.instances, ((0, 1, 2, 3), (0, 2, 3, 1)))]
failures = []
threading.excepthook = lambda args: failures.append(args.exc_value)
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
sys.exit(bool(failures))
"""


def test_an_array_that_was_lent_to_one_request_is_not_written_to_by_another(tmp_path: Path) -> None:
    """In a process of its own: it wrote to freed memory, and the process died of that sooner or later."""
    path = openvino_heavy(tmp_path, width=8, layers=2)
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", MIXED_SIZES, str(path)], timeout=100, check=False)
        assert done.returncode == 0


FIRST_RUNS = """
import os, sys, threading
from pathlib import Path
import numpy as np
from vintner.backend import LoadSpec
from vintner_backends.openvino import OpenVINOBackend

model = OpenVINOBackend().load(LoadSpec(Path(sys.argv[1]), cores=2, rows=-1, instances=2))
together = threading.Barrier(2)

def run(instance):
    together.wait()
    instance.run({"input": np.zeros((1, 6), np.float32)})

threads = [threading.Thread(target=run, args=(instance,)) for instance in model.instances]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


def test_the_first_runs_of_two_instances_do_not_wait_for_each_other(tmp_path: Path) -> None:
    """In processes of their own, for it is each one's very first runs; two of 25 stood still."""
    path = openvino_doubling(tmp_path, shape=(1, 6))
    for _ in range(12):
        subprocess.run([sys.executable, "-c", FIRST_RUNS, str(path)], timeout=30, check=True)


def test_the_adapter_forks_no_process() -> None:
    """As OpenVINO does to tell its makers that it was imported. Python's end waits for the thread that would do so."""
    code = "import os; os.register_at_fork(before=lambda: print('forked')); import vintner_backends.openvino; print(1)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout.split() == ["1"]
