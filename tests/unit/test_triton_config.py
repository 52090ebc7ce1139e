"""A Triton `config.pbtxt`, field by field: mapped, passed over with a warning, or refused."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from vintner.errors import ConfigError
from vintner.model_config import InputConfig, ModelConfig, OutputConfig, QueueLevel, VersionPolicy, WarmupInput
from vintner.pb import model_config_pb2
from vintner.triton_config import LOOKED_INTO, PARAMETERS, SERVED, TUNING, read_triton_config
from vintner.types import DTYPES

Read = Callable[[str], ModelConfig]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Reads a text as if it were a model's `config.pbtxt`."""

    def read_text(text: str) -> ModelConfig:
        path = tmp_path / "config.pbtxt"
        path.write_text(text)
        return read_triton_config(path)

    return read_text


def problem(read: Read, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read(text)
    return str(caught.value)


def parameter(name: str, value: str) -> str:
    return f'parameters {{ key: "{name}" value: {{ string_value: "{value}" }} }}'


def test_an_empty_file_means_the_defaults_but_for_batching(read: Read):
    assert read("") == ModelConfig.model_validate({"batching": False})


def test_a_usual_file_is_read_as_a_whole(read: Read):
    config = read(
        """
        name: "digits"  # the directory's name
        platform: "onnxruntime_onnx"
        max_batch_size: 16
        input [ { name: "image" data_type: TYPE_FP32 dims: [ 1, 8, 8 ] } ]
        output [ { name: "scores" data_type: TYPE_FP32 dims: [ 10 ] } ]
        instance_group [ { count: 2 kind: KIND_CPU } ]
        dynamic_batching { default_queue_policy { max_queue_size: 50 } }
        version_policy: { all { } }
        """
    )
    assert (config.name, config.backend, config.device, config.instances) == ("digits", "onnxruntime", "CPU", 2)
    assert (config.batching.enabled, config.batching.max_batch_size) == (True, 16)
    assert config.queue.max_requests == 50
    assert config.inputs == {"image": InputConfig(datatype="FP32", dims=(-1, 1, 8, 8))}
    assert config.outputs == {"scores": OutputConfig(datatype="FP32", dims=(-1, 10))}
    assert config.version_policy == VersionPolicy(latest=None)


def test_warmup_samples_are_taken_over(read: Read):
    text = """
        model_warmup {
          name: "usual" count: 2
          inputs { key: "x" value { data_type: TYPE_FP32 dims: [ 3 ] zero_data: true } }
          inputs { key: "y" value { data_type: TYPE_FP32 dims: [ 3 ] input_data_file: "y.raw" } }
          inputs { key: "z" value { data_type: TYPE_FP32 dims: [ 3 ] random_data: true } }
        }
    """
    [batched] = read(f"max_batch_size: 4 {text}").warmup
    [whole] = read(text).warmup
    assert (batched.name, batched.count, batched.batch_size, whole.batch_size) == ("usual", 2, 1, None)
    assert batched.inputs["x"] == WarmupInput(shape=(3,), data="zero")
    assert batched.inputs["y"].file == "y.raw"
    assert batched.inputs["z"] == WarmupInput(shape=(3,), data="random")


def test_queue_policies_are_taken_over(read: Read):
    queue = read(
        """
        dynamic_batching {
          priority_levels: 3
          default_priority_level: 2
          default_queue_policy { default_timeout_microseconds: 1500000 max_queue_size: 9 }
          priority_queue_policy { key: 1 value { max_queue_size: 4 timeout_action: DELAY } }
          priority_queue_policy { key: 3 value { default_timeout_microseconds: 250000 allow_timeout_override: true } }
        }
        """
    ).queue
    assert (queue.priority_levels, queue.default_priority) == (3, 2)
    assert (queue.max_requests, queue.timeout_seconds, queue.timeout_action) == (9, 1.5, "reject")
    assert queue.timeout_override is False
    assert queue.levels[1] == QueueLevel(max_requests=4, timeout_action="delay")
    assert queue.levels[3] == QueueLevel(timeout_seconds=0.25)


def test_a_request_may_set_a_timeout_where_triton_has_no_default_or_allows_it(read: Read):
    assert read("dynamic_batching { }").queue.timeout_override
    policy = "default_queue_policy { default_timeout_microseconds: 5 allow_timeout_override: true }"
    assert read(f"dynamic_batching {{ {policy} }}").queue.timeout_override


@pytest.mark.parametrize(
    ("text", "backend"),
    [
        ('backend: "openvino"', "openvino"),
        ('backend: "onnxruntime"', "onnxruntime"),
        ('platform: "onnxruntime_onnx"', "onnxruntime"),
        ('backend: "onnxruntime" platform: "onnxruntime_onnx"', "onnxruntime"),
        ('platform: "tensorflow_savedmodel"', "openvino"),
        ('name: "any"', None),
    ],
)
def test_the_backend_or_platform_is_translated(read: Read, text: str, backend: str | None):
    assert read(text).backend == backend


@pytest.mark.parametrize("text", ['backend: "python"', 'platform: "tensorrt_plan"', 'platform: "ensemble"'])
def test_a_backend_that_is_not_served_is_refused_with_those_that_are(read: Read, text: str):
    message = problem(read, text)
    assert "is not served; those that are: openvino, onnxruntime" in message


def test_a_backend_and_a_platform_that_differ_are_refused(read: Read):
    assert "contradict" in problem(read, 'backend: "openvino" platform: "onnxruntime_onnx"')


def test_onnx_with_the_openvino_accelerator_is_run_by_openvino(read: Read):
    accelerator = 'execution_accelerators { cpu_execution_accelerator: [ { name: "openvino" } ] }'
    assert read(f'backend: "onnxruntime" optimization {{ {accelerator} }}').backend == "openvino"


def test_without_dynamic_batching_the_batch_limit_holds_and_nothing_is_merged(read: Read):
    batching = read("max_batch_size: 4").batching
    assert (batching.enabled, batching.max_batch_size) == (False, 4)


def test_dims_are_complete_where_there_is_no_maximum_batch_size(read: Read):
    config = read('input { name: "x" data_type: TYPE_STRING dims: [ -1, 2 ] } output { name: "y" }')
    assert config.inputs == {"x": InputConfig(datatype="BYTES", dims=(-1, 2))}
    assert config.outputs == {"y": OutputConfig()}


DATATYPES = {
    **{f"TYPE_{name}": name for name in DTYPES if name != "BYTES"},
    "TYPE_STRING": "BYTES",
    "TYPE_INVALID": None,
}


@pytest.mark.parametrize("name", model_config_pb2.DataType.DESCRIPTOR.values_by_name)
def test_every_data_type_is_translated(read: Read, name: str):
    assert read(f'input {{ name: "x" data_type: {name} }}').inputs["x"].datatype == DATATYPES[name]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("latest { }", VersionPolicy()),
        ("latest { num_versions: 3 }", VersionPolicy(latest=3)),
        ("all { }", VersionPolicy(latest=None)),
        ("specific { versions: [ 1, 3 ] }", VersionPolicy(specific=frozenset({1, 3}))),
    ],
)
def test_every_version_policy_is_translated(read: Read, policy: str, expected: VersionPolicy):
    assert read(f"version_policy: {{ {policy} }}").version_policy == expected


