"""What streams of answers look like on the wire: server-sent events over HTTP/1.1, and gRPC's messages over HTTP/2.

Pure: bytes in, bytes out. It does no more than it needs to know when a piece came and when an answer ended, so that a
client in Python costs little beside the server; of what a piece says it knows nothing. Invariant: an answer that is no
success raises `BadAnswer`.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

from tritonclient.grpc import service_pb2

from bench.prompts import Prompt

Event = tuple[int, Literal["piece", "end"]]
"""The number of an answer on its connection, and what came of it."""


class BadAnswer(RuntimeError):
    """A request failed, or was answered with something else than a stream."""


class Wire(Protocol):
    """One connection."""

    greeting: bytes
    """What is sent first of all, if it is not empty; the server answers it."""

    def request(self, number: int, asked: Prompt) -> bytes:
        """What begins a request, whose answer has that number."""
        ...

    def feed(self, data: bytes) -> Iterator[Event]: ...

    def reply(self) -> bytes:
        """What is to be sent because of what was fed."""
        ...


# -- HTTP/1.1 ------------------------------------------------------------------------------------------------

Body = Callable[[str, Prompt], Mapping[str, Any]]
"""The JSON body of a request to a model."""


def generate_body(model: str, asked: Prompt) -> Mapping[str, Any]:
    return {"text_input": asked.text, "max_tokens": asked.tokens, "ignore_eos": True}


def completion_body(model: str, asked: Prompt) -> Mapping[str, Any]:
    return {"model": model, "prompt": asked.text, "max_tokens": asked.tokens, "ignore_eos": True, "stream": True}


@dataclass(frozen=True, slots=True)
class SseRoute:
    """Where a model is asked for a stream of events."""

    model: str
    path: str
    body: Body

    def wire(self) -> SseWire:
        return SseWire(self)


class SseWire:
    """One request at a time."""

    END: Final = b"\r\n0\r\n\r\n"
    greeting = b""

    def __init__(self, route: SseRoute) -> None:
        self._route = route
        self._number = 0
        self._tail = b""
        self._begun = False

    def request(self, number: int, asked: Prompt) -> bytes:
        self._number, self._tail, self._begun = number, b"", False
        body = json.dumps(self._route.body(self._route.model, asked)).encode()
        return b"POST %b HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
            self._route.path.encode(),
            len(body),
            body,
        )

    def feed(self, data: bytes) -> Iterator[Event]:
        if not self._begun:
            if not (self._tail + data).startswith(b"HTTP/1.1 200"[: len(self._tail + data)]) or b'"error"' in data:
                raise BadAnswer(data.decode(errors="replace"))
            self._begun = True
        data = self._tail + data
        if b"data: {" in data:
            if b'"error"' in data:
                raise BadAnswer(data.decode(errors="replace"))
            yield self._number, "piece"
        self._tail = data[-6:]
        if data.endswith(self.END):
            yield self._number, "end"

    def reply(self) -> bytes:
        return b""


# -- HTTP/2 --------------------------------------------------------------------------------------------------

DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY, WINDOW = 0, 1, 3, 4, 6, 7, 8
INITIAL_WINDOW_SIZE: Final = 4
END_STREAM, END_HEADERS, ACK = 1, 4, 1
WIDE: Final = 2**31 - 1
STREAM_PATH: Final = "/inference.GRPCInferenceService/ModelStreamInfer"
OK: Final = b"grpc-status\x010"
"""In trailers as grpcio writes them the first time on a connection. Later it is a byte of at least `INDEXED`: a place
in the table of what was written before, which is only ever this (RFC 7541, 6.1)."""
INDEXED: Final = 0x80
RESPONSE: Final = 0x12
"""How a ModelStreamInferResponse begins that has a response, and no error."""


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _literal(name: str, value: str) -> bytes:
    """A header that is not indexed, with neither string compressed (RFC 7541, 6.2.2). For less than 127 bytes."""
    return b"\x00" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()


def _headers(path: str) -> bytes:
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "bench",
        "content-type": "application/grpc",
        "te": "trailers",
    }
    return b"".join(_literal(name, value) for name, value in fields.items())


def stream_request(model: str, asked: Prompt) -> bytes:
    """A ModelInferRequest as Triton's clients stream it to a language model."""
    text = asked.text.encode()
    request = service_pb2.ModelInferRequest(model_name=model, raw_input_contents=[struct.pack("<I", len(text)) + text])
    request.inputs.add(name="text_input", datatype="BYTES", shape=[1])
    request.parameters["max_tokens"].int64_param = asked.tokens
    request.parameters["ignore_eos"].bool_param = True
    return bytes(request.SerializeToString())


class GrpcWire:
    """Any number of calls of ModelStreamInfer at once, each with one request. Its windows are as wide as can be, so
    nothing ever waits for it."""

    greeting: Final = (
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        + _frame(SETTINGS, 0, 0, struct.pack(">HI", INITIAL_WINDOW_SIZE, WIDE))
        + _frame(WINDOW, 0, 0, struct.pack(">I", WIDE - 65_535))
    )

    def __init__(self, model: str) -> None:
        self._model = model
        self._rest = b""
        self._stream = -1
        self._reply = bytearray()
        self._numbers: dict[int, int] = {}
        self._headers = _headers(STREAM_PATH)

    def request(self, number: int, asked: Prompt) -> bytes:
        self._stream += 2
        self._numbers[self._stream] = number
        message = stream_request(self._model, asked)
        data = struct.pack(">BI", 0, len(message)) + message
        begin = _frame(HEADERS, END_HEADERS, self._stream, self._headers)
        return begin + _frame(DATA, END_STREAM, self._stream, data)

    def feed(self, data: bytes) -> Iterator[Event]:
        data = self._rest + data
        at = 0
        while len(data) - at >= 9:
            size = int.from_bytes(data[at : at + 3], "big")
            if len(data) - at < 9 + size:
                break
            kind, flags = data[at + 3], data[at + 4]
            stream = int.from_bytes(data[at + 5 : at + 9], "big")
            payload = data[at + 9 : at + 9 + size]
            at += 9 + size
            if kind == DATA:
                if payload[5] != RESPONSE:
                    raise BadAnswer(payload.decode(errors="replace"))
                yield self._numbers[stream], "piece"
            elif kind == HEADERS and flags & END_STREAM:
                if OK not in payload and payload[0] < INDEXED:
                    raise BadAnswer(payload.decode(errors="replace"))
                yield self._numbers.pop(stream), "end"
            elif kind == SETTINGS and not flags & ACK:
                self._reply += _frame(SETTINGS, ACK, 0)
            elif kind == PING and not flags & ACK:
                self._reply += _frame(PING, ACK, 0, payload)
            elif kind in (RESET, GOAWAY):
                raise BadAnswer(f"the connection got a frame of kind {kind}: {payload!r}")
        self._rest = data[at:]

    def reply(self) -> bytes:
        reply, self._reply = bytes(self._reply), bytearray()
        return reply
