"""The models in model_repository/, run by their libraries alone: what a server that serves them has to match."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import openvino as ov
import pytest
from digits_data import held_out
from vintner.types import Array

REPOSITORY = Path(__file__).parents[2] / "model_repository"
LINES = [
    "to be or not to be",
    "",
    " ",
    "  two   spaces between,  and around ",
    "Καλημέρα κόσμε",
    "straße, façade",
    "😀 ok 👍🏽 fine",
    "nul\0inside one",
    "long " * 5000,
]


@pytest.fixture(scope="module")
def networks() -> Mapping[int, ov.CompiledModel]:
    """The versions of `digits`."""
    core = ov.Core()
    files = {version: REPOSITORY / "digits" / str(version) / "model.xml" for version in (1, 2)}
    f32 = {"INFERENCE_PRECISION_HINT": "f32"}  # the processor's favourite may be BF16
    return {version: core.compile_model(file, "CPU", f32) for version, file in files.items()}


def openvino_scores(network: ov.CompiledModel, images: Array) -> Array:
    scores: Array = network({"image": images})["scores"]
    return scores


def session(model: str) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(REPOSITORY / model / "1" / "model.onnx", providers=["CPUExecutionProvider"])


def onnx_scores(images: Array) -> Array:
    scores: Array = session("digits_onnx").run(["scores"], {"image": images})[0]
    return scores


def onnx_signature(session: onnxruntime.InferenceSession) -> dict[str, tuple[str, list[Any]]]:
    return {node.name: (node.type, node.shape) for node in [*session.get_inputs(), *session.get_outputs()]}


def read_lines(lines: list[str]) -> tuple[list[str], list[int]]:
    upper, words = session("text_lines").run(["upper", "words"], {"line": np.array(lines, np.object_)})
    assert (upper.shape, words.shape, words.dtype) == ((len(lines),), (len(lines),), np.int64)
    return upper.tolist(), words.tolist()


def count_right(scores: Array) -> int:
    return int((scores.argmax(axis=1) == held_out()[1]).sum())


@pytest.mark.parametrize("version", [1, 2])
def test_digits_takes_any_number_of_images(networks: Mapping[int, ov.CompiledModel], version: int) -> None:
    ports = networks[version].inputs + networks[version].outputs
    assert [(port.get_names(), str(port.partial_shape), port.element_type) for port in ports] == [
        ({"image"}, "[?,1,8,8]", ov.Type.f32),
        ({"scores"}, "[?,10]", ov.Type.f32),
    ]


def test_digits_onnx_takes_any_number_of_images() -> None:
    assert onnx_signature(session("digits_onnx")) == {
        "image": ("tensor(float)", ["rows", 1, 8, 8]),
        "scores": ("tensor(float)", ["rows", 10]),
    }


@pytest.mark.parametrize(("version", "documented"), [(1, 419), (2, 449)])
def test_digits_reads_as_many_held_out_images_as_its_readme_says(
    networks: Mapping[int, ov.CompiledModel], version: int, documented: int
) -> None:
    # Another processor may round the scores of an image between two digits the other way.
    assert abs(count_right(openvino_scores(networks[version], held_out()[0])) - documented) <= 1


def test_the_better_digits_reads_97_percent_of_held_out_images(networks: Mapping[int, ov.CompiledModel]) -> None:
    images, digits = held_out()
    for scores in (openvino_scores(networks[2], images), onnx_scores(images)):
        assert count_right(scores) >= 0.97 * len(digits)


@pytest.mark.parametrize("version", [1, 2])
def test_scores_are_probabilities(networks: Mapping[int, ov.CompiledModel], version: int) -> None:
    scores = openvino_scores(networks[version], held_out()[0])
    assert scores.min() >= 0
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-5)


def test_both_runtimes_give_the_same_scores(networks: Mapping[int, ov.CompiledModel]) -> None:
    images, _ = held_out()
    np.testing.assert_allclose(onnx_scores(images), openvino_scores(networks[2], images), rtol=0, atol=1e-4)


@pytest.mark.parametrize("version", [1, 2])
def test_the_scores_of_an_image_do_not_depend_on_those_beside_it(
    networks: Mapping[int, ov.CompiledModel], version: int
) -> None:
    images, _ = held_out()
    alone = np.concatenate([openvino_scores(networks[version], images[row : row + 1]) for row in range(8)])
    np.testing.assert_allclose(openvino_scores(networks[version], images)[:8], alone, rtol=0, atol=1e-5)


def test_text_lines_takes_any_number_of_lines() -> None:
    assert onnx_signature(session("text_lines")) == {
        "line": ("tensor(string)", ["rows"]),
        "upper": ("tensor(string)", ["rows"]),
        "words": ("tensor(int64)", ["rows"]),
    }


def test_text_lines_raises_ascii_letters_and_keeps_all_else() -> None:
    upper, _ = read_lines(LINES)
    assert upper == [line.encode().upper().decode() for line in LINES]


def test_text_lines_counts_what_spaces_separate() -> None:
    _, words = read_lines(LINES)
    assert words == [sum(part != "" for part in line.split(" ")) for line in LINES]


@pytest.mark.parametrize("lines", [[], [""], ["", "", ""]], ids=["none", "one", "three"])
def test_text_lines_takes_no_lines_and_empty_ones(lines: list[str]) -> None:
    assert read_lines(lines) == (lines, [0] * len(lines))


def test_the_answer_to_a_line_does_not_depend_on_those_beside_it() -> None:
    alone = [read_lines([line]) for line in LINES]
    assert read_lines(LINES) == ([upper for [upper], _ in alone], [words for _, [words] in alone])


@pytest.mark.parametrize(
    "file", sorted(REPOSITORY.rglob("model.*")), ids=lambda file: str(file.relative_to(REPOSITORY))
)
def test_a_shipped_file_is_small(file: Path) -> None:
    assert 0 < file.stat().st_size < 2 * 1024 * 1024
