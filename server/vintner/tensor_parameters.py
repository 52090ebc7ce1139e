"""What the parameters of an input or a requested output say: that it is in shared memory, or wanted as classes.

Knows neither protocol: both front ends hand over plain values. Invariant: nothing is read from a region before the
shape has been found to need just these bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from vintner.errors import InvalidArgument, TooLarge
from vintner.shared_memory import Part, Regions
from vintner.tensor_bytes import check_shape, decode_raw, raw_view
from vintner.types import DTYPES, Tensor

REGION: Final = "shared_memory_region"
OFFSET: Final = "shared_memory_offset"
BYTE_SIZE: Final = "shared_memory_byte_size"
CLASSIFICATION: Final = "classification"
MOST_CLASSES: Final = 1_000_000

Parameters = Mapping[str, Any]


class SharedInputs:
    """Reads the inputs of one request that are in shared memory."""

    def __init__(self, regions: Regions) -> None:
        self._regions = regions
        self._left = regions.largest

    def read(self, name: str, datatype: str, shape: tuple[int, ...], parameters: Parameters) -> Tensor:
        """Raises InvalidArgument, TooLarge, NotFound, and Unsupported where shared memory is not allowed."""
        part = shared_part(f"input '{name}'", parameters, self._regions)
        count = check_shape(name, datatype, shape)
        needed = count * DTYPES[datatype].itemsize
        if datatype != "BYTES" and needed != part.size:
            raise InvalidArgument(
                f"input byte size mismatch for input '{name}'. Expected {needed}, got {part.size} in shared memory"
            )
        if part.size > self._left:
            raise TooLarge(
                f"the inputs in shared memory have more than {self._regions.largest} bytes together"
                " (--max-message-bytes)"
            )
        self._left -= part.size
        return decode_raw(name, datatype, shape, part.read())


def shared_part(owner: str, parameters: Parameters, regions: Regions) -> Part:
    """Where an input or output is that has a `shared_memory_region`. Raises as `SharedInputs.read`."""
    region = parameters.get(REGION)
    if not isinstance(region, str) or not region:
        raise InvalidArgument(f"'{REGION}' of {owner} must be the name of a shared memory region")
    found = regions.find(region)
    if BYTE_SIZE not in parameters:
        raise InvalidArgument(f"{owner} is in shared memory region '{region}', but has no '{BYTE_SIZE}'")
    return found.part(_whole(owner, parameters, OFFSET), _whole(owner, parameters, BYTE_SIZE))


def in_shared_memory(parameters: Parameters) -> bool:
    """Whether there is anything of it; `shared_part` says whether it is all there."""
    return REGION in parameters or OFFSET in parameters or BYTE_SIZE in parameters


def class_count(name: str, parameters: Parameters) -> int:
    """The classes that an output with a `classification` is wanted as. Raises InvalidArgument."""
    count = _whole(f"output '{name}'", parameters, CLASSIFICATION)
    if count < 1:
        raise InvalidArgument(f"'{CLASSIFICATION}' of output '{name}' must be an integer of at least 1, got {count}")
    if count > MOST_CLASSES:
        raise InvalidArgument(
            f"classification output tensor too large: output '{name}' is wanted as {count} classes, of at most"
            f" {MOST_CLASSES}"
        )
    if in_shared_memory(parameters):
        raise InvalidArgument(f"Output can't set both '{REGION}' and '{CLASSIFICATION}'; output '{name}' does")
    return count


def store(name: str, tensor: Tensor, part: Part) -> dict[str, str | int]:
    """Writes an output into its part of a region; the parameters that tell a client so. Raises InvalidArgument."""
    data = raw_view(tensor)
    if data.nbytes > part.size:
        raise InvalidArgument(
            f"shared memory size specified with the request for output '{name}' ({part.size} bytes) should be at least"
            f" {data.nbytes} bytes to hold the results"
        )
    part.write(data)
    offset = {OFFSET: part.offset} if part.offset else {}
    return {REGION: part.region.name, **offset, BYTE_SIZE: data.nbytes}


def _whole(owner: str, parameters: Parameters, key: str) -> int:
    value = parameters.get(key, 0)
    if type(value) is not int or value < 0:
        raise InvalidArgument(f"'{key}' of {owner} must be an integer that is not negative, got {value!r:.60}")
    return value
