"""Reads tool calls that are JSON: `{"name": "f", "arguments": {...}}`, one or an array of them.

Knows neither what surrounds them in a family's format nor what tools there are. Invariant: a call is begun only when
its name is known and its arguments have begun, or cannot come any more; the arguments are then handed on as they come.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Final, Protocol

from vintner.call_sink import CallSink
from vintner.json_values import SPACE, JsonValue, Reading

_ARGUMENTS: Final = ("arguments", "parameters")
_ALSO_KNOWN: Final = ("type", "id")


class CallReader(Protocol):
    """Reads what stands between the markers of a family."""

    @property
    def state(self) -> Reading: ...

    def take(self, text: str) -> int:
        """Consumes what belongs to it, from the beginning of the text, up to where a call begins or ends in its sink;
        returns how much that was. It is called again with the rest and what has come since."""


class JsonCall:
    """One object. `strict`: keys other than those of a call break it, for it may be an object of another kind."""

    def __init__(self, sink: CallSink, *, strict: bool) -> None:
        self.state = Reading.MORE
        self._sink = sink
        self._strict = strict
        self._next: Callable[[str, int], int] = self._opening
        self._member: JsonValue = JsonValue()
        self._key = ""
        self._text: list[str] = []  # of the key or the value that is being read and not handed on
        self._name: str | None = None
        self._waiting: list[str] | None = None  # arguments that came before the name
        self._seen: set[str] = set()
        self._begun = False

    def take(self, text: str) -> int:
        place, changes = 0, self._sink.changes
        while place < len(text) and self.state is Reading.MORE and self._sink.changes == changes:
            place = self._next(text, place)
        return place

    def _opening(self, text: str, place: int) -> int:
        return self._expect("{", text, place, self._first_key)

    def _first_key(self, text: str, place: int) -> int:
        return self._end(place) if text[place] == "}" else self._before_key(text, place)

    def _before_key(self, text: str, place: int) -> int:
        if text[place] in SPACE:
            return place + 1
        self._member, self._text, self._next = JsonValue(), [], self._in_key
        return place if text[place] == '"' else self._broken(place)

    def _in_key(self, text: str, place: int) -> int:
        end = self._collect(text, place)
        if self._member.state is Reading.DONE:
            self._key = "arguments" if (key := json.loads("".join(self._text))) in _ARGUMENTS else key
            if self._key in self._seen or (self._strict and self._key not in ("name", "arguments", *_ALSO_KNOWN)):
                return self._broken(end)
            self._seen.add(self._key)
            self._next = self._colon
        return end

    def _colon(self, text: str, place: int) -> int:
        return self._expect(":", text, place, self._before_value)

    def _before_value(self, text: str, place: int) -> int:
        character = text[place]
        if character in SPACE:
            return place + 1
        self._member, self._text, self._next = JsonValue(), [], self._in_value
        if self._key == "arguments" and character == "{":
            self._next = self._in_arguments
            self._hand_on("")
        elif (self._key == "arguments" and character not in '"n') or (self._key == "name" and character != '"'):
            return self._broken(place)
        return place

    def _in_arguments(self, text: str, place: int) -> int:
        end = self._member.take(text, place)
        self._hand_on(text[place:end])
        return self._after_member(end)

    def _in_value(self, text: str, place: int) -> int:
        end = self._collect(text, place) if self._key in ("name", "arguments") else self._member.take(text, place)
        if self._member.state is not Reading.DONE:
            return self._after_member(end)
        if self._key == "name":
            self._name = json.loads("".join(self._text))
        elif self._key == "arguments" and not self._arguments_in("".join(self._text)):
            return self._broken(end)
        return self._after_member(end) if self._name != "" else self._broken(end)

    def _arguments_in(self, text: str) -> bool:
        """Arguments may come as null, or as a string that holds the object."""
        value = json.loads(text)
        inner = "{}" if value is None or not value.strip() else value
        reader = JsonValue()
        if inner.lstrip(SPACE)[:1] != "{" or inner[reader.take(inner) :].strip(SPACE) or reader.state != Reading.DONE:
            return False
        self._hand_on(inner)
        return True

    def _after_member(self, end: int) -> int:
        if self._member.state is Reading.BROKEN:
            return self._broken(end)
        if self._member.state is Reading.DONE:
            if self._key == "name" and self._waiting is not None:
                self._hand_on("")
            self._next = self._separator
        return end

    def _separator(self, text: str, place: int) -> int:
        if text[place] == "}":
            return self._end(place)
        return self._expect(",", text, place, self._before_key)

    def _end(self, place: int) -> int:
        if self._name is None:
            return self._broken(place)
        if "arguments" not in self._seen:
            self._hand_on("{}")
        self._sink.end()
        self.state = Reading.DONE
        return place + 1

    def _hand_on(self, text: str) -> None:
        if self._name is None:
            self._waiting = self._waiting or []
            self._waiting.append(text)
            return
        if not self._begun:
            self._sink.begin(self._name)
            self._begun = True
        self._sink.arguments("".join(self._waiting or ()) + text)
        self._waiting = None

    def _collect(self, text: str, place: int) -> int:
        end = self._member.take(text, place)
        self._text.append(text[place:end])
        return end

    def _expect(self, character: str, text: str, place: int, then: Callable[[str, int], int]) -> int:
        if text[place] == character:
            self._next = then
            return place + 1
        return place + 1 if text[place] in SPACE else self._broken(place)

    def _broken(self, place: int) -> int:
        self.state = Reading.BROKEN
        return place


class JsonCalls:
    """An array of such objects, which may be empty."""

    def __init__(self, sink: CallSink) -> None:
        self.state = Reading.MORE
        self._sink = sink
        self._call: JsonCall | None = None
        self._expected = "["

    def take(self, text: str) -> int:
        place, changes = 0, self._sink.changes
        while place < len(text) and self.state is Reading.MORE and self._sink.changes == changes:
            place = self._in_call(text, place, self._call) if self._call else self._between(text, place)
        return place

    def _in_call(self, text: str, place: int, call: JsonCall) -> int:
        place += call.take(text[place:])
        if call.state is Reading.DONE:
            self._call, self._expected = None, ",]"
        elif call.state is Reading.BROKEN:
            self.state = Reading.BROKEN
        return place

    def _between(self, text: str, place: int) -> int:
        character = text[place]
        if character in SPACE:
            return place + 1
        if character == "{" and "{" in self._expected:
            self._call = JsonCall(self._sink, strict=True)
            return place
        if character not in self._expected:
            self.state = Reading.BROKEN
            return place
        if character == "]":
            self.state = Reading.DONE
        self._expected = "{]" if character == "[" else "{"
        return place + 1


class JsonArguments:
    """The arguments of one function whose name is known beforehand: an object and nothing else."""

    def __init__(self, sink: CallSink, name: str) -> None:
        self._sink = sink
        self._name = name
        self._value = JsonValue()
        self._begun = False
        self.state = Reading.MORE

    def take(self, text: str) -> int:
        if not self._begun:
            begin = len(text) - len(text.lstrip(SPACE))
            if begin == len(text):
                return 0
            if text[begin] != "{":
                self.state = Reading.BROKEN
                return 0
            self._begun = True
            self._sink.begin(self._name)
            return begin
        end = self._value.take(text)
        self._sink.arguments(text[:end])
        self.state = self._value.state
        if self.state is Reading.DONE:
            self._sink.end()
        return end
