"""Reads a Triton `config.pbtxt`, or the same as JSON, as a `ModelConfig`.

What the file asks for falls in three: what is served here is mapped, what only tunes Triton is passed over with a
warning, and everything else would change the model's answers or its interface, so it is refused. Invariant: a field
that is set is in one of the three; one that this module has never heard of is refused.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from google.protobuf import json_format, text_format
from google.protobuf.message import Message

from vintner.errors import ConfigError
from vintner.model_config import LABEL_FILE, ModelConfig, parse_model_config
from vintner.pb import model_config_pb2

logger = logging.getLogger(__name__)

Tensor = model_config_pb2.ModelInput | model_config_pb2.ModelOutput

SERVED: Final = frozenset(
    {
        "name",
        "platform",
        "backend",
        "version_policy",
        "max_batch_size",
        "default_model_filename",
        "parameters",
        "metric_tags",
        "model_warmup",
        "input.name",
        "input.data_type",
        "input.dims",
        "input.allow_ragged_batch",
        "batch_input.kind",
        "batch_input.target_name",
        "batch_input.data_type",
        "batch_input.source_input",
        "output.name",
        "output.data_type",
        "output.dims",
        "output.label_filename",
        "instance_group.name",
        "instance_group.kind",
        "instance_group.count",
        "instance_group.gpus",
        "instance_group.rate_limiter.priority",
        "instance_group.rate_limiter.resources.name",
        "instance_group.rate_limiter.resources.count",
        "instance_group.rate_limiter.resources.global",
        "dynamic_batching.preferred_batch_size",
        "dynamic_batching.max_queue_delay_microseconds",
        "dynamic_batching.preserve_ordering",
        "dynamic_batching.priority_levels",
        "dynamic_batching.default_priority_level",
        "dynamic_batching.priority_queue_policy",
        "dynamic_batching.default_queue_policy.max_queue_size",
        "dynamic_batching.default_queue_policy.timeout_action",
        "dynamic_batching.default_queue_policy.default_timeout_microseconds",
        "dynamic_batching.default_queue_policy.allow_timeout_override",
        "response_cache.enable",
        "model_transaction_policy.decoupled",
        "optimization.graph.level",
        "optimization.execution_accelerators.cpu_execution_accelerator.name",
    }
)
TUNING: Final = frozenset(
    {
        "runtime",
        "model_metrics",
        "input.format",
        "instance_group.secondary_devices",
        "instance_group.profile",
        "instance_group.host_policy",
        "optimization.priority",
        "optimization.cuda",
        "optimization.execution_accelerators.cpu_execution_accelerator.parameters",
        "optimization.execution_accelerators.gpu_execution_accelerator",
        "optimization.input_pinned_memory",
        "optimization.output_pinned_memory",
        "optimization.gather_kernel_buffer_threshold",
        "optimization.eager_batching",
    }
)
LOOKED_INTO: Final = frozenset(
    {path.rsplit(".", depth)[0] for path in SERVED | TUNING for depth in range(1, path.count(".") + 1)}
)
"""Messages whose fields are judged one by one; of all others, being there is enough."""

BACKENDS: Final[Mapping[str, str]] = {
    "openvino": "openvino",
    "onnxruntime": "onnxruntime",
    "onnxruntime_onnx": "onnxruntime",
    "tensorflow": "openvino",
    "tensorflow_savedmodel": "openvino",
}
"""Triton's backends and platforms, with what serves their models here: OpenVINO reads SavedModels itself."""

SHOWN_PLATFORMS: Final = frozenset({"openvino_ir", "onnx_onnxv1", "tflite", "paddle"})
"""What this server calls what it has loaded, and so what may come back to it; the backend goes by other keys."""

GRAPH_LEVELS: Final[Mapping[int, str]] = {-1: "basic", 1: "extended", 2: "disable"}
"""The levels of Triton's ONNX Runtime backend, as `graph_optimization`; 0, its default, is everything."""


def read_triton_config(path: Path) -> ModelConfig:
    """Raises ConfigError that names the file, and the line that cannot be read or the field that is not served."""
    try:
        config = text_format.Parse(path.read_text(encoding="utf-8"), model_config_pb2.ModelConfig())
    except OSError as exc:
        raise ConfigError(f"{path.name}: {exc.strerror}") from exc
    except (text_format.ParseError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path.name}: {exc}") from exc
    return _translated(config, path.name, str(path))


