"""gRPC calls of Triton's shared memory extensions: what clients register, unregister and ask about.

Knows the regions, and nothing of inferences. CUDA's are answered as what is not there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from google.protobuf.message import Message

from vintner.errors import Unsupported
from vintner.pb import grpc_service_pb2 as pb
from vintner.shared_memory import NO_CUDA, Regions


class SharedMemory:
    """One method for each RPC."""

    def __init__(self, regions: Regions) -> None:
        self._regions = regions

    @property
    def methods(self) -> Mapping[str, tuple[type[Message], Callable[[Any, Any], Message]]]:
        return {
            "SystemSharedMemoryStatus": (pb.SystemSharedMemoryStatusRequest, self.status),
            "SystemSharedMemoryRegister": (pb.SystemSharedMemoryRegisterRequest, self.register),
            "SystemSharedMemoryUnregister": (pb.SystemSharedMemoryUnregisterRequest, self.unregister),
            "CudaSharedMemoryStatus": (pb.CudaSharedMemoryStatusRequest, self.refuse_cuda),
            "CudaSharedMemoryRegister": (pb.CudaSharedMemoryRegisterRequest, self.refuse_cuda),
            "CudaSharedMemoryUnregister": (pb.CudaSharedMemoryUnregisterRequest, self.refuse_cuda),
        }

    def status(self, request: pb.SystemSharedMemoryStatusRequest, context: Any) -> Message:
        response = pb.SystemSharedMemoryStatusResponse()
        for region in self._regions.status(request.name):
            status = response.regions[region.name]
            status.name, status.key, status.offset, status.byte_size = (
                region.name,
                region.key,
                region.offset,
                region.size,
            )
        return response

    def register(self, request: pb.SystemSharedMemoryRegisterRequest, context: Any) -> Message:
        self._regions.register(request.name, request.key, request.offset, request.byte_size)
        return pb.SystemSharedMemoryRegisterResponse()

    def unregister(self, request: pb.SystemSharedMemoryUnregisterRequest, context: Any) -> Message:
        self._regions.unregister(request.name)
        return pb.SystemSharedMemoryUnregisterResponse()

    def refuse_cuda(self, request: Message, context: Any) -> Message:
        raise Unsupported(NO_CUDA)
