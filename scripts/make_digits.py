"""Trains the networks of model_repository/digits and model_repository/digits_onnx, and writes them there.

    python3 -m venv /tmp/digits
    /tmp/digits/bin/pip install torch==2.13.0 scikit-learn==1.9.1 onnx==1.23.2 openvino==2026.4.1
    /tmp/digits/bin/python scripts/make_digits.py

It takes some 15 seconds, and prints how many held-out images each file gets right. Nothing was tuned on those images:
they are looked at only for that. Run again on the same processor it writes the same bytes; another kind of processor
may round differently while training, and so arrive at other weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import openvino
import torch
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits  # type: ignore[import-untyped]
from sklearn.model_selection import train_test_split  # type: ignore[import-untyped]
from torch import Tensor, nn
from torch.nn import functional

REPOSITORY: Final = Path(__file__).parents[1] / "model_repository"
SEED: Final = 0
"""Of the split, the first weights, the order of the images and their shifts."""

SIDE: Final = 8
FULL_INK: Final = 16
DIGITS: Final = 10
INPUT: Final = "image"
OUTPUT: Final = "scores"

OPSET: Final = 17
IR_VERSION: Final = 8
"""Of 2022: any runtime that is still in use reads both."""

EPOCHS: Final = 80
BATCH: Final = 64
LEARNING_RATE: Final = 3e-3


@dataclass(frozen=True, slots=True)
class Images:
    """Pixels [n, 1, 8, 8] from 0 to 16, and the digit that each image shows."""

    pixels: Tensor
    digits: Tensor


def main() -> None:
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)  # the order of a sum depends on how many threads share it
    learning, held_out = split_images()
    small, better = (to_onnx(trained(make, learning)) for make in (small_network, better_network))
    files = [
        save_ir(small, REPOSITORY / "digits" / "1"),
        save_ir(better, REPOSITORY / "digits" / "2"),
        save_onnx(better, REPOSITORY / "digits_onnx" / "1"),
    ]
    for file in files:
        right, total = correct(file, held_out), len(held_out.digits)
        print(f"{file.relative_to(REPOSITORY)}: {right} of {total} held-out images right, {right / total:.2%}")


def split_images() -> tuple[Images, Images]:
    """Three quarters to learn from, and one that is held out."""
    pixels, digits = load_digits(return_X_y=True)
    learning, held_out, learning_digits, held_out_digits = train_test_split(
        pixels, digits, test_size=0.25, random_state=SEED, stratify=digits
    )
    return to_images(learning, learning_digits), to_images(held_out, held_out_digits)


def to_images(pixels: np.ndarray[Any, Any], digits: np.ndarray[Any, Any]) -> Images:
    square = pixels.astype(np.float32).reshape(-1, 1, SIDE, SIDE)
    return Images(torch.from_numpy(square), torch.from_numpy(digits))


def small_network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 4, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(4 * 4 * 4, DIGITS),
    )


def better_network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 16, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(32 * 4 * 4, 64),
        nn.ReLU(),
        nn.Linear(64, DIGITS),
    )


def trained(make_network: Callable[[], nn.Sequential], images: Images) -> nn.Sequential:
    """Takes pixels from 0 to 1 and returns logits; scaling and softmax come with the export."""
    torch.manual_seed(SEED)
    network = make_network()
    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(images.digits)).split(BATCH):  # type: ignore[no-untyped-call]
            optimizer.zero_grad()
            logits = network(shifted(images.pixels[rows]) / FULL_INK)
            functional.cross_entropy(logits, images.digits[rows]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        schedule.step()
    return network.eval()


def shifted(pixels: Tensor) -> Tensor:
    """The batch moved by up to one pixel each way, so that the network does not learn by heart where a stroke is."""
    down, right = torch.randint(0, 3, (2,)).tolist()
    return functional.pad(pixels, (1, 1, 1, 1))[:, :, down : down + SIDE, right : right + SIDE]


def to_onnx(network: nn.Sequential) -> onnx.ModelProto:
    image = helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["rows", 1, SIDE, SIDE])
    scores = helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["rows", DIGITS])
    nodes, weights = onnx_nodes(network)
    graph = helper.make_graph(nodes, "digits", [image], [scores], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model, full_check=True)
    return model


def onnx_nodes(network: nn.Sequential) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """The network from raw pixels to probabilities, and its weights."""
    nodes = [helper.make_node("Div", [INPUT, "full_ink"], ["scaled"])]
    weights = [numpy_helper.from_array(np.array(FULL_INK, np.float32), "full_ink")]
    value = "scaled"
    for position, layer in enumerate(network):
        if isinstance(layer, nn.Dropout):
            continue  # it acts in training only
        name = f"layer{position}"
        parameters = {f"{name}.{key}": tensor.detach().numpy() for key, tensor in layer.named_parameters()}
        operator, attributes = onnx_operator(layer)
        nodes.append(helper.make_node(operator, [value, *parameters], [name], **attributes))
        weights += [numpy_helper.from_array(array, key) for key, array in parameters.items()]
        value = name
    nodes.append(helper.make_node("Softmax", [value], [OUTPUT], axis=1))
    return nodes, weights


def onnx_operator(layer: nn.Module) -> tuple[str, Mapping[str, Any]]:
    """Raises ValueError for a kind of layer that no network here has had yet."""
    match layer:
        case nn.Conv2d():
            return "Conv", {"kernel_shape": layer.kernel_size, "pads": [*layer.padding] * 2}
        case nn.MaxPool2d():
            return "MaxPool", {"kernel_shape": [layer.kernel_size] * 2, "strides": [layer.stride] * 2}
        case nn.Linear():
            return "Gemm", {"transB": 1}
        case nn.Flatten():
            return "Flatten", {}
        case nn.ReLU():
            return "Relu", {}
    raise ValueError(f"no ONNX operator is known here for {layer}")


def save_ir(model: onnx.ModelProto, version: Path) -> Path:
    version.mkdir(parents=True, exist_ok=True)
    network = openvino.Core().read_model(model.SerializeToString())
    openvino.save_model(network, version / "model.xml", compress_to_fp16=False)
    return version / "model.xml"


def save_onnx(model: onnx.ModelProto, version: Path) -> Path:
    version.mkdir(parents=True, exist_ok=True)
    onnx.save(model, version / "model.onnx")
    return version / "model.onnx"


def correct(file: Path, images: Images) -> int:
    """How many images the network in the file takes for what they show."""
    compiled = openvino.Core().compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    scores = compiled({INPUT: images.pixels.numpy()})[OUTPUT]
    return int((scores.argmax(axis=1) == images.digits.numpy()).sum())


if __name__ == "__main__":
    main()
