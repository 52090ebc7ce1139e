"""Requests, responses and tensors as the core sees them, and KServe's datatypes in terms of NumPy.

Knows nothing of any transport or runtime. Invariant: an array's NumPy dtype is always `numpy_dtype(datatype)`.
BF16 has no NumPy dtype: it travels as its bit pattern in `uint16`. BYTES is an `object` array of `bytes`.

`Tensor`, `Request` and `Response` are made for every call, and a frozen dataclass costs three times as much to
make as a plain one (measured), so these three are not frozen; nothing changes them after they were decoded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from vintner.access_log import Visit
    from vintner.prompts import Asked

Array = NDArray[Any]
Parameter = bool | int | float | str

DTYPES: Final[Mapping[str, np.dtype[Any]]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BF16": np.dtype("<u2"),
    "BYTES": np.dtype(np.object_),
}
"""Every KServe datatype, with the dtype of the array that holds it."""


def numpy_dtype(datatype: str) -> np.dtype[Any]:
    """The dtype of arrays of a KServe datatype. Raises KeyError for a name that is none."""
    return DTYPES[datatype]


def bf16_to_fp32(bits: Array) -> Array:
    """Widens BF16 bit patterns (uint16, any shape) to float32, exactly."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def fp32_to_bf16(values: Array) -> Array:
    """Rounds float32 to the nearest BF16 (ties to even) and returns the bit patterns as uint16. NaN stays NaN."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
    quiet = (bits >> 16) | 0x40  # rounding could carry a NaN's mantissa into infinity
    return np.where(np.isnan(values), quiet, rounded).astype(np.uint16)


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, KServe datatype and shape of one input or output of a model; -1 stands for any extent."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    def admits(self, shape: tuple[int, ...]) -> bool:
        """Whether a concrete shape fits this one."""
        if len(shape) != len(self.shape):
            return False
        for want, got in zip(self.shape, shape, strict=True):  # noqa: SIM110 - a generator takes three times as long
            if want not in (-1, got):
                return False
        return True


@dataclass(slots=True)
class Tensor:
    """An array with its KServe datatype. The array may be read-only (a view of received bytes)."""

    datatype: str
    array: Array

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def nbytes(self) -> int:
        """Bytes held; for BYTES the sum of the elements' lengths."""
        if self.datatype == "BYTES":
            return sum(map(len, self.array.flat))
        return self.array.nbytes


class Cancellation:
    """Carries "the client went away" from a transport's thread to whoever waits on behalf of the request.

    `cancel` may come from any thread, at any time, more than once. At most one callback is registered; it runs in
    the cancelling thread, at once if the cancellation has already happened.
    """

    __slots__ = ("_callback", "cancelled")

    def __init__(self) -> None:
        self.cancelled = False
        self._callback: Callable[[], None] | None = None

    def cancel(self) -> None:
        self.cancelled = True
        callback = self._callback
        if callback is not None:
            callback()

    def on_cancel(self, callback: Callable[[], None] | None) -> None:
        """Registers the callback, which must bear being called twice: registration and cancellation may race."""
        self._callback = callback
        if callback is not None and self.cancelled:
            callback()


class Untyped(Protocol):
    """What a request holds that takes its meaning from the version that gets it: which of its values are inputs, and of
    what datatypes."""

    @property
    def size(self) -> int:
        """Bytes that they take until then."""
        ...

    def fill(self, request: Request, specs: Sequence[TensorSpec]) -> None:
        """Makes the request that of a version with these inputs. Raises InvalidArgument."""
        ...


class ResponseStream(Protocol):
    """Where the responses to one request go, for those who make them for many at a time. Threads: any."""

    def has_room(self) -> bool:
        """Whether a response would be sent soon. What comes when there is none had better be put together."""
        ...

    def put(self, response: Response) -> None:
        """At once, room or not."""
        ...


@dataclass(slots=True)
class Request:
    """One inference request. `model_version` is "" for the default version; no `outputs` means all of them."""

    model_name: str
    model_version: str
    inputs: dict[str, Tensor]
    outputs: tuple[str, ...] = ()
    id: str = ""
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    deadline: float | None = None
    """In seconds of `time.monotonic`."""
    cancellation: Cancellation | None = None
    classes: Mapping[str, int] | None = None
    """Of outputs that are wanted as so many classes, instead of as they are."""
    on_response: Callable[[Response], None] | None = None
    """Takes the responses of a decoupled model, before the answer that ends the request and is empty. It may block.
    None where a single answer is all that can be taken."""
    untyped: Untyped | None = None
    """What the inputs are made of once it is known which version serves; until then there are none."""
    asked: Asked | None = None
    """What a language model is asked; then there are no inputs, and the answer is empty when all was told."""
    stream: ResponseStream | None = None
    """Takes what `on_response` takes, from who must not block; None where a single answer is wanted."""
    visit: Visit | None = None
    """Where the access log keeps what it learns, if there is one."""


@dataclass(slots=True)
class Response:
    """The answer; `outputs` is in the order in which they were requested, else in the model's."""

    model_name: str
    model_version: str
    outputs: dict[str, Tensor]
    id: str = ""
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    done: bool | None = None
    """Of a stream that knows beforehand: whether this is the last response."""


def element_count(shape: tuple[int, ...]) -> int:
    """Number of elements, in Python's unbounded integers: a hostile shape overflows nothing."""
    return prod(shape)
