"""Compiled sizes and static batches with the runtimes: what is loaded, and that every answer is the model's own."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
from model_builders import (
    onnx_doubling,
    onnx_row_sums,
    openvino_doubling,
    openvino_parameter,
    openvino_result,
    save_openvino,
)
from openvino import opset15
from vintner.backend import Backend, LoadedModel, LoadSpec
from vintner.errors import LoadError
from vintner.model_config import parse_model_config
from vintner.model_shapes import open_model
from vintner.types import DTYPES, Array
from vintner_backends.onnxruntime import OnnxRuntimeBackend
from vintner_backends.openvino import OpenVINOBackend

COLUMNS = 4
Builder = Callable[..., Path]
BACKENDS = [(OpenVINOBackend, openvino_doubling), (OnnxRuntimeBackend, onnx_doubling)]


def opened(backend: Backend, path: Path, document: Mapping[str, Any] | None = None, **settings: Any) -> LoadedModel:
    config = parse_model_config(document or {}, "config.yaml")
    return open_model(backend.load, LoadSpec(path, **settings), config, path.parent)


def sizes(*compiled: int) -> Mapping[str, Any]:
    return {"batching": {"compiled_sizes": list(compiled)}}


def rows_of(rows: int, datatype: str = "FP32") -> Array:
    numbers = np.arange(rows * COLUMNS).reshape(rows, COLUMNS) + 1
    return numbers.astype(bytes).astype(object) if datatype == "BYTES" else numbers.astype(np.float32)


def assert_doubles(model: LoadedModel, rows: int, datatype: str = "FP32") -> None:
    given = rows_of(rows, datatype)
    for instance in model.instances:
        [output] = instance.run({"input": given}).values()
        assert output.tolist() == (given if datatype == "BYTES" else given * 2).tolist()


@pytest.mark.parametrize("extent", [-1, 1, 5])
@pytest.mark.parametrize("datatype", ["FP32", "BYTES"])
def test_openvino_compiles_any_model_for_each_size(tmp_path: Path, extent: int, datatype: str) -> None:
    path = openvino_doubling(tmp_path, datatype, (extent, COLUMNS))
    model = opened(OpenVINOBackend(), path, sizes(1, 4, 8), instances=2, cores=2)
    assert [spec.shape for spec in (*model.inputs, *model.outputs)] == [(-1, COLUMNS)] * 2
    assert len(model.instances) == 2
    for rows in (*range(9), 1):
        assert_doubles(model, rows, datatype)
    model.close()


def test_openvino_is_given_static_shapes_alone(tmp_path: Path) -> None:
    """Which is what the sizes are for: a device that knows no others."""
    backend = OpenVINOBackend()
    loaded: list[LoadedModel] = []

    def load(spec: LoadSpec) -> LoadedModel:
        loaded.append(backend.load(spec))
        return loaded[-1]

    path = openvino_doubling(tmp_path, "FP32", (-1, -1))
    config = parse_model_config(sizes(2, 6), "config.yaml")
    model = open_model(load, LoadSpec(path, shapes={"input": (-1, COLUMNS)}), config, tmp_path)
    assert [one.inputs[0].shape for one in loaded] == [(2, COLUMNS), (6, COLUMNS)]
    assert_doubles(model, 5)


@pytest.mark.parametrize(("kind", "doubling"), BACKENDS)
def test_the_size_that_a_model_has_needs_no_reshaping(tmp_path: Path, kind: Any, doubling: Builder) -> None:
    model = opened(kind(), doubling(tmp_path, "FP32", (4, COLUMNS)), sizes(4))
    assert model.inputs[0].shape == model.outputs[0].shape == (-1, COLUMNS)
    for rows in range(5):
        assert_doubles(model, rows)


@pytest.mark.parametrize(("extent", "shown"), [(4, r"\[4, 4\]"), (-1, r"\[-1, 4\]")])
def test_onnx_runtime_has_no_other_size(tmp_path: Path, extent: int, shown: str) -> None:
    path = onnx_doubling(tmp_path, "FP32", (extent, COLUMNS))
    with pytest.raises(LoadError, match=rf"^compiled size 8: ONNX Runtime cannot reshape .* {shown}, not 8 rows"):
        opened(OnnxRuntimeBackend(), path, sizes(8))


@pytest.mark.parametrize("shape", [(), None])
def test_an_input_without_a_first_dimension_cannot_be_compiled_for_sizes(tmp_path: Path, shape: Any) -> None:
    parameter = opset15.parameter(ov.PartialShape.dynamic() if shape is None else ov.PartialShape([]), ov.Type.f32)
    parameter.output(0).set_names({"input"})
    path = save_openvino(tmp_path, ov.Model([openvino_result(opset15.relu(parameter))], [parameter], "open"))
    with pytest.raises(
        LoadError, match=r"compiled size 4: input 'input' has shape .* no first dimension can be set to 4"
    ):
        opened(OpenVINOBackend(), path, sizes(4))


# -- a static batch of 1 ---------------------------------------------------------------------------------------


def one_row_model(
    directory: Path, function: Callable[[ov.Node], ov.Node], shape: tuple[int, ...] = (1, COLUMNS)
) -> Path:
    parameter = openvino_parameter("FP32", shape)
    parameter.output(0).set_names({"input"})
    return save_openvino(directory, ov.Model([openvino_result(function(parameter))], [parameter], "one row"))


def network(image: ov.Node) -> ov.Node:
    """Convolutions, a pooling and a dense layer, with weights that tell rows apart."""
    random = np.random.default_rng(0)
    node = image
    for _ in range(3):
        weights = random.normal(0, 0.3, (3, 3, 3, 3)).astype(np.float32)
        node = opset15.relu(opset15.convolution(node, weights, [1, 1], [1, 1], [1, 1], [1, 1]))
    pooled = opset15.reduce_mean(node, np.int64([2, 3]), keep_dims=False)
    return opset15.softmax(opset15.matmul(pooled, random.normal(0, 5, (3, 10)).astype(np.float32), False, False), 1)


@pytest.mark.parametrize("precision", ["f32", "bf16", None])
def test_openvino_serves_a_network_of_one_row_with_a_dynamic_batch(tmp_path: Path, precision: str | None) -> None:
    backend = OpenVINOBackend()
    path = one_row_model(tmp_path, network, (1, 3, 16, 16))
    static, dynamic = backend.load(LoadSpec(path, precision="f32")), opened(backend, path, precision=precision)
    assert dynamic.inputs[0].shape == (-1, 3, 16, 16)
    assert dynamic.outputs[0].shape == (-1, 10)
    images = np.random.default_rng(1).random((5, 3, 16, 16), np.float32)
    alone = [static.instances[0].run({"input": image[None]})["output"] for image in images]
    [together] = dynamic.instances[0].run({"input": images}).values()
    np.testing.assert_allclose(together, np.concatenate(alone), atol=1e-6 if precision == "f32" else 0.02)


@pytest.mark.parametrize("datatype", sorted(DTYPES))
def test_openvino_frees_the_one_row_of_every_datatype(tmp_path: Path, datatype: str) -> None:
    model = opened(OpenVINOBackend(), openvino_doubling(tmp_path, datatype, (1, COLUMNS)))
    assert model.inputs[0].shape == model.outputs[0].shape == (-1, COLUMNS)


DEPENDENT: Mapping[str, tuple[Callable[[ov.Node], ov.Node], str]] = {
    "centred over the batch": (
        lambda x: opset15.subtract(x, opset15.reduce_mean(opset15.divide(x, np.float32(2)), np.int64([0]), True)),
        "differs by",
    ),
    "softmax over the batch": (
        lambda x: opset15.add(opset15.softmax(x, 0), opset15.multiply(x, np.float32(0.1))), "differs by",
    ),
    "a sum over the batch": (lambda x: opset15.reduce_sum(x, np.int64([0]), keep_dims=True), r"shape \[1, 4\], not"),
    "a reshape that takes rows for columns": (
        lambda x: opset15.reshape(x, np.int64([1, -1]), special_zero=False), r"shape \[1, -1\], not \[-1, 4\]",
    ),
    "a reshape to the one row": (
        lambda x: opset15.reshape(x, np.int64([1, COLUMNS]), special_zero=False), "shape|cannot",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DEPENDENT)
def test_openvino_keeps_the_one_row_of_a_model_whose_rows_depend_on_each_other(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    function, reason = DEPENDENT[name]
    with caplog.at_level(logging.INFO, "vintner"):
        model = opened(OpenVINOBackend(), one_row_model(tmp_path, function))
    assert model.inputs[0].shape == model.outputs[0].shape == (1, COLUMNS)
    [message] = caplog.messages
    assert "keeps its static batch of 1" in message
    assert re.search(reason, message)
    model.instances[0].run({"input": rows_of(1)})


def test_onnx_runtime_leaves_a_static_batch_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "vintner"):
        model = opened(OnnxRuntimeBackend(), onnx_doubling(tmp_path, "FP32", (1, COLUMNS)))
    assert model.inputs[0].shape == (1, COLUMNS)
    assert "ONNX Runtime cannot make a static dimension dynamic" in caplog.text
    assert_doubles(model, 1)


# -- ragged inputs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", [OpenVINOBackend, OnnxRuntimeBackend])
def test_rows_of_different_lengths_are_given_to_a_real_model_end_to_end(tmp_path: Path, backend: Any) -> None:
    document = {
        "inputs": {"tokens": {"ragged": True}},
        "batch_inputs": {"ends": {"kind": "accumulated_element_count", "source": "tokens"}},
    }
    model = opened(backend(), onnx_row_sums(tmp_path), document)
    assert [(spec.name, spec.shape) for spec in model.inputs] == [("tokens", (-1, -1))]
    rows = np.empty(3, np.object_)
    rows[:] = [np.float32([1, 2, 3]), np.float32([4]), np.float32([5, 6])]
    for _ in range(2):
        assert model.instances[0].run({"tokens": rows})["sums"].tolist() == [6, 4, 11]
        assert model.instances[0].run({"tokens": np.float32([[7, 8]])})["sums"].tolist() == [15]
