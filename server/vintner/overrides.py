"""What a load request puts in place of what the repository has: a configuration, and perhaps the files of a model.

Knows neither who asks nor what is loaded. Invariant: the source that comes out is as complete as one that a scan
found, and the files behind it stay as long as anything refers to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from vintner.control_parameters import read_object
from vintner.errors import ConfigError, InvalidArgument, nearest
from vintner.model_config import ModelConfig, parse_model_config
from vintner.model_source import ModelSource
from vintner.pb import model_config_pb2
from vintner.triton_config import parse_triton_config
from vintner.uploads import Upload

ORIGIN: Final = "parameter 'config'"
FIELDS: Final = model_config_pb2.ModelConfig.DESCRIPTOR.fields
TRITON_KEYS: Final = frozenset(name for field in FIELDS for name in (field.name, field.json_name))
OWN_KEYS: Final = frozenset(ModelConfig.model_fields)
NOT_BY_CLIENTS: Final = "backend_options"
"""They may hold paths of the server's, which no client is to choose."""


def read_config(text: str, name: str) -> ModelConfig:
    """The configuration of the model `name` in a JSON text: in the keys of `config.yaml`, or Triton's ModelConfig.

    Raises InvalidArgument that names what is wrong.
    """
    document = read_object(text, ORIGIN)
    try:
        config = _parsed(document)
    except ConfigError as exc:
        raise InvalidArgument(str(exc)) from exc
    if config.name not in (None, name):
        raise InvalidArgument(f"{ORIGIN}: it names the model '{config.name}', the load '{name}'")
    return config


def _parsed(document: Mapping[str, Any]) -> ModelConfig:
    keys = document.keys()
    if NOT_BY_CLIENTS in keys:
        raise ConfigError(f"{ORIGIN}: {NOT_BY_CLIENTS} can be set only in the model's own config.yaml")
    for key in keys - OWN_KEYS - TRITON_KEYS:
        raise ConfigError(f"{ORIGIN}: unknown key '{key}'{nearest(key, OWN_KEYS | TRITON_KEYS)}")
    if not keys <= OWN_KEYS:
        for key in keys - TRITON_KEYS:
            other = min(keys - OWN_KEYS)
            raise ConfigError(f"{ORIGIN}: '{key}' is a key of config.yaml, '{other}' one of Triton's; use one kind")
        return parse_triton_config(document, ORIGIN)
    try:
        return parse_model_config(document, ORIGIN)
    except ConfigError:
        if not document.keys() <= TRITON_KEYS:
            raise
    return parse_triton_config(document, ORIGIN)  # a few keys are in both, and their values differ


def reconfigured(found: ModelSource, config: ModelConfig) -> ModelSource:
    """The files of the repository under another configuration. Raises InvalidArgument if its policy selects nothing."""
    available = found.available or found.versions
    return replace(found, config=config, versions=_selected(config, available))


def uploaded(name: str, config: ModelConfig, upload: Upload) -> ModelSource:
    """A model whose files were sent, which the repository need not have. Raises as `reconfigured`.

    The signatures equal those of nothing else, so that the same files again are a reload, as with Triton.
    """
    signatures = {version: object() for version in upload.versions}
    versions = _selected(config, upload.versions)
    return ModelSource(name, upload.directory, config, versions, upload.versions, signatures, kept=upload)


def _selected(config: ModelConfig, available: Mapping[int, Path]) -> Mapping[int, Path]:
    selected = config.wanted_versions(available)
    if not selected:
        there = ", ".join(map(str, sorted(available)))
        raise InvalidArgument(
            f"{ORIGIN}: no version to serve: the policy is '{config.version_policy}', there is {there}"
        )
    return {version: available[version] for version in selected}
