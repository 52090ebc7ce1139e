"""What OpenVINO Model Server's `config.json` becomes here."""

from __future__ import annotations

import json
import logging
import os
import re
from pathlib import Path
from typing import Any

import pytest
from fake_backend import FakeBackend, write_model
from hypothesis import given
from hypothesis import strategies as st
from vintner.backend import Backends
from vintner.errors import ConfigError
from vintner.model_config import ModelConfig, VersionPolicy
from vintner.ovms_config import KEYS, REFUSED, WITHOUT_EFFECT, ModelList, parse_model_list
from vintner.ovms_file import ConfigFileMissing, OvmsFile
from vintner.repository import GivenModel, scan

HERE = Path("/etc/models")
DOCS = Path(__file__).parents[2] / "docs" / "ovms.md"


def document(*configs: dict[str, Any], **others: Any) -> bytes:
    return json.dumps({"model_config_list": [{"config": config} for config in configs], **others}).encode()


def parse(*configs: dict[str, Any], **others: Any) -> ModelList:
    return parse_model_list(document(*configs, **others), HERE)


def entry(**keys: Any) -> dict[str, Any]:
    return {"name": "m", "base_path": "m", **keys}


def only(**keys: Any) -> GivenModel:
    (model,) = parse(entry(**keys)).models
    return model


def config(**keys: Any) -> ModelConfig:
    model = only(**keys)
    assert not model.problem
    return model.config


# -- keys ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base_path", "root"),
    [("resnet", HERE / "resnet"), ("./a/b", HERE / "a" / "b"), ("/opt/resnet", Path("/opt/resnet"))],
)
def test_a_relative_base_path_starts_where_the_file_is(base_path: str, root: Path) -> None:
    (model,) = parse({"name": "resnet", "base_path": base_path}).models
    assert (model.name, model.root) == ("resnet", root)


@pytest.mark.parametrize(
    ("keys", "field", "expected"),
    [
        ({}, "backend", "openvino"),
        ({"model_version_policy": {"latest": {"num_versions": 2}}}, "version_policy", VersionPolicy(latest=2)),
        ({"model_version_policy": {"all": {}}}, "version_policy", VersionPolicy(latest=None)),
        (
            {"model_version_policy": {"specific": {"versions": [1, 3]}}},
            "version_policy",
            VersionPolicy(specific=frozenset({1, 3})),
        ),
        ({"target_device": "HETERO:GPU,CPU"}, "device", "HETERO:GPU,CPU"),
        ({"nireq": 4}, "instances", 4),
        ({"nireq": 0}, "instances", None),
        ({}, "performance_hint", "latency"),
        ({"plugin_config": {"PERFORMANCE_HINT": "THROUGHPUT"}}, "performance_hint", "throughput"),
        ({"plugin_config": {"PERFORMANCE_HINT": "CUMULATIVE_THROUGHPUT"}}, "performance_hint", "throughput"),
        ({"plugin_config": {"CPU_THROUGHPUT_STREAMS": "CPU_THROUGHPUT_AUTO"}}, "performance_hint", "throughput"),
        ({"plugin_config": {"NUM_STREAMS": 2}}, "performance_hint", "throughput"),
        ({"plugin_config": {"NUM_STREAMS": "2"}}, "streams", 2),
        ({"plugin_config": {"NUM_STREAMS": "AUTO"}}, "streams", None),
        ({"plugin_config": {"INFERENCE_NUM_THREADS": 3}}, "threads", 3),
        ({"plugin_config": {"CPU_THREADS_NUM": "3"}}, "threads", 3),
        ({"plugin_config": {"INFERENCE_PRECISION_HINT": "BF16"}}, "precision", "bf16"),
        ({"plugin_config": {"CACHE_DIR": "/tmp/cache"}}, "backend_options", {}),
        (
            {"plugin_config": {"ENABLE_HYPER_THREADING": "NO", "PERFORMANCE_HINT_NUM_REQUESTS": 2}},
            "backend_options",
            {"ENABLE_HYPER_THREADING": "NO", "PERFORMANCE_HINT_NUM_REQUESTS": 2},
        ),
        ({"layout": "NHWC:NCHW"}, "backend_options", {"layout": "NHWC:NCHW"}),
        ({"layout": {"a": "NHWC:NCHW"}}, "backend_options", {"layout": {"a": "NHWC:NCHW"}}),
        ({"shape": "auto"}, "backend_options", {"shape": "auto"}),
        ({"shape": "( 1, 3,224, -1 )"}, "backend_options", {"shape": [1, 3, 224, -1]}),
        ({"shape": "(8,)"}, "backend_options", {"shape": [8]}),
        ({"shape": "(1,3,200:500,224)"}, "backend_options", {"shape": [1, 3, -1, 224]}),
        ({"shape": {"a": "(1,4)", "b": "auto"}}, "backend_options", {"shape": {"a": [1, 4], "b": "auto"}}),
        ({"shape": {"a": [1, 4]}}, "backend_options", {"shape": {"a": [1, 4]}}),
        ({"batch_size": 8}, "backend_options", {"batch_size": 8}),
        ({"batch_size": "8"}, "backend_options", {"batch_size": 8}),
        ({"batch_size": "auto"}, "backend_options", {"batch_size": "auto"}),
        ({"batch_size": "1:8"}, "backend_options", {"batch_size": -1}),
        ({"batch_size": 0}, "backend_options", {}),
        ({"batch_size": 8, "shape": "(1,4)"}, "backend_options", {"shape": [1, 4]}),
    ],
)  # fmt: skip
def test_a_key_becomes_ours(keys: dict[str, Any], field: str, expected: object) -> None:
    assert getattr(config(**keys), field) == expected