@pytest.mark.parametrize(
    ("groups", "device", "instances"),
    [
        ("{ }", "CPU", None),
        ("{ kind: KIND_CPU count: 3 }", "CPU", 3),
        ("{ kind: KIND_GPU count: 1 }", "GPU", 1),
        ("{ kind: KIND_GPU gpus: [ 1 ] }", "GPU.1", None),
        ("{ count: 1 }, { kind: KIND_CPU count: 2 }", "CPU", 3),
    ],
)
def test_instance_groups_give_device_and_count(read: Read, groups: str, device: str, instances: int | None):
    config = read(f"instance_group [ {groups} ]")
    assert (config.device, config.instances) == (device, instances)


@pytest.mark.parametrize(
    ("groups", "pools"),
    [
        ("{ kind: KIND_CPU }, { kind: KIND_GPU }", [("CPU", None), ("GPU", None)]),
        ("{ kind: KIND_GPU gpus: [ 1, 0 ] count: 2 }", [("GPU.1", 2), ("GPU.0", 2)]),
        (
            "{ kind: KIND_GPU gpus: [ 0, 1 ] count: 2 }, { count: 1 }, { kind: KIND_GPU gpus: [ 1 ] count: 3 }",
            [("GPU.0", 2), ("GPU.1", 5), ("CPU", 1)],
        ),
    ],
)
def test_instance_groups_on_several_devices_give_a_pool_for_each(
    read: Read, groups: str, pools: list[tuple[str, int | None]]
):
    config = read(f"instance_group [ {groups} ]")
    assert [(pool.device, pool.instances) for pool in config.pools or ()] == pools
    assert [(each.device, each.instances) for each in config.in_pools()] == pools


