"""The REST front end: routes, bodies, statuses. Its handler is a plain function from a request to an answer.

Knows HTTP, not the server that speaks it; what is done is the service's, how bodies look is the codec's. Every
error, of whatever kind, is answered `{"error": "<message>"}` as `application/json`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import ClassVar, Final

import orjson

from vintner import http_codec as codec
from vintner import http_control
from vintner.control_parameters import NO_REPOSITORIES
from vintner.errors import (
    ModelNotReady,
    NotFound,
    QueueFull,
    RequestError,
    TooLarge,
    Unavailable,
    Unsupported,
    VintnerError,
)
from vintner.http_body import SMALLEST_COMPRESSED, accepted_encoding, compress, plain_size, read_body, read_exactly
from vintner.http_transport import Answer, Environ, Respond
from vintner.service import Service
from vintner.types import Response

logger = logging.getLogger(__name__)

STATUS: Final[Mapping[str, int]] = {
    "INVALID_ARGUMENT": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "RESOURCE_EXHAUSTED": 413,
    "INTERNAL": 500,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
    "CANCELLED": 499,
}
"""gRPC status -> HTTP status: with the `code` of each error, the one table for both protocols."""

JSON: Final = ("Content-Type", "application/json")
METRICS: Final = ("Content-Type", "text/plain; version=0.0.4; charset=utf-8")


UNSUPPORTED: Final = {
    "shared memory": r"/v2/(?:cuda|system)sharedmemory/.+",
    "tracing": r"/v2(?:/models/[^/]+(?:/versions/[^/]+)?)?/trace/setting",
    "changing what is logged": r"/v2/logging",
    "generation": r"/v2/models/[^/]+(?:/versions/[^/]+)?/generate(?:_stream)?",
}
"""Routes of Triton's that are not served here."""

Begin = Callable[[Callable[[Answer], None]], None]
"""Begins work whose answer is given to its argument, from any thread."""


class MethodNotAllowed(RequestError):
    """The route exists, the method does not; `allow` are those that do."""

    code: ClassVar[str] = "METHOD_NOT_ALLOWED"

    def __init__(self, allow: str) -> None:
        super().__init__("Method Not Allowed")
        self.allow = allow


@dataclass(frozen=True, slots=True)
class Route:
    """A path and what answers it, by method. The groups of the pattern are passed on by name."""

    pattern: re.Pattern[str]
    methods: Mapping[str, Callable[..., Answer | Begin]]


def routes(service: Service, max_request_bytes: int, max_bodies: int, max_upload_bytes: int = 0) -> list[Route]:
    """Every route, most frequent first: they are tried in this order. So many bodies are read at the same time.

    Without `max_upload_bytes` the body of a load is bounded as any other.
    """
    api = _Api(service, max_request_bytes, max_bodies, max_upload_bytes)
    model = r"/v2/models/(?P<model>[^/]+)(?:/versions/(?P<version>[^/]+))?"
    table: list[tuple[str, str, Callable[..., Answer | Begin]]] = [
        (rf"{model}/infer", "POST", api.infer),
        (r"/v2/health/live", "GET", api.live),
        (r"/v2/health/ready", "GET", api.ready),
        (rf"{model}/ready", "GET", api.model_ready),
        (r"/v2/models/stats", "GET", api.all_statistics),
        (rf"{model}/stats", "GET", api.statistics),
        (rf"{model}/config", "GET", api.model_config),
        (rf"{model}/?", "GET", api.model_metadata),
        (r"/v2/?", "GET", api.server_metadata),
        (r"/v2/repository/index", "POST", api.repository_index),
        (r"/v2/repository/models/(?P<model>[^/]+)/load", "POST", api.load),
        (r"/v2/repository/models/(?P<model>[^/]+)/unload", "POST", api.unload),
        (r"/v2/repository/[^/]+/(?:index|models/[^/]+/(?:load|unload))", "POST", _refuse_repository_name),
        (r"/metrics", "GET", api.metrics),
        (r"/v1/config", "GET", api.version_states),
        (r"/v1/config/reload", "POST", api.reload),
    ]
    return [
        *(Route(re.compile(pattern), _with_head(method, answer)) for pattern, method, answer in table),
        *(
            Route(re.compile(pattern), {"GET": _unsupported(what), "POST": _unsupported(what)})
            for what, pattern in UNSUPPORTED.items()
        ),
    ]


