"""A model's tensors as TensorFlow Serving's metadata: a map of signatures, of which there is one.

Knows neither HTTP nor how requests are served. The keys are those of OpenVINO Model Server, which are protobuf's own
JSON (`modelSpec`, `tensorShape`); TensorFlow Serving writes them with underscores. Sizes are strings there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from vintner.types import TensorSpec

DTYPES: Final[Mapping[str, str]] = {
    "BOOL": "DT_BOOL",
    "UINT8": "DT_UINT8",
    "UINT16": "DT_UINT16",
    "UINT32": "DT_UINT32",
    "UINT64": "DT_UINT64",
    "INT8": "DT_INT8",
    "INT16": "DT_INT16",
    "INT32": "DT_INT32",
    "INT64": "DT_INT64",
    "FP16": "DT_HALF",
    "FP32": "DT_FLOAT",
    "FP64": "DT_DOUBLE",
    "BF16": "DT_BFLOAT16",
    "BYTES": "DT_STRING",
}


def metadata(
    name: str, version: str, inputs: Iterable[TensorSpec], outputs: Iterable[TensorSpec], signature: str
) -> dict[str, Any]:
    """The reply to a question about one version."""
    described = {
        "inputs": {spec.name: _tensor(spec) for spec in inputs},
        "outputs": {spec.name: _tensor(spec) for spec in outputs},
        "methodName": "",
        "defaults": {},
    }
    return {
        "modelSpec": {"name": name, "signatureName": "", "version": version},
        "metadata": {
            "signature_def": {
                "@type": "type.googleapis.com/tensorflow.serving.SignatureDefMap",
                "signatureDef": {signature: described},
            }
        },
    }


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    dimensions = [{"size": str(extent), "name": ""} for extent in spec.shape]
    return {
        "dtype": DTYPES[spec.datatype],
        "tensorShape": {"dim": dimensions, "unknownRank": False},
        "name": spec.name,
    }
