"""Answers that are kept for requests that come again: bounded in bytes, the least recently used go first.

Knows neither protocols nor queues. Every load of a model version has a `CacheShare` of its own, so what was kept of one
load is never found by the next. Of a request only a digest is kept, of its answer a copy: an answer may be a view of a
batch, which it would keep whole.

Invariant: `bytes` is what the entries take, by a careful estimate, and never more than the bound.
"""

from __future__ import annotations

import logging
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import count
from threading import Lock
from typing import Final

import numpy as np

from vintner.model_metrics import CacheMetrics
from vintner.tensor_bytes import encode_raw
from vintner.types import Array, Request, Response, Tensor

logger = logging.getLogger(__name__)

Key = tuple[int, bytes]
"""The number of a load, and the digest of a request."""

Reply = Callable[[Response | Exception], None]

STEERING: Final = frozenset({"priority", "timeout", "timing"})
"""Parameters that say when a request runs or what is told of it, and change nothing in its outputs."""

DIGEST_BYTES: Final = 32
"""Without collisions even where clients look for them: one client's request must not find another's answer."""

ENTRY_BYTES: Final = 640
"""What an entry takes beside its arrays: key, digest, dict and their places (measured)."""

ARRAY_BYTES: Final = 256
"""What an array takes beside its elements and dimensions (measured)."""

DIMENSION_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class _Entry:
    outputs: dict[str, Tensor]
    size: int


class ResponseCache:
    """The entries of all models. Threads: any. The lock guards entries and size; nothing is copied under it."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._lock = Lock()
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()  # the least recently used first
        self._bytes = 0
        self._loads = count()

    @property
    def size(self) -> tuple[int, int]:
        """Entries and bytes."""
        return len(self._entries), self._bytes

    def share(self, metrics: CacheMetrics) -> CacheShare:
        """For one load of a model version."""
        return CacheShare(self, next(self._loads), metrics)

    def get(self, key: Key) -> dict[str, Tensor] | None:
        """The outputs that are kept, which are everybody's: they are not to be changed, and their arrays cannot be."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return None
            self._entries.move_to_end(key)
            return entry.outputs

    def put(self, key: Key, outputs: dict[str, Tensor]) -> None:
        """Keeps a copy, and lets go of what it takes the place of. What is larger than the bound is not kept."""
        size = held_bytes(outputs)
        if size > self._max_bytes:
            return
        entry = _Entry({name: Tensor(tensor.datatype, _kept(tensor.array)) for name, tensor in outputs.items()}, size)
        with self._lock:
            self._forget(key)
            self._entries[key] = entry
            self._bytes += size
            while self._bytes > self._max_bytes:
                self._forget(next(iter(self._entries)))

    def drop(self, load: int) -> None:
        """Lets go of everything of one load."""
        with self._lock:
            for key in [key for key in self._entries if key[0] == load]:
                self._forget(key)

    def _forget(self, key: Key) -> None:
        """Needs the lock."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._bytes -= entry.size


class CacheShare:
    """What one load of a model version has of the cache. Threads: any."""

    def __init__(self, cache: ResponseCache, load: int, metrics: CacheMetrics) -> None:
        self._cache = cache
        self._load = load
        self._metrics = metrics

    def find(self, request: Request, outputs: Sequence[str]) -> tuple[Key, dict[str, Tensor] | None]:
        """The key of a valid request for these outputs, and the answer, if it is there. Counted as a hit or a miss."""
        started = time.monotonic()
        key = (self._load, digest(request, outputs))
        found = self._cache.get(key)
        self._metrics.looked_up(found is not None, time.monotonic() - started)
        return key, found

    def keeping(self, key: Key, reply: Reply) -> Reply:
        """The reply that keeps a response before it passes it on: whoever has seen an answer finds it here."""

        def keep(result: Response | Exception) -> None:
            if isinstance(result, Response):
                self._keep(key, result.outputs)
            reply(result)

        return keep

    def _keep(self, key: Key, outputs: dict[str, Tensor]) -> None:
        started = time.monotonic()
        try:
            self._cache.put(key, outputs)
        except Exception:
            logger.exception("an answer could not be kept")  # such as for want of memory; it can be given even so
        self._metrics.kept(time.monotonic() - started)

    def close(self) -> None:
        """To be called when no request is left that could keep its answer."""
        self._cache.drop(self._load)


def digest(request: Request, outputs: Sequence[str]) -> bytes:
    """Of everything that an answer depends on but the model; `outputs` are the names, in the order of the answer.

    blake2b takes 0.6 ms for 600 KB on any processor; SHA-256 half of that where the processor has instructions for it,
    and nearly twice as long where it has not (measured).
    """
    inputs = sorted(request.inputs.items())
    described = [(name, tensor.datatype, tensor.array.shape) for name, tensor in inputs]
    parameters = sorted(item for item in request.parameters.items() if item[0] not in STEERING)
    head = repr((described, parameters, [*outputs])).encode()
    hashed = blake2b(len(head).to_bytes(8, "little"), digest_size=DIGEST_BYTES)
    hashed.update(head)
    for _, tensor in inputs:
        hashed.update(_elements(tensor))
    return hashed.digest()


def _elements(tensor: Tensor) -> bytes | memoryview:
    """The bytes of a tensor, each BYTES element behind its length; no copy of a contiguous array."""
    if tensor.datatype == "BYTES":
        return encode_raw(tensor)
    return np.ascontiguousarray(tensor.array).reshape(-1).data


def held_bytes(outputs: dict[str, Tensor]) -> int:
    """What an entry with these outputs takes."""
    return ENTRY_BYTES + sum(map(_tensor_bytes, outputs.values()))


def _tensor_bytes(tensor: Tensor) -> int:
    size = ARRAY_BYTES + DIMENSION_BYTES * tensor.array.ndim + tensor.array.nbytes
    return size + sum(map(sys.getsizeof, tensor.array.flat)) if tensor.datatype == "BYTES" else size


def _kept(array: Array) -> Array:
    copied = array.copy()
    copied.flags.writeable = False
    return copied
