"""Reads what Mistral's models write after `[TOOL_CALLS]`: an array of calls, or `name[ARGS]{...}` since version 11.

Knows neither the marker nor the tools. Invariant: which of the two it is follows from the first character.
"""

from __future__ import annotations

from typing import Final

from vintner.call_sink import CallSink
from vintner.json_calls import CallReader, JsonArguments, JsonCalls
from vintner.json_values import SPACE, Reading

_LONGEST_NAME: Final = 512
_CALL_ID: Final = "[CALL_ID]"
_ARGUMENTS: Final = "[ARGS]"


class MistralCalls:
    def __init__(self, sink: CallSink) -> None:
        self._sink = sink
        self._name = ""
        self._within: CallReader | None = None
        self._broken = False

    @property
    def state(self) -> Reading:
        if self._broken:
            return Reading.BROKEN
        return self._within.state if self._within else Reading.MORE

    def take(self, text: str) -> int:
        place = 0
        while self._within is None and not self._broken and place < len(text):
            place += self._before(text[place])
        if self._within is None or self._broken:
            return place
        return place + self._within.take(text[place:])

    def _before(self, character: str) -> int:
        if character == "[" and not self._name.strip(SPACE):
            self._within = JsonCalls(self._sink)
            return 0
        if character == "{":
            name = self._name.removesuffix(_ARGUMENTS).partition(_CALL_ID)[0].strip(SPACE)
            self._within = JsonArguments(self._sink, name)
            self._broken = not name or any(mark in name for mark in "[] \n")
            return 0
        self._name += character
        self._broken = len(self._name) > _LONGEST_NAME
        return 1
