"""REST routes of Triton's generate extension, for models of any kind: one answer, or a stream of server-sent events.

Invariant: the status is that of the first response; a later error is an event of its own, and ends the stream.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Semaphore
from typing import TypeVar

from vintner.answer_stream import AnswerStream
from vintner.errors import InvalidArgument, QueueFull, VintnerError
from vintner.event_stream import HEADERS, EventStream, event
from vintner.generate_codec import decode_generate, encode_generate
from vintner.http_access_log import VISIT
from vintner.http_body import Bodies
from vintner.http_codec import encode_error
from vintner.http_server import JSON, MODEL, Begin, Route, error_answer, error_text, route
from vintner.http_transport import Answer, Environ, StreamedAnswer
from vintner.service import MOST_STREAMS, Service
from vintner.turns import Turn, run_here
from vintner.types import Cancellation, Request, Response

Begun = TypeVar("Begun")


class Generate:
    """One method for each operation."""

    def __init__(self, service: Service, bodies: Bodies, places: Semaphore) -> None:
        """`places` are those for streams, which others may share."""
        self._service = service
        self._bodies = bodies
        self._places = places

    @property
    def routes(self) -> Sequence[Route]:
        return [
            route(rf"{MODEL}/generate", POST=self.generate),
            route(rf"{MODEL}/generate_stream", POST=self.generate_stream),
        ]

    def generate(self, environ: Environ, model: str, version: str) -> Begin:
        def begin(send: Callable[[Answer], None]) -> None:
            only = OnlyAnswer(send)

            def submit(request: Request) -> Turn | None:
                request.on_response, request.cancellation = only.respond, only.cancellation
                return self._service.submit(request, "rest", only.end)

            run_here(self._submitted(environ, model, version, submit))

        return begin

    def generate_stream(self, environ: Environ, model: str, version: str) -> StreamedAnswer:
        """Blocks until the first response is there, which decides the status."""
        events = self._submitted(environ, model, version, self._stream)
        try:
            events.expect_first()
        except BaseException:
            events.close()
            raise
        return StreamedAnswer(200, HEADERS, events)

    def _stream(self, request: Request) -> EventStream:
        if not self._places.acquire(blocking=False):
            raise QueueFull(f"Exceeds maximum number of streams: {MOST_STREAMS} are open already")
        stream = AnswerStream()
        events = EventStream(ResponseEvents(stream), self._places.release)
        try:
            stream.submit(self._service, request, "rest")
        except BaseException:
            events.close()
            raise
        return events

    def _submitted(self, environ: Environ, model: str, version: str, submit: Callable[[Request], Begun]) -> Begun:
        """The place lasts until the values have become tensors."""
        try:
            with self._bodies.one() as place:
                request = decode_generate(place.read(environ), model, version, self._bodies.json)
                request.visit = environ.get(VISIT)
                return submit(request)
        except VintnerError as exc:
            self._service.reject(exc, "rest")
            raise


class OnlyAnswer:
    """Takes the one response that there may be. Threads: the model's."""

    def __init__(self, send: Callable[[Answer], None]) -> None:
        self.cancellation = Cancellation()
        self._send = send
        self._responses: list[Response] = []

    def respond(self, response: Response) -> None:
        """Of a decoupled model."""
        self._responses.append(response)
        if len(self._responses) > 1:
            self.cancellation.cancel()

    def end(self, result: Response | Exception) -> None:
        responses = self._responses + ([result] if isinstance(result, Response) and result.outputs else [])
        if len(responses) > 1 or (not responses and isinstance(result, Response)):
            result = InvalidArgument(
                "generate expects model to produce exactly 1 response, use generate stream for model that generates"
                " various number of responses"
            )
        self._send(error_answer(result) if isinstance(result, Exception) else _answer(responses[0]))


def _answer(response: Response) -> Answer:
    try:
        return 200, (JSON,), encode_generate(response)
    except Exception as exc:
        return error_answer(exc)


class ResponseEvents:
    """Those of one request, as `EventSource`."""

    def __init__(self, stream: AnswerStream) -> None:
        self._stream = stream

    def next(self, timeout: float | None) -> bytes | None:
        response = self._stream.take(timeout)
        return event(encode_generate(response)) if response is not None else None

    def last(self) -> bytes:
        return b""

    def told(self, error: Exception) -> bytes:
        return event(encode_error(error_text(error)))

    def close(self) -> None:
        self._stream.close()
