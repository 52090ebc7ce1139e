"""Embedding models and rerankers give what their originals gave, pooled as they say, whatever is run beside them."""

from __future__ import annotations

import json
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
import tiny_encoders
from running_server import ROOT
from vintner.backend import LoadSpec
from vintner.errors import ContextExceeded, InvalidArgument, LoadError
from vintner_backends.openvino import OpenVINOBackend
from vintner_backends.openvino_genai import OpenVINOGenAIBackend
from vintner_backends.openvino_tokenizer import core_with_tokenizers

EMBEDDINGS, RERANKER = (ROOT / "model_repository" / name / "1" for name in ("tiny_embeddings", "tiny_reranker"))
TOLERANCE = 1e-4
TEXTS = [
    "Wine is made of grapes.",
    "",
    "A cat sleeps on the sofa, and so does the kitten on the couch.",
    "ώ很ن🐱ö",
    "x",
]

backend = OpenVINOGenAIBackend()


def load(directory: Path, **settings: Any) -> Any:
    found = backend.find(directory)
    assert found is not None
    return backend.load(LoadSpec(**{"path": found, "precision": "f32", "cores": 2, **settings}))


def strings(texts: list[str] | list[bytes]) -> Any:
    array = np.empty(len(texts), np.object_)
    array[:] = [text.encode() if isinstance(text, str) else text for text in texts]
    return array


def embed(model: Any, texts: list[str], instance: int = 0) -> Any:
    return model.instances[instance].run({"text": strings(texts)})["embedding"]


@pytest.fixture(scope="module")
def encoder() -> Any:
    return load(EMBEDDINGS)


def test_vectors_are_those_of_the_original(encoder: Any) -> None:
    expected = tiny_encoders.vectors()
    assert np.abs(embed(encoder, list(expected)) - np.array(list(expected.values()))).max() < TOLERANCE


def test_a_text_gets_the_same_alone_and_among_others(encoder: Any) -> None:
    texts = [*TEXTS, *tiny_encoders.vectors()]
    alone = np.concatenate([embed(encoder, [text]) for text in texts])
    assert np.abs(embed(encoder, texts) - alone).max() < TOLERANCE


def test_instances_run_at_the_same_time(encoder: Any) -> None:
    texts = list(tiny_encoders.vectors())
    expected = embed(encoder, texts)

    def differences(instance: int) -> list[float]:
        return [float(np.abs(embed(encoder, texts[i:], instance) - expected[i:]).max()) for i in range(len(texts))]

    with ThreadPoolExecutor(2) as threads:
        assert max(max(found) for found in threads.map(differences, range(2))) < TOLERANCE


def test_no_texts_get_no_vectors(encoder: Any) -> None:
    outputs = encoder.instances[0].run({"text": strings([])})
    assert outputs["embedding"].shape == (0, 48)
    assert outputs["tokens"].shape == (0,)


