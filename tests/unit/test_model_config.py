"""What a `config.yaml` may say, and what is answered to one that is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from vintner.errors import ConfigError, LoadError
from vintner.language_servable import check_keys
from vintner.model_config import InputConfig, ModelConfig, OutputConfig, VersionPolicy, read_model_config


@pytest.fixture
def read(tmp_path: Path):
    """Reads a text as if it were a model's `config.yaml`."""

    def read_text(text: str) -> ModelConfig:
        path = tmp_path / "config.yaml"
        path.write_text(text)
        return read_model_config(path)

    return read_text


def problem(read: Any, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read(text)
    return str(caught.value)


@pytest.mark.parametrize("text", ["", "# nothing but a comment", "{}", "name:\nbatching:\nqueue:\ninputs:\ninstances:"])
def test_an_empty_file_and_empty_keys_mean_the_defaults(read, text: str):
    assert read(text) == ModelConfig()


def test_the_defaults_are_these():
    config = ModelConfig()
    assert (config.device, config.performance_hint, config.precision) == ("CPU", "throughput", None)
    assert (config.instances, config.streams, config.threads) == (None, None, None)
    assert (config.batching.enabled, config.batching.max_batch_size) == (True, None)
    assert (config.queue.max_requests, config.queue.max_bytes) == (256, 256 * 2**20)
    assert config.version_policy.select([1, 2]) == (2,)


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("name: digits", "name", "digits"),
        ("backend: onnxruntime", "backend", "onnxruntime"),
        ("filename: net.onnx", "filename", "net.onnx"),
        ("device: AUTO:GPU,CPU", "device", "AUTO:GPU,CPU"),
        ("performance_hint: latency", "performance_hint", "latency"),
        ("precision: bf16", "precision", "bf16"),
        ("instances: 3", "instances", 3),
        ("streams: 2", "streams", 2),
        ("threads: 4", "threads", 4),
        ("inputs: {x: {name: image}}", "inputs", {"x": InputConfig(name="image")}),
        ("inputs: {x: {shape: [-1, 3]}}", "inputs", {"x": InputConfig(shape=(-1, 3))}),
        ("outputs: {y: {datatype: FP32, dims: [-1]}}", "outputs", {"y": OutputConfig(datatype="FP32", dims=(-1,))}),
        ("outputs: {y: {labels: animals.txt}}", "outputs", {"y": OutputConfig(labels="animals.txt")}),
        ("inputs: {0: {name: x}, b:}", "inputs", {"0": InputConfig(name="x"), "b": InputConfig()}),
        ("version_policy: all", "version_policy", VersionPolicy(latest=None)),
        ("version_policy: {latest: 2}", "version_policy", VersionPolicy(latest=2)),
        ("version_policy: {specific: [3, 1]}", "version_policy", VersionPolicy(specific=frozenset({1, 3}))),
        ("version_labels: {stable: 2, canary: 3}", "version_labels", {"stable": 2, "canary": 3}),
        ("backend_options: {providers: [a, b]}", "backend_options", {"providers": ["a", "b"]}),
    ],
)
def test_each_key_is_read(read, text: str, key: str, value: object):
    config = read(text)
    assert getattr(config, key) == value
    assert getattr(ModelConfig(), key) != value


def test_auto_instances_are_left_to_the_runtime(read):
    assert read("instances: auto").instances is None


@pytest.mark.parametrize(
    ("text", "limit"),
    [("{}", None), ("{max_batch_size: 3}", 3), ("{compiled_sizes: [1, 8]}", 8),
     ("{compiled_sizes: [8], max_batch_size: 6}", 6)],
)  # fmt: skip
def test_the_rows_of_a_request_are_limited_by_what_is_set_and_by_what_is_compiled(read, text: str, limit: int | None):
    assert read(f"batching: {text}").batching.row_limit == limit


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[4, 1]", "batching: compiled_sizes: expected sizes that ascend, got [4, 1]"),
        ("[4, 4]", "batching: compiled_sizes: expected sizes that ascend, got [4, 4]"),
        ("[0, 4]", "batching.compiled_sizes.0: expected a number greater than or equal to 1, got 0"),
        ("[1.5]", "batching.compiled_sizes.0: expected a valid integer, got 1.5"),
        ("4", "batching.compiled_sizes: expected a list, got 4"),
        ("[4], max_batch_size: 5", "batching: max_batch_size: expected at most the largest compiled size, 4, got 5"),
    ],
)
def test_compiled_sizes_that_make_no_sense_are_refused(read, text: str, message: str):
    assert message in problem(read, f"batching: {{compiled_sizes: {text}}}")


@pytest.mark.parametrize("text", ["batching: false", "batching: {enabled: false}"])
def test_batching_can_be_switched_off_in_one_word(read, text: str):
    assert not read(text).batching.enabled


