"""REST routes of the OpenAI API for language models.

Knows which routes there are and how their answers are sent. What requests ask, and how answers look, is for others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from threading import Semaphore
from typing import Final
from uuid import uuid4

from vintner.errors import ModelNotReady, QueueFull, VintnerError
from vintner.event_stream import HEADERS, EventStream
from vintner.executor import LeanExecutor
from vintner.http_access_log import VISIT
from vintner.http_body import Bodies
from vintner.http_server import JSON, Begin, Route
from vintner.http_transport import Answer, Environ, StreamedAnswer
from vintner.openai_asked import Streamed, Whole, request_of
from vintner.openai_chat import read_chat
from vintner.openai_completions import read_completion
from vintner.openai_errors import openai_error
from vintner.openai_events import PATIENT, OpenAIEvents
from vintner.openai_questions import SEPARATOR, ModelName, Question
from vintner.openai_request import Parameters
from vintner.openai_routes import openai_route, read_parameters
from vintner.openai_tokenize import TokenizeQuestion
from vintner.service import MOST_STREAMS, Service
from vintner.turns import run_here
from vintner.types import Cancellation, Request, Response

Read = Callable[[Parameters, ModelName, str, int], Question]

WRITERS: Final = 2
"""Threads that write whole answers."""


class OpenAI:
    """One method for each operation."""

    def __init__(self, service: Service, bodies: Bodies, places: Semaphore) -> None:
        """`places` are those for streams, which others may share."""
        self._service = service
        self._bodies = bodies
        self._places = places
        self._writers = LeanExecutor(WRITERS, "vintner-openai")

    @property
    def routes(self) -> Sequence[Route]:
        return [
            openai_route("/chat/completions", POST=self.chat),
            openai_route("/completions", POST=self.complete),
            openai_route("/tokenize", POST=self.tokenize),
        ]

    def chat(self, environ: Environ) -> Begin | StreamedAnswer:
        return self._generate(environ, read_chat, "chatcmpl")

    def complete(self, environ: Environ) -> Begin | StreamedAnswer:
        return self._generate(environ, read_completion, "cmpl")

    def tokenize(self, environ: Environ) -> Answer:
        try:
            with self._bodies.one() as place:
                parameters = read_parameters(environ, place, self._bodies)
                name = self._named(parameters.required("model"))
                question = TokenizeQuestion(parameters)
                with self._service.language(name.model) as language:
                    return 200, (JSON,), question.answer(language)
        except VintnerError as exc:
            self._service.reject(exc, "rest")
            raise

    def _generate(self, environ: Environ, read: Read, prefix: str) -> Begin | StreamedAnswer:
        """The place lasts until the prompt has become tokens."""
        try:
            with ExitStack() as stack:
                place = stack.enter_context(self._bodies.one())
                parameters = read_parameters(environ, place, self._bodies)
                name = self._named(parameters.required("model"))
                question = read(parameters, name, f"{prefix}-{uuid4().hex}", int(time.time()))
                if not question.manner.stream:
                    return self._whole(environ, question, stack.pop_all())
                events = self._events(environ, question)
        except VintnerError as exc:
            self._service.reject(exc, "rest")
            raise
        try:
            events.expect_first()
        except BaseException:
            events.close()
            raise
        return StreamedAnswer(200, HEADERS, events)

    def _whole(self, environ: Environ, question: Question, place: ExitStack) -> Begin:
        def begin(send: Callable[[Answer], None]) -> None:
            asked = Whole(question, lambda result: send(_answer(result)), self._writers.submit)
            with place:
                self._submit(environ, request_of(question, asked, Cancellation()), asked.end)

        return begin

    def _events(self, environ: Environ, question: Question) -> EventStream:
        if not self._places.acquire(blocking=False):
            raise QueueFull(f"Exceeds maximum number of streams: {MOST_STREAMS} are open already")
        asked = Streamed(question)
        events = EventStream(OpenAIEvents(asked), self._places.release, patience=PATIENT)
        try:
            self._submit(environ, request_of(question, asked, asked.cancellation), asked.end)
        except BaseException:
            events.close()
            raise
        return events

    def _submit(self, environ: Environ, request: Request, end: Callable[[Response | Exception], None]) -> None:
        request.visit = environ.get(VISIT)
        run_here(self._service.submit(request, "rest", end))

    def _named(self, name: str) -> ModelName:
        """The model that has the name, else the one before its last colon, with the adapter behind it."""
        model, separator, adapter = name.rpartition(SEPARATOR)
        if not separator or not model or not adapter or self._is_known(name):
            return ModelName(name, name)
        return ModelName(name, model, adapter)

    def _is_known(self, name: str) -> bool:
        try:
            self._service.check_model(name)
        except ModelNotReady:
            return True
        except VintnerError:
            return False
        return True


def _answer(result: bytes | Exception) -> Answer:
    return openai_error(result) if isinstance(result, Exception) else (200, (JSON,), result)
