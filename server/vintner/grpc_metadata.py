"""What is said of the server and its models, as KServe's and Triton's gRPC messages.

Knows the messages, not the server. Documents have the names and the nesting of their messages (`statistics`,
`triton_view`), so these are filled from them as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from google.protobuf.json_format import ParseDict

from vintner.pb import grpc_service_pb2 as pb
from vintner.service import ModelMetadata, ServerMetadata
from vintner.types import TensorSpec


def encode_server_metadata(metadata: ServerMetadata) -> pb.ServerMetadataResponse:
    return pb.ServerMetadataResponse(name=metadata.name, version=metadata.version, extensions=metadata.extensions)


def encode_model_metadata(metadata: ModelMetadata) -> pb.ModelMetadataResponse:
    return pb.ModelMetadataResponse(
        name=metadata.name,
        versions=metadata.versions,
        platform=metadata.platform,
        inputs=_tensor_metadata(metadata.inputs),
        outputs=_tensor_metadata(metadata.outputs),
    )


def _tensor_metadata(specs: Sequence[TensorSpec]) -> list[pb.ModelMetadataResponse.TensorMetadata]:
    return [
        pb.ModelMetadataResponse.TensorMetadata(name=spec.name, datatype=spec.datatype, shape=spec.shape)
        for spec in specs
    ]


def encode_statistics(document: dict[str, Any]) -> pb.ModelStatisticsResponse:
    return ParseDict(document, pb.ModelStatisticsResponse())


def encode_model_config(document: dict[str, Any]) -> pb.ModelConfigResponse:
    return ParseDict({"config": document}, pb.ModelConfigResponse())