@pytest.mark.parametrize(
    ("keys", "batched"),
    [
        ({}, True),
        ({"batch_size": 8}, False),
        ({"batch_size": 0}, True),
        ({"batch_size": "auto"}, True),
        ({"shape": "auto"}, True),
        ({"shape": "(-1,4)"}, True),
        ({"shape": "(1:8,4)"}, True),
        ({"shape": "(1,4)"}, False),
        ({"shape": {"a": "(-1,4)", "b": "(1,4)"}}, False),
    ],
)
def test_a_static_first_extent_is_no_batch(keys: dict[str, Any], batched: bool) -> None:
    assert config(**keys).batching.enabled is batched


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({"base_path": None}, "base_path: expected the path of a directory with versions, got nothing"),
        ({"base_path": "s3://bucket/m"}, "base_path: s3://bucket/m is not on a file system"),
        ({"nireq": "4"}, "nireq: expected a whole number"),
        ({"nireq": True}, "nireq: expected a whole number"),
        ({"target_device": 0}, "target_device: expected a device"),
        ({"model_version_policy": {"latest": {}}}, "model_version_policy: expected"),
        ({"model_version_policy": {"latest": {"num_versions": 0}}}, "version_policy: expected"),
        ({"model_version_policy": {"all": {}, "latest": {"num_versions": 1}}}, "model_version_policy: expected"),
        ({"plugin_config": []}, "plugin_config: expected an object"),
        ({"plugin_config": {"NUM_STREAMS": "many"}}, "plugin_config.NUM_STREAMS: expected a number or AUTO"),
        ({"plugin_config": {"PERFORMANCE_HINT": "FAST"}}, "plugin_config.PERFORMANCE_HINT: expected LATENCY"),
        ({"plugin_config": {"X": [1]}}, "plugin_config.X: expected a text"),
        ({"batch_size": "many"}, "batch_size: expected a positive number"),
        ({"batch_size": 1.5}, "batch_size: expected a positive number"),
        ({"shape": "1,3"}, 'shape: expected "auto" or extents'),
        ({"shape": "()"}, "shape: expected a positive number"),
        ({"shape": "(0,3)"}, "shape: expected a positive number"),
        ({"shape": "(1,a)"}, "shape: expected a positive number"),
        ({"shape": 3}, 'shape: expected "auto" or extents'),
        ({"shape": {"a": None}}, "shape of 'a': expected \"auto\" or extents"),
        ({"layout": 3}, "layout: expected a layout"),
        ({"layout": {"a": ""}}, "layout: expected a layout"),
        ({"stateful": True}, "stateful: sequences are not served"),
        ({"custom_loader_options": {"loader_name": "x"}}, "custom_loader_options: not served here"),
    ],
)
def test_a_model_that_is_wrong_has_a_problem_and_keeps_no_other_from_being_served(
    keys: dict[str, Any], problem: str
) -> None:
    broken, sound = parse(entry(**keys), {"name": "sound", "base_path": "s"}).models
    assert problem in broken.problem
    assert not sound.problem


