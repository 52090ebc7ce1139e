"""Decodes gRPC inferences whose heading was seen before, without protobuf.

A client that calls a model again and again sends the same bytes each time, up to those of its tensors, which protobuf
puts last. So what was parsed of the bytes before is kept, and found again by them. What is unusual (an id, parameters,
typed contents, strings, tensors that do not come last) is not kept, and always takes the ordinary way.

Invariant: a request that is decoded here is what `grpc_codec.decode_infer` would make of it. Threads: any; the maps are
only read, added to, and replaced.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from vintner.pb import grpc_service_pb2 as pb
from vintner.tensor_bytes import decode_raw
from vintner.types import DTYPES, Request, Tensor, element_count

RAW_TAG: Final = pb.ModelInferRequest.DESCRIPTOR.fields_by_name["raw_input_contents"].number << 3 | 2
LONGEST: Final = 1024
"""Bytes of a heading that is kept."""

MOST: Final = 256
"""Headings that are kept: clients choose them."""

MOST_LENGTHS: Final = 4
"""Different lengths of headings that are tried before a request takes the ordinary way."""


@dataclass(frozen=True, slots=True)
class Heading:
    """All of a request but the bytes of its tensors; of each of these the name, datatype, shape and number of bytes."""

    model_name: str
    model_version: str
    outputs: tuple[str, ...]
    tensors: tuple[tuple[str, str, tuple[int, ...], int], ...]


class Headings:
    """What was seen so far."""

    def __init__(self) -> None:
        self._headings: dict[bytes, Heading] = {}
        self._lengths: tuple[int, ...] = ()

    def decode(self, data: bytes) -> Request | None:
        """The request, or None if it has to be parsed."""
        for length in self._lengths:
            heading = self._headings.get(data[:length])
            if heading is not None:
                return _request(heading, data, length)
        return None

    def learn(self, data: bytes, message: pb.ModelInferRequest, request: Request) -> None:
        """Keeps the heading of a request that was parsed, if it is of the usual kind."""
        if message.id or message.parameters or not message.raw_input_contents:
            return
        if any(output.parameters for output in message.outputs):
            return  # into shared memory, or as classes
        tensors = []
        for tensor in message.inputs:
            if tensor.parameters or tensor.datatype == "BYTES":
                return
            shape = tuple(tensor.shape)
            size = element_count(shape) * DTYPES[tensor.datatype].itemsize
            tensors.append((tensor.name, tensor.datatype, shape, size))
        length = len(data) - sum(1 + _varint_length(size) + size for *_, size in tensors)
        heading = Heading(request.model_name, request.model_version, tuple(request.outputs), tuple(tensors))
        if not 0 < length <= LONGEST or _request(heading, data, length) is None:
            return
        self._keep(data[:length], heading)

    def _keep(self, head: bytes, heading: Heading) -> None:
        headings = self._headings if len(self._headings) < MOST else {}
        headings[head] = heading
        lengths = (len(head), *(length for length in self._lengths if length != len(head)))
        self._headings, self._lengths = headings, lengths[:MOST_LENGTHS]


def _request(heading: Heading, data: bytes, position: int) -> Request | None:
    """None if what follows the heading is not just its tensors."""
    inputs: dict[str, Tensor] = {}
    end = len(data)
    for name, datatype, shape, size in heading.tensors:
        start = position + 1 + _varint_length(size)
        stop = start + size
        if stop > end or data[position] != RAW_TAG or _varint(data, position + 1, start) != size:
            return None
        inputs[name] = decode_raw(name, datatype, shape, data[start:stop])
        position = stop
    if position != end:
        return None
    return Request(heading.model_name, heading.model_version, inputs, heading.outputs)


def _varint_length(value: int) -> int:
    return 1 if value < 0x80 else (value.bit_length() + 6) // 7


def _varint(data: bytes, start: int, stop: int) -> int:
    """The number in these bytes; -1 if it does not end with them."""
    if stop - start == 1:
        return data[start] if data[start] < 0x80 else -1
    value = 0
    for shift, position in enumerate(range(start, stop)):
        value |= (data[position] & 0x7F) << 7 * shift
        if (data[position] >= 0x80) != (position < stop - 1):
            return -1
    return value
