"""gRPC messages of Triton's model repository extension, to and from plain values.

Knows the messages, not the server. Invariant: a `file:` parameter comes out as the bytes of the file.
"""

from __future__ import annotations

from collections.abc import Sequence

from vintner.control_parameters import FILE, NO_REPOSITORIES, Value
from vintner.errors import InvalidArgument, Unsupported
from vintner.managed_model import IndexEntry
from vintner.pb import grpc_service_pb2 as pb


def encode_index(entries: Sequence[IndexEntry]) -> pb.RepositoryIndexResponse:
    index = pb.RepositoryIndexResponse.ModelIndex
    return pb.RepositoryIndexResponse(
        models=[index(name=e.name, version=e.version, state=e.state or "", reason=e.reason) for e in entries]
    )


def decode_control(message: pb.RepositoryModelLoadRequest | pb.RepositoryModelUnloadRequest) -> dict[str, Value]:
    """The parameters of a load or an unload. Raises InvalidArgument for one without a value, and for files as text."""
    values: dict[str, Value] = {}
    for name, parameter in message.parameters.items():
        kind = parameter.WhichOneof("parameter_choice")
        if kind is None:
            raise InvalidArgument(f"parameter '{name}' has no value")
        if name.startswith(FILE) and kind != "bytes_param":
            raise InvalidArgument(f"parameter '{name}' must be the content of a file, in bytes_param")
        values[name] = getattr(parameter, kind)
    return values


def controlled_model(message: pb.RepositoryModelLoadRequest | pb.RepositoryModelUnloadRequest) -> str:
    """KServe's messages have the model's name where Triton's have the repository's. Raises Unsupported for both."""
    if message.model_name and message.repository_name:
        raise Unsupported(NO_REPOSITORIES)
    return message.model_name or message.repository_name
