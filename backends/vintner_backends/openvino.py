"""OpenVINO: loads IR, ONNX, TensorFlow, TensorFlow Lite and PaddlePaddle models and compiles each once.

Knows nothing of requests; `openvino_instance` runs them. Invariant: nothing is written beside a model.
What the library does not tell: on a CPU it computes INT64 and UINT64 in 32 bits and FP64 in FP32, and where
the hardware has bfloat16 it computes FP32 models in that, unless `precision` says otherwise.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import openvino as ov
from openvino import opset15
from vintner.backend import Device, LoadSpec
from vintner.errors import LoadError, nearest
from vintner.types import TensorSpec

from vintner_backends.brevity import is_brief, worth_trying
from vintner_backends.cpu_budget import CpuBudget, cpu_budget
from vintner_backends.discovery import choose, require_companion
from vintner_backends.openvino_config import (
    check_device,
    compile_properties,
    is_cpu,
    known_options,
    loses_errors,
    on_callers_thread,
    pinned_copies,
    read_properties,
    streams_of,
)
from vintner_backends.openvino_instance import SHARED_FROM, OpenVINOInstance, StringInstance, reason
from vintner_backends.openvino_reshaping import apply_options
from vintner_backends.openvino_strings import carry_strings_as_bytes
from vintner_backends.pinning import pinned

PLATFORMS: Final[Mapping[str, str]] = {
    ".xml": "openvino_ir",
    ".onnx": "onnx_onnxv1",
    ".tflite": "tflite",
    ".pdmodel": "paddle",
}
"""By suffix; a TensorFlow SavedModel is a directory."""
SAVED_MODEL: Final = "saved_model.pb"
WEIGHTS: Final[Mapping[str, str]] = {".xml": ".bin", ".pdmodel": ".pdiparams"}
PREFERRED: Final = ("model.xml", "model.onnx", "model.savedmodel", "model.tflite", "model.pdmodel")
DATATYPES: Final[Mapping[str, str]] = {
    "boolean": "BOOL",
    "u8": "UINT8",
    "u16": "UINT16",
    "u32": "UINT32",
    "u64": "UINT64",
    "i8": "INT8",
    "i16": "INT16",
    "i32": "INT32",
    "i64": "INT64",
    "f16": "FP16",
    "f32": "FP32",
    "f64": "FP64",
    "bf16": "BF16",
    "string": "BYTES",
}


ALONE: Final = CpuBudget(threads=1, instances=1)
"""An instance that computes on its caller's thread."""
Specs = Sequence[TensorSpec]


class OpenVINOBackend:
    """One `ov.Core` for all models; OpenVINO locks it itself."""

    def __init__(self) -> None:
        self._core = ov.Core()
        self._options = cache(partial(known_options, self._core))
        prepare_bindings(self._core)

    def find(self, directory: Path) -> Path | None:
        if (directory / SAVED_MODEL).is_file():
            return directory
        model = choose([entry for entry in directory.iterdir() if is_model(entry)], PREFERRED)
        if model is not None and model.suffix in WEIGHTS:
            require_companion(model, WEIGHTS[model.suffix])
        return model

    def load(self, spec: LoadSpec) -> OpenVINOModel:
        check_device(self._core, spec.device)
        budget = cpu_budget(spec)
        count = 1
        if spec.affinity:
            count = pinned_copies(spec, budget)
            budget = ALONE
        compile_properties(self._options, spec, budget)  # what it objects to is told before the model is read
        with library_errors(spec.path):
            model = self._core.read_model(spec.path, config=read_properties(spec))
        model = apply_options(model, spec.options, port_names)
        reshape(model, spec.shapes, spec.rows)
        inputs, outputs = tensor_specs(model.inputs, "input"), tensor_specs(model.outputs, "output")
        carry_strings_as_bytes(model)
        if worth_trying(spec, weights_of(model)):
            brief = self._open(spec, ALONE, 1, model, (inputs, outputs))
            if is_brief(brief.instances[0], inputs):
                return brief
            brief.close()
        return self._open(spec, budget, count, model, (inputs, outputs))

    def _open(
        self, spec: LoadSpec, budget: CpuBudget, count: int, model: ov.Model, tensors: tuple[Specs, Specs]
    ) -> OpenVINOModel:
        """Compiles a model that was read, so many times. `tensors` are its inputs and outputs as they are served."""
        inputs, outputs = tensors
        properties = compile_properties(self._options, spec, budget)
        with library_errors(spec.path):
            copies = [compile_audibly(self._core, model, spec.device, properties) for _ in range(count)]
            compiled = copies[0]
            requests = [one.create_infer_request() for one in copies for _ in range(slots(spec, budget, compiled))]
        kind = StringInstance if any(tensor.datatype == "BYTES" for tensor in inputs) else OpenVINOInstance
        streams = streams_of(compiled)
        instances = [kind(request, inputs, outputs, streams) for request in requests]
        platform = PLATFORMS.get(spec.path.suffix, "tensorflow_savedmodel")
        return OpenVINOModel(platform, inputs, outputs, instances, spec.affinity)

    def devices(self) -> Sequence[Device]:
        return devices_of(self._core)


def devices_of(core: ov.Core) -> Sequence[Device]:
    return [Device(name, core.get_property(name, "FULL_DEVICE_NAME")) for name in core.available_devices]


