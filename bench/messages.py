"""Inference requests as the bytes that a load generator sends: a gRPC frame, REST JSON, REST with binary tensors."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2

GRPC_PATH = "/inference.GRPCInferenceService/ModelInfer"
GRPC_HEADERS = ("content-type: application/grpc", "te: trailers")
_DATATYPES = {"float32": "FP32", "int64": "INT64"}


@dataclass(frozen=True, slots=True)
class Message:
    """A request's body, in a file, with the path and the headers that go with it."""

    path: str
    headers: tuple[str, ...]
    body: Path

    @property
    def size(self) -> int:
        """Bytes of the body."""
        return self.body.stat().st_size


def grpc_message(directory: Path, model: str, name: str, array: NDArray[np.float32]) -> Message:
    """ModelInfer with raw contents, behind gRPC's prefix: no compression, length in four bytes, big-endian."""
    message = infer_request(model, {name: array})
    return Message(
        GRPC_PATH, GRPC_HEADERS, _write(directory / f"{model}.grpc", struct.pack(">BI", 0, len(message)) + message)
    )


def infer_request(model: str, inputs: Mapping[str, NDArray[Any]]) -> bytes:
    """ModelInfer with raw contents, for a client that frames it by itself."""
    request = service_pb2.ModelInferRequest(
        model_name=model, raw_input_contents=[array.tobytes() for array in inputs.values()]
    )
    for name, array in inputs.items():
        request.inputs.add(name=name, datatype=_DATATYPES[array.dtype.name], shape=array.shape)
    return bytes(request.SerializeToString())


def json_message(directory: Path, model: str, name: str, array: NDArray[np.float32]) -> Message:
    """Values as JSON numbers with four digits, as people write them."""
    tensor = {"name": name, "datatype": "FP32", "shape": array.shape, "data": [round(float(v), 4) for v in array.flat]}
    body = json.dumps({"inputs": [tensor]}).encode()
    return Message(_rest_path(model), ("content-type: application/json",), _write(directory / f"{model}.json", body))


def binary_message(directory: Path, model: str, name: str, array: NDArray[np.float32]) -> Message:
    """The binary tensor extension, both ways, as tritonclient sends it."""
    values = array.tobytes()
    tensor = {
        "name": name,
        "datatype": "FP32",
        "shape": array.shape,
        "parameters": {"binary_data_size": len(values)},
    }
    header = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    headers = ("content-type: application/octet-stream", f"inference-header-content-length: {len(header)}")
    return Message(_rest_path(model), headers, _write(directory / f"{model}.binary", header + values))


def _rest_path(model: str) -> str:
    return f"/v2/models/{model}/infer"


def _write(file: Path, body: bytes) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(body)
    return file
