"""String tensors of an OpenVINO model, carried as bytes and offsets.

The Python binding hands strings over as NumPy's fixed-width text: trailing NULs get lost, bytes that are not UTF-8
too, and one long string makes every other one as long in memory, which a hostile request can use. OpenVINO's own
pair of operations, StringTensorPack and StringTensorUnpack, has none of that, so they are put into the model.

Invariant: the other inputs and outputs keep their order, and come before the parts of the strings.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import openvino as ov
from openvino import opset15
from vintner.types import Array, element_count

INPUT_PARTS = 3
"""Where each string begins and ends (both in the tensor's shape), and the bytes of all of them."""
OUTPUT_PARTS = 4
"""The shape, and the same three. Unpacking no string at all leaves the offsets of the run before: the shape decides."""


def carry_strings_as_bytes(model: ov.Model) -> None:
    """Replaces each string input by three inputs and each string output by four outputs, after all the others."""
    for parameter in [node for node in model.get_parameters() if node.get_element_type() == ov.Type.string]:
        replace_input(model, parameter)
    for result in [node for node in model.get_results() if node.get_element_type() == ov.Type.string]:
        replace_output(model, result)
    model.validate_nodes_and_infer_types()


def replace_input(model: ov.Model, parameter: ov.Node) -> None:
    shape = parameter.get_output_partial_shape(0)
    parts = [
        opset15.parameter(shape, ov.Type.i64),
        opset15.parameter(shape, ov.Type.i64),
        opset15.parameter([-1], ov.Type.u8),
    ]
    packed = opset15.string_tensor_pack(*parts)
    for consumer in parameter.output(0).get_target_inputs():
        consumer.replace_source_output(packed.output(0))
    model.remove_parameter(parameter)
    model.add_parameters(parts)


def replace_output(model: ov.Model, result: ov.Node) -> None:
    strings = result.input_value(0)
    parts = opset15.string_tensor_unpack(strings).outputs()
    model.remove_result(result)
    model.add_results([opset15.result(part) for part in (opset15.shape_of(strings).output(0), *parts)])


def first_indices(datatypes: Sequence[str], parts: int) -> Iterator[int]:
    """For each tensor of the original model, the index of its first part in the one that carries strings as bytes."""
    plain = 0
    packed = sum(datatype != "BYTES" for datatype in datatypes)
    for datatype in datatypes:
        if datatype == "BYTES":
            yield packed
            packed += parts
        else:
            yield plain
            plain += 1


def split_strings(array: Array) -> tuple[Array, Array, Array]:
    """The parts of an input: where each string begins, where it ends, and all bytes."""
    ends = np.cumsum(np.fromiter(map(len, array.flat), np.int64, array.size))
    begins = np.zeros_like(ends)
    begins[1:] = ends[:-1]
    return begins.reshape(array.shape), ends.reshape(array.shape), np.frombuffer(b"".join(array.flat), np.uint8)


def join_strings(shape: Array, begins: Array, ends: Array, characters: Array) -> Array:
    """The strings of an output, from its parts."""
    extents = tuple(shape.tolist())
    strings = np.empty(element_count(extents), np.object_)
    if strings.size:
        text = characters.tobytes()
        strings[:] = [text[begin:end] for begin, end in zip(begins.flat, ends.flat, strict=True)]
    return strings.reshape(extents)