def _unsupported(what: str) -> Callable[..., Answer]:
    """For what Triton has and this server has not."""

    def answer(environ: Environ) -> Answer:
        raise Unsupported(f"{what} is not supported by this server")

    return answer


def _refuse_repository_name(environ: Environ) -> Answer:
    raise Unsupported(NO_REPOSITORIES)


def metrics_routes(service: Service) -> list[Route]:
    """What the metrics port answers."""
    return [Route(re.compile(r"/metrics"), _with_head("GET", _Api(service, 0, 0).metrics))]


def _with_head(method: str, answer: Callable[..., Answer | Begin]) -> Mapping[str, Callable[..., Answer | Begin]]:
    return {"GET": answer, "HEAD": answer} if method == "GET" else {method: answer}


class HttpFrontEnd:
    """Answers one request at a time in the caller's thread; any number of threads may call it."""

    def __init__(self, table: Sequence[Route]) -> None:
        self._routes = table

    def __call__(self, environ: Environ, respond: Respond) -> Answer | None:
        """The answer, or None if it goes by way of `respond`. Never raises."""
        try:
            answer = self._answer(environ)
            encoding = accepted_encoding(environ.get("HTTP_ACCEPT_ENCODING"))
            if not callable(answer):
                return _compressed(answer, encoding)
            answer(lambda late: respond(*_compressed(late, encoding)))
            return None
        except MethodNotAllowed as exc:
            return 405, (JSON, ("Allow", exc.allow)), codec.encode_error(exc.message)
        except Exception as exc:
            return error_answer(exc)

    def _answer(self, environ: Environ) -> Answer | Begin:
        path: str = environ["PATH_INFO"]
        if not path.isascii():  # PEP 3333 has the bytes of the path as Latin-1
            path = path.encode("latin-1").decode("utf-8", "replace")
        for route in self._routes:
            match = route.pattern.fullmatch(path)
            if match:
                answer = route.methods.get(environ["REQUEST_METHOD"])
                if answer is None:
                    raise MethodNotAllowed(", ".join(route.methods))
                return answer(environ, **match.groupdict(default=""))
        raise NotFound("Not Found")


def _compressed(answer: Answer, encoding: str | None) -> Answer:
    status, headers, body = answer
    if encoding and status < 400 and len(body) >= SMALLEST_COMPRESSED:
        return status, (*headers, ("Content-Encoding", encoding)), compress(body, encoding)
    return answer


def error_answer(error: Exception) -> Answer:
    """The status of the error table, and when to try again if that can help."""
    if not isinstance(error, VintnerError):
        logger.error("a request failed", exc_info=error)
        return 500, (JSON,), codec.encode_error("internal error; the server's log has the details")
    headers = [JSON]
    if isinstance(error, Unavailable):
        headers.append(("Retry-After", str(error.retry_after)))
    status = getattr(error, "status", None) or STATUS[error.code]
    return status, headers, codec.encode_error(error.message)


