"""Our messages against tritonclient's: the descriptors that clients in the field were built with."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from tritonclient.grpc import model_config_pb2 as their_config
from tritonclient.grpc import service_pb2 as their_service
from vintner.pb import grpc_service_pb2, model_config_pb2

ROOT = Path(__file__).resolve().parents[2]
FILES = pytest.mark.parametrize(
    ("ours", "theirs"), [(grpc_service_pb2, their_service), (model_config_pb2, their_config)], ids=["service", "config"]
)


def described(module: ModuleType) -> dict[str, Any]:
    """Everything that is on the wire, by full name."""
    file = module.DESCRIPTOR
    facts: dict[str, Any] = {}
    for enum in file.enum_types_by_name.values():
        facts.update(enum_facts(enum))
    for message in file.message_types_by_name.values():
        facts.update(message_facts(message))
    for service in file.services_by_name.values():
        for method in service.methods:
            streams = (method.client_streaming, method.server_streaming)
            facts[method.full_name] = (method.input_type.full_name, method.output_type.full_name, *streams)
    return facts


def enum_facts(enum: EnumDescriptor) -> Iterator[tuple[str, Any]]:
    yield enum.full_name, {value.name: value.number for value in enum.values}


def message_facts(message: Descriptor) -> Iterator[tuple[str, Any]]:
    yield message.full_name, {field.name: field_facts(field) for field in message.fields}
    for enum in message.enum_types:
        yield from enum_facts(enum)
    for nested in message.nested_types:
        yield from message_facts(nested)


def field_facts(field: FieldDescriptor) -> tuple[Any, ...]:
    kind = field.message_type or field.enum_type
    is_map = bool(field.message_type and field.message_type.GetOptions().map_entry)
    oneof = field.containing_oneof.name if field.containing_oneof else None
    return field.number, field.type, field.is_repeated, is_map, kind.full_name if kind else None, oneof


@FILES
def test_every_message_field_enum_and_method_is_the_clients(ours: ModuleType, theirs: ModuleType) -> None:
    expected = described(theirs)
    assert len(expected) > 30
    assert described(ours) == expected


def test_a_message_of_theirs_is_read_by_ours_and_back() -> None:
    request = their_service.ModelInferRequest(model_name="m", id="7")
    request.inputs.add(name="x", datatype="FP32", shape=[1, 2])
    request.parameters["p"].double_param = 0.5
    request.raw_input_contents.append(b"12345678")
    ours = grpc_service_pb2.ModelInferRequest.FromString(request.SerializeToString())
    assert (ours.model_name, ours.inputs[0].shape, ours.parameters["p"].double_param) == ("m", [1, 2], 0.5)
    assert their_service.ModelInferRequest.FromString(ours.SerializeToString()) == request


@pytest.mark.parametrize("order", ["server first", "client first"])
def test_server_and_client_can_be_imported_in_one_process(order: str) -> None:
    imports = ["import vintner.pb.grpc_service_pb2", "import tritonclient.grpc"]
    program = "; ".join(imports if order == "server first" else reversed(imports))
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_the_generated_code_is_current() -> None:
    check = subprocess.run(
        [sys.executable, ROOT / "scripts" / "generate_pb.py", "--check"], capture_output=True, text=True, check=False
    )
    assert check.returncode == 0, check.stderr
