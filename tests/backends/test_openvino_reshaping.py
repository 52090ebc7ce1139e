"""The backend options `layout`, `shape` and `batch_size`: shapes that are served, answers that stay the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openvino as ov
import pytest
from model_builders import openvino_parameter, openvino_result, save_openvino
from openvino import opset15
from vintner.backend import LoadSpec
from vintner.errors import LoadError
from vintner_backends.openvino import OpenVINOBackend, OpenVINOModel


@pytest.fixture(scope="module")
def backend() -> OpenVINOBackend:
    return OpenVINOBackend()


def named(name: str, *extents: int) -> ov.Node:
    parameter = openvino_parameter("FP32", extents, name)
    parameter.output(0).set_names({name})
    return parameter


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """`image` [1,3,4,6] -> `scaled`: each channel times its number, from 1."""
    parameter = named("image", 1, 3, 4, 6)
    factors = opset15.constant(np.float32([1, 2, 3]).reshape(1, 3, 1, 1))
    result = openvino_result(opset15.multiply(parameter, factors), "scaled")
    return save_openvino(tmp_path / "image", ov.Model([result], [parameter], "image"))


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """`left` [1,4] and `right` [1,4] -> `sum`."""
    left, right = named("left", 1, 4), named("right", 1, 4)
    model = ov.Model([openvino_result(opset15.add(left, right), "sum")], [left, right], "pair")
    return save_openvino(tmp_path / "pair", model)


@pytest.fixture
def rigid(tmp_path: Path) -> Path:
    """`input` [2,4] -> `output` [8], by a reshape to exactly that."""
    parameter = named("input", 2, 4)
    flat = opset15.add(opset15.reshape(parameter, [8], False), np.ones(8, np.float32))
    return save_openvino(tmp_path / "rigid", ov.Model([openvino_result(flat)], [parameter], "rigid"))


def load(backend: OpenVINOBackend, path: Path, **options: object) -> OpenVINOModel:
    return backend.load(LoadSpec(path=path, instances=1, options=options))


def shapes(model: OpenVINOModel) -> dict[str, tuple[int, ...]]:
    return {spec.name: spec.shape for spec in (*model.inputs, *model.outputs)}


PIXELS = np.arange(72, dtype=np.float32).reshape(1, 4, 6, 3)


@pytest.mark.parametrize("layout", ["NHWC:NCHW", "nhwc : nchw", {"image": "NHWC:NCHW"}])
def test_an_input_is_taken_in_another_layout(backend: OpenVINOBackend, image: Path, layout: object) -> None:
    model = load(backend, image, layout=layout)
    assert shapes(model) == {"image": (1, 4, 6, 3), "scaled": (1, 3, 4, 6)}
    answer = model.instances[0].run({"image": PIXELS})["scaled"]
    np.testing.assert_array_equal(answer, (PIXELS * np.float32([1, 2, 3])).transpose(0, 3, 1, 2))


def test_an_output_is_given_in_another_layout(backend: OpenVINOBackend, image: Path) -> None:
    model = load(backend, image, layout={"image": "NHWC:NCHW", "scaled": "NHWC:NCHW"})
    assert shapes(model) == {"image": (1, 4, 6, 3), "scaled": (1, 4, 6, 3)}
    np.testing.assert_array_equal(model.instances[0].run({"image": PIXELS})["scaled"], PIXELS * np.float32([1, 2, 3]))


def test_a_layout_alone_only_says_where_the_batch_is(backend: OpenVINOBackend, image: Path) -> None:
    assert shapes(load(backend, image, layout="N...")) == shapes(load(backend, image))


def test_a_shape_is_in_the_layout_that_is_served(backend: OpenVINOBackend, image: Path) -> None:
    model = load(backend, image, layout="NHWC:NCHW", shape=[2, -1, 8, 3])
    assert shapes(model) == {"image": (2, -1, 8, 3), "scaled": (2, 3, -1, 8)}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"shape": {"left": [3, 4], "right": [3, 4]}}, (3, 4)),
        ({"shape": {"left": [-1, 4], "right": "auto"}}, (-1, 4)),
        ({"shape": "auto"}, (-1, -1)),
        ({"batch_size": 8}, (8, 4)),
        ({"batch_size": -1}, (-1, 4)),
        ({"batch_size": "auto"}, (-1, 4)),
        ({"batch_size": 0}, (1, 4)),
        ({"batch_size": 8, "shape": {"left": [3, 4], "right": [3, 4]}}, (3, 4)),
    ],
)
def test_inputs_get_the_shapes_that_are_asked_for(
    backend: OpenVINOBackend, pair: Path, options: dict[str, object], expected: tuple[int, ...]
) -> None:
    assert shapes(load(backend, pair, **options))["left"] == expected


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"shape": [1, 4]}, "the model has 2 inputs"),
        ({"shape": {"middle": [1, 4]}}, "no input 'middle'"),
        ({"shape": {"left": "(1,4)"}}, "expected a list of extents"),
        ({"shape": {"left": [1, -2]}}, "expected a list of extents"),
        ({"shape": {"left": [1, 5]}}, "cannot take .*left"),
        ({"batch_size": True}, "expected a number of rows"),
        ({"batch_size": "many"}, "expected a number of rows"),
        ({"layout": "NC:CN"}, "the model has 2 inputs"),
        ({"layout": {"middle": "NC"}}, "no tensor 'middle'"),
        ({"layout": {"left": "CN"}}, "the batch N in front"),
        ({"layout": {"left": "NC:"}}, "the batch N in front"),
        ({"layout": {"left": "NC:NX"}}, "the model cannot take it"),
        ({"layout": {"left": 3}}, "the batch N in front"),
    ],
)
def test_what_cannot_be_is_refused(
    backend: OpenVINOBackend, pair: Path, options: dict[str, object], problem: str
) -> None:
    with pytest.raises(LoadError, match=problem):
        load(backend, pair, **options)


def test_a_size_that_the_model_cannot_have_is_refused(backend: OpenVINOBackend, rigid: Path) -> None:
    with pytest.raises(LoadError, match="'batch_size': the model cannot take 3"):
        load(backend, rigid, batch_size=3)
