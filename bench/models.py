"""The models that are measured, as a repository that Vintner serves; each is computed in f32.

The precision is set because OpenVINO takes bf16 by itself on CPUs that have it, and like is to be compared with like.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

RESNET_IMAGE = (1, 3, 224, 224)
RESNET_INPUT = "gpu_0/data_0"
IMAGE_OUTPUT_ELEMENTS = 4
MINILM_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
MINILM_WORDS = 30_000
_ROOT = Path(__file__).resolve().parents[1]
_CONFIG = "precision: f32\n"


def make_repository(directory: Path, *models: str, config: str = "") -> Path:
    """Writes the named ones of `minilm`, `minilm_texts`, `tiny_embeddings` and `MAKERS`, replacing what was there;
    `config` is for each of them."""
    shutil.rmtree(directory, ignore_errors=True)
    for name in models:
        version = directory / name / "1"
        version.mkdir(parents=True)
        (directory / name / "config.yaml").write_text(_CONFIG + config)
        if name == "minilm":
            _link_minilm(version)
        elif name == "minilm_texts":
            shutil.copytree(_text_minilm(), version, dirs_exist_ok=True)
        elif name == "tiny_embeddings":
            shutil.copytree(_ROOT / "model_repository" / name / "1", version, dirs_exist_ok=True)
        else:
            onnx.save(MAKERS[name](), version / "model.onnx")
    return directory


def make_copies(directory: Path, model: str, count: int, config: str = "") -> Path:
    """Writes as many models that are the same one of `MAKERS`, replacing what was there."""
    shutil.rmtree(directory, ignore_errors=True)
    made = MAKERS[model]()
    for number in range(count):
        version = directory / f"{model}-{number:03d}" / "1"
        version.mkdir(parents=True)
        (version.parent / "config.yaml").write_text(_CONFIG + config)
        onnx.save(made, version / "model.onnx")
    return directory


def _link_minilm(version: Path) -> None:
    """The sentence embeddings, converted the first time."""
    source = _ROOT / "build" / "minilm" / "model.xml"
    if not source.exists():
        print("downloading and converting MiniLM …", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, str(_ROOT / "scripts" / "make_minilm.py")], check=True, stdout=sys.stderr)
    for file in (source, source.with_suffix(".bin")):
        (version / file.name).hardlink_to(file)


def _text_minilm() -> Path:
    """The same as optimum-intel exports it, with its tokenizer; made the first time."""
    made = _ROOT / "build" / "minilm_texts"
    if not made.exists():
        print("downloading and converting MiniLM with its tokenizer …", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, str(_ROOT / "scripts" / "make_text_minilm.py")], check=True, stdout=sys.stderr)
    return made


def outputs(repository: Path, name: str, inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
    """The first output that the runtime computes by itself, to hold the servers against."""
    file = next(file for file in (repository / name / "1").iterdir() if file.suffix in (".onnx", ".xml"))
    compiled = openvino.Core().compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return np.array(compiled(dict(inputs))[0], np.float32)


def sentence(tokens: int) -> dict[str, NDArray[np.int64]]:
    """One sentence of so many words, [1, tokens] each, as MiniLM takes it."""
    words = np.random.default_rng(tokens).integers(1_000, MINILM_WORDS, (1, tokens), np.int64)
    return dict(zip(MINILM_INPUTS, (words, np.ones_like(words), np.zeros_like(words)), strict=True))


def resnet50() -> onnx.ModelProto:
    """ResNet-50 as the onnx package ships it: the architecture, with constant weights."""
    return onnx.load(Path(onnx.__file__).parent / "backend/test/data/light/light_resnet50.onnx")


def resnet50_in_batches() -> onnx.ModelProto:
    """The same for any number of pictures: the published one is fixed to one by its shapes and by one Reshape."""
    model = resnet50()
    graph = model.graph
    for tensor in (graph.input[0], graph.output[0]):
        tensor.type.tensor_type.shape.dim[0].dim_param = "batch"
    reshape = next(node for node in graph.node if node.op_type == "Reshape")
    shape = next(one for one in graph.initializer if one.name == reshape.input[1])
    shape.CopyFrom(numpy_helper.from_array(np.array([-1, 2048], np.int64), shape.name))
    return model


def mlp_weights() -> dict[str, NDArray[np.float32]]:
    """Of the 16-64-4 network; seeded, so that every server has the same."""
    random = np.random.default_rng(16)
    shapes = {"hidden_weight": (16, 64), "hidden_bias": (64,), "score_weight": (64, 4), "score_bias": (4,)}
    return {name: random.standard_normal(shape).astype(np.float32) * np.float32(0.3) for name, shape in shapes.items()}


def mlp() -> onnx.ModelProto:
    """`features` [-1, 16] -> dense 64 -> ReLU -> dense 4 -> `scores` [-1, 4]."""
    nodes = [
        helper.make_node("Gemm", ["features", "hidden_weight", "hidden_bias"], ["hidden"]),
        helper.make_node("Relu", ["hidden"], ["active"]),
        helper.make_node("Gemm", ["active", "score_weight", "score_bias"], ["scores"]),
    ]
    return _model(
        nodes,
        helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", 16]),
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 4]),
        mlp_weights(),
    )


def mlp_features() -> NDArray[np.float32]:
    """The one input that is sent, [1, 16]."""
    return np.random.default_rng(64).standard_normal((1, 16)).astype(np.float32).round(4)


def mlp_scores(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """What every server has to answer, [rows, 4]."""
    weights = mlp_weights()
    hidden = np.maximum(features @ weights["hidden_weight"] + weights["hidden_bias"], 0)
    return np.asarray(hidden @ weights["score_weight"] + weights["score_bias"], np.float32)


def first_pixels() -> onnx.ModelProto:
    """`image` [1, 3, 224, 224] (602,112 bytes) -> its first four values, `pixels` [1, 4]: all transport, no work."""
    constants = {
        "starts": np.zeros(4, np.int64),
        "ends": np.array([1, 1, 1, IMAGE_OUTPUT_ELEMENTS], np.int64),
        "row": np.array([1, IMAGE_OUTPUT_ELEMENTS], np.int64),
    }
    nodes = [
        helper.make_node("Slice", ["image", "starts", "ends"], ["corner"]),
        helper.make_node("Reshape", ["corner", "row"], ["pixels"]),
    ]
    return _model(
        nodes,
        helper.make_tensor_value_info("image", TensorProto.FLOAT, RESNET_IMAGE),
        helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [1, IMAGE_OUTPUT_ELEMENTS]),
        constants,
    )


def image() -> NDArray[np.float32]:
    """A picture of noise, [1, 3, 224, 224]."""
    return np.random.default_rng(224).random(RESNET_IMAGE, np.float32)


def _model(
    nodes: list[onnx.NodeProto],
    given: onnx.ValueInfoProto,
    wanted: onnx.ValueInfoProto,
    constants: dict[str, NDArray[np.float32]] | dict[str, NDArray[np.int64]],
) -> onnx.ModelProto:
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "bench", [given], [wanted], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model


MAKERS: dict[str, Callable[[], onnx.ModelProto]] = {
    "resnet50": resnet50,
    "resnet50_in_batches": resnet50_in_batches,
    "mlp": mlp,
    "first_pixels": first_pixels,
}
