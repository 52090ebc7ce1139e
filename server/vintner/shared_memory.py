"""Triton's system shared memory: regions of POSIX shared memory that clients register, to be read and written.

Knows no protocol, no tensors and no models. Invariant: nothing that a client does to its object can raise SIGBUS here,
for no page of it is ever mapped; what is read is a copy that stays as it was read.

A client may truncate its object at any time, and whoever then touches a mapping of it is killed, however recently the
size was checked. `preadv` on the same object comes back short instead. That takes 39 microseconds for 600 KB, and made
requests over gRPC 5 % slower than a view of a mapping that is used in place (measured).

A region stays open for as long as anything holds on to it: unregistering hides the name, and no more.
"""

from __future__ import annotations

import os
import stat
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Final

import numpy as np

from vintner.errors import AlreadyExists, InvalidArgument, NotFound, Unsupported

DISABLED: Final = "Client shared memory is disabled. Start the server with '--allow-client-shm=true' to enable."
NO_CUDA: Final = "CUDA shared memory is not supported by this server"
DIRECTORY: Final = "/dev/shm"
"""Where Linux has POSIX shared memory (shm_overview(7))."""
RESERVED: Final = "triton_python_backend_shm_region_"
"""The prefix of keys that Triton refuses: its own processes' memory."""
LONGEST_KEY: Final = 255
MOST_BYTES: Final = 2**63 - 1
"""The largest offset that the system knows."""


class Region:
    """One registered part of an object, `size` bytes from `offset` on. Threads: any."""

    __slots__ = ("__weakref__", "_descriptor", "key", "name", "offset", "size")

    def __init__(self, name: str, key: str, offset: int, size: int, descriptor: int) -> None:
        """Takes ownership of the descriptor."""
        self.name = name
        self.key = key
        self.offset = offset
        self.size = size
        self._descriptor = descriptor
        weakref.finalize(self, os.close, descriptor)

    def part(self, offset: int, size: int) -> Part:
        """Raises InvalidArgument for what is not within the region."""
        if offset < 0 or size < 0:
            raise InvalidArgument(
                f"shared memory region '{self.name}': expected an offset and a byte size of at least 0, got"
                f" {offset} and {size}"
            )
        if offset + size > MOST_BYTES:
            raise InvalidArgument(f"Integer overflow detected in offset + byte size for region '{self.name}'")
        if offset > self.size:
            raise InvalidArgument(
                f"Invalid offset for shared memory region: '{self.name}' has {self.size} bytes, got offset {offset}"
            )
        if offset + size > self.size:
            raise InvalidArgument(
                f"Invalid offset + byte size for shared memory region: '{self.name}' has {self.size} bytes, got"
                f" offset {offset} and byte size {size}"
            )
        return Part(self, offset, size)

    def read(self, offset: int, size: int) -> memoryview:
        """A copy of what is there now, as unsigned bytes. Raises InvalidArgument if the object has become shorter."""
        copy = np.empty(size, np.uint8).data
        done = 0
        while done < size:
            count = os.preadv(self._descriptor, [copy[done:]], self.offset + offset + done)
            if not count:
                raise self._truncated()
            done += count
        return copy

    def write(self, offset: int, data: memoryview) -> None:
        """`data` is contiguous, of any format.

        Raises InvalidArgument if the object has become shorter, or the system has no memory for it.
        """
        if not data.nbytes:
            return  # which has no cast
        left = data.cast("B")
        place = self.offset + offset
        if os.fstat(self._descriptor).st_size < place + len(left):
            raise self._truncated()
        try:
            while left:
                count = os.pwrite(self._descriptor, left, place)
                left, place = left[count:], place + count
        except OSError as exc:
            raise InvalidArgument(f"shared memory region '{self.name}' cannot be written: {exc.strerror}") from exc

    def _truncated(self) -> InvalidArgument:
        return InvalidArgument(
            f"shared memory region '{self.name}' ends before its {self.size} bytes: the object '{self.key}' was"
            " truncated after it was registered"
        )


