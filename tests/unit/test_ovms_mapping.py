"""Tensors renamed by a `mapping_config.json` in a version's directory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fake_backend import FakeBackend, write_model
from vintner.backend import Backends
from vintner.errors import ConfigError
from vintner.model_config import ModelConfig, VersionPolicy, parse_model_config
from vintner.opening import open_servable
from vintner.ovms_mapping import FILE_NAME, parse_mapping, renamed, with_names
from vintner.repository import scan

MAPPING = {"inputs": {"input.1": "image"}, "outputs": {"495": "scores"}}


def test_tensors_are_served_by_the_names_of_the_mapping() -> None:
    config = renamed(ModelConfig(version_policy=VersionPolicy(latest=3), instances=2), MAPPING)
    assert (config.inputs["input.1"].name, config.outputs["495"].name) == ("image", "scores")
    assert (config.version_policy, config.instances) == (VersionPolicy(latest=3), 2)


def test_a_configuration_of_ours_has_the_last_word() -> None:
    given = parse_model_config({"inputs": {"input.1": {"name": "photo"}, "x": {"dims": [1]}}}, "config.yaml")
    config = renamed(given, MAPPING)
    assert {own: tensor.name for own, tensor in config.inputs.items()} == {"input.1": "photo", "x": None}
    assert config.inputs["x"].dims == (1,)


def test_options_for_each_tensor_may_use_the_names_of_the_mapping() -> None:
    options = {"shape": {"image": [1, 3], "x": [2]}, "layout": {"scores": "NC"}, "ENABLE_MMAP": True}
    assert renamed(ModelConfig(backend_options=options), MAPPING).backend_options == {
        "shape": {"input.1": [1, 3], "x": [2]},
        "layout": {"495": "NC"},
        "ENABLE_MMAP": True,
    }
    assert renamed(ModelConfig(backend_options={"shape": "auto"}), MAPPING).backend_options == {"shape": "auto"}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"{", "not valid JSON"),
        (b"[]", "expected an object with inputs and outputs"),
        (b'{"input": {}}', "expected an object with inputs and outputs"),
        (b'{"inputs": []}', "inputs: expected names"),
        (b'{"outputs": {"a": 1}}', "outputs: expected names"),
    ],
)
def test_a_file_that_is_no_mapping_is_refused(content: bytes, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        parse_mapping(content)


def test_two_tensors_cannot_get_one_name() -> None:
    with pytest.raises(ConfigError, match="2 inputs would be served as 'c'"):
        renamed(ModelConfig(), {"inputs": {"a": "c", "b": "c"}})


def test_a_version_without_the_file_keeps_its_configuration(tmp_path: Path) -> None:
    config = ModelConfig()
    assert with_names(config, tmp_path) is config


def test_each_version_has_its_own_mapping(tmp_path: Path) -> None:
    backends = Backends(made={"fake": FakeBackend()})
    for version in ("1", "2"):
        write_model(tmp_path / "m" / version)
    (tmp_path / "m" / "2" / FILE_NAME).write_text(json.dumps({"inputs": {"input": "image"}}))
    (tmp_path / "m" / "config.yaml").write_text("version_policy: all")
    source = scan([tmp_path], backends).models["m"]
    names = []
    for version in source.versions:
        servable = open_servable(source, version, backends, cores=1, cache_dir=None)
        names.append(servable.inputs[0].name)
        servable.close()
    assert names == ["input", "image"]