class _Api:
    """One method for each operation."""

    def __init__(self, service: Service, max_request_bytes: int, max_bodies: int, max_upload_bytes: int = 0) -> None:
        self._service = service
        self._limit = max_request_bytes
        self._upload_limit = max_upload_bytes
        self._max_bodies = max_bodies
        self._lock = Lock()
        self._bodies = 0

    def live(self, environ: Environ) -> Answer:
        return 200, (JSON,), orjson.dumps({"live": self._service.live()})

    def ready(self, environ: Environ) -> Answer:
        reasons = self._service.readiness()
        if reasons:
            return 503, (JSON, ("Retry-After", "1")), orjson.dumps({"ready": False, "reasons": reasons})
        return 200, (JSON,), b'{"ready":true}'

    def model_ready(self, environ: Environ, model: str, version: str) -> Answer:
        try:
            self._service.check_model(model, version)
        except ModelNotReady as exc:
            body = {"name": model, "ready": False, "reasons": [exc.message]}
            return 503, (JSON, ("Retry-After", str(exc.retry_after))), orjson.dumps(body)
        return 200, (JSON,), orjson.dumps({"name": model, "ready": True})

    def server_metadata(self, environ: Environ) -> Answer:
        metadata = self._service.server_metadata()
        return 200, (JSON,), codec.server_metadata_json(metadata.name, metadata.version, metadata.extensions)

    def model_metadata(self, environ: Environ, model: str, version: str) -> Answer:
        metadata = self._service.model_metadata(model, version)
        body = codec.model_metadata_json(
            metadata.name, metadata.versions, metadata.platform, metadata.inputs, metadata.outputs
        )
        return 200, (JSON,), body

    def all_statistics(self, environ: Environ) -> Answer:
        return 200, (JSON,), orjson.dumps(self._service.statistics())

    def statistics(self, environ: Environ, model: str, version: str) -> Answer:
        return 200, (JSON,), orjson.dumps(self._service.statistics(model, version))

    def model_config(self, environ: Environ, model: str, version: str) -> Answer:
        return 200, (JSON,), orjson.dumps(self._service.model_config(model, version))

    def repository_index(self, environ: Environ) -> Answer:
        ready_only = http_control.decode_index(read_body(environ, self._limit))
        return 200, (JSON,), http_control.encode_index(self._service.repository_index(ready_only))

    def load(self, environ: Environ, model: str) -> Answer:
        with self._service.one_control_call():
            self._service.load_model(model, http_control.decode_parameters(self._read_upload(environ)))
        return 200, (JSON,), b"{}"

    def _read_upload(self, environ: Environ) -> bytes:
        if not self._upload_limit:
            return read_body(environ, self._limit)
        limit = http_control.largest_body(self._upload_limit, self._limit)
        try:
            return read_body(environ, limit)
        except TooLarge as exc:
            raise TooLarge(f"the body of a load is larger than {limit} bytes (--max-upload-bytes, in base64)") from exc

    def unload(self, environ: Environ, model: str) -> Answer:
        with self._service.one_control_call():
            self._service.unload_model(model, http_control.decode_parameters(read_body(environ, self._limit)))
        return 200, (JSON,), b"{}"

    def version_states(self, environ: Environ) -> Answer:
        return 200, (JSON,), orjson.dumps(self._service.version_states())

    def reload(self, environ: Environ) -> Answer:
        status = 201 if self._service.reload() else 200
        return status, (JSON,), orjson.dumps(self._service.version_states())

    def infer(self, environ: Environ, model: str, version: str) -> Begin:
        try:
            with self._one_body():
                text, blobs = self._read_parts(environ)
            decoded = codec.decode_infer(text, blobs, model, version)
        except VintnerError as exc:
            self._service.reject(exc, "rest")
            raise

        def begin(send: Callable[[Answer], None]) -> None:
            turn = self._service.submit(decoded.request, "rest", lambda result: send(_infer_answer(result, decoded)))
            if turn is not None:
                turn.gather()
                turn.run()

        return begin

    @contextmanager
    def _one_body(self) -> Iterator[None]:
        """Bounds the threads that wait for what clients are slow to send, so that a health check finds one."""
        with self._lock:
            if self._bodies >= self._max_bodies:
                raise QueueFull(f"Exceeds maximum queue size: {self._bodies} requests are being received already")
            self._bodies += 1
        try:
            yield
        finally:
            with self._lock:
                self._bodies -= 1

    def _read_parts(self, environ: Environ) -> tuple[bytes, bytes]:
        """The JSON of an `infer` request, and the bytes of tensors that follow it."""
        header_length = environ.get("HTTP_INFERENCE_HEADER_CONTENT_LENGTH")
        if header_length is None:
            return read_body(environ, self._limit), b""
        size = plain_size(environ, self._limit)
        if size is not None:
            json_size = codec.json_size(header_length, size)
            return read_exactly(environ, json_size), read_exactly(environ, size - json_size)
        body = read_body(environ, self._limit)
        json_size = codec.json_size(header_length, len(body))
        return body[:json_size], body[json_size:]

    def metrics(self, environ: Environ) -> Answer:
        return 200, (METRICS,), self._service.metrics()


def _infer_answer(result: Response | Exception, decoded: codec.DecodedRequest) -> Answer:
    if isinstance(result, Exception):
        return error_answer(result)
    try:
        headers, body = codec.encode_infer(result, decoded)
    except Exception as exc:
        return error_answer(exc)
    return 200, headers, body
