"""Small models for tests, built anew for each. A builder writes one into a directory and returns its path.

`doubling` models have one input `input` and one output `output`: twice the input for numbers, the input itself for
BOOL and BYTES, so that a run's answer can be told from its question.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import openvino as ov
from onnx import TensorProto, helper, numpy_helper
from openvino import opset15

OPENVINO_TYPES = {
    "BOOL": ov.Type.boolean,
    "UINT8": ov.Type.u8,
    "UINT16": ov.Type.u16,
    "UINT32": ov.Type.u32,
    "UINT64": ov.Type.u64,
    "INT8": ov.Type.i8,
    "INT16": ov.Type.i16,
    "INT32": ov.Type.i32,
    "INT64": ov.Type.i64,
    "FP16": ov.Type.f16,
    "FP32": ov.Type.f32,
    "FP64": ov.Type.f64,
    "BF16": ov.Type.bf16,
    "BYTES": ov.Type.string,
}
ONNX_TYPES = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BF16": TensorProto.BFLOAT16,
    "BYTES": TensorProto.STRING,
}
COPIED = ("BOOL", "BYTES")


def save_openvino(directory: Path, model: ov.Model, name: str = "model.xml") -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    ov.save_model(model, directory / name, compress_to_fp16=False)
    return directory / name


def openvino_parameter(datatype: str = "FP32", shape: Sequence[int] = (-1, 4), name: str = "input") -> ov.Node:
    return opset15.parameter(list(shape), OPENVINO_TYPES[datatype], name=name)


def openvino_result(node: ov.Node, name: str = "output") -> ov.Node:
    node.output(0).set_names({name})
    return opset15.result(node)


def openvino_doubling(directory: Path, datatype: str = "FP32", shape: Sequence[int] = (-1, 4)) -> Path:
    parameter = openvino_parameter(datatype, shape)
    parameter.output(0).set_names({"input"})
    if datatype == "BYTES":
        doubled = opset15.string_tensor_pack(*opset15.string_tensor_unpack(parameter).outputs())
    else:
        doubled = (opset15.logical_or if datatype == "BOOL" else opset15.add)(parameter, parameter)
    return save_openvino(directory, ov.Model([openvino_result(doubled)], [parameter], "doubling"))


def openvino_scaling(directory: Path, factor: float, padding: int = 0) -> Path:
    """Multiplies `input` by a factor: which of several models answered can be told from the answer. `padding` is in
    numbers that the weights have besides, of FP32."""
    parameter = openvino_parameter("FP32", (-1, 4))
    parameter.output(0).set_names({"input"})
    node = opset15.multiply(parameter, opset15.constant(np.float32(factor)))
    if padding:
        zeros = np.random.default_rng(0).normal(0, 1e-30, (4, padding)).astype(np.float32)
        sums = opset15.reduce_sum(opset15.matmul(node, zeros, False, False), [1], keep_dims=True)
        node = opset15.add(node, opset15.multiply(sums, opset15.constant(np.float32(0))))
    return save_openvino(directory, ov.Model([openvino_result(node)], [parameter], "scaling"))


def openvino_heavy(directory: Path, width: int = 64, layers: int = 6) -> Path:
    """Convolutions that take some milliseconds, which every thread that may compute takes part in."""
    random = np.random.default_rng(0)
    parameter = openvino_parameter("FP32", (1, width, 56, 56))
    node = parameter
    for _ in range(layers):
        weights = random.normal(0, 0.05, (width, width, 3, 3)).astype(np.float32)
        node = opset15.relu(opset15.convolution(node, weights, [1, 1], [1, 1], [1, 1], [1, 1]))
    return save_openvino(directory, ov.Model([openvino_result(node)], [parameter], "heavy"))


def openvino_mlp(directory: Path, *widths: int) -> Path:
    """A layer of weights and a ReLU between each two widths; the rows are dynamic."""
    random = np.random.default_rng(0)
    parameter = openvino_parameter("FP32", (-1, widths[0]))
    node = parameter
    for rows, columns in pairwise(widths):
        weights = random.normal(0, 0.05, (rows, columns)).astype(np.float32)
        node = opset15.relu(opset15.matmul(node, weights, False, False))
    return save_openvino(directory, ov.Model([openvino_result(node)], [parameter], "mlp"))


def save_onnx(directory: Path, graph: onnx.GraphProto, name: str = "model.onnx", opset: int = 21) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    onnx.save(model, directory / name)
    return directory / name


def onnx_value(name: str, datatype: str = "FP32", shape: Sequence[int | str] = ("rows", 4)) -> onnx.ValueInfoProto:
    extents = ["rows" if extent == -1 else extent for extent in shape]
    return helper.make_tensor_value_info(name, ONNX_TYPES[datatype], extents)


def onnx_doubling(directory: Path, datatype: str = "FP32", shape: Sequence[int] = (-1, 4)) -> Path:
    """Doubles by a sum where ONNX Runtime has one for the type, and in 32 bits between two casts where it has none."""
    if datatype in COPIED:
        nodes = [helper.make_node("Identity", ["input"], ["output"])]
    else:
        wide = "FP32" if datatype == "BF16" else "INT32"
        between = datatype in ("BF16", "INT8", "INT16", "UINT8", "UINT16")
        nodes = [
            helper.make_node("Cast", ["input"], ["wide"], to=ONNX_TYPES[wide if between else datatype]),
            helper.make_node("Add", ["wide", "wide"], ["sum"]),
            helper.make_node("Cast", ["sum"], ["output"], to=ONNX_TYPES[datatype]),
        ]
    graph = helper.make_graph(
        nodes, "doubling", [onnx_value("input", datatype, shape)], [onnx_value("output", datatype, shape)]
    )
    return save_onnx(directory, graph)


def onnx_heavy(directory: Path, width: int = 64, layers: int = 6) -> Path:
    """The same work as `openvino_heavy`."""
    random = np.random.default_rng(0)
    nodes, weights = [], []
    for layer in range(layers):
        value = random.normal(0, 0.05, (width, width, 3, 3)).astype(np.float32)
        weights.append(numpy_helper.from_array(value, f"weights_{layer}"))
        source = f"layer_{layer - 1}" if layer else "input"
        target = f"layer_{layer}" if layer < layers - 1 else "output"
        nodes.append(helper.make_node("Conv", [source, f"weights_{layer}"], [f"sum_{layer}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"sum_{layer}"], [target]))
    extents = (1, width, 56, 56)
    graph = helper.make_graph(
        nodes, "heavy", [onnx_value("input", "FP32", extents)], [onnx_value("output", "FP32", extents)], weights
    )
    return save_onnx(directory, graph)


def onnx_mlp(directory: Path, *widths: int) -> Path:
    """As `openvino_mlp`."""
    random = np.random.default_rng(0)
    nodes, weights = [], []
    for layer, (rows, columns) in enumerate(pairwise(widths)):
        value = random.normal(0, 0.05, (rows, columns)).astype(np.float32)
        weights.append(numpy_helper.from_array(value, f"weights_{layer}"))
        source = f"layer_{layer - 1}" if layer else "input"
        target = f"layer_{layer}" if layer < len(widths) - 2 else "output"
        nodes.append(helper.make_node("MatMul", [source, f"weights_{layer}"], [f"product_{layer}"]))
        nodes.append(helper.make_node("Relu", [f"product_{layer}"], [target]))
    tensors = [
        [onnx_value(name, "FP32", ["rows", end])] for name, end in (("input", widths[0]), ("output", widths[-1]))
    ]
    return save_onnx(directory, helper.make_graph(nodes, "mlp", *tensors, weights))


def onnx_row_sums(directory: Path) -> Path:
    """`tokens` [elements] -> `sums` [rows], of as many of them as `ends` [rows] says where each row ends."""
    constants = [
        numpy_helper.from_array(np.zeros(1, np.float32), "nothing"),
        *(
            numpy_helper.from_array(np.int64(values), name)
            for name, values in (("axis", 0), ("first", [0]), ("last", [-1]))
        ),
    ]
    nodes = [
        helper.make_node("CumSum", ["tokens", "axis"], ["running"]),
        helper.make_node("Concat", ["nothing", "running"], ["before"], axis=0),
        helper.make_node("Gather", ["before", "ends"], ["at_end"]),
        helper.make_node("Slice", ["at_end", "first", "last"], ["of_those_before"]),
        helper.make_node("Concat", ["nothing", "of_those_before"], ["at_start"], axis=0),
        helper.make_node("Sub", ["at_end", "at_start"], ["sums"]),
    ]
    inputs = [onnx_value("tokens", "FP32", ["elements"]), onnx_value("ends", "INT64", ["rows"])]
    graph = helper.make_graph(nodes, "row sums", inputs, [onnx_value("sums", "FP32", ["rows"])], constants)
    return save_onnx(directory, graph)
