"""The backend options `layout`, `shape` and `batch_size`: what becomes of a model's tensors before it is compiled.

Knows nothing of devices and of the core's own reshaping, which comes after and has the last word. A layout is applied
first, so a shape is in the order of dimensions that is served. Invariant: tensors keep their names and their order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import openvino as ov
from openvino.preprocess import PrePostProcessor
from vintner.errors import LoadError, nearest

from vintner_backends.openvino_instance import reason

OPTIONS: Final = frozenset({"layout", "shape", "batch_size"})
AUTO: Final = "auto"
"""Every extent is dynamic."""
Names = Callable[[Sequence[Any], str], Sequence[str]]
"""What ports are called, given their kind, `input` or `output`."""


def apply_options(model: ov.Model, options: Mapping[str, Any], names_of: Names) -> ov.Model:
    """The model as the options have it. Raises LoadError that names the option and what was expected there."""
    if options.get("layout") is not None:
        model = transpose(model, options["layout"], names_of)
    inputs = dict(zip(names_of(model.inputs, "input"), model.inputs, strict=True))
    shape, rows = options.get("shape"), options.get("batch_size")
    if shape is not None:
        wanted = by_input(shape, inputs)
        reshape(
            model, "shape", {inputs[name]: partial_shape(name, inputs[name], wanted[name]) for name in wanted}, shape
        )
    elif rows is not None:
        reshape(model, "batch_size", {port: with_rows(name, port, rows) for name, port in inputs.items()}, rows)
    return model


def by_input(given: object, inputs: Mapping[str, Any]) -> Mapping[str, object]:
    """A shape for each input that gets one; `auto` alone is for all of them, another shape alone for a single one."""
    if given == AUTO:
        return dict.fromkeys(inputs, AUTO)
    if isinstance(given, Mapping):
        for name in given:
            if name not in inputs:
                raise LoadError(f"backend option 'shape': the model has no input '{name}'{nearest(name, inputs)}")
        return given
    return {single("shape", inputs): given}


def single(option: str, tensors: Mapping[str, Any]) -> str:
    if len(tensors) != 1:
        raise LoadError(
            f"backend option '{option}': the model has {len(tensors)} inputs; say which, as in {{name: value}}"
        )
    return next(iter(tensors))


def reshape(model: ov.Model, option: str, shapes: Mapping[Any, ov.PartialShape], given: object) -> None:
    try:
        model.reshape(dict(shapes))
    except RuntimeError as exc:
        raise LoadError(f"backend option '{option}': the model cannot take {given!r}: {reason(exc)}") from exc


def partial_shape(name: str, port: Any, shape: object) -> ov.PartialShape:
    if shape == AUTO:
        return dynamic(port)
    if not isinstance(shape, Sequence) or isinstance(shape, str) or not all(map(is_extent, shape)):
        raise LoadError(
            f"backend option 'shape': expected a list of extents, -1 for any, or auto for input '{name}', got {shape!r}"
        )
    return ov.PartialShape(list(shape))


def is_extent(value: object) -> bool:
    return type(value) is int and value >= -1


def dynamic(port: Any) -> ov.PartialShape:
    rank = port.partial_shape.rank
    return ov.PartialShape.dynamic(rank.get_length()) if rank.is_static else port.partial_shape


def with_rows(name: str, port: Any, rows: object) -> ov.PartialShape:
    """The shape of an input with another first extent; 0 leaves it."""
    if rows != AUTO and not is_extent(rows):
        raise LoadError(f"backend option 'batch_size': expected a number of rows, -1 for any, or auto, got {rows!r}")
    shape = ov.PartialShape(port.partial_shape)
    if rows == 0:
        return shape
    if shape.rank.is_dynamic or not len(shape):
        raise LoadError(f"backend option 'batch_size': input '{name}' of shape {shape} has no first dimension to set")
    shape[0] = -1 if rows == AUTO else rows
    return shape


def transpose(model: ov.Model, given: object, names_of: Names) -> ov.Model:
    """Inserts a transpose at each tensor whose layout is `served:model`, such as `NHWC:NCHW`."""
    inputs, outputs = list(names_of(model.inputs, "input")), list(names_of(model.outputs, "output"))
    layouts = layouts_by_name(given, inputs, outputs)
    own_names = [port.names for port in model.outputs]
    processor = PrePostProcessor(model)
    try:
        for name, (served, own) in layouts.items():
            tensor = processor.input(inputs.index(name)) if name in inputs else processor.output(outputs.index(name))
            tensor.tensor().set_layout(ov.Layout(served))
            tensor.model().set_layout(ov.Layout(own))
        changed = processor.build()
    except RuntimeError as exc:
        raise LoadError(f"backend option 'layout': the model cannot take it: {reason(exc)}") from exc
    for port, names in zip(changed.outputs, own_names, strict=True):
        port.tensor.set_names(names)  # which stay with what is in front of the transpose otherwise
    return changed


def layouts_by_name(given: object, inputs: Sequence[str], outputs: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Of the tensors that are transposed: the layout that is served and the model's own."""
    if not isinstance(given, Mapping):
        given = {single("layout", dict.fromkeys(inputs)): given}
    layouts: dict[str, tuple[str, str]] = {}
    for name, text in given.items():
        if name not in (*inputs, *outputs):
            raise LoadError(
                f"backend option 'layout': the model has no tensor '{name}'{nearest(name, [*inputs, *outputs])}"
            )
        served, own = parse_layout(name, text)
        if served != own:
            layouts[name] = (served, own)
    return layouts


def parse_layout(name: str, text: object) -> tuple[str, str]:
    """The layout that is served and the model's own, from `NHWC:NCHW`, or one that is both."""
    parts = "".join(text.upper().split()).split(":") if isinstance(text, str) else []
    if len(parts) not in (1, 2) or not parts[0].startswith("N") or not parts[-1]:
        raise LoadError(
            f"backend option 'layout': expected the layout that is served and the model's own, such as NHWC:NCHW, the"
            f" batch N in front of the first, for '{name}', got {text!r}"
        )
    return parts[0], parts[-1]
