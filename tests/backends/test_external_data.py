"""ONNX models whose weights are in files of their own: beside the model, and nowhere else.

Both runtimes refuse paths that lead out of the model's directory by themselves, also in the oldest releases that are
admitted; a release that no longer does is to be noticed here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from model_builders import onnx_value, save_onnx
from onnx import TensorProto, helper
from vintner.backend import Backend, LoadSpec
from vintner.errors import LoadError
from vintner_backends.onnxruntime import OnnxRuntimeBackend
from vintner_backends.openvino import OpenVINOBackend

WEIGHTS = np.arange(400, dtype=np.float32)

Graph = Callable[[str], onnx.GraphProto]


def external(location: str, name: str = "w") -> TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=WEIGHTS.shape)
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", location
    return tensor


def graph_of(nodes: Sequence[onnx.NodeProto], initializers: Sequence[TensorProto] = ()) -> onnx.GraphProto:
    tensors = [onnx_value(name, "FP32", (-1, 400)) for name in ("x", "y")]
    return helper.make_graph(nodes, "external", tensors[:1], tensors[1:], initializers)


def as_initializer(location: str) -> onnx.GraphProto:
    return graph_of([helper.make_node("Add", ["x", "w"], ["y"])], [external(location)])


def as_constant(location: str) -> onnx.GraphProto:
    constant = helper.make_node("Constant", [], ["w"], value=external(location))
    return graph_of([constant, helper.make_node("Add", ["x", "w"], ["y"])])


def in_a_branch(location: str) -> onnx.GraphProto:
    branches = {}
    for name in ("then", "else"):
        output = onnx_value(f"y_{name}", "FP32", (-1, 400))
        node = helper.make_node("Add", ["x", f"w_{name}"], [output.name])
        branches[f"{name}_branch"] = helper.make_graph([node], name, [], [output], [external(location, f"w_{name}")])
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Cast", ["sum"], ["positive"], to=TensorProto.BOOL),
        helper.make_node("If", ["positive"], ["y"], **branches),
    ]
    return graph_of(nodes)


@pytest.fixture(scope="module", params=[OpenVINOBackend, OnnxRuntimeBackend])
def backend(request: pytest.FixtureRequest) -> Backend:
    made: Backend = request.param()
    return made


@pytest.fixture
def version(tmp_path: Path) -> Path:
    """A version's directory with weights in it, beside it, and linked to from it."""
    version = tmp_path / "repository" / "m" / "1"
    (version / "sub").mkdir(parents=True)
    for path in (version / "w.bin", version / "sub" / "w.bin", version.parent / "w.bin", tmp_path / "w.bin"):
        WEIGHTS.tofile(path)
    (version / "inside.bin").symlink_to("w.bin")
    (version / "outside.bin").symlink_to(tmp_path / "w.bin")
    (version / "way").symlink_to(tmp_path)
    return version


@pytest.mark.parametrize("make", [as_initializer, as_constant, in_a_branch])
@pytest.mark.parametrize("location", ["w.bin", "sub/w.bin", "inside.bin"])
def test_weights_in_the_versions_directory_are_loaded(
    backend: Backend, version: Path, make: Graph, location: str
) -> None:
    spec = LoadSpec(save_onnx(version, make(location)), precision="f32")
    if make is in_a_branch and location == "inside.bin" and isinstance(backend, OnnxRuntimeBackend):
        with pytest.raises(LoadError):  # it follows no links from branches at all
            backend.load(spec)
        return
    model = backend.load(spec)
    [y] = model.instances[0].run({"x": np.ones((1, 400), np.float32)}).values()
    np.testing.assert_allclose(y[0], WEIGHTS + 1)
    model.close()


@pytest.mark.parametrize("make", [as_initializer, as_constant, in_a_branch])
@pytest.mark.parametrize(
    "location", ["../w.bin", "../../../w.bin", "sub/../../w.bin", "{outside}/w.bin", "outside.bin", "way/w.bin"]
)
def test_weights_outside_of_the_versions_directory_are_refused(
    backend: Backend, version: Path, make: Graph, location: str
) -> None:
    path = save_onnx(version, make(location.format(outside=version.parents[2])))
    with pytest.raises(LoadError):
        backend.load(LoadSpec(path))
