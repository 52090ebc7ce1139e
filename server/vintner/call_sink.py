"""Where the readers of tool calls put what they read.

Knows the ids and the places of the calls of one answer, and no format. Invariant: a call's id and name come before its
arguments, once; the arguments of one call are not mixed with another's. A reader returns to its caller after each
beginning and each end, so that the caller knows which text belongs to a call.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable

from vintner.deltas import DeltaBuilder, ToolCallDelta


class CallSink:
    def __init__(self, out: DeltaBuilder, new_id: Callable[[], str]) -> None:
        self._out = out
        self._new_id = new_id
        self._calls = 0
        self.changes = 0
        """How often a call has begun or ended."""

    @property
    def open(self) -> bool:
        return self.changes % 2 == 1

    def begin(self, name: str) -> None:
        self._out.call(ToolCallDelta(self._calls, id=self._new_id(), name=name))
        self.changes += 1

    def arguments(self, text: str) -> None:
        if text:
            self._out.call(ToolCallDelta(self._calls, arguments=text))

    def end(self) -> None:
        self._calls += 1
        self.changes += 1


def new_call_id() -> str:
    return f"call_{secrets.token_hex(12)}"
