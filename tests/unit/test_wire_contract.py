"""The protocol's messages and service against tritonclient's, which is what the clients are built on."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, FileDescriptor
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import Default, DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from tritonclient.grpc import model_config_pb2 as triton_config
from tritonclient.grpc import service_pb2 as triton
from vintner.pb import grpc_service_pb2 as ours
from vintner.pb import model_config_pb2 as our_config
from vintner.pb.pool import POOL, define

ROOT = Path(__file__).parents[2]
GENERATOR = Path("scripts", "generate_pb.py")
FILES = [(our_config, triton_config), (ours, triton)]

Shape = dict[str, object]
Change = Callable[[FileDescriptorProto], object]


@pytest.mark.parametrize(("mine", "theirs"), FILES)
def test_messages_fields_enums_and_methods_are_exactly_those_of_triton(mine: ModuleType, theirs: ModuleType) -> None:
    expected = shape_of_file(theirs.DESCRIPTOR)
    assert len(expected) > 100
    assert shape_of_file(mine.DESCRIPTOR) == expected


@pytest.mark.parametrize(("mine", "theirs"), FILES)
def test_the_files_have_the_names_package_and_imports_of_triton(mine: ModuleType, theirs: ModuleType) -> None:
    assert identity(mine.DESCRIPTOR) == identity(theirs.DESCRIPTOR)


@pytest.mark.parametrize(
    "change",
    [
        lambda file: message(file).field[0].__setattr__("number", 99),
        lambda file: message(file).field[0].__setattr__("type", FieldDescriptorProto.TYPE_BYTES),
        lambda file: message(file).field[0].__setattr__("label", FieldDescriptorProto.LABEL_REPEATED),
        lambda file: message(file).field[0].__setattr__("proto3_optional", True),
        lambda file: message(file).field.pop(),
        lambda file: message(file).field.add(name="new", number=99, type=FieldDescriptorProto.TYPE_BOOL),
        lambda file: message(file, "InferParameter").field[0].ClearField("oneof_index"),
        lambda file: message(file, "InferParameter").oneof_decl[0].__setattr__("name", "other"),
        lambda file: message(file).nested_type[-1].options.ClearField("map_entry"),
        lambda file: message(file).nested_type[0].field[-1].__setattr__("type_name", ".inference.ModelConfig"),
        lambda file: file.message_type.add(name="New"),
        lambda file: file.enum_type.add(name="New").value.add(name="NEW", number=0),
        lambda file: file.service[0].method.pop(),
        lambda file: file.service[0].method[0].__setattr__("output_type", ".inference.ModelConfigResponse"),
        lambda file: file.service[0].method[0].__setattr__("client_streaming", True),
        lambda file: file.service[0].method[0].__setattr__("server_streaming", True),
    ],
)
def test_a_difference_of_any_kind_would_be_seen(change: Change) -> None:
    file = FileDescriptorProto.FromString(triton.DESCRIPTOR.serialized_pb)
    change(file)
    add_oneofs_of_optional_fields(file)
    assert shape_of_file(descriptor_of(file)) != shape_of_file(triton.DESCRIPTOR)


@pytest.mark.parametrize("packages", [("vintner.pb", "tritonclient.grpc"), ("tritonclient.grpc", "vintner.pb")])
@pytest.mark.parametrize("implementation", ["upb", "python"])
def test_either_package_may_be_imported_first(packages: Sequence[str], implementation: str) -> None:
    modules = [f"{package}.{name}" for package in packages for name in module_names(package)]
    script = (
        "import importlib, json\n"
        f"modules = [importlib.import_module(name) for name in {modules!r}]\n"
        "from vintner.pb import grpc_service_pb2 as pb\n"
        "tensor = pb.ModelInferRequest.InferInputTensor(name='x', shape=[1, 2])\n"
        "sent = pb.ModelInferRequest(inputs=[tensor]).SerializeToString()\n"
        "from tritonclient.grpc import service_pb2\n"
        "received = service_pb2.ModelInferRequest.FromString(sent)\n"
        "from google.protobuf.internal import api_implementation\n"
        "print(json.dumps([api_implementation.Type(), list(received.inputs[0].shape)]))\n"
    )
    environment = {**os.environ, "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": implementation}
    assert json.loads(run("-W", "error", "-c", script, environment=environment)) == [implementation, [1, 2]]


def test_the_default_pool_does_not_hear_of_our_messages() -> None:
    script = (
        "from vintner.pb import grpc_service_pb2\n"
        "from google.protobuf.descriptor_pool import Default\n"
        "try:\n"
        "    Default().FindFileContainingSymbol('inference.ModelInferRequest')\n"
        "except KeyError:\n"
        "    print('unknown')\n"
    )
    assert run("-c", script) == "unknown\n"


def test_the_committed_code_is_what_the_generator_writes() -> None:
    run(str(ROOT / GENERATOR), "--check")


def test_the_generator_tells_stale_files_and_mends_them(tmp_path: Path) -> None:
    generator, package = copy_sources(tmp_path)
    (package / "grpc_service_pb2.pyi").unlink()
    (package / "model_config_pb2.py").write_text("edited by hand")
    (package / "left_over_pb2.py").touch()
    check = subprocess.run([sys.executable, generator, "--check"], capture_output=True, text=True, check=False)
    assert check.returncode == 1
    stale = [line.split()[0] for line in check.stderr.splitlines()]
    assert stale == ["grpc_service_pb2.pyi", "left_over_pb2.py", "model_config_pb2.py"]
    run(str(generator))
    run(str(generator), "--check")
    assert (package / "pool.py").exists()


@pytest.mark.parametrize(("mine", "theirs"), [(ours, triton), (triton, ours)])
def test_an_infer_request_survives_the_way_from_one_package_to_the_other(mine: ModuleType, theirs: ModuleType) -> None:
    sent = infer_request(mine)
    received = type(infer_request(theirs)).FromString(sent.SerializeToString(deterministic=True))
    assert received == infer_request(theirs)
    assert type(received) is not type(sent)


@pytest.mark.parametrize(("mine", "theirs"), [(our_config, triton_config), (triton_config, our_config)])
def test_a_model_config_survives_the_way_from_one_package_to_the_other(mine: ModuleType, theirs: ModuleType) -> None:
    sent = model_config(mine)
    received = type(model_config(theirs)).FromString(sent.SerializeToString(deterministic=True))
    assert received == model_config(theirs)


def test_every_message_has_a_class_where_its_name_says() -> None:
    for file in (ours, our_config):
        for message_type in all_messages(file.DESCRIPTOR.message_types_by_name.values()):
            cls: object = file
            for name in message_type.full_name.removeprefix("inference.").split("."):
                cls = getattr(cls, name)
            assert cls is GetMessageClass(message_type)


def test_every_enum_value_is_a_constant_where_its_name_says() -> None:
    assert our_config.TYPE_BF16 == our_config.DataType.Value("TYPE_BF16") == 14
    assert our_config.DataType.Name(14) == "TYPE_BF16"
    assert our_config.ModelInstanceGroup.KIND_CPU == our_config.ModelInstanceGroup.Kind.Value("KIND_CPU") == 2


@pytest.mark.parametrize("other", [health_pb2, reflection_pb2])
def test_the_pool_takes_the_files_of_other_services_and_takes_them_twice(other: ModuleType) -> None:
    for _ in range(2):
        POOL.AddSerializedFile(other.DESCRIPTOR.serialized_pb)
    assert POOL.FindFileByName(other.DESCRIPTOR.name) is not Default().FindFileByName(other.DESCRIPTOR.name)


def test_the_pool_finds_the_service_and_each_of_its_methods() -> None:
    service = POOL.FindServiceByName("inference.GRPCInferenceService")
    assert service is ours.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    assert all(POOL.FindMethodByName(method.full_name) is method for method in service.methods)


def test_a_file_is_refused_until_those_that_it_imports_are_there() -> None:
    orphan = FileDescriptorProto(name="orphan.proto", dependency=["absent.proto"])
    with pytest.raises(TypeError, match=r"absent\.proto"):
        define(__name__, orphan.SerializeToString())


def test_a_different_file_of_the_same_name_is_refused() -> None:
    with pytest.raises(TypeError, match=r"model_config\.proto"):
        define(__name__, FileDescriptorProto(name="model_config.proto").SerializeToString())


def shape_of_file(file: FileDescriptor) -> Shape:
    """All that matters on the wire, by full name: `inference.Message.field`, `.Enum`, `.Service.Method`."""
    shape: Shape = {}
    messages = list(all_messages(file.message_types_by_name.values()))
    for message_type in messages:
        shape[message_type.full_name] = message_shape(message_type)
        shape |= {field.full_name: field_shape(field) for field in message_type.fields}
    enums = [*file.enum_types_by_name.values(), *(enum for each in messages for enum in each.enum_types)]
    shape |= {enum.full_name: enum_shape(enum) for enum in enums}
    for service in file.services_by_name.values():
        for method in service.methods:
            types = (method.input_type.full_name, method.output_type.full_name)
            shape[method.full_name] = (*types, method.client_streaming, method.server_streaming)
    return shape


def all_messages(messages: Iterable[Descriptor]) -> Iterator[Descriptor]:
    for message_type in messages:
        yield message_type
        yield from all_messages(message_type.nested_types)


def message_shape(message_type: Descriptor) -> object:
    proto = DescriptorProto()
    message_type.CopyToProto(proto)
    reserved = [*proto.reserved_name, *((span.start, span.end) for span in proto.reserved_range)]
    return message_type.GetOptions().map_entry, sorted(message_type.oneofs_by_name), reserved


def field_shape(field: FieldDescriptor) -> Shape:
    return {
        "number": field.number,
        "type": field.type,
        "repeated": field.is_repeated,
        "packed": field.is_packed,
        "presence": field.has_presence,
        "oneof": field.containing_oneof and field.containing_oneof.full_name,
        "message": field.message_type and field.message_type.full_name,
        "enum": field.enum_type and field.enum_type.full_name,
        "default": None if field.is_repeated else field.default_value,
    }


def enum_shape(enum: EnumDescriptor) -> Shape:
    return {"enum": enum.full_name, **{value.name: value.number for value in enum.values}}


def identity(file: FileDescriptor) -> object:
    proto = FileDescriptorProto.FromString(file.serialized_pb)
    return proto.name, proto.package, proto.syntax, list(proto.dependency), list(proto.public_dependency)


def message(file: FileDescriptorProto, name: str = "ModelInferRequest") -> DescriptorProto:
    return next(each for each in file.message_type if each.name == name)


def add_oneofs_of_optional_fields(file: FileDescriptorProto) -> None:
    """An optional field is valid only in a oneof of its own, as protoc writes it."""
    for each in file.message_type:
        for field in each.field:
            if field.proto3_optional:
                field.oneof_index = len(each.oneof_decl)
                each.oneof_decl.add(name=f"_{field.name}")


def descriptor_of(file: FileDescriptorProto) -> FileDescriptor:
    pool = DescriptorPool()
    pool.AddSerializedFile(triton_config.DESCRIPTOR.serialized_pb)
    return pool.AddSerializedFile(file.SerializeToString())


def infer_request(pb: Any) -> Any:
    request = pb.ModelInferRequest(model_name="iris", id="7", raw_input_contents=[b"\0\1"])
    request.parameters["priority"].uint64_param = 2**64 - 1
    request.parameters["note"].string_param = "ä"
    tensor = request.inputs.add(name="x", datatype="INT8", shape=[-1, 2**40])
    contents = pb.InferTensorContents(int_contents=[-128, 127], fp32_contents=[0.5], bytes_contents=[b""])
    tensor.contents.CopyFrom(contents)
    tensor.parameters["scale"].double_param = 0.1
    request.outputs.add(name="y").parameters["classification"].int64_param = -3
    return request


def model_config(pb: Any) -> Any:
    config = pb.ModelConfig(name="iris", max_batch_size=8)
    config.input.add(name="x", data_type=pb.TYPE_BF16, dims=[-1, 4], format=pb.ModelInput.FORMAT_NCHW)
    config.dynamic_batching.priority_queue_policy[3].timeout_action = pb.ModelQueuePolicy.DELAY
    config.optimization.cuda.graph_spec.add(batch_size=2).graph_lower_bound.input["x"].dim.append(4)
    config.parameters["threads"].string_value = "2"
    return config


def module_names(package: str) -> Sequence[str]:
    return ["grpc_service_pb2", "model_config_pb2"] if package == "vintner.pb" else ["service_pb2", "model_config_pb2"]


def copy_sources(folder: Path) -> tuple[Path, Path]:
    """The generator and the package that it writes to, in a copy."""
    for path in (GENERATOR.parent, Path("proto"), Path("server", "vintner", "pb")):
        shutil.copytree(ROOT / path, folder / path)
    return folder / GENERATOR, folder / "server" / "vintner" / "pb"


def run(*arguments: str, environment: dict[str, str] | None = None) -> str:
    done = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