def prepare_bindings(core: ov.Core) -> None:
    """Runs a model of one node, small and large, so that OpenVINO's Python bindings set up here what they need.

    They do so on first use, in a way that two threads cannot do at the same time: one waits for the interpreter's lock
    with the guard of a C++ static held, the other the other way round, and the process stands still.
    """
    parameter = opset15.parameter([-1], ov.Type.f32)
    model = ov.Model([opset15.relu(parameter)], [parameter])
    request = core.compile_model(model, "CPU", {"NUM_STREAMS": 0, "INFERENCE_NUM_THREADS": 1}).create_infer_request()
    spec = TensorSpec("x", "FP32", (-1,))
    instance = OpenVINOInstance(request, [spec], [spec])
    for size in (1, 2, SHARED_FROM, 1):
        instance.run({"x": np.zeros(size, np.float32)})
    instance.close()


class OpenVINOModel:
    """A compiled model: it lives as long as one of its infer requests does."""

    def __init__(
        self,
        platform: str,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        slots: Sequence[OpenVINOInstance],
        affinity: frozenset[int] = frozenset(),
    ) -> None:
        self.platform = platform
        self.inputs = inputs
        self.outputs = outputs
        self.instances = pinned(slots, affinity)
        self._slots = slots

    def close(self) -> None:
        for slot in self._slots:
            slot.close()
        self.instances = self._slots = ()


@contextmanager
def library_errors(path: Path) -> Iterator[None]:
    """Turns what OpenVINO raises into a LoadError that names the file without the path to it."""
    try:
        yield
    except (RuntimeError, TypeError, ValueError) as exc:
        raise LoadError(reason(exc).replace(f"{path.parent}/", "")) from exc


def is_model(entry: Path) -> bool:
    return (entry / SAVED_MODEL).is_file() if entry.is_dir() else entry.suffix in PLATFORMS


def compile_audibly(core: ov.Core, model: ov.Model, device: str, properties: dict[str, Any]) -> ov.CompiledModel:
    """Compiles so that a run which fails says so.

    Only where the one core that there is has two hyper-threads does it take a second try: there OpenVINO makes one
    thread of two.
    """
    compiled = core.compile_model(model, device, properties)
    if not loses_errors(compiled):
        return compiled
    return core.compile_model(model, device, on_callers_thread(properties))


def weights_of(model: ov.Model) -> int:
    """Bytes of a model's constants; more than any model is small with, if it has parts that are run in a loop, since
    how long that takes depends on the values."""
    kinds = model.get_ordered_ops()
    if any(one.get_type_name() in ("Loop", "TensorIterator", "If") for one in kinds):
        return sys.maxsize
    return sum(one.get_output_tensor(0).size for one in kinds if one.get_type_name() == "Constant")


def slots(spec: LoadSpec, budget: CpuBudget, compiled: ov.CompiledModel) -> int:
    asked = budget.instances if is_cpu(spec.device) else spec.instances
    optimal: int = compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
    return asked or optimal


def reshape(model: ov.Model, shapes: Mapping[str, tuple[int, ...]], rows: int | None = None) -> None:
    """Gives inputs other shapes, and all of them the same first extent, unless `rows` is None.

    Raises LoadError for an input that is not there, or a shape that does not fit.
    """
    names = port_names(model.inputs, "input")
    for name in shapes:
        if name not in names:
            raise LoadError(f"the model has no input '{name}' to reshape{nearest(name, names)}")
    wanted = {
        name: with_rows(name, ov.PartialShape(list(shapes[name])) if name in shapes else port.partial_shape, rows)
        for name, port in zip(names, model.inputs, strict=True)
        if name in shapes or rows is not None
    }
    if not wanted:
        return
    try:
        model.reshape({port: wanted[name] for name, port in zip(names, model.inputs, strict=True) if name in wanted})
    except RuntimeError as exc:
        given = ", ".join(f"{name} {list(map(extent, shape))}" for name, shape in wanted.items())
        raise LoadError(f"the model cannot take the shape {given}: {reason(exc)}") from exc


def with_rows(name: str, shape: ov.PartialShape, rows: int | None) -> ov.PartialShape:
    """The shape with another first extent. Raises LoadError for one that has none, or leaves open how many it has."""
    if rows is None:
        return shape
    if shape.rank.is_dynamic or not len(shape):
        raise LoadError(f"input '{name}' has shape {shape}, in which no first dimension can be set to {rows}")
    changed = ov.PartialShape(shape)
    changed[0] = rows
    return changed


def tensor_specs(ports: Sequence[Any], kind: str) -> list[TensorSpec]:
    names = port_names(ports, kind)
    return [tensor_spec(name, port, kind) for name, port in zip(names, ports, strict=True)]


def port_names(ports: Sequence[Any], kind: str) -> list[str]:
    """The tensors' names. One that has none, or that another has already, is called by its place: `output_1`."""
    names: list[str] = []
    for index, port in enumerate(ports):
        name = port.any_name if port.names else ""
        names.append(name if name and name not in names else f"{kind}_{index}")
    return names


def tensor_spec(name: str, port: Any, kind: str) -> TensorSpec:
    """Raises LoadError for a type that KServe has no name for. An output whose rank is open is given as [-1]."""
    type_name = port.get_element_type().get_type_name()
    if type_name not in DATATYPES:
        raise LoadError(f"{kind} '{name}' is of type {type_name}, which has no KServe datatype")
    shape = port.get_partial_shape()
    if shape.rank.is_static:
        return TensorSpec(name, DATATYPES[type_name], tuple(extent(dimension) for dimension in shape))
    if kind == "input":
        raise LoadError(f"input '{name}' leaves its number of dimensions open; give its shape in config.yaml")
    return TensorSpec(name, DATATYPES[type_name], (-1,))


def extent(dimension: Any) -> int:
    return dimension.get_length() if dimension.is_static else -1