@pytest.mark.parametrize(
    ("keys", "remark"),
    [
        ({"batchsize": 3}, "model 'm': unknown key 'batchsize'; did you mean 'batch_size'?"),
        ({"allow_cache": True}, "model 'm': allow_cache has no effect here"),
        ({"low_latency_transformation": True}, "model 'm': low_latency_transformation has no effect here"),
        ({"batch_size": 4, "shape": "auto"}, "model 'm': batch_size has no effect beside shape"),
        ({"shape": "(1,3,200:500)"}, "model 'm': shape: 200:500 is taken as any extent"),
        ({"plugin_config": {"CACHE_DIR": "x"}}, "model 'm': plugin_config.CACHE_DIR has no effect here"),
        (
            {"plugin_config": {"PERFORMANCE_HINT": "CUMULATIVE_THROUGHPUT"}},
            "model 'm': PERFORMANCE_HINT: CUMULATIVE_THROUGHPUT is taken as THROUGHPUT",
        ),
    ],
)
def test_what_has_no_effect_is_remarked_upon(keys: dict[str, Any], remark: str) -> None:
    (said,) = parse(entry(**keys)).remarks
    assert said.startswith(remark)


@pytest.mark.parametrize("key", WITHOUT_EFFECT)
def test_what_is_switched_off_is_worth_no_remark(key: str) -> None:
    assert not parse(entry(**{key: False})).remarks


# -- the document ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "not valid JSON"),
        (b"\xff\xfe{", "not valid JSON"),
        (b"{,}", "not valid JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"model_config_list": [], "model_config_list": []}', "'model_config_list' is there 2 times"),
        (b'{"model_config_list": NaN}', "NaN is no JSON"),
        (b"[]", "expected an object with a model_config_list, got []"),
        (b"{}", "model_config_list: expected a list, there is none"),
        (b'{"model_config_list": {}}', "model_config_list: expected a list, got {}"),
        (b'{"model_config_list": [3]}', "model_config_list[0]: expected"),
        (b'{"model_config_list": [{"config": {}}]}', "model_config_list[0]: expected"),
        (b'{"model_config_list": [{"config": {"name": ""}}]}', "model_config_list[0]: expected"),
        (b'{"model_config_list": [], "mediapipe_config_list": 1}', "mediapipe_config_list: expected a list"),
    ],
)
def test_a_document_that_is_no_list_of_models_is_refused(content: bytes, problem: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_model_list(content, HERE)
    assert problem in str(error.value)


def test_graphs_and_unknown_lists_are_remarked_upon_and_metrics_are_not() -> None:
    listing = parse(
        mediapipe_config_list=[{"name": "graph", "base_path": "g"}],
        custom_loader_config_list=[{"config": {"loader_name": "loader", "library_path": "l.so"}}],
        monitoring={"metrics": {"enable": True}},
        model_config_lists=[],
    )
    assert list(listing.remarks) == [
        "unknown key 'model_config_lists'; did you mean 'model_config_list'?",
        "mediapipe_config_list: 'graph' is not served here",
        "custom_loader_config_list: 'loader' is not served here",
    ]


def test_a_name_that_is_listed_twice_is_a_problem_of_that_name() -> None:
    models = {model.name: model.problem for model in parse(entry(), entry(), {"name": "n", "base_path": "n"}).models}
    assert models == {"m": "listed 2 times", "n": ""}


TEXT = st.text("auto01:,-() NHWC", max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([key for key in (*KEYS, *WITHOUT_EFFECT, *REFUSED) if key != "name"]), JSON))
def test_whatever_an_entry_says_it_is_one_model(keys: dict[str, Any]) -> None:
    (model,) = parse({**keys, "name": "m"}).models
    assert model.name == "m"


