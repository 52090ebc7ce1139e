"""What the files beside an embedding model or a reranker say, and what is not served is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from vintner.errors import ConfigError, LoadError
from vintner_backends.text_settings import read_settings, text_task

ENCODER, CLASSIFIER, POOLED = "last_hidden_state", "logits", "token_embeddings,sentence_embedding"
TRANSFORMER = {"type": "sentence_transformers.models.Transformer", "path": ""}
POOLING = {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}
NORMALIZE = {"type": "sentence_transformers.models.Normalize", "path": "2_Normalize"}


def write(directory: Path, output: str = ENCODER, **files: Any) -> Path:
    """A model's files; `1_Pooling/config.json` as `pooling`, others by the beginning of their names."""
    result = f'<layer id="9" type="Result" output_names="{output}"></layer>'
    (directory / "openvino_model.xml").write_text(f"<net>{result}</net>")
    (directory / "openvino_model.bin").touch()
    (directory / "openvino_tokenizer.xml").touch()
    for name, content in files.items():
        file = directory / ("1_Pooling/config.json" if name == "pooling" else f"{name}.json")
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(content))
    return directory


@pytest.mark.parametrize(
    ("output", "architecture", "task"),
    [
        (ENCODER, "BertModel", "embed"),
        (ENCODER, "Qwen3ForCausalLM", "embed"),
        (POOLED, "BertModel", "embed"),
        (CLASSIFIER, "BertForSequenceClassification", "rerank"),
        (CLASSIFIER, "Qwen2ForCausalLM", None),
        ("scores", "BertForSequenceClassification", None),
    ],
)
def test_a_model_is_recognised_by_its_output(tmp_path: Path, output: str, architecture: str, task: str | None) -> None:
    assert text_task(write(tmp_path, output, config={"architectures": [architecture]})) == task


@pytest.mark.parametrize("missing", ["openvino_model.xml", "openvino_tokenizer.xml"])
def test_a_model_without_a_tokenizer_is_none_of_texts(tmp_path: Path, missing: str) -> None:
    (write(tmp_path) / missing).unlink()
    assert text_task(tmp_path) is None


def test_a_model_without_its_weights_says_so(tmp_path: Path) -> None:
    (write(tmp_path) / "openvino_model.bin").unlink()
    with pytest.raises(ConfigError, match=r"no openvino_model\.bin"):
        text_task(tmp_path)


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, "mean"),
        ({"pooling_mode_cls_token": True}, "cls"),
        ({"pooling_mode_lasttoken": True}, "last"),
        ({"pooling_mode": "cls"}, "cls"),
        ({"pooling_mode": ["lasttoken"]}, "last"),
    ],
)
def test_the_pooling_is_that_of_sentence_transformers_file(
    tmp_path: Path, pooling: dict[str, Any], expected: str
) -> None:
    directory = write(tmp_path, pooling=pooling, modules=[TRANSFORMER, POOLING])
    assert read_settings(directory, {}).pooling == expected
    assert read_settings(directory, {"pooling": "last"}).pooling == "last"


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"pooling": {"pooling_mode_max_tokens": True}}, "pooling_mode_max_tokens"),
        ({"pooling": {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}}, "and"),
        ({"pooling": {"word_embedding_dimension": 8}}, "no pooling"),
        ({"modules": [TRANSFORMER, POOLING, {"type": "sentence_transformers.models.Dense"}]}, "'Dense'"),
        ({"modules": [TRANSFORMER, POOLING | {"path": "../other"}]}, "outside"),
        ({"modules": {"no": "list"}}, "list of modules"),
    ],
)
def test_what_would_give_other_vectors_is_refused(tmp_path: Path, files: dict[str, Any], said: str) -> None:
    with pytest.raises(LoadError, match=said):
        read_settings(write(tmp_path, **files), {})


@pytest.mark.parametrize(("modules", "expected"), [([TRANSFORMER, POOLING], False), ([NORMALIZE], True), (None, True)])
def test_vectors_are_normalised_if_the_modules_say_so_or_there_are_none(
    tmp_path: Path, modules: Any, expected: bool
) -> None:
    directory = write(tmp_path, **({} if modules is None else {"modules": modules}))
    assert read_settings(directory, {}).normalize is expected
    assert read_settings(directory, {"normalize": not expected}).normalize is not expected


@pytest.mark.parametrize(
    ("files", "options", "expected"),
    [
        ({"config": {"max_position_embeddings": 512}}, {}, 512),
        ({"config": {"max_position_embeddings": 514, "model_type": "xlm-roberta", "pad_token_id": 1}}, {}, 512),
        ({"config": {"max_position_embeddings": 512}, "tokenizer_config": {"model_max_length": 128}}, {}, 128),
        ({"config": {"max_position_embeddings": 512}, "tokenizer_config": {"model_max_length": 1e30}}, {}, 512),
        ({"config": {"max_position_embeddings": 512}, "sentence_bert_config": {"max_seq_length": 256}}, {}, 256),
        (
            {"config": {"max_position_embeddings": 512}, "sentence_bert_config": {"max_seq_length": 256}},
            {"max_length": 300},
            300,
        ),
    ],
)
def test_the_length_is_the_least_that_a_file_says(
    tmp_path: Path, files: dict[str, Any], options: dict[str, Any], expected: int
) -> None:
    assert read_settings(write(tmp_path, **files), options).max_length == expected


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_length": 513}, "expected 1 to 512, got 513"),
        ({"max_length": True}, "expected 1 to 512"),
        ({"pooling": "max"}, "expected one of mean, cls, last"),
        ({"normalize": "yes"}, "expected true or false"),
        ({"truncate": 1}, "expected true or false"),
        ({"task": "classify"}, "expected one of embed, rerank"),
    ],
)
def test_options_that_make_no_sense_are_refused(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    directory = write(tmp_path, config={"max_position_embeddings": 512})
    with pytest.raises(LoadError, match=said):
        read_settings(directory, options)
