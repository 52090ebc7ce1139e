"""`mapping_config.json` in a version's directory: what OpenVINO Model Server serves the tensors of that version as.

Knows nothing of the model: whether its tensors exist is checked when it is loaded. Invariant: a configuration of ours
that names a tensor has the last word, and a version without the file keeps its configuration as it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from vintner.errors import ConfigError
from vintner.model_config import ModelConfig, TensorConfig, parse_model_config

FILE_NAME: Final = "mapping_config.json"
BY_TENSOR: Final = ("shape", "layout")
"""Backend options that may say something for each tensor, there by the name that it is served as."""


def with_names(config: ModelConfig, directory: Path) -> ModelConfig:
    """The configuration of the version in that directory. Raises ConfigError for a file that is no such mapping."""
    try:
        content = (directory / FILE_NAME).read_bytes()
    except FileNotFoundError:
        return config
    except OSError as exc:
        raise ConfigError(f"{FILE_NAME}: {exc.strerror}") from exc
    return renamed(config, parse_mapping(content))


def parse_mapping(content: bytes) -> Mapping[str, Mapping[str, str]]:
    """From `inputs` and `outputs` to the model's own names to those that are served."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as exc:
        raise ConfigError(f"{FILE_NAME}: it is not valid JSON: {exc}") from exc
    if not isinstance(document, dict) or not document.keys() <= {"inputs", "outputs"}:
        raise ConfigError(f"{FILE_NAME}: expected an object with inputs and outputs, and nothing else")
    for kind, names in document.items():
        if not isinstance(names, dict) or not all(isinstance(name, str) and name for name in names.values()):
            raise ConfigError(f"{FILE_NAME}: {kind}: expected names by the model's own names")
    return document


def renamed(config: ModelConfig, mapping: Mapping[str, Mapping[str, str]]) -> ModelConfig:
    inputs, outputs = mapping.get("inputs", {}), mapping.get("outputs", {})
    document = {key: getattr(config, key) for key in config.model_fields_set}
    document["inputs"] = _with_names(config.inputs, inputs)
    document["outputs"] = _with_names(config.outputs, outputs)
    own = {served: name for name, served in {**outputs, **inputs}.items()}
    document["backend_options"] = {
        key: {own.get(name, name): given for name, given in value.items()}
        if key in BY_TENSOR and isinstance(value, Mapping)
        else value
        for key, value in config.backend_options.items()
    }
    return parse_model_config(document, FILE_NAME)


def _with_names(tensors: Mapping[str, TensorConfig], names: Mapping[str, str]) -> dict[str, Any]:
    """What a tensor's configuration says goes before the mapping."""
    document: dict[str, Any] = {own: {"name": served} for own, served in names.items()}
    for own, given in tensors.items():
        document.setdefault(own, {}).update({key: getattr(given, key) for key in given.model_fields_set})
    return document