def test_a_maximum_batch_size_leaves_batching_on(read):
    batching = read("batching: {max_batch_size: 8}").batching
    assert (batching.enabled, batching.max_batch_size) == (True, 8)


@pytest.mark.parametrize(("text", "size"), [("4096", 4096), ("64MiB", 64 * 2**20), ("1 GiB", 2**30)])
def test_a_size_may_have_a_unit(read, text: str, size: int):
    assert read(f"queue: {{max_bytes: {text}, max_requests: 3}}").queue.max_bytes == size


@pytest.mark.parametrize(
    ("text", "place", "hint"),
    [
        ("performance_hnit: latency", "unknown key 'performance_hnit'", "did you mean 'performance_hint'?"),
        ("batching: {max_batchsize: 4}", "batching: unknown key 'max_batchsize'", "did you mean 'max_batch_size'?"),
        ("inputs: {x: {nam: y}}", "inputs.x: unknown key 'nam'", "did you mean 'name'?"),
        (
            "outputs: {y: {shape: [1]}}",
            "outputs.y: unknown key 'shape'",
            "expected one of: datatype, dims, labels, name",
        ),
        ("max_batch_size: 4", "unknown key 'max_batch_size'", "did you mean 'batching.max_batch_size'?"),
    ],
)
def test_an_unknown_key_is_an_error_with_the_nearest_right_name(read, text: str, place: str, hint: str):
    assert problem(read, text) == f"config.yaml: {place}; {hint}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("performance_hint: fast", "performance_hint: expected 'throughput' or 'latency', got 'fast'"),
        ("precision: int8", "precision: expected 'f32', 'f16' or 'bf16', got 'int8'"),
        ("instances: 0", 'instances: expected a positive integer or "auto", got 0'),
        ("instances: true", 'instances: expected a positive integer or "auto", got True'),
        ("streams: '2'", "streams: expected a valid integer, got '2'"),
        ("threads: 0", "threads: expected a number greater than or equal to 1, got 0"),
        ("device: ''", "device: expected at least 1 character, got ''"),
        ("core_weight: 1001", "core_weight: expected a number less than or equal to 1000, got 1001"),
        ("pools: []", "pools: expected at least one pool, such as {device: CPU}, got []"),
        ("pools: [{hint: fast}]", "pools.0.hint: expected 'throughput' or 'latency', got 'fast'"),
        ("batch_inputs: {e: {kind: item_shape}}", "batch_inputs.e.source: expected a value, there is none"),
        ("core_weight: 0", "core_weight: expected a number greater than or equal to 0.001, got 0"),
        (
            "rate_limiter: {resources: {gpu: 0}}",
            "rate_limiter.resources.gpu: expected a number greater than or equal to 1, got 0",
        ),
        (
            "rate_limiter: {priority: 2}",
            "rate_limiter: resources: expected at least one, such as {gpu: 1}; there is nothing else to take turns at",
        ),
        ("batching: 3", "batching: expected a mapping, got 3"),
        (
            "metric_tags: {_a: b}",
            "metric_tags: expected letters, digits and underscores, a letter or digit first, got '_a'",
        ),
        ("metric_tags: {a: 1}", "metric_tags.a: expected a valid string, got 1"),
        ("batching: {enabled: 1}", "batching.enabled: expected a valid boolean, got 1"),
        ("inputs: [x]", "inputs: expected a mapping, got ['x']"),
        ("inputs: {x: {shape: 3}}", "inputs.x.shape: expected a list, got 3"),
        ("inputs: {x: {dims: [-2]}}", "inputs.x.dims.0: expected a number greater than or equal to -1, got -2"),
        ("inputs: {x: {datatype: fp32}}", "inputs.x.datatype: unknown datatype 'fp32'; did you mean 'FP32'?"),
        ("inputs: {x: {name: a}, y: {name: a}}", "2 inputs would be served as 'a'"),
        ("outputs: {x: {name: y}, y: {}}", "2 outputs would be served as 'y'"),
        ("- name", "expected keys and values, got ['name']"),
        ("name: a\nthreads: 1\nname: b", "line 3: 'name' is there twice"),
        ("batching:\n  enabled: true\n  enabled: false", "line 3: 'enabled' is there twice"),
        ("name: [", "line 1: expected the node content, but found '<stream end>'"),
        ("name: 2026-13-01", "month must be in 1..12"),
    ],
)
def test_a_wrong_value_is_named_in_one_line_with_what_was_expected(read, text: str, message: str):
    assert problem(read, text) == f"config.yaml: {message}"


@pytest.mark.parametrize("size", ["0", "true", "-1", "1.5", "4 parsec", "[1]"])
def test_a_size_that_is_none_is_refused(read, size: str):
    message = problem(read, f"queue: {{max_bytes: {size}}}")
    assert message.startswith("config.yaml: queue.max_bytes: expected a number of bytes")