def parse_triton_config(document: Mapping[str, Any], origin: str) -> ModelConfig:
    """Reads protobuf's JSON of a ModelConfig. Raises ConfigError that begins with `origin` and names the field."""
    try:
        config = json_format.ParseDict(dict(document), model_config_pb2.ModelConfig())
    except json_format.ParseError as exc:
        raise ConfigError(f"{origin}: {exc}") from exc
    return _translated(config, origin, origin)


def _translated(config: model_config_pb2.ModelConfig, origin: str, place: str) -> ModelConfig:
    """`origin` begins the errors, `place` the warnings."""
    try:
        _check_served(config, place)
        document = _document(config, place)
    except ConfigError as exc:
        raise ConfigError(f"{origin}: {exc}") from exc
    return parse_model_config(document, origin)


def _check_served(config: Message, place: str) -> None:
    fields = set(_fields_set(config))
    for field in sorted(fields & TUNING):
        logger.warning("%s: %s has no effect here", place, field)
    refused = sorted(fields - SERVED - TUNING)
    if refused:
        raise ConfigError(f"{', '.join(refused)}: not served here")


def _fields_set(message: Message, prefix: str = "") -> Iterator[str]:
    for field, value in message.ListFields():
        name = f"{prefix}{field.name}"
        if name not in LOOKED_INTO:
            yield name
            continue
        for part in [value] if isinstance(value, Message) else value:
            yield from _fields_set(part, f"{name}.")


def _document(config: model_config_pb2.ModelConfig, place: str) -> dict[str, Any]:
    """The same in the keys of a `config.yaml`; None stands for a default."""
    parameters = {key: parameter.string_value for key, parameter in config.parameters.items()}
    reshape = parameters.pop("RESHAPE_IO_LAYERS", "NO").upper() == "YES"
    target = parameters.get("TARGET_DEVICE")
    batched = config.max_batch_size > 0
    backend = _backend(config)
    level = GRAPH_LEVELS.get(config.optimization.graph.level) if backend == "onnxruntime" else None
    return {
        "name": config.name or None,
        "backend": backend,
        "filename": config.default_model_filename or None,
        "batching": _batching(config),
        "queue": _queue(config.dynamic_batching),
        "response_cache": config.response_cache.enable,
        "decoupled": config.model_transaction_policy.decoupled,
        "inputs": _tensors(config.input, batched, reshape),
        "outputs": _with_labels(_tensors(config.output, batched, reshape=False), config.output, place),
        "batch_inputs": _batch_inputs(config.batch_input),
        "metric_tags": dict(config.metric_tags),
        "version_policy": _version_policy(config.version_policy),
        "warmup": [_warmup(sample, batched) for sample in config.model_warmup],
        "backend_options": {"graph_optimization": level} if level else None,
        "rate_limiter": _rate_limiter(config.instance_group, target, place),
        **_instances(config.instance_group, target),
        **_parameters(parameters, place),
    }


def _batching(config: model_config_pb2.ModelConfig) -> dict[str, Any]:
    batching = config.dynamic_batching
    return {
        "enabled": config.HasField("dynamic_batching"),
        "max_batch_size": config.max_batch_size or None,
        "preferred_batch_sizes": list(batching.preferred_batch_size) or None,
        "max_queue_delay_seconds": batching.max_queue_delay_microseconds / 1e6 or None,
        "preserve_order": batching.preserve_ordering or None,
    }


def _queue(batching: model_config_pb2.ModelDynamicBatching) -> dict[str, Any]:
    policy = batching.default_queue_policy
    return {
        **_queue_policy(policy),
        # Where a limit is set, Triton lets a request set a lower one only if that is allowed.
        "timeout_override": policy.allow_timeout_override or not policy.default_timeout_microseconds,
        "priority_levels": batching.priority_levels or None,
        "default_priority": batching.default_priority_level or None,
        "levels": {level: _queue_policy(own) for level, own in batching.priority_queue_policy.items()},
    }


