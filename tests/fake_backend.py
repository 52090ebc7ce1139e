"""A backend held in memory: what the core is tested with, where a runtime library would hide what happens.

A model is a JSON document, in a `*.fake` file or given to `FakeBackend` by file name:

    {"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}], "outputs": [...], "fail": "why it cannot load"}

The i-th output is twice the i-th input for numbers, and a copy of it for BOOL and BYTES. With `"decoupled": true` there
is a response for each row of the first input, with what comes of that row alone, and after `"fail_after"` of them an
error, if that is there; a request may have more responses by its parameter `repeat`. With `"reshapes": true` the
model can be given another first extent, and every tensor then has it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import Any

from vintner.backend import Device, LoadSpec
from vintner.errors import BackendError, ConfigError, LoadError
from vintner.types import Array, TensorSpec, bf16_to_fp32, fp32_to_bf16

Document = Mapping[str, Any]
INPUT, OUTPUT = "input", "output"


def fake_model(
    datatype: str = "FP32", shape: Sequence[int] = (-1, 4), names: tuple[str, str] = (INPUT, OUTPUT)
) -> dict[str, Any]:
    """The document of a model with one input and one output that are alike."""
    inputs, outputs = ([{"name": name, "datatype": datatype, "shape": list(shape)}] for name in names)
    return {"inputs": inputs, "outputs": outputs}


def write_model(directory: Path, document: Document | None = None, name: str = "model.fake") -> Path:
    """Writes a model's file, and the directories above it that are missing."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / name
    path.write_text(json.dumps(document or fake_model()))
    return path


class FakeInstance:
    """One execution slot. The hooks and counts are its model's, so a test sees all slots at once."""

    def __init__(self, model: FakeModel) -> None:
        self._model = model

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        self._model.enter(inputs)
        pairs = zip(self._model.inputs, self._model.outputs, strict=True)
        return {output.name: answer(given.datatype, inputs[given.name]) for given, output in pairs}


class FakeGenerator:
    """One execution slot of a decoupled model. Each response passes the model's gate."""

    def __init__(self, model: FakeModel, fail_after: int | None) -> None:
        self._model = model
        self._fail_after = fail_after

    def generate(self, inputs: Mapping[str, Array], parameters: Mapping[str, Any]) -> Iterator[Mapping[str, Array]]:
        rows = len(inputs[self._model.inputs[0].name])
        pairs = list(zip(self._model.inputs, self._model.outputs, strict=True))
        try:
            for number in range(rows * int(parameters.get("repeat", 1))):
                if number == self._fail_after:
                    raise BackendError(f"it failed after {number} responses")
                row = {given.name: inputs[given.name][number % rows] for given, _ in pairs}
                self._model.enter(inputs)
                yield {output.name: answer(given.datatype, row[given.name]) for given, output in pairs}
        finally:
            self._model.generated += 1


class FakeModel:
    """A loaded model that records what is done to it. `gate` runs inside every run: it may wait, or raise."""

    platform = "fake"

    def __init__(
        self, spec: LoadSpec, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], gate: Callable[[], None]
    ) -> None:
        self.spec = spec
        self.inputs = inputs
        self.outputs = outputs
        self.instances: Sequence[Any] = [FakeInstance(self) for _ in range(spec.instances or 1)]
        self.generated = 0
        """Generations that ended, in whatever way."""
        self.gate = gate
        self.batch_sizes: list[int] = []
        """First extent of the first input of every run, in the order in which the runs began; 0 for a scalar."""
        self.running = 0
        self.most_running = 0
        self.times_closed = 0
        self._lock = Lock()

    @property
    def runs(self) -> int:
        return len(self.batch_sizes)

    @property
    def closed(self) -> bool:
        return self.times_closed > 0

    def enter(self, inputs: Mapping[str, Array]) -> None:
        """Counts a run, and stays in it until the gate opens."""
        first = inputs[self.inputs[0].name]
        with self._lock:
            self.batch_sizes.append(first.shape[0] if first.ndim else 0)
            self.running += 1
            self.most_running = max(self.most_running, self.running)
        try:
            self.gate()
        finally:
            with self._lock:
                self.running -= 1

    def close(self) -> None:
        self.times_closed += 1


class FakeBackend:
    """Loads models from documents. `loaded` lists every model ever loaded, `gate` is what each of them is given."""

    def __init__(self, models: Mapping[str, Document] | None = None, gate: Callable[[], None] = lambda: None) -> None:
        self.models = dict(models or {})
        self.gate = gate
        self.loaded: list[FakeModel] = []

    def find(self, directory: Path) -> Path | None:
        found = sorted(directory.glob("*.fake"))
        if len(found) > 1:
            raise ConfigError(f"more than one model: {', '.join(path.name for path in found)}")
        return found[0] if found else None

    def load(self, spec: LoadSpec) -> FakeModel:
        document = self._document(spec.path)
        if "fail" in document:
            raise LoadError(document["fail"])
        inputs, outputs = reshaped(tensor_specs(document["inputs"]), spec.shapes), tensor_specs(document["outputs"])
        if spec.rows is not None:
            inputs, outputs = (with_rows(specs, spec.rows, document) for specs in (inputs, outputs))
        model = FakeModel(spec, inputs, outputs, self.gate)
        if document.get("decoupled"):
            model.instances = [FakeGenerator(model, document.get("fail_after")) for _ in model.instances]
        self.loaded.append(model)
        return model

    def devices(self) -> Sequence[Device]:
        return [Device("CPU", "an imaginary processor")]

    def _document(self, path: Path) -> Document:
        if path.name in self.models:
            return self.models[path.name]
        try:
            document: Document = json.loads(path.read_bytes())
        except (OSError, ValueError) as exc:
            raise LoadError(f"cannot read {path.name}: {exc}") from exc
        return document


def answer(datatype: str, array: Array) -> Array:
    """What a run makes of one input; never a view of it."""
    if datatype in ("BOOL", "BYTES"):
        return array.copy()
    if datatype == "BF16":
        return fp32_to_bf16(bf16_to_fp32(array) * 2)
    return array + array


def tensor_specs(entries: Sequence[Mapping[str, Any]]) -> list[TensorSpec]:
    return [TensorSpec(entry["name"], entry["datatype"], tuple(entry["shape"])) for entry in entries]


def reshaped(specs: Sequence[TensorSpec], shapes: Mapping[str, tuple[int, ...]]) -> list[TensorSpec]:
    unknown = set(shapes) - {spec.name for spec in specs}
    if unknown:
        raise LoadError(f"no input '{min(unknown)}' to reshape")
    return [replace(spec, shape=shapes.get(spec.name, spec.shape)) for spec in specs]


def with_rows(specs: Sequence[TensorSpec], rows: int, document: Document) -> list[TensorSpec]:
    if not document.get("reshapes") and any(spec.shape[:1] != (rows,) for spec in specs):
        raise LoadError("the model's first dimension cannot be changed")
    return [replace(spec, shape=(rows, *spec.shape[1:])) for spec in specs]
