"""Which place in the queue a request gets: its priority, and how long it may wait.

Pure. Both come from the request's parameters as in Triton, `priority` (1 is the highest, 0 the default) and `timeout`
(microseconds), within what the model's configuration allows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from vintner.batching import QueueLimits
from vintner.errors import InvalidArgument
from vintner.model_config import QueueConfig, QueueLevel
from vintner.types import Parameter

MICROSECONDS: Final = 1e-6


@dataclass(frozen=True, slots=True)
class Place:
    """The level of a request, and the seconds for which it may wait, if they are bounded."""

    level: int
    timeout: float | None
    postpones: bool


class QueuePolicy:
    """The policy of one model."""

    def __init__(self, config: QueueConfig) -> None:
        self._config = config
        self._default = config.default_level
        self.usual = self._place(self._default, None)
        """The place of a request that asks for nothing."""

    def place(self, parameters: Mapping[str, Parameter]) -> Place:
        """Raises InvalidArgument for a value that is none."""
        if "priority" not in parameters and "timeout" not in parameters:
            return self.usual
        level = _whole(parameters, "priority")
        if not 1 <= level <= self._config.priority_levels:
            level = self._default
        return self._place(level, _whole(parameters, "timeout") * MICROSECONDS or None)

    def _place(self, level: int, asked: float | None) -> Place:
        own = self._config.levels.get(level, QueueLevel())
        limit = own.timeout_seconds or self._config.timeout_seconds
        timeouts = [seconds for seconds in (limit, asked if self._config.timeout_override else None) if seconds]
        action = own.timeout_action or self._config.timeout_action
        return Place(level, min(timeouts, default=None), action == "delay")


def queue_limits(config: QueueConfig) -> QueueLimits:
    """How much may wait."""
    levels = {level: own.max_requests for level, own in config.levels.items() if own.max_requests}
    return QueueLimits(config.max_requests, config.max_bytes, levels)


def _whole(parameters: Mapping[str, Parameter], name: str) -> int:
    value = parameters.get(name, 0)
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 20:
        value = int(value)
    if type(value) is not int or value < 0:
        raise InvalidArgument(f"parameter '{name}': expected a whole number of at least 0, got {value!r:.60}")
    return value
