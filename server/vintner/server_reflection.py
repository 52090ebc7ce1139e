"""Server reflection over gRPC, as v1 and as v1alpha.

grpcio has v1alpha only. v1 is the same protocol under another package name: equal messages with equal numbers. So
one servicer answers both, and the description of v1 is made of v1alpha's. Invariant: what is described is in our own
descriptor pool, not in protobuf's default one; and however many clients call, they keep a few threads at most.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from threading import Semaphore
from typing import Any, Final

import grpc
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.json_format import MessageToJson, Parse
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from vintner.pb.pool import POOL

V1: Final = "grpc.reflection.v1.ServerReflection"

MOST_CALLS: Final = 16
"""Calls that are open at the same time: each is a stream, and keeps a thread for as long as its client likes."""


class _Reflection(reflection.ReflectionServicer):  # type: ignore[misc]
    """grpcio's, for so many calls."""

    def __init__(self, services: Sequence[str]) -> None:
        super().__init__(services, pool=POOL)
        self._places = Semaphore(MOST_CALLS)

    def ServerReflectionInfo(self, request_iterator: Iterator[Any], context: Any) -> Iterator[Any]:  # noqa: N802
        if not self._places.acquire(blocking=False):
            context.abort(grpc.StatusCode.UNAVAILABLE, f"{MOST_CALLS} calls of reflection are open already")
        try:
            yield from super().ServerReflectionInfo(request_iterator, context)
        finally:
            self._places.release()


def enable(server: grpc.Server, services: Sequence[str]) -> None:
    """Describes these services, whose files or those of `grpc.health` are in the pool, and reflection itself."""
    _describe(health_pb2.DESCRIPTOR.name, health_pb2.DESCRIPTOR.serialized_pb)
    _describe(reflection_pb2.DESCRIPTOR.name, reflection_pb2.DESCRIPTOR.serialized_pb)
    version_1 = _version_1()
    _describe(version_1.name, version_1.SerializeToString())
    servicer = _Reflection((*services, reflection.SERVICE_NAME, V1))
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, server)
    method = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(V1, {"ServerReflectionInfo": method}),))


def _describe(name: str, serialized_file: bytes) -> None:
    try:
        POOL.FindFileByName(name)
    except KeyError:
        POOL.AddSerializedFile(serialized_file)


def _version_1() -> FileDescriptorProto:
    """v1alpha's file under v1's names, which are all that JSON has of `v1alpha` in it."""
    file = FileDescriptorProto.FromString(reflection_pb2.DESCRIPTOR.serialized_pb)
    return Parse(MessageToJson(file).replace("v1alpha", "v1"), FileDescriptorProto())
