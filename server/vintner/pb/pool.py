"""The descriptor pool that holds Vintner's protobuf package, and how the generated modules fill it.

It takes the place of protobuf's default pool and symbol database, which are never touched. protobuf's own module
builder is not used for that reason: it registers each class with the default symbol database, and protobuf's
pure-Python implementation passes it on to the default pool.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, FileDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
from google.protobuf.message import Message
from google.protobuf.reflection import GeneratedProtocolMessageType

# Files of other packages may be added, with all that they import: `POOL.AddSerializedFile(DESCRIPTOR.serialized_pb)`.
POOL: Final = DescriptorPool()


def define(module: str, serialized_file: bytes) -> dict[str, Any]:
    """Put a `.proto` file into POOL. Returned is what the generated module contains: descriptor, classes, enum values.

    Raises TypeError if a file that this one imports is not in POOL yet, or if POOL has another file of its name.
    """
    file = POOL.AddSerializedFile(serialized_file)
    messages = {name: _message_class(message, module) for name, message in file.message_types_by_name.items()}
    return {"DESCRIPTOR": file, **dict(_enums(file)), **messages}


def _enums(file: FileDescriptor) -> Iterator[tuple[str, Any]]:
    for name, enum in file.enum_types_by_name.items():
        yield name, EnumTypeWrapper(enum)
        yield from ((value.name, value.number) for value in enum.values)


def _message_class(message: Descriptor, module: str, scope: str = "") -> GeneratedProtocolMessageType:
    """The class of a message and, as its attributes, of those inside it. `module` and `scope` are for its repr."""
    path = scope + message.name
    nested = {name: _message_class(inner, module, f"{path}.") for name, inner in message.nested_types_by_name.items()}
    names = {**nested, "DESCRIPTOR": message, "__module__": module, "__qualname__": path}
    return GeneratedProtocolMessageType(message.name, (Message,), names)
