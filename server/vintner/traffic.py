"""Which version a request gets that names none: pure.

Each request is a point between 0 and 1, and a canary has the points below its share. The point of a request with an id
is a hash of model and id, so the same id goes to the same version, whichever replica it reaches and however often the
server was started; as the share grows, those that had the canary keep it. Requests without an id are points of a
sequence that fills the interval evenly, so that even of a few requests the canary gets its share.

Knows nothing of what is loaded but the versions that are ready. Invariant: a version on trial is the default only if no
other is ready.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from itertools import count
from typing import Final

from vintner.model_config import TrafficConfig

GOLDEN: Final = 0x9E3779B97F4A7C15
"""The fraction of the golden ratio in 64 bits: its multiples leave the smallest gaps."""

SILVER: Final = 0x6A09E667F3BCC909
"""That of the square root of 2. A sequence of these multiples is independent of one of those."""

MASK: Final = 2**64 - 1


def default_version(ready: Iterable[int], traffic: TrafficConfig | None) -> int:
    """What requests get that name no version and are not for the canary: the configured default, or the highest version
    that is ready, those on trial last. At least one has to be ready."""
    if traffic is None:
        return max(ready)
    return max(ready, key=lambda version: (version == traffic.default, version not in traffic.on_trial, version))


def point_of(model: str, request_id: str) -> float:
    """At least 0 and below 1, the same for ever."""
    digest = blake2b(f"{model}\0{request_id}".encode(errors="surrogatepass"), digest_size=6).digest()
    return int.from_bytes(digest, "big") * 2.0**-48


class Points:
    """Points from 0 to 1, evenly spread however many are taken. Threads: any."""

    def __init__(self, step: int = GOLDEN) -> None:
        self._step = step
        self._numbers = count(1)

    def next(self) -> float:
        # The upper 53 bits, which a float holds exactly: more could be rounded to 1.
        return ((next(self._numbers) * self._step & MASK) >> 11) * 2.0**-53