def hidden_states(texts: list[str]) -> tuple[Any, Any]:
    """What the files give if they are run as they are: last hidden states, and the mask."""
    core = core_with_tokenizers()
    tokens = core.compile_model(EMBEDDINGS / "openvino_tokenizer.xml", "CPU")({0: texts})
    arrays = {port.any_name: values for port, values in tokens.items()}
    model = core.compile_model(EMBEDDINGS / "openvino_model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return model(arrays)["last_hidden_state"], arrays["attention_mask"]


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_each_pooling_is_what_numpy_makes_of_the_hidden_states(pooling: str, normalize: bool) -> None:
    hidden, mask = hidden_states(TEXTS)
    count = mask.sum(axis=1)
    expected = {
        "mean": (hidden * mask[:, :, None]).sum(axis=1) / count[:, None],
        "cls": hidden[:, 0],
        "last": hidden[np.arange(len(TEXTS)), count - 1],
    }[pooling]
    if normalize:
        expected = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    model = load(EMBEDDINGS, options={"pooling": pooling, "normalize": normalize})
    assert np.abs(embed(model, TEXTS) - expected).max() < TOLERANCE
    assert model.instances[0].run({"text": strings(TEXTS)})["tokens"].tolist() == count.tolist()


def test_a_model_that_was_exported_with_its_pooling_is_not_pooled_again(tmp_path: Path) -> None:
    directory = shutil.copytree(EMBEDDINGS, tmp_path / "1")
    model = ov.Core().read_model(EMBEDDINGS / "openvino_model.xml")
    last = ov.opset15.reduce_max(model.outputs[0].node.input_value(0), np.array([1]))
    last.output(0).set_names({"sentence_embedding"})
    pooled = ov.Model([ov.opset15.result(last)], model.get_parameters())
    ov.save_model(pooled, directory / "openvino_model.xml", compress_to_fp16=False)
    hidden, _ = hidden_states(["x"])
    model = load(directory, options={"normalize": False})
    assert np.abs(embed(model, ["x"]) - hidden.max(axis=1)).max() < TOLERANCE


@pytest.mark.parametrize("settings", [{"affinity": frozenset({0})}, {"cores": 1}, {"performance_hint": "latency"}])
def test_threads_and_cores_change_no_vector(settings: dict[str, Any]) -> None:
    if "affinity" in settings:
        settings = {"cores": 1, **settings}
    expected = tiny_encoders.vectors()
    found = embed(load(EMBEDDINGS, **settings), list(expected))
    assert np.abs(found - np.array(list(expected.values()))).max() < TOLERANCE


def test_scores_are_those_of_the_original() -> None:
    model = load(RERANKER)
    documents = tiny_encoders.documents()
    for query, logits in tiny_encoders.logits().items():
        inputs = {"query": strings([query] * len(documents)), "document": strings([*documents])}
        found = model.instances[0].run(inputs)["score"]
        assert np.abs(found - 1 / (1 + np.exp(-np.array(logits)))).max() < TOLERANCE


def test_pairs_of_several_queries_are_scored_each_for_itself() -> None:
    model = load(RERANKER)
    document = tiny_encoders.documents()[0]
    pairs = [(query, document) for query in tiny_encoders.logits()] * 2
    inputs = {"query": strings([one for one, _ in pairs]), "document": strings([one for _, one in pairs])}
    expected = [logits[0] for logits in tiny_encoders.logits().values()] * 2
    assert np.abs(model.instances[0].run(inputs)["score"] - 1 / (1 + np.exp(-np.array(expected)))).max() < TOLERANCE


def test_a_text_that_is_too_long_is_refused_with_both_numbers_and_cut_if_that_is_asked(encoder: Any) -> None:
    long = "wine " * 200
    with pytest.raises(ContextExceeded, match=r"the text has \d+ tokens, and the model takes at most 128"):
        embed(encoder, ["x", long])
    with pytest.raises(ContextExceeded, match="10000000 bytes"):
        embed(encoder, ["x" * 10_000_000])
    cutting = load(EMBEDDINGS, options={"truncate": True, "max_length": 12})
    tokens = cutting.instances[0].run({"text": strings([long, "ö " * 5000])})["tokens"]
    assert tokens.tolist() == [12, 12]


def test_bytes_that_are_no_text_are_refused(encoder: Any) -> None:
    with pytest.raises(InvalidArgument, match="not UTF-8"):
        encoder.instances[0].run({"text": strings([b"x", b"\xff"])})


def test_an_ordinary_ir_and_a_directory_of_something_else_are_left_to_others(tmp_path: Path) -> None:
    for name in ("xml", "bin"):
        shutil.copy(EMBEDDINGS / f"openvino_model.{name}", tmp_path / f"model.{name}")
    assert backend.find(tmp_path) is None
    assert OpenVINOBackend().find(tmp_path) == tmp_path / "model.xml"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"options": {"pooling": "max"}}, "expected one of mean, cls, last"),
        ({"options": {"polling": "mean"}}, "no property 'polling'"),
        ({"options": {"task": "rerank"}}, "no output 'logits'"),
        ({"rows": 4}, "no shapes to be set"),
        ({"device": "GPU"}, "device 'GPU' is not available"),
    ],
)
def test_what_cannot_be_loaded_says_why(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(LoadError, match=said):
        load(EMBEDDINGS, **settings)


def test_a_tokenizer_that_is_put_together_in_another_way_says_so(tmp_path: Path) -> None:
    directory = shutil.copytree(EMBEDDINGS, tmp_path / "1")
    for suffix in ("xml", "bin"):
        shutil.copy(directory / f"openvino_model.{suffix}", directory / f"openvino_tokenizer.{suffix}")
    with pytest.raises(LoadError, match=r"openvino_tokenizer\.xml does not end in padded input_ids"):
        load(directory)


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino_tokenizers", None)
    with pytest.raises(LoadError, match=r"pip install 'vintner\[genai\]'"):
        OpenVINOGenAIBackend().load(LoadSpec(EMBEDDINGS / "openvino_model.xml"))


def test_modules_that_are_broken_json_say_so(tmp_path: Path) -> None:
    directory = shutil.copytree(EMBEDDINGS, tmp_path / "1")
    (directory / "modules.json").write_text(json.dumps([1]))
    with pytest.raises(LoadError, match="list of modules"):
        load(directory)
