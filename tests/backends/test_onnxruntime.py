"""What is ONNX Runtime's own: providers, threads, graph optimisation, external data, and its ways of failing."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from model_builders import onnx_doubling, onnx_heavy, onnx_value, save_onnx
from onnx import TensorProto, helper, numpy_helper
from vintner.backend import LoadSpec
from vintner.errors import BackendError, InvalidArgument, LoadError
from vintner.types import fp32_to_bf16
from vintner_backends.onnxruntime import OnnxRuntimeBackend, OnnxRuntimeModel
from vintner_backends.onnxruntime_config import Provider, Threads, providers, session_options, threads
from vintner_backends.onnxruntime_instance import reason

CPU = [Provider("CPUExecutionProvider", {})]


def load(path: Path, **settings: Any) -> OnnxRuntimeModel:
    return OnnxRuntimeBackend().load(LoadSpec(path=path, **settings))


def spec(**settings: Any) -> LoadSpec:
    return LoadSpec(path=Path("model.onnx"), **settings)


# Threads


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, Threads(instances=4, intra_op=1, inter_op=1)),
        ({"performance_hint": "latency"}, Threads(instances=1, intra_op=4, inter_op=1)),
        ({"instances": 1}, Threads(instances=1, intra_op=4, inter_op=1)),
        ({"instances": 3}, Threads(instances=3, intra_op=2, inter_op=1)),
        ({"threads": 2}, Threads(instances=2, intra_op=1, inter_op=1)),
        ({"threads": 3, "instances": 2}, Threads(instances=2, intra_op=2, inter_op=1)),
        ({"instances": 1, "options": {"inter_op_threads": 3}}, Threads(instances=1, intra_op=2, inter_op=3)),
        ({"options": {"inter_op_threads": 2}}, Threads(instances=3, intra_op=1, inter_op=2)),
    ],
    ids=str,
)
def test_instances_and_pools_divide_the_cores(settings: dict[str, Any], expected: Threads) -> None:
    assert threads(spec(cores=4, **settings), CPU) == expected


def test_a_provider_of_another_device_runs_one_instance_unless_told_otherwise() -> None:
    other = [Provider("CUDAExecutionProvider", {})]
    assert threads(spec(cores=4), other).instances == 1
    assert threads(spec(cores=4, instances=6), other).instances == 6


@pytest.mark.parametrize("inter_op", [0, 5, "two"])
def test_inter_op_threads_outside_the_cores_are_a_load_error(inter_op: object) -> None:
    with pytest.raises(LoadError, match="'inter_op_threads' is a number from 1 to the 4 threads there are"):
        threads(spec(cores=4, options={"inter_op_threads": inter_op}), CPU)


# Options


def test_each_option_reaches_the_session() -> None:
    options = session_options(spec(options={"graph_optimization": "basic"}), Threads(1, 3, 2))
    assert options.graph_optimization_level == onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    assert options.execution_mode == onnxruntime.ExecutionMode.ORT_PARALLEL
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (3, 2)
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    default = session_options(spec(), Threads(1, 1, 1))
    assert default.graph_optimization_level == onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    assert default.execution_mode == onnxruntime.ExecutionMode.ORT_SEQUENTIAL


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"options": {"provider": ["CPU"]}}, r"unknown backend option 'provider'; did you mean 'providers'\?"),
        ({"options": {"graph_optimization": "extendet"}}, r"'extendet'; did you mean 'extended'\?"),
        ({"options": {"graph_optimization": ["all"]}}, "unknown graph_optimization"),
        ({"options": {"providers": "CPU"}}, "'providers' is a list"),
        ({"options": {"providers": []}}, "'providers' is a list"),
        ({"options": {"providers": [{"CPU": {}, "CUDA": {}}]}}, "one name, not 2"),
        (
            {"options": {"providers": ["Abacus", "CPU"]}},
            "device 'Abacus' is not available here; ONNX Runtime has .*CPU",
        ),
        ({"precision": "bf16"}, "precision bf16"),
        ({"shapes": {"input": (1, 4)}}, "cannot reshape"),
        ({"streams": 2}, "has no streams"),
    ],
    ids=str,
)
def test_what_cannot_be_done_is_a_load_error(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(LoadError, match=message):
        load(onnx_doubling(tmp_path), **settings)


def test_providers_are_taken_in_order_with_their_options() -> None:
    given = [{"CPU": {"use_arena": True}}, "CPUExecutionProvider"]
    assert providers(spec(options={"providers": given})) == [
        Provider("CPUExecutionProvider", {"use_arena": "True"}),
        Provider("CPUExecutionProvider", {}),
    ]
    assert providers(spec(device="cpu")) == CPU


def test_the_precision_of_the_model_may_be_named(tmp_path: Path) -> None:
    assert load(onnx_doubling(tmp_path), precision="f32").instances


# Models


def test_a_tensor_that_kserve_has_no_datatype_for_is_a_load_error(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info("small", TensorProto.FLOAT8E4M3FN, [2])
    copy = helper.make_tensor_value_info("copy", TensorProto.FLOAT8E4M3FN, [2])
    graph = helper.make_graph([helper.make_node("Identity", ["small"], ["copy"])], "g", [value], [copy])
    with pytest.raises(LoadError, match=r"input 'small' is a tensor\(float8e4m3fn\), which has no KServe datatype"):
        load(save_onnx(tmp_path, graph))


def test_named_and_unnamed_open_extents_are_both_open(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["rows", None, 3])
    answer = helper.make_tensor_value_info("output", TensorProto.FLOAT, ["rows", None, 3])
    path = save_onnx(
        tmp_path, helper.make_graph([helper.make_node("Neg", ["input"], ["output"])], "g", [value], [answer])
    )
    assert load(path).inputs[0].shape == (-1, -1, 3)


def with_external_data(directory: Path, location: str) -> Path:
    """A model that adds the 300 numbers of a file to its input; the file is named as `location` says."""
    weights = numpy_helper.from_array(np.ones(300, np.float32), "weights")
    shape = ("rows", 300)
    graph = helper.make_graph(
        [helper.make_node("Add", ["input", "weights"], ["output"])],
        "g",
        [onnx_value("input", "FP32", shape)],
        [onnx_value("output", "FP32", shape)],
        [weights],
    )
    path = save_onnx(directory, graph)
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    model = onnx.load(path, load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = location
    path.write_bytes(model.SerializeToString())
    return path


def test_weights_in_a_file_beside_the_model_are_read(tmp_path: Path) -> None:
    model = load(with_external_data(tmp_path, "weights.bin"))
    answer = model.instances[0].run({"input": np.zeros((1, 300), np.float32)})["output"]
    np.testing.assert_array_equal(answer, np.ones((1, 300), np.float32))


@pytest.mark.parametrize("how", ["relative", "absolute", "link"])
def test_weights_outside_of_the_models_directory_are_refused(tmp_path: Path, how: str) -> None:
    secret = tmp_path / "secret.bin"
    secret.write_bytes(np.full(300, 7, np.float32).tobytes())
    locations = {"relative": "../secret.bin", "absolute": str(secret), "link": "link.bin"}
    path = with_external_data(tmp_path / "model", locations[how])
    os.symlink(secret, path.parent / "link.bin")
    with pytest.raises(LoadError, match="External data path"):
        load(path)


# Running


def test_bytes_that_are_not_utf8_are_the_clients_fault(tmp_path: Path) -> None:
    model = load(onnx_doubling(tmp_path, "BYTES", (-1,)))
    given = np.array([b"good", b"\xff\xfe"], np.object_)
    with pytest.raises(InvalidArgument, match="input 'input' holds bytes that are not UTF-8"):
        model.instances[0].run({"input": given})


def copies(directory: Path, kinds: dict[str, str]) -> Path:
    """A model that copies each of its inputs, which are given with their datatypes."""
    nodes = [helper.make_node("Identity", [name], [f"{name}_copy"]) for name in kinds]
    inputs = [onnx_value(name, datatype) for name, datatype in kinds.items()]
    outputs = [onnx_value(f"{name}_copy", datatype) for name, datatype in kinds.items()]
    return save_onnx(directory, helper.make_graph(nodes, "copies", inputs, outputs))


def test_bf16_beside_strings_is_a_load_error(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="a model cannot have both"):
        load(copies(tmp_path, {"half": "BF16", "text": "BYTES"}))


def test_bf16_goes_through_a_model_beside_other_datatypes(tmp_path: Path) -> None:
    kinds = {"half": "BF16", "flag": "BOOL", "number": "INT64"}
    model = load(copies(tmp_path, kinds))
    inputs = {
        "number": np.arange(8).reshape(2, 4) + 2**60,
        "half": fp32_to_bf16(np.arange(8, dtype=np.float32).reshape(2, 4)),
        "flag": np.array([[True, False, True, True]] * 2),
    }
    for rows in (2, 1, 0):
        outputs = model.instances[0].run({name: array[:rows].copy() for name, array in inputs.items()})
        assert list(outputs) == [f"{name}_copy" for name in kinds]
        for name, array in inputs.items():
            np.testing.assert_array_equal(outputs[f"{name}_copy"], array[:rows])


def test_a_failing_run_is_a_backend_error_in_one_line_and_the_next_run_succeeds(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shape = ("rows", "columns")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["left", "right"], ["output"])],
        "g",
        [onnx_value("left", "FP32", shape), onnx_value("right", "FP32", ("columns_too", "width"))],
        [onnx_value("output", "FP32", ("rows", "width"))],
    )
    model = load(save_onnx(tmp_path, graph))
    left, right = np.ones((2, 3), np.float32), np.ones((4, 5), np.float32)
    with pytest.raises(BackendError, match="MatMul") as error:
        model.instances[0].run({"left": left, "right": right})
    assert "\n" not in error.value.message
    assert "ONNXRuntimeError" not in error.value.message
    answer = model.instances[0].run({"left": left, "right": right[:3]})["output"]
    np.testing.assert_array_equal(answer, np.full((2, 5), 3, np.float32))
    assert capfd.readouterr() == ("", "")


def test_the_reason_drops_the_librarys_prefix() -> None:
    assert reason(RuntimeError("[ONNXRuntimeError] : 1 : FAIL : It broke : \n badly")) == "It broke : badly"
    assert reason(RuntimeError("no prefix")) == "no prefix"
    assert reason(RuntimeError("")) == "RuntimeError"


def test_a_provider_that_did_not_start_is_a_load_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime.InferenceSession, "get_providers", lambda self: ["OtherExecutionProvider"])
    with pytest.raises(LoadError, match="CPUExecutionProvider did not start; ONNX Runtime has only Other"):
        load(onnx_doubling(tmp_path))


def test_other_threads_run_while_onnx_runtime_computes(tmp_path: Path) -> None:
    model = load(onnx_heavy(tmp_path, layers=40))
    image = np.ones((1, 64, 56, 56), np.float32)
    computing, counted = threading.Event(), []

    def count() -> None:
        computing.wait()
        while computing.is_set():
            counted.append(1)

    counter = threading.Thread(target=count)
    counter.start()
    computing.set()
    model.instances[0].run({"input": image})
    computing.clear()
    counter.join()
    assert len(counted) > 1000
