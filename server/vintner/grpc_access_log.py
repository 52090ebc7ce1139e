"""The access log of gRPC: what stands between the calls and their handlers, on either path.

Knows grpcio's handlers and contexts, not what is served. A handler finds the visit as `context.visit`, and only there
is one where access is logged. Calls that grpcio's core refuses by itself, such as one with a message over the limit,
reach nobody, and are not logged.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import grpc

from vintner import access_log
from vintner.access_log import Visit
from vintner.grpc_fast_path import Begin, Call
from vintner.poller import Turn

STREAMING: Final = ("unary_stream", "stream_stream")

Behaviour = Callable[..., Any]


class AccessLog(grpc.ServerInterceptor):  # type: ignore[misc]
    """For the ordinary server."""

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        handler = continuation(details)
        if handler is None:  # grpcio refuses it once this returns
            access_log.write(_visit(details.method, "", None), "UNIMPLEMENTED", "UNIMPLEMENTED", 0)
            return None
        kind = next(name for name in ("unary_unary", "stream_unary", *STREAMING) if getattr(handler, name))
        wrap = _streaming if kind in STREAMING else _unary
        return handler._replace(**{kind: wrap(getattr(handler, kind), details.method)})


def _unary(behaviour: Behaviour, path: str) -> Behaviour:
    @functools.wraps(behaviour)
    def logged(request: Any, context: Any) -> Any:
        visit = context.visit = _visit(path, context.peer(), _size(request))
        reply = None
        try:
            reply = behaviour(request, context)
            return reply
        finally:
            code = _code(context) or ("UNKNOWN" if reply is None else "OK")
            access_log.write(visit, code, code, _size(reply) if code == "OK" else 0)

    return logged


def naming(handler: Behaviour) -> Behaviour:
    """A handler of parsed messages that notes which model they name."""

    def noting(message: Any, context: Any) -> Any:
        note(context.visit, message)
        return handler(message, context)

    return noting


def note(visit: Visit, message: Any) -> None:
    """What a request's message, of whatever RPC, says of itself."""
    visit.request_id = getattr(message, "id", "")
    about_a_model = message.DESCRIPTOR.name.startswith("Model")
    visit.model = getattr(message, "model_name", "") or (getattr(message, "name", "") if about_a_model else "")
    visit.version = getattr(message, "model_version", "") or getattr(message, "version", "")


def _streaming(behaviour: Behaviour, path: str) -> Behaviour:
    """A stream is one request, which is over when the call is."""

    @functools.wraps(behaviour)
    def logged(request: Any, context: Any, *send: Callable[[Any], None]) -> Any:
        visit = context.visit = _visit(path, context.peer(), None)
        stream = _Stream()

        def ended() -> None:
            code = _code(context) or ("OK" if stream.complete else "CANCELLED")
            access_log.write(visit, code, code, None)

        if not context.add_callback(ended):
            ended()
        if send:  # as grpcio's health service does it: replies go by way of a callback
            return behaviour(request, context, stream.sending(*send))
        return stream.of(behaviour(request, context))

    return logged


class _Stream:
    """Notes whether a handler came to the end of its replies: the end of a call does not tell."""

    complete = False

    def of(self, replies: Iterator[Any]) -> Iterator[Any]:
        yield from replies
        self.complete = True

    def sending(self, send: Callable[[Any], None]) -> Callable[[Any], None]:
        def noting(reply: Any) -> None:
            self.complete = self.complete or reply is None
            send(reply)

        return noting


def logged_begin(begin: Begin, path: str) -> Begin:
    """For the fast path: the handler of its calls, given such as log how they end."""

    def logged(data: bytes, call: Call) -> Turn | None:
        visit = _visit(path, call.peer(), len(data))
        return begin(data, LoggedCall(call, visit))

    return logged


class LoggedCall:
    """A call of the fast path, whose visit is written once it was answered."""

    __slots__ = ("_call", "add_callback", "time_remaining", "visit")

    def __init__(self, call: Call, visit: Visit) -> None:
        self._call = call
        self.time_remaining = call.time_remaining
        self.add_callback = call.add_callback
        self.visit = visit

    def answer(self, message: bytes) -> None:
        self._call.answer(message)
        access_log.write(self.visit, "OK", "OK", len(message))

    def fail(self, code: grpc.StatusCode, details: str) -> None:
        self._call.fail(code, details)
        access_log.write(self.visit, code.name, code.name, 0)


def _visit(path: str, peer: str, received: int | None) -> Visit:
    return Visit("grpc", "", path, peer, time.monotonic(), received)


def _code(context: Any) -> str:
    """The status that a handler has set, "" for none."""
    code: grpc.StatusCode | None = context.code()
    return "" if code is None else str(code.name)


def _size(message: Any) -> int | None:
    """Bytes, of messages that are passed on as such; others are parsed by grpcio."""
    return len(message) if isinstance(message, bytes) else None
