"""A loaded model version as Triton's ModelConfig, which Triton's clients and perf_analyzer ask for.

It shows what is in effect, not what the file said. Where the configuration sets no `max_batch_size`, that is 0 and the
shapes are whole, as in the metadata: to Triton's clients that means that the first dimension is theirs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.json_format import MessageToDict

from vintner.pb import model_config_pb2 as pb
from vintner.servable import Servable
from vintner.types import TensorSpec

WIDE: Final = (FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64)
"""Types of fields that protobuf's JSON has as strings, and Triton's as numbers."""


def model_config(servable: Servable) -> pb.ModelConfig:
    config = servable.config
    limit = config.batching.row_limit or 0
    ragged = {given.name or own for own, given in config.inputs.items() if given.ragged}
    labels = {given.name or own: given.labels or "" for own, given in config.outputs.items()}
    message = pb.ModelConfig(
        name=servable.name,
        platform=servable.platform,
        backend=servable.backend,
        max_batch_size=limit,
        input=[
            pb.ModelInput(**_tensor(spec, limit), allow_ragged_batch=spec.name in ragged) for spec in servable.inputs
        ],
        output=[
            pb.ModelOutput(**_tensor(spec, limit), label_filename=labels.get(spec.name, ""))
            for spec in servable.outputs
        ],
        version_policy=_version_policy(servable),
        default_model_filename=config.filename or "",
        metric_tags=config.metric_tags,
    )
    for number, pool in enumerate(servable.pools):
        gpu = pool.device.startswith("GPU")
        processor = pb.ModelInstanceGroup.KIND_GPU if gpu else pb.ModelInstanceGroup.KIND_CPU
        group = message.instance_group.add(name=f"{servable.name}_{number}", kind=processor, count=pool.instances)
        if config.rate_limiter is not None:
            group.rate_limiter.priority = config.rate_limiter.priority
            for name, count in config.rate_limiter.resources.items():
                group.rate_limiter.resources.add(name=name, count=count, **{"global": True})
    for target, computed in config.batch_inputs.items():
        source = config.inputs[computed.source].name or computed.source
        kind = pb.BatchInput.Kind.Value(f"BATCH_{computed.kind.upper()}")
        message.batch_input.add(kind=kind, target_name=[target], source_input=[source])
    if servable.max_rows > 1:
        message.dynamic_batching.CopyFrom(_dynamic_batching(servable))
    message.model_transaction_policy.decoupled = servable.decoupled
    if servable.caches:
        message.response_cache.enable = True
    return message


def as_json(message: pb.ModelConfig) -> dict[str, Any]:
    """With protobuf's field names, numbers as numbers, and every field that has a value by itself."""
    document = MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    return _with_numbers(document, message.DESCRIPTOR.fields_by_name)


def _with_numbers(document: dict[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _with_number(part, fields[name]) for name, part in document.items()}


def _with_number(value: Any, field: FieldDescriptor) -> Any:
    if isinstance(value, list):
        return [_with_number(part, field) for part in value]
    if field.message_type is None:
        return int(value) if field.cpp_type in WIDE else value
    if field.message_type.GetOptions().map_entry:
        values = field.message_type.fields_by_name["value"]
        return {key: _with_number(part, values) for key, part in value.items()}
    return _with_numbers(value, field.message_type.fields_by_name)


def _tensor(spec: TensorSpec, limit: int) -> dict[str, Any]:
    kind = "STRING" if spec.datatype == "BYTES" else spec.datatype
    dims = spec.shape[1:] if limit else spec.shape
    return {"name": spec.name, "data_type": pb.DataType.Value(f"TYPE_{kind}"), "dims": dims}


def _version_policy(servable: Servable) -> pb.ModelVersionPolicy:
    policy = servable.config.version_policy
    if policy.specific is not None:
        return pb.ModelVersionPolicy(specific=pb.ModelVersionPolicy.Specific(versions=sorted(policy.specific)))
    if policy.latest is None:
        return pb.ModelVersionPolicy(all=pb.ModelVersionPolicy.All())
    return pb.ModelVersionPolicy(latest=pb.ModelVersionPolicy.Latest(num_versions=policy.latest))


def _dynamic_batching(servable: Servable) -> pb.ModelDynamicBatching:
    queue = servable.config.queue
    levels = queue.priority_levels
    message = pb.ModelDynamicBatching(
        priority_levels=levels if levels > 1 else 0,
        default_priority_level=queue.default_level if levels > 1 else 0,
        default_queue_policy=_policy(queue.max_requests, queue.timeout_seconds, queue.timeout_action),
    )
    batching = servable.config.batching
    message.preferred_batch_size.extend(batching.preferred_batch_sizes)
    message.max_queue_delay_microseconds = round((batching.max_queue_delay_seconds or 0) * 1e6)
    message.preserve_ordering = batching.preserve_order
    message.default_queue_policy.allow_timeout_override = queue.timeout_override
    for level, own in queue.levels.items():
        policy = _policy(own.max_requests, own.timeout_seconds, own.timeout_action)
        message.priority_queue_policy[level].CopyFrom(policy)
    return message


def _policy(requests: int | None, seconds: float | None, action: str | None) -> pb.ModelQueuePolicy:
    return pb.ModelQueuePolicy(
        max_queue_size=requests or 0,
        default_timeout_microseconds=round((seconds or 0) * 1e6),
        timeout_action=pb.ModelQueuePolicy.DELAY if action == "delay" else pb.ModelQueuePolicy.REJECT,
    )
