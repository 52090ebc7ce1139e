"""What the files beside an embedding model or a reranker say about it: its task, pooling, normalisation and lengths.

Reads JSON that Hugging Face, sentence-transformers and optimum-intel write; knows no runtime library. Invariant: a file
that says something which is not done here is a LoadError, never a guess.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, cast

from vintner.errors import ConfigError, LoadError
from vintner.json_files import read_object

logger = logging.getLogger(__name__)

Task = Literal["embed", "rerank"]
Pooling = Literal["mean", "cls", "last"]

MODEL: Final = "openvino_model.xml"
TOKENIZER: Final = "openvino_tokenizer.xml"
OUTPUT: Final = re.compile(rb'output_names="([^"]*)"')
"""Of a node of the kind Result; IR version 11 as OpenVINO writes it since 2023."""

HIDDEN: Final = ("last_hidden_state", "token_embeddings")
"""Outputs of an encoder that are yet to be pooled, [texts, tokens, values]."""

POOLED: Final = "sentence_embedding"
"""Output of an encoder that was exported with its pooling, [texts, values]."""

POOLINGS: Final[Mapping[str, Pooling]] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last",
}
"""The keys of sentence-transformers' 1_Pooling/config.json that can be true here."""

OFFSET_POSITIONS: Final = frozenset({"camembert", "mpnet", "roberta", "xlm-roberta", "xlm-roberta-xl"})
"""Kinds of model whose positions are counted from behind that of the padding token."""

LONGEST: Final = 1 << 20
"""Tokens; a tokenizer without a limit says 1e30."""

OPTIONS: Final = frozenset({"task", "pooling", "normalize", "max_length", "truncate"})
"""The `backend_options` that are about texts; others are OpenVINO's properties."""


@dataclass(frozen=True, slots=True)
class TextSettings:
    """`pooling` and `normalize` are of embeddings alone; `max_length` is in tokens, special ones included."""

    task: Task
    pooling: Pooling
    normalize: bool
    max_length: int
    truncate: bool
    """Whether longer texts are cut, instead of refused."""


def text_task(directory: Path) -> Task | None:
    """What the model in a directory is for; None for a language model, and for anything else.

    Raises ConfigError for a model of texts that lacks its weights.
    """
    if not (directory / MODEL).is_file() or not (directory / TOKENIZER).is_file():
        return None
    task = _task(directory)
    if task is not None and not (directory / MODEL).with_suffix(".bin").is_file():
        raise ConfigError(f"{MODEL} lacks its weights: there is no openvino_model.bin beside it")
    return task


def _task(directory: Path) -> Task | None:
    outputs = output_names(directory / MODEL)
    if outputs.intersection((*HIDDEN, POOLED)):
        return "embed"
    classifies = any(name.endswith("ForSequenceClassification") for name in _architectures(directory))
    return "rerank" if "logits" in outputs and classifies else None


def _architectures(directory: Path) -> list[str]:
    given = read_object(directory / "config.json").get("architectures")
    return [name for name in given if isinstance(name, str)] if isinstance(given, list) else []


def output_names(model: Path) -> set[str]:
    """The names of an IR's outputs, without the library that would read its weights too."""
    found = OUTPUT.findall(model.read_bytes())
    return {name for names in found for name in names.decode("utf-8", "replace").split(",")}


def read_settings(directory: Path, options: Mapping[str, Any]) -> TextSettings:
    """From the files, and over those what `backend_options` say. Raises OperatorError that names what is wrong."""
    task = _choice(options, "task", ("embed", "rerank")) or text_task(directory)
    if task is None:
        raise LoadError("neither an embedding model nor a reranker was recognised; set backend_options.task")
    modules = _modules(directory)
    pooling = _choice(options, "pooling", tuple(POOLINGS.values()))
    if task == "embed" and pooling is None:
        pooling = _pooling(directory, modules)
    normalize = _flag(options, "normalize", "Normalize" in modules if modules else True)
    limit = _max_length(directory, options)
    return TextSettings(cast(Task, task), cast(Pooling, pooling), normalize, limit, _flag(options, "truncate", False))


def _modules(directory: Path) -> Mapping[str, str]:
    """The steps of a sentence-transformers model, each with its directory; empty where no file lists them."""
    try:
        listed = json.loads((directory / "modules.json").read_bytes())
        modules = {str(one["type"]).rpartition(".")[2]: str(one.get("path", "")) for one in listed}
    except FileNotFoundError:
        return {}
    except (AttributeError, KeyError, TypeError, ValueError) as exc:
        raise LoadError("modules.json is not the list of modules that sentence-transformers writes") from exc
    for name in modules:
        if name not in ("Transformer", "Pooling", "Normalize"):
            raise LoadError(
                f"modules.json asks for a module '{name}'; Transformer, Pooling and Normalize can be served"
            )
    return modules


def _pooling(directory: Path, modules: Mapping[str, str]) -> Pooling:
    name = modules.get("Pooling") or "1_Pooling"
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise LoadError(f"modules.json names a directory outside of the model's: '{name}'")
    given = read_object(directory / name / "config.json")
    if not given:
        if "sentence_embedding" not in output_names(directory / MODEL):
            logger.warning("%s does not say how it is pooled: the mean is taken; backend_options.pooling", directory)
        return "mean"
    modes = [key for key, value in given.items() if key.startswith("pooling_mode_") and value is True]
    modes += [f"pooling_mode_{mode}" for mode in _listed(given.get("pooling_mode"))]
    named: Mapping[str, Pooling] = {**POOLINGS, "pooling_mode_mean": "mean", "pooling_mode_cls": "cls"}
    if len(modes) != 1 or modes[0] not in named:
        raise LoadError(
            f"{name}/config.json asks for {' and '.join(modes) or 'no pooling'}; mean, cls or lasttoken can be"
        )
    return named[modes[0]]


def _listed(mode: object) -> list[str]:
    if mode is None:
        return []
    return [str(one) for one in mode] if isinstance(mode, list) else [str(mode)]


def _max_length(directory: Path, options: Mapping[str, Any]) -> int:
    """The least of what the files say; an option may ask for less, or for as much as the model has positions for."""
    positions = _positions(read_object(directory / "config.json"))
    asked = options.get("max_length")
    if asked is not None:
        if type(asked) is not int or not 0 < asked <= positions:
            raise LoadError(f"backend option 'max_length': expected 1 to {positions}, got {asked!r}")
        return asked
    sentences = read_object(directory / "sentence_bert_config.json").get("max_seq_length")
    tokenizer = read_object(directory / "tokenizer_config.json").get("model_max_length")
    lengths = [int(one) for one in (sentences, tokenizer) if isinstance(one, int | float) and 0 < one <= LONGEST]
    return min([positions, *lengths])


def _positions(config: Mapping[str, Any]) -> int:
    """Tokens that the model has positions for."""
    given = config.get("max_position_embeddings")
    if not isinstance(given, int) or given <= 0:
        return LONGEST
    padding = config.get("pad_token_id")
    offset = config.get("model_type") in OFFSET_POSITIONS and isinstance(padding, int)
    return max(1, given - cast(int, padding) - 1) if offset else given


def _choice(options: Mapping[str, Any], name: str, choices: tuple[str, ...]) -> str | None:
    given = options.get(name)
    if given is not None and given not in choices:
        raise LoadError(f"backend option '{name}': expected one of {', '.join(choices)}, got {given!r}")
    return given


def _flag(options: Mapping[str, Any], name: str, default: bool) -> bool:
    given = options.get(name, default)
    if not isinstance(given, bool):
        raise LoadError(f"backend option '{name}': expected true or false, got {given!r}")
    return given
