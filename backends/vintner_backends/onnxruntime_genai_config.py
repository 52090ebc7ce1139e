"""What `genai_config.json` says of a model, and a `LoadSpec` in its terms.

Pure but for reading the file; knows no runtime. The format is that of ONNX Runtime GenAI's model builder, and of Olive.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from vintner.backend import LoadSpec
from vintner.errors import LoadError, nearest
from vintner.json_files import read_object

from vintner_backends.cpu_budget import cpu_budget

NAME: Final = "genai_config.json"
OPTIONS: Final = ("session_options",)
RECOMMENDED: Final = ("temperature", "top_p", "top_k")


@dataclass(frozen=True, slots=True)
class GenAiConfig:
    """Of one model."""

    context_length: int
    vocabulary_size: int
    defaults: Mapping[str, float]
    """What is recommended for sampling; little for a model that is meant to be greedy."""
    in_waves: bool
    """Whether a batch is generated to its end before another one begins."""


def read_config(directory: Path) -> GenAiConfig:
    """Raises OperatorError for a file that cannot be read, or lacks what is needed."""
    whole = read_object(directory / NAME)
    try:
        model, search = whole["model"], whole.get("search", {})
        return GenAiConfig(
            _positive(model, "context_length"),
            _positive(model, "vocab_size"),
            _defaults(search),
            not (whole.get("engine") or {}).get("dynamic_batching"),
        )
    except KeyError as exc:
        raise LoadError(f"{NAME} lacks {exc}") from exc
    except (AttributeError, TypeError, ValueError) as exc:
        raise LoadError(f"{NAME} is not as the model builder of ONNX Runtime GenAI writes it: {exc}") from exc


def _positive(model: Mapping[str, Any], name: str) -> int:
    value = model[name]
    if not isinstance(value, int) or value < 1:
        raise LoadError(f"{NAME}: expected a number of at least 1 for {name}, got {value!r}")
    return value


def _defaults(search: Mapping[str, Any]) -> Mapping[str, float]:
    names = [name for name in RECOMMENDED if name in search] if search.get("do_sample") else []
    if search.get("repetition_penalty", 1) != 1:
        names.append("repetition_penalty")
    return {name: float(search[name]) for name in names}


def check_supported(spec: LoadSpec) -> None:
    """Raises LoadError for what this backend cannot do, or an option that it does not have."""
    engine = spec.engine
    if spec.device != "CPU":
        raise LoadError(f"device '{spec.device}' is not available here; ONNX Runtime GenAI has CPU")
    if spec.precision is not None:
        raise LoadError("ONNX Runtime GenAI computes in the model's own precision; remove the precision")
    unfit = {
        "shapes": spec.shapes or spec.rows is not None,
        "streams": spec.streams is not None,
        "more than one instance": (spec.instances or 1) > 1,
        "a bound of the tokens in a step": engine.max_batched_tokens is not None,
        "a bound of the key-value cache": engine.cache_bytes is not None,
        "speculative decoding": engine.draft_model is not None or engine.assistant_tokens or engine.ngram,
        "adapters": engine.adapters,
    }
    for what, asked in unfit.items():
        if asked:
            raise LoadError(f"a language model cannot have {what} with ONNX Runtime GenAI")
    for option in spec.options:
        if option not in OPTIONS:
            raise LoadError(f"unknown backend option '{option}'{nearest(option, OPTIONS)}")


def overlay(spec: LoadSpec, config: GenAiConfig) -> str:
    """What is laid over the model's configuration, as JSON."""
    asked = spec.options.get("session_options", {})
    if not isinstance(asked, Mapping):
        raise LoadError("backend option 'session_options' is a mapping, as in genai_config.json")
    session = {
        "intra_op_num_threads": cpu_budget(spec).threads,
        # Idle threads would spin between the runtime's operators, on cores that decode and encode what is served.
        "session.intra_op.allow_spinning": "0",
        "log_severity_level": 4,  # what fails is raised, too
        **asked,
    }
    # The engine refuses beams, and a least length of whole sessions; it bounds sessions by the longest of them.
    search = {"num_beams": 1, "num_return_sequences": 1, "min_length": 0, "max_length": config.context_length}
    return json.dumps({"model": {"decoder": {"session_options": session}}, "search": search})