@pytest.mark.parametrize("name", ["../model.onnx", "1/model.onnx", "..", ".", "a\\b", '"a\\0b"', "''"])
def test_a_filename_cannot_lead_out_of_the_directory(read, name: str):
    assert problem(read, f"filename: {name}").startswith("config.yaml: filename: expected ")


@pytest.mark.parametrize(
    "policy",
    ["newest", "3", "{latest: 0}", "{latest: true}", "{specific: []}", "{specific: [0]}", "{latest: 1, all: 2}"],
)
def test_a_version_policy_that_is_none_is_refused(read, policy: str):
    message = problem(read, f"version_policy: {policy}")
    assert message.startswith("config.yaml: version_policy: expected latest, all, {latest: N} or {specific: [1, 3]}")


def test_all_that_is_wrong_is_reported_at_once(read):
    message = problem(read, "streams: x\nqueue: {max_requests: 0}")
    assert "streams: " in message
    assert "queue.max_requests: " in message


def test_a_file_that_cannot_be_read_is_an_error_that_names_it(tmp_path: Path):
    (tmp_path / "config.yaml").mkdir()
    with pytest.raises(ConfigError, match=r"^config\.yaml: Is a directory$"):
        read_model_config(tmp_path / "config.yaml")


def test_a_configuration_cannot_be_changed():
    with pytest.raises(ValidationError):
        ModelConfig().device = "GPU"  # type: ignore[misc]


VERSIONS = st.sets(st.integers(1, 50))


@given(VERSIONS, st.integers(1, 5))
def test_the_latest_policy_selects_the_highest(present: set[int], count: int):
    selected = VersionPolicy(latest=count).select(present)
    assert len(selected) == min(count, len(present))
    assert list(selected) == sorted(selected)
    assert not selected or min(selected) > max(present - set(selected), default=0)


@given(VERSIONS)
def test_the_policy_of_all_selects_all_in_order(present: set[int]):
    assert VersionPolicy(latest=None).select(present) == tuple(sorted(present))


@given(VERSIONS, VERSIONS)
def test_specific_versions_are_served_where_they_are_there(present: set[int], listed: set[int]):
    assert VersionPolicy(specific=frozenset(listed)).select(present) == tuple(sorted(present & listed))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("{a/b: 1}", "version_labels.a/b.[key]: expected a label without a slash, which cannot be part of a path, got"),
        ("{'': 1}", "version_labels..[key]: "),
        ("{stable: 0}", "version_labels.stable: expected a number greater than or equal to 1, got 0"),
        ("{stable: newest}", "version_labels.stable: expected a valid integer, got 'newest'"),
        ("[1]", "version_labels: expected a mapping, got [1]"),
    ],
)
def test_labels_that_cannot_be_asked_for_are_refused(read, labels: str, message: str):
    assert message in problem(read, f"version_labels: {labels}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("draft_model: ../other", "draft_model: expected a bare file name inside the version's directory"),
        ("adapters: {a: /etc/passwd}", "adapters.a: expected a bare file name inside the version's directory"),
        ("chat_template: ..", "chat_template: expected a bare file name inside the version's directory"),
        ("draft_device: GPU", "draft_device: expected draft_model beside it"),
        ("num_assistant_tokens: 3", "num_assistant_tokens: expected draft_model or max_ngram_size beside it"),
        ("{draft_model: a, max_ngram_size: 3}", "expected one of the two, got both"),
    ],
)
def test_settings_of_a_language_model_that_make_no_sense_are_refused(read, text: str, message: str):
    text = text if text.startswith("{") else f"{{{text}}}"
    assert message in problem(read, f"generation: {text}")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("batching: {max_queue_delay_seconds: 0.1}", "max_queue_delay_seconds"),
        ("batching: {preserve_order: true}", "preserve_order"),
        ("batching: {compiled_sizes: [1]}", "compiled_sizes"),
        ("response_cache: true", "response_cache"),
        ("inputs: {text_input: {name: text}}", "inputs"),
        ("warmup: true", "warmup"),
        ("instances: 2", "instances"),
        ("reopen_after_failures: 3", "reopen_after_failures"),
        ("pools: [{device: CPU}, {device: GPU}]", "several pools"),
        ("queue: {timeout_seconds: 1, timeout_action: delay}", "timeout_action: delay"),
    ],
)
def test_what_a_language_model_cannot_have_is_refused_by_name(read, text: str, named: str):
    with pytest.raises(LoadError, match=f"a language model cannot have {named}: its requests"):
        check_keys(read(text))


def test_a_language_model_can_have_all_else(read):
    check_keys(read("{threads: 2, instances: 1, queue: {max_requests: 3}, generation: {max_num_seqs: 2}}"))