@pytest.mark.parametrize(
    ("name", "text", "key", "value"),
    [
        ("PERFORMANCE_HINT", "LATENCY", "performance_hint", "latency"),
        ("INFERENCE_PRECISION_HINT", "bf16", "precision", "bf16"),
        ("HINT_BF16", "YES", "precision", "bf16"),
        ("ENFORCE_BF16", "NO", "precision", None),
        ("NUM_STREAMS", "2", "streams", 2),
        ("CPU_THROUGHPUT_STREAMS", "AUTO", "streams", None),
        ("INFERENCE_NUM_THREADS", "3", "threads", 3),
        ("CPU_THREADS_NUM", "3", "threads", 3),
        ("intra_op_thread_count", "0", "threads", None),
        ("TARGET_DEVICE", "AUTO:GPU,CPU", "device", "AUTO:GPU,CPU"),
    ],
)
def test_every_parameter_that_has_a_key_of_ours_sets_it(read: Read, name: str, text: str, key: str, value: object):
    assert name in PARAMETERS
    assert getattr(read(parameter(name, text)), key) == value


def test_the_target_device_wins_over_the_kind_of_the_instances(read: Read):
    assert read(f"instance_group {{ kind: KIND_MODEL }} {parameter('TARGET_DEVICE', 'GPU')}").device == "GPU"
    groups = "instance_group [ { count: 1 }, { kind: KIND_GPU gpus: [ 0, 1 ] count: 2 } ]"
    config = read(f"{groups} {parameter('TARGET_DEVICE', 'NPU')}")
    assert (config.device, config.instances, config.pools) == ("NPU", 3, None)


def test_inputs_are_reshaped_to_their_dims_if_a_parameter_says_so(read: Read):
    inputs = 'max_batch_size: 2 input { name: "x" data_type: TYPE_FP32 dims: [ 3, 224 ] }'
    assert read(f"{inputs} {parameter('RESHAPE_IO_LAYERS', 'YES')}").inputs["x"].shape == (-1, 3, 224)
    assert read(f"{inputs} {parameter('RESHAPE_IO_LAYERS', 'NO')}").inputs["x"].shape is None


@pytest.mark.parametrize(("level", "name"), [(-1, "basic"), (1, "extended"), (2, "disable")])
def test_the_graph_level_goes_to_onnx_runtime(read: Read, level: int, name: str):
    options = read(f'backend: "onnxruntime" optimization {{ graph {{ level: {level} }} }}').backend_options
    assert options == {"graph_optimization": name}


@pytest.mark.parametrize(("text", "kept"), [("response_cache { enable: true }", True), ("response_cache { }", False)])
def test_answers_are_kept_if_the_file_says_so(read: Read, text: str, kept: bool):
    assert read(text).response_cache is kept


def test_metrics_may_be_tagged(read: Read):
    assert read('metric_tags { key: "team" value: "vision" }').metric_tags == {"team": "vision"}
    assert "letters, digits and underscores" in problem(read, 'metric_tags { key: "a-b" value: "" }')


def test_a_model_file_may_be_named(read: Read):
    assert read('default_model_filename: "net.onnx"').filename == "net.onnx"
    assert "bare file name" in problem(read, 'default_model_filename: "../net.onnx"')


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("ensemble_scheduling { step { model_name: 'a' } }", "ensemble_scheduling"),
        ("sequence_batching { }", "sequence_batching"),
        ("batch_output { }", "batch_output"),
        ("model_operations { op_library_filename: 'x.so' }", "model_operations"),
        ("model_repository_agents { agents { name: 'checksum' } }", "model_repository_agents"),
        ("cc_model_filenames { key: '7.5' value: 'x.plan' }", "cc_model_filenames"),
        ("input { name: 'x' dims: [ 1 ] reshape { shape: [ ] } }", "input.reshape"),
        ("input { name: 'x' dims: [ 1 ] optional: true }", "input.optional"),
        ("output { name: 'x' dims: [ 1 ] reshape { shape: [ ] } }", "output.reshape"),
        ("instance_group { passive: true }", "instance_group.passive"),
    ],
)
def test_what_would_change_answers_and_is_not_served_is_refused_by_name(read: Read, text: str, field: str):
    assert problem(read, text) == f"config.pbtxt: {field}: not served here"


