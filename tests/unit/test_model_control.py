"""What a load or an unload comes to, in each mode, with what is asked of the models recorded by a stand-in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vintner.control_parameters import Value, read_load
from vintner.errors import (
    ConfigError,
    InvalidArgument,
    ModelNotReady,
    NotFound,
    PermissionDenied,
    QueueFull,
    Unavailable,
    VintnerError,
)
from vintner.http_control import decode_parameters, encode_index, largest_body
from vintner.lifecycle import State
from vintner.managed_model import IndexEntry
from vintner.model_config import ModelConfig, TrafficConfig, VersionPolicy
from vintner.model_control import MOST_CALLS, ControlMode, ModelControl
from vintner.model_source import ModelSource, Scan
from vintner.overrides import read_config
from vintner.uploads import Uploads

CANARY = TrafficConfig.model_validate({"canary": {"version": 2, "percent": 5}})
PATHS = {1: Path("/m/1"), 2: Path("/m/2")}
FOUND = ModelSource("m", Path("/m"), ModelConfig(), {2: PATHS[2]}, PATHS, {1: "one", 2: "two"})


@dataclass
class Recorded:
    """Stands in for the manager, and for the repository."""

    scan: Scan = field(default_factory=lambda: Scan({"m": FOUND}, {"bad": "config.yaml: ..."}, {"new": "it is copied"}))
    done: list[tuple[Any, ...]] = field(default_factory=list)

    def refresh(self) -> Scan:
        self.done.append(("refresh",))
        return self.scan

    def load(self, name: str, source: ModelSource | None = None) -> None:
        self.done.append(("load", name, source))

    def unload(self, name: str) -> None:
        self.done.append(("unload", name))

    def pin(self, name: str, version: int | None) -> None:
        self.done.append(("pin", name, version))

    def direct(self, name: str, traffic: TrafficConfig | None) -> None:
        self.done.append(("direct", name, traffic))


@pytest.fixture
def models() -> Recorded:
    return Recorded()


def control(models: Recorded, mode: ControlMode = "explicit", uploads: Uploads | None = None) -> ModelControl:
    return ModelControl(models, mode, models.refresh, uploads)


def test_a_plain_load_is_of_what_the_repository_has_now(models: Recorded) -> None:
    control(models).load("m", {})
    assert models.done == [("refresh",), ("load", "m", None)]


def test_a_configuration_goes_with_the_files_of_the_repository(models: Recorded) -> None:
    control(models).load("m", {"config": '{"instances": 3, "version_policy": "all"}'})
    *_, (_, name, source) = models.done
    assert (name, source.root, source.versions, source.signatures) == ("m", FOUND.root, PATHS, FOUND.signatures)
    assert source.config.instances == 3


def test_the_same_files_sent_again_are_another_model(models: Recorded, tmp_path: Path) -> None:
    api = control(models, uploads=Uploads(tmp_path, 100))
    for _ in range(2):
        api.load("sent", {"config": "{}", "file:3/a": b"a", "file:4/a": b"b"})
    (_, _, first), (_, _, second) = models.done
    assert (list(first.available), list(first.versions)) == ([3, 4], [4])
    assert first.versions[4].joinpath("a").read_bytes() == b"b"
    assert first.root != second.root
    assert not set(first.signatures.values()) & set(second.signatures.values())
    directory = first.root
    del first
    models.done.clear()
    assert not directory.exists()
    assert second.root.exists()


@pytest.mark.parametrize("mode", ["none", "poll", "explicit"])
@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"pin_version": 2}, [("pin", "m", 2)]),
        ({"pin_version": 0}, [("pin", "m", None)]),
        ({"traffic": {}}, [("direct", "m", None)]),
        ({"traffic": {"default": 2}}, [("direct", "m", TrafficConfig(default=2))]),
        ({"traffic": '{"canary": {"version": 2, "percent": 5}}'}, [("direct", "m", CANARY)]),
        ({"traffic": "{}", "pin_version": 1}, [("pin", "m", 1), ("direct", "m", None)]),
    ],
)
def test_choosing_a_version_loads_nothing_in_any_mode(
    models: Recorded, mode: ControlMode, parameters: Mapping[str, Value], expected: Any
) -> None:
    control(models, mode).load("m", parameters)
    assert models.done == expected


def test_a_load_can_choose_too(models: Recorded) -> None:
    control(models).load("m", {"config": "{}", "pin_version": 2})
    assert [step[0] for step in models.done] == ["refresh", "load", "pin"]


@pytest.mark.parametrize(
    ("name", "parameters", "error", "text"),
    [
        ("nobody", {"config": "{}"}, NotFound, "failed to load 'nobody', failed to poll from model repository"),
        ("bad", {"config": "{}"}, InvalidArgument, r"load failed for model 'bad': config.yaml"),
        ("new", {"config": "{}"}, ModelNotReady, "model 'new' is not loaded yet: it is copied"),
        ("", {}, InvalidArgument, "Model name cannot be empty"),
        ("a/b", {}, InvalidArgument, "a model cannot be named 'a/b'"),
        ("..", {"config": "{}", "file:1/a": b""}, InvalidArgument, "a model cannot be named '..'"),
        ("m", {"config": "{}", "file:1/a": b""}, PermissionDenied, "--allow-model-upload"),
        ("m", {"traffic": {"defualt": 1}}, InvalidArgument, "traffic: unknown key 'defualt'; did you mean 'default'"),
        ("m", {"config": "{}", "traffic": {"default": 0}}, InvalidArgument, "traffic: default: expected"),
    ],
)
def test_what_is_refused_has_no_effect(
    models: Recorded, name: str, parameters: Mapping[str, Value], error: type[VintnerError], text: str
) -> None:
    with pytest.raises(error, match=text):
        control(models).load(name, parameters)
    assert [step for step in models.done if step != ("refresh",)] == []


@pytest.mark.parametrize("mode", ["none", "poll"])
def test_nothing_is_loaded_where_that_is_not_explicit(models: Recorded, mode: ControlMode) -> None:
    api = control(models, mode)
    for parameters in ({}, {"config": "{}"}, {"config": "{}", "pin_version": 1}):
        with pytest.raises(Unavailable, match="explicit model load / unload is not allowed if polling is enabled"):
            api.load("m", parameters)
    with pytest.raises(Unavailable, match="explicit model load / unload is not allowed"):
        api.unload("m", {})
    assert models.done == []


def test_a_repository_that_cannot_be_read_keeps_its_path_to_itself(models: Recorded) -> None:
    def fail() -> Scan:
        raise ConfigError("cannot read the model repository /secret")

    with pytest.raises(Unavailable, match="the server's log has the details") as caught:
        ModelControl(models, "explicit", fail).load("m", {})
    assert "/secret" not in str(caught.value)


def test_calls_beyond_a_few_are_refused_until_one_ends(models: Recorded) -> None:
    api = control(models)
    calls = [api.one_call() for _ in range(MOST_CALLS)]
    for call in calls:
        call.__enter__()
    with pytest.raises(QueueFull, match=f"{MOST_CALLS} loads and unloads are under way"), api.one_call():
        pass
    calls[0].__exit__(None, None, None)
    with api.one_call():
        pass


# -- configurations --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{}", ModelConfig()),
        ('{"backend": "onnxruntime"}', ModelConfig(backend="onnxruntime")),
        ('{"version_policy": "all"}', ModelConfig(version_policy=VersionPolicy(latest=None))),
        ('{"version_policy": {"latest": 2}}', ModelConfig(version_policy=VersionPolicy(latest=2))),
    ],
)
def test_keys_of_config_yaml_mean_what_they_mean_there(text: str, expected: ModelConfig) -> None:
    assert read_config(text, "m") == expected


@pytest.mark.parametrize(
    ("text", "key", "expected"),
    [
        ('{"version_policy": {"latest": {"num_versions": 2}}}', "version_policy", VersionPolicy(latest=2)),
        ('{"versionPolicy": {"all": {}}}', "version_policy", VersionPolicy(latest=None)),
        ('{"response_cache": {"enable": true}}', "response_cache", True),
        ('{"platform": "onnxruntime_onnx"}', "backend", "onnxruntime"),
        ('{"instance_group": [{"count": 2, "kind": "KIND_CPU"}]}', "instances", 2),
        ('{"instance_group": [{"count": 2, "kind": 2}]}', "instances", 2),
        ('{"platform": "onnx_onnxv1", "backend": "onnxruntime"}', "backend", "onnxruntime"),
    ],
)
def test_tritons_json_is_read_as_its_text(text: str, key: str, expected: object) -> None:
    assert getattr(read_config(text, "m"), key) == expected


# -- parameters ------------------------------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
names = st.sampled_from(["config", "pin_version", "traffic", "file:1/m", "file:", "unload_dependents", "x"])


@given(st.dictionaries(names, json_values | st.binary(max_size=4)))
def test_parameters_are_understood_or_refused(parameters: Any) -> None:
    try:
        asked = read_load(parameters)
    except InvalidArgument:
        return
    given = {f"file:{path}" for path in asked.files}
    given |= {key for key in ("config", "pin_version", "traffic") if getattr(asked, key) is not None}
    assert given == {key for key, value in parameters.items() if value is not None}


def test_files_come_out_of_rest_as_bytes() -> None:
    body = b'{"parameters": {"config": "{}", "file:1/a": "AAEC\\n/w==\\n", "file:1/b": ""}}'
    assert decode_parameters(body) == {"config": "{}", "file:1/a": b"\0\1\2\xff", "file:1/b": b""}
    assert decode_parameters(b"") == decode_parameters(b"{}") == decode_parameters(b" \n") == {}


@given(st.integers(0, 10**6), st.integers(1, 10**6))
def test_the_largest_upload_fits_into_the_largest_body(upload: int, request: int) -> None:
    assert largest_body(upload, request) >= -(-upload // 3) * 4 + request


def test_the_index_leaves_out_what_is_empty() -> None:
    entries = [IndexEntry("a", "", None, ""), IndexEntry("b", "1", State.READY, ""), IndexEntry("c", "", None, "why")]
    assert (
        encode_index(entries)
        == b'[{"name":"a"},{"name":"b","version":"1","state":"READY"},{"name":"c","reason":"why"}]'
    )