def _queue_policy(policy: model_config_pb2.ModelQueuePolicy) -> dict[str, Any]:
    delays = policy.timeout_action == model_config_pb2.ModelQueuePolicy.DELAY
    return {
        "max_requests": policy.max_queue_size or None,
        "timeout_seconds": policy.default_timeout_microseconds / 1e6 or None,
        "timeout_action": "delay" if delays else None,
    }


def _backend(config: model_config_pb2.ModelConfig) -> str | None:
    asked = [name for name in (config.backend, config.platform) if name and name not in SHOWN_PLATFORMS]
    for name in asked:
        if name not in BACKENDS:
            raise ConfigError(f"backend or platform '{name}' is not served; those that are: {', '.join(BACKENDS)}")
    if len({BACKENDS[name] for name in asked}) > 1:
        raise ConfigError(f"backend '{config.backend}' and platform '{config.platform}' contradict each other")
    accelerators = config.optimization.execution_accelerators.cpu_execution_accelerator
    if any(accelerator.name == "openvino" for accelerator in accelerators):
        return "openvino"  # which reads ONNX itself, and needs no provider inside ONNX Runtime
    return BACKENDS[asked[0]] if asked else None


def _tensors(tensors: Iterable[Tensor], batched: bool, reshape: bool) -> dict[str, Any]:
    """In Triton's `dims` the batch goes without saying where there is a `max_batch_size`."""
    entries: dict[str, Any] = {}
    for tensor in tensors:
        if tensor.name in entries:
            raise ConfigError(f"'{tensor.name}' is declared twice")
        dims = [*([-1] if batched else []), *tensor.dims] if tensor.dims else None
        entries[tensor.name] = {"datatype": _datatype(tensor.data_type), "dims": dims}
        if isinstance(tensor, model_config_pb2.ModelInput) and tensor.allow_ragged_batch:
            if not batched:
                raise ConfigError(f"input '{tensor.name}': allow_ragged_batch needs a max_batch_size")
            entries[tensor.name]["ragged"] = True
        elif reshape:
            entries[tensor.name]["shape"] = dims
    return entries


def _with_labels(
    entries: dict[str, Any], outputs: Iterable[model_config_pb2.ModelOutput], place: str
) -> dict[str, Any]:
    for output in outputs:
        file = output.label_filename
        if file and LABEL_FILE.fullmatch(file):
            entries[output.name]["labels"] = file
        elif file:
            logger.warning("%s: label_filename '%s' has no effect; expected a plain name ending in .txt", place, file)
    return entries


def _batch_inputs(batch_inputs: Iterable[model_config_pb2.BatchInput]) -> dict[str, Any]:
    """The datatype is the model's own, whatever the file says: what is computed are whole numbers."""
    entries: dict[str, Any] = {}
    for batch_input in batch_inputs:
        kind = model_config_pb2.BatchInput.Kind.Name(batch_input.kind).removeprefix("BATCH_").lower()
        if len(batch_input.source_input) != 1 or not batch_input.target_name:
            raise ConfigError("batch_input: expected one source_input, and a target_name")
        for target in batch_input.target_name:
            if target in entries:
                raise ConfigError(f"batch_input: '{target}' is computed twice")
            entries[target] = {"kind": kind, "source": batch_input.source_input[0]}
    return entries


def _datatype(data_type: model_config_pb2.DataType) -> str | None:
    name = model_config_pb2.DataType.Name(data_type).removeprefix("TYPE_")
    return {"INVALID": None, "STRING": "BYTES"}.get(name, name)


def _warmup(sample: model_config_pb2.ModelWarmup, batched: bool) -> dict[str, Any]:
    inputs: dict[str, Any] = {}
    for name, given in sample.inputs.items():
        file = given.input_data_file or None
        inputs[name] = {"shape": list(given.dims), "data": "zero" if given.zero_data else "random", "file": file}
    return {
        "name": sample.name or None,
        "batch_size": max(1, sample.batch_size) if batched else None,
        "count": sample.count or None,
        "inputs": inputs,
    }


def _version_policy(policy: model_config_pb2.ModelVersionPolicy) -> object:
    match policy.WhichOneof("policy_choice"):
        case "all":
            return "all"
        case "latest":
            return {"latest": policy.latest.num_versions or 1}
        case "specific":
            return {"specific": list(policy.specific.versions)}
    return None