@pytest.mark.parametrize(
    ("text", "limiter"),
    [
        ("kind: KIND_CPU rate_limiter { resources { name: 'disk' count: 2 } priority: 3 }", ({"disk": 2}, 3)),
        ("kind: KIND_GPU gpus: [ 1 ] rate_limiter { resources { name: 'r' count: 1 } }", ({"r@GPU.1": 1}, 1)),
        ("kind: KIND_GPU rate_limiter { resources { name: 'r' count: 1 global: true } }", ({"r": 1}, 1)),
        ("kind: KIND_GPU gpus: [0, 1] rate_limiter { resources { name: 'r' count: 1 global: true } }", ({"r": 1}, 1)),
    ],
)
def test_the_rate_limiter_is_read(read: Read, text: str, limiter: tuple[dict[str, int], int]):
    config = read(f"instance_group {{ {text} }}").rate_limiter
    assert config is not None
    assert (config.resources, config.priority) == limiter


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "instance_group { rate_limiter { resources { name: 'r' count: 1 } } } instance_group { }",
            "instance_group.rate_limiter: all groups of a model need the same",
        ),
        (
            "instance_group { rate_limiter { resources { name: 'r' count: 1 } resources { name: 'r' count: 2 } } }",
            "instance_group.rate_limiter: resource 'r' is there twice",
        ),
        (
            "instance_group { kind: KIND_GPU gpus: [ 0, 1 ] rate_limiter { resources { name: 'r' count: 1 } } }",
            "resource 'r' has to be `global: true`, for all runs of a model claim the same, and this one is on GPU.0",
        ),
        ("instance_group { rate_limiter { resources { name: 'r' } } }", "rate_limiter.resources.r: expected a number"),
    ],
)
def test_a_rate_limiter_that_means_nothing_is_refused(read: Read, text: str, message: str):
    assert message in problem(read, text)


def test_a_dynamic_batcher_is_taken_over(read: Read):
    batching = read(
        "max_batch_size: 8 dynamic_batching {"
        " preferred_batch_size: [ 4, 8 ] max_queue_delay_microseconds: 100 preserve_ordering: true }"
    ).batching
    assert batching.preferred_batch_sizes == (4, 8)
    assert batching.max_queue_delay_seconds == pytest.approx(1e-4)
    assert batching.preserve_order


def test_a_transaction_policy_is_read(read: Read):
    assert read("model_transaction_policy { decoupled: false }") == read("")
    assert read("model_transaction_policy { decoupled: true }").decoupled


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("instance_group { rate_limiter { priority: 2 } }", "instance_group.rate_limiter.priority"),
        ("output { name: 'y' label_filename: 'labels.csv' }", "label_filename 'labels.csv'"),
        ("output { name: 'y' label_filename: '../labels.txt' }", "label_filename '../labels.txt'"),
        (
            "optimization { execution_accelerators { gpu_execution_accelerator { name: 'tensorrt' } } }",
            "gpu_execution_accelerator",
        ),
        (parameter("COMPILATION_NUM_THREADS", "2"), "COMPILATION_NUM_THREADS"),
        (parameter("inter_op_thread_count", "2"), "inter_op_thread_count"),
    ],
)
def test_what_only_tunes_is_passed_over_with_a_warning(read: Read, caplog, text: str, field: str):
    with caplog.at_level(logging.WARNING):
        read(text)
    assert field in caplog.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('name: "a"\nfoo: 3', 'config.pbtxt: 2:1 : Message type "inference.ModelConfig" has no field named "foo".'),
        ('name: "a" name: "b"', 'should not have multiple "name" fields'),
        ('input { name: "x" data_type: TYPE_FLOAT }', "has no value named TYPE_FLOAT"),
        ("max_batch_size: -1", "batching.max_batch_size: expected a number greater than or equal to 1, got -1"),
        ("version_policy { specific { } }", "version_policy: expected "),
        ('input { name: "x" } input { name: "x" }', "'x' is declared twice"),
        (parameter("NUM_STREAMS", "many"), "parameter 'NUM_STREAMS': expected a number or AUTO, got 'many'"),
        (parameter("PERFORMANCE_HINT", "FAST"), "performance_hint: expected 'throughput' or 'latency', got 'fast'"),
    ],
)
def test_a_wrong_file_is_refused_with_the_place(read: Read, text: str, message: str):
    answer = problem(read, text)
    assert answer.startswith("config.pbtxt: ")
    assert message in answer


def test_a_file_that_cannot_be_read_is_an_error_that_names_it(tmp_path: Path):
    (tmp_path / "config.pbtxt").write_bytes(b"name: '\xff'")
    with pytest.raises(ConfigError, match=r"^config\.pbtxt: "):
        read_triton_config(tmp_path / "config.pbtxt")
    with pytest.raises(ConfigError, match=r"^absent: No such file"):
        read_triton_config(tmp_path / "absent")


def test_every_field_that_is_judged_exists_in_the_message():
    for path in SERVED | TUNING | LOOKED_INTO:
        descriptor = model_config_pb2.ModelConfig.DESCRIPTOR
        *parents, name = path.split(".")
        for parent in parents:
            descriptor = descriptor.fields_by_name[parent].message_type
        assert name in descriptor.fields_by_name, path
    assert not SERVED & TUNING