def test_the_docs_have_a_row_for_each_key() -> None:
    rows = [line.split("|")[1] for line in DOCS.read_text().splitlines() if line.startswith("| `")]
    keys = [key for row in rows for key in row.replace("`", "").replace(" ", "").split(",")]
    assert sorted(keys) == sorted([*KEYS, *WITHOUT_EFFECT, *REFUSED])


def test_the_file_in_the_docs_is_read_without_a_problem_or_a_remark() -> None:
    (shown, *_) = re.findall(r"^```json\n(.*?)^```$", DOCS.read_text(), re.MULTILINE | re.DOTALL)
    listing = parse_model_list(shown.encode(), HERE)
    assert [(model.name, model.problem) for model in listing.models] == [("resnet", ""), ("bert", "")]
    assert not listing.remarks


# -- the file --------------------------------------------------------------------------------------------------------


def test_a_file_that_breaks_asks_for_what_it_did_and_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(document(entry(allow_cache=True)))
    with caplog.at_level(logging.WARNING):
        file = OvmsFile(path)
        assert [model.name for model in file.models] == ["m"]
        path.write_bytes(b"{")
        assert [[model.name for model in file.models] for _ in range(3)] == [["m"]] * 3
        with pytest.raises(ConfigError, match=r"config\.json: it is not valid JSON"):
            file.read()
        path.unlink()
        assert [model.name for model in file.models] == ["m"]
        with pytest.raises(ConfigFileMissing, match="cannot read"):
            file.read()
        path.write_bytes(document(entry(), {"name": "n", "base_path": "n"}))
        assert [model.name for model in file.models] == ["m", "n"]
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 3
    assert said[0].endswith("model 'm': allow_cache has no effect here")
    assert "not valid JSON" in said[1]
    assert "No such file" in said[2]


@pytest.mark.parametrize("content", [None, b"{", b"{}"])
def test_a_file_that_is_broken_from_the_start_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "config.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"config\.json"):
        OvmsFile(path)


# -- in a scan -------------------------------------------------------------------------------------------------------


@pytest.fixture
def backends() -> Backends:
    return Backends(made={"fake": FakeBackend()})


def test_a_given_model_is_scanned_beside_a_repository(tmp_path: Path, backends: Backends) -> None:
    write_model(tmp_path / "repository" / "iris" / "1")
    write_model(tmp_path / "elsewhere" / "1")
    write_model(tmp_path / "elsewhere" / "2")
    (tmp_path / "elsewhere" / "config.yaml").write_text("this: is not read")
    given = GivenModel("rose", tmp_path / "elsewhere", ModelConfig(version_policy="all"))
    found = scan([tmp_path / "repository"], backends, model_name="renamed", given=[given])
    assert {name: list(source.versions) for name, source in found.models.items()} == {"renamed": [1], "rose": [1, 2]}


def test_a_name_in_the_file_and_in_a_repository_is_unavailable(tmp_path: Path, backends: Backends) -> None:
    write_model(tmp_path / "repository" / "iris" / "1")
    found = scan([tmp_path / "repository"], backends, given=[GivenModel("iris", tmp_path / "repository" / "iris")])
    assert not found.models
    assert found.faults == {"iris": "model appears in two or more repositories"}


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (GivenModel("rose", Path("nowhere")), "No such file"),
        (GivenModel("rose", Path(os.devnull)), "Not a directory"),
        (GivenModel("rose", Path("nowhere"), problem="nireq: expected a number"), "nireq: expected a number"),
        (GivenModel("a/b", Path(os.curdir)), "cannot be named"),
    ],
)
def test_a_given_model_that_cannot_be_served_is_a_fault(
    backends: Backends, model: GivenModel, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = scan([], backends, given=[model])
    assert not found.models
    assert reason in found.faults[model.name]
