"""ONNX Runtime: loads `.onnx` files into one session for each model, which its instances share.

Knows nothing of requests; `onnxruntime_instance` runs them. Invariant: only execution providers that were asked for,
and the CPU that the library always adds behind them, compute; a provider that cannot start is an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import onnxruntime
from vintner.backend import Device, LoadSpec
from vintner.errors import LoadError
from vintner.types import TensorSpec

from vintner_backends.brevity import is_brief, worth_trying
from vintner_backends.discovery import choose
from vintner_backends.onnxruntime_config import (
    SUFFIX,
    Provider,
    Threads,
    check_supported,
    providers,
    session_options,
    threads,
)
from vintner_backends.onnxruntime_instance import BoundInstance, OnnxRuntimeInstance, reason
from vintner_backends.pinning import bound, pinned

PREFERRED: Final = ("model.onnx",)
DATATYPES: Final[Mapping[str, str]] = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(bfloat16)": "BF16",
    "tensor(string)": "BYTES",
}


class OnnxRuntimeBackend:
    """Holds no state: every session stands alone."""

    def find(self, directory: Path) -> Path | None:
        return choose(list(directory.glob("*.onnx")), PREFERRED)

    def load(self, spec: LoadSpec) -> OnnxRuntimeModel:
        check_supported(spec)
        chosen = providers(spec)
        division = threads(spec, chosen)
        if division.intra_op > 1 and worth_trying(spec, spec.path.stat().st_size):
            brief = self._open(spec, replace(division, intra_op=1), chosen)
            if is_brief(brief.instances[0], brief.inputs):
                return brief
            brief.close()
        return self._open(spec, division, chosen)

    def _open(self, spec: LoadSpec, division: Threads, chosen: Sequence[Provider]) -> OnnxRuntimeModel:
        with bound(spec.affinity):  # the session's threads are started here, and keep to the cores
            session = open_session(spec.path, session_options(spec, division), chosen)
        inputs, outputs = tensor_specs(session.get_inputs(), "input"), tensor_specs(session.get_outputs(), "output")
        check_rows(inputs, spec.rows)
        kind = instance_kind(inputs, outputs)
        slots = [kind(session, inputs, outputs) for _ in range(division.instances)]
        return OnnxRuntimeModel(inputs, outputs, slots, spec.affinity)

    def devices(self) -> Sequence[Device]:
        return [Device(name.removesuffix(SUFFIX), name) for name in onnxruntime.get_available_providers()]


class OnnxRuntimeModel:
    """A session: it lives as long as one of its instances holds it."""

    platform = "onnx_onnxv1"

    def __init__(
        self,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        slots: Sequence[OnnxRuntimeInstance],
        affinity: frozenset[int] = frozenset(),
    ) -> None:
        self.inputs = inputs
        self.outputs = outputs
        self.instances = pinned(slots, affinity)
        self._slots = slots

    def close(self) -> None:
        for slot in self._slots:
            slot.close()
        self.instances = self._slots = ()


def open_session(
    path: Path, options: onnxruntime.SessionOptions, chosen: Sequence[Provider]
) -> onnxruntime.InferenceSession:
    """Raises LoadError with the library's reason, or if a provider did not start and the library went on without."""
    wanted = [(provider.name, dict(provider.options)) for provider in chosen]
    try:
        session = onnxruntime.InferenceSession(path, options, providers=wanted, enable_fallback=False)
    except Exception as exc:  # the library's exceptions have no base of their own
        raise LoadError(reason(exc).replace(f"{path.parent}/", "")) from exc
    for name, _ in wanted:
        if name not in session.get_providers():
            raise LoadError(f"{name} did not start; ONNX Runtime has only {', '.join(session.get_providers())}")
    return session


def check_rows(inputs: Sequence[TensorSpec], rows: int | None) -> None:
    """Raises LoadError if an input does not have so many rows by itself."""
    for tensor in inputs if rows is not None else ():
        if tensor.shape[:1] != (rows,):
            raise LoadError(
                f"ONNX Runtime cannot reshape a model, and input '{tensor.name}' has shape {list(tensor.shape)}, not"
                f" {rows} rows; use the size that it has, or the openvino backend"
            )


def instance_kind(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> type[OnnxRuntimeInstance]:
    """Raises LoadError for the one mixture that the library can be handed in no way."""
    if not any(tensor.datatype == "BF16" for tensor in (*inputs, *outputs)):
        return OnnxRuntimeInstance
    if any(tensor.datatype == "BYTES" for tensor in inputs):
        raise LoadError("ONNX Runtime cannot bind string inputs, and BF16 has to be bound: a model cannot have both")
    return BoundInstance


def tensor_specs(arguments: Sequence[Any], kind: str) -> list[TensorSpec]:
    return [tensor_spec(argument, kind) for argument in arguments]


def tensor_spec(argument: Any, kind: str) -> TensorSpec:
    """Raises LoadError for what is no tensor of a KServe datatype, such as the maps that ZipMap makes."""
    if argument.type not in DATATYPES:
        raise LoadError(f"{kind} '{argument.name}' is a {argument.type}, which has no KServe datatype")
    shape = tuple(extent if isinstance(extent, int) and extent >= 0 else -1 for extent in argument.shape)
    return TensorSpec(argument.name, DATATYPES[argument.type], shape)
