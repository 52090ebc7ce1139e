"""What gRPC's core is told of the connections that it serves: compression, signs of life, age, sizes.

Knows the core's names and units for these, and nothing else. Invariant: what is not set is not passed on, so the
core's own defaults hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

Compression = Literal["none", "low", "medium", "high"]
LEVELS: Final[Sequence[Compression]] = ("none", "low", "medium", "high")
"""In the order of the core's numbers for them."""

LARGEST: Final = 2**31 - 1
"""The largest argument; of a time in milliseconds, for ever."""


@dataclass(frozen=True, slots=True)
class ConnectionSettings:
    """Times in seconds; None leaves a setting to the core."""

    response_compression: Compression = "none"
    keepalive: float | None = None
    """Of silence, after which a client is asked for a sign of life."""
    keepalive_timeout: float | None = None
    """Without one, after which its connection is closed."""
    keepalive_without_calls: bool = False
    """Clients without a call under way are asked too, and may ask."""
    min_ping_interval: float | None = None
    """That clients have to leave between their pings."""
    max_ping_strikes: int | None = None
    """Pings that came too early for which a connection is left open; 0: any number."""
    max_age: float | None = None
    """Of a connection, after which it takes no new calls."""
    max_age_grace: float | None = None
    """For the calls that are under way then."""


THE_CORES: Final = ConnectionSettings()


def channel_arguments(settings: ConnectionSettings, max_message_bytes: int) -> list[tuple[str, int]]:
    """As `grpc.server` takes them. Replies of any size are sent."""
    timeout = _milliseconds(settings.keepalive_timeout)
    found: dict[str, int | None] = {
        "grpc.so_reuseport": 0,  # or two servers would share a port silently
        "grpc.max_receive_message_length": max_message_bytes,
        "grpc.max_send_message_length": -1,
        "grpc.default_compression_level": LEVELS.index(settings.response_compression) or None,
        "grpc.keepalive_time_ms": _milliseconds(settings.keepalive),
        "grpc.keepalive_timeout_ms": timeout,
        "grpc.http2.ping_timeout_ms": timeout,  # which of the two counts depends on the core's release
        "grpc.keepalive_permit_without_calls": int(settings.keepalive_without_calls) or None,
        "grpc.http2.min_ping_interval_without_data_ms": _milliseconds(settings.min_ping_interval),
        "grpc.http2.max_ping_strikes": settings.max_ping_strikes,
        "grpc.max_connection_age_ms": _milliseconds(settings.max_age),
        "grpc.max_connection_age_grace_ms": _milliseconds(settings.max_age_grace),
    }
    return [(name, value) for name, value in found.items() if value is not None]


def _milliseconds(seconds: float | None) -> int | None:
    return None if seconds is None else min(LARGEST, round(seconds * 1000))