@dataclass(frozen=True, slots=True)
class Part:
    """Where in a region one tensor is, or goes. Holding it keeps the region open."""

    region: Region
    offset: int
    size: int

    def read(self) -> memoryview:
        """As `Region.read`."""
        return self.region.read(self.offset, self.size)

    def write(self, data: memoryview) -> None:
        """As `Region.write`; whoever calls has made sure that it is not larger than the part."""
        self.region.write(self.offset, data)


class Regions:
    """The regions of a server by their names. Threads: any."""

    def __init__(self, allowed: bool = False, most: int = 256, largest: int = MOST_BYTES) -> None:
        """`most` bounds the open descriptors, of which clients could otherwise take all, and `largest` the bytes that
        one request may have read: an object without pages costs its client nothing, and its copy has all of them."""
        self.allowed = allowed
        self.largest = largest
        self._most = most
        self._lock = Lock()
        self._regions: dict[str, Region] = {}

    def register(self, name: str, key: str, offset: int, size: int) -> None:
        """Opens the object `key`. Raises AlreadyExists, InvalidArgument, and Unsupported where it is not allowed."""
        self.check_allowed()
        if not name:
            raise InvalidArgument("expected a name for the shared memory region, got none")
        if size < 1 or offset < 0:
            raise _refused(
                name, f"expected a byte_size of at least 1 and an offset of at least 0, got {size}, {offset}"
            )
        if offset + size > MOST_BYTES:
            raise _refused(name, "Integer overflow detected in offset + byte_size")
        self._check_room(name)
        region = Region(name, key, offset, size, _opened(name, key, offset + size))
        with self._lock:
            self._check_room(name)
            self._regions[name] = region

    def _check_room(self, name: str) -> None:
        if name in self._regions:
            raise AlreadyExists(f"shared memory region '{name}' already in manager")
        if len(self._regions) >= self._most:
            raise _refused(name, f"there are {self._most} regions already; unregister one")

    def unregister(self, name: str = "") -> None:
        """Hides the region from what comes now; "" means all. One that is not there is as good as unregistered."""
        self.check_allowed()
        with self._lock:
            if name:
                self._regions.pop(name, None)
            else:
                self._regions.clear()

    def status(self, name: str = "") -> Sequence[Region]:
        """One, or all. Raises NotFound."""
        with self._lock:
            if not name:
                return list(self._regions.values())
            if name not in self._regions:
                raise NotFound(f"Unable to find system shared memory region: '{name}'")
            return [self._regions[name]]

    def find(self, name: str) -> Region:
        """For a request. Raises NotFound, and Unsupported where it is not allowed."""
        self.check_allowed()
        region = self._regions.get(name)
        if region is None:
            raise NotFound(f"Unable to find shared memory region: '{name}'")
        return region

    def check_allowed(self) -> None:
        """Raises Unsupported where clients may not use shared memory."""
        if not self.allowed:
            raise Unsupported(DISABLED)


NO_REGIONS: Final = Regions()
"""Where shared memory is not allowed: nothing can be registered."""


def _refused(name: str, reason: str) -> InvalidArgument:
    return InvalidArgument(f"failed to register shared memory region '{name}': {reason}")


def file_name(name: str, key: str) -> str:
    """The file in `DIRECTORY` that `shm_open(key)` would open. Raises InvalidArgument for what could be elsewhere."""
    file = key.lstrip("/")
    if not file or file in (".", "..") or "/" in file or "\0" in file or len(os.fsencode(file)) > LONGEST_KEY:
        raise _refused(name, f"invalid key {key[:80]!r}; expected the name of a shared memory object, such as '/input'")
    if file.startswith(RESERVED):
        raise _refused(name, f"keys that begin with '{RESERVED}' are reserved")
    return file


def _opened(name: str, key: str, end: int) -> int:
    """A descriptor of an object that has at least `end` bytes."""
    path = f"{DIRECTORY}/{file_name(name, key)}"
    try:
        # As glibc's shm_open; without waiting, for a file of that name may be a pipe.
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as exc:
        raise _refused(name, f"Unable to open shared memory object '{key}': {exc.strerror}") from exc
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode) and end <= status.st_size:
        return descriptor
    os.close(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise _refused(name, f"'{key}' is no shared memory object")
    raise _refused(name, f"invalid args: offset + byte_size is {end}, but '{key}' has {status.st_size} bytes")