def _instances(groups: Sequence[model_config_pb2.ModelInstanceGroup], target: str | None) -> dict[str, Any]:
    """On one device the model's own keys; on several a pool for each, in the order of the file."""
    counts: dict[str, int] = {}
    for group in groups:
        for device in _devices(group, target):
            counts[device] = counts.get(device, 0) + group.count
    pools = [{"device": device, "instances": count or None} for device, count in counts.items()]
    return {"pools": pools} if len(pools) > 1 else next(iter(pools), {})


def _devices(group: model_config_pb2.ModelInstanceGroup, target: str | None) -> tuple[str, ...]:
    """Where a group has `count` instances each; `target`, what the parameter TARGET_DEVICE says, goes before."""
    if target is not None:
        return (target,)
    if group.kind != model_config_pb2.ModelInstanceGroup.KIND_GPU:
        return ("CPU",)
    return tuple(f"GPU.{number}" for number in group.gpus) or ("GPU",)


def _rate_limiter(
    groups: Sequence[model_config_pb2.ModelInstanceGroup], target: str | None, place: str
) -> dict[str, Any] | None:
    """A resource that is not `global` is there once for each device, so a GPU's name goes into its name."""
    devices = list(dict.fromkeys(device for group in groups for device in _devices(group, target)))
    limits = [_limit(group, devices) for group in groups]
    if any(limit != limits[0] for limit in limits):
        raise ConfigError("instance_group.rate_limiter: all groups of a model need the same")
    if not limits or not limits[0]["resources"]:
        if any(group.rate_limiter.priority for group in groups):
            logger.warning("%s: instance_group.rate_limiter.priority has no effect without resources", place)
        return None
    return limits[0]


def _limit(group: model_config_pb2.ModelInstanceGroup, devices: Sequence[str]) -> dict[str, Any]:
    resources: dict[str, int] = {}
    for resource in group.rate_limiter.resources:
        name = resource.name
        if not getattr(resource, "global") and devices != ["CPU"]:
            if len(devices) > 1:
                raise ConfigError(
                    f"instance_group.rate_limiter: resource '{name}' has to be `global: true`, for all runs of a model"
                    f" claim the same, and this one is on {' and '.join(devices)}"
                )
            name = f"{name}@{devices[0]}"
        if name in resources:
            raise ConfigError(f"instance_group.rate_limiter: resource '{resource.name}' is there twice")
        resources[name] = resource.count
    return {"resources": resources, "priority": group.rate_limiter.priority or None}


def _count(text: str) -> int | None:
    """A number of threads or streams; 0 and AUTO leave it to the runtime."""
    return None if text.upper() == "AUTO" else int(text) or None


def _bf16(text: str) -> str | None:
    return "bf16" if text.upper() == "YES" else None


PARAMETERS: Final[Mapping[str, tuple[str, Callable[[str], object]]]] = {
    "PERFORMANCE_HINT": ("performance_hint", str.lower),
    "INFERENCE_PRECISION_HINT": ("precision", str.lower),
    "HINT_BF16": ("precision", _bf16),
    "ENFORCE_BF16": ("precision", _bf16),
    "NUM_STREAMS": ("streams", _count),
    "CPU_THROUGHPUT_STREAMS": ("streams", _count),
    "INFERENCE_NUM_THREADS": ("threads", _count),
    "CPU_THREADS_NUM": ("threads", _count),
    "intra_op_thread_count": ("threads", _count),
    "TARGET_DEVICE": ("device", str),
}
"""What Triton's OpenVINO (now and formerly) and ONNX Runtime backends call our keys."""


def _parameters(parameters: Mapping[str, str], place: str) -> dict[str, object]:
    keys: dict[str, object] = {}
    for name, text in parameters.items():
        if name not in PARAMETERS:
            logger.warning("%s: parameter '%s' has no effect here; these have: %s", place, name, ", ".join(PARAMETERS))
            continue
        key, convert = PARAMETERS[name]
        try:
            keys[key] = convert(text)
        except ValueError:
            raise ConfigError(f"parameter '{name}': expected a number or AUTO, got '{text}'") from None
    return keys
