"""The REST front end: finds what answers a request, and turns errors into statuses.

Knows HTTP, not the server that speaks it, nor what is served: the routes come from `http_routes`. Its handler is a
plain function from a request to an answer. Every error, of whatever kind, is answered `{"error": "<message>"}` as
`application/json`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

from vintner import http_codec as codec
from vintner.errors import NotFound, RequestError, Unavailable, VintnerError
from vintner.http_body import SMALLEST_COMPRESSED, ReplyCoding, accepted_coding, compress
from vintner.http_transport import Answer, Environ, Headers, Respond, StreamedAnswer

logger = logging.getLogger(__name__)

STATUS: Final[Mapping[str, int]] = {
    "INVALID_ARGUMENT": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 400,
    "RESOURCE_EXHAUSTED": 413,
    "INTERNAL": 500,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
    "CANCELLED": 499,
}
"""gRPC status -> HTTP status: with the `code` of each error, the one table for both protocols."""

JSON: Final = ("Content-Type", "application/json")
VARY: Final = ("Vary", "Accept-Encoding")

MODEL: Final = r"/v2/models/(?P<model>[^/]+)(?:/versions/(?P<version>[^/]+))?"
"""The beginning of a path that names a model, and perhaps a version."""

Begin = Callable[[Callable[[Answer], None]], None]
"""Begins work whose answer is given to its argument, from any thread."""


class MethodNotAllowed(RequestError):
    """The route exists, the method does not; `allow` are those that do."""

    status: ClassVar[int] = 405

    def __init__(self, allow: str) -> None:
        super().__init__("Method Not Allowed")
        self.headers = (("Allow", allow),)


Method = Callable[..., Answer | Begin | StreamedAnswer]
"""Is given the environment, and the groups of its route's pattern by name."""


Refuse = Callable[[Exception], Answer]
"""Makes an answer of an error."""


@dataclass(frozen=True, slots=True)
class Route:
    """A path and what answers it, by HTTP method. `refuse` is None where errors look as everywhere."""

    pattern: re.Pattern[str]
    methods: Mapping[str, Method]
    refuse: Refuse | None = None


def route(pattern: str, refuse: Refuse | None = None, /, **methods: Method) -> Route:
    """`route("/v2", GET=answer)`. What answers GET answers HEAD too, and bears a slash at the end of its path."""
    if "GET" in methods:
        return Route(re.compile(f"(?:{pattern})/?"), methods | {"HEAD": methods["GET"]}, refuse)
    return Route(re.compile(pattern), methods, refuse)


class HttpFrontEnd:
    """Answers one request at a time in the caller's thread; any number of threads may call it."""

    def __init__(self, table: Sequence[Route]) -> None:
        self._routes = table

    def __call__(self, environ: Environ, respond: Respond) -> Answer | StreamedAnswer | None:
        """The answer, or None if it goes by way of `respond`. Never raises."""
        refuse: Refuse = error_answer
        try:
            route, groups = self._found(environ)
            refuse = route.refuse or refuse
            answer = _answer(route, environ, groups)
            if isinstance(answer, StreamedAnswer):
                return answer
            accepted = accepted_coding(environ.get("HTTP_ACCEPT_ENCODING"))
            if not callable(answer):
                return _compressed(answer, accepted)
            answer(lambda late: respond(*_compressed(late, accepted)))
            return None
        except Exception as exc:
            return refuse(exc)

    def _found(self, environ: Environ) -> tuple[Route, Mapping[str, str]]:
        path: str = environ["PATH_INFO"]
        if not path.isascii():  # PEP 3333 has the bytes of the path as Latin-1
            path = path.encode("latin-1").decode("utf-8", "replace")
        for route in self._routes:
            match = route.pattern.fullmatch(path)
            if match:
                return route, match.groupdict(default="")
        raise NotFound("Not Found")


def _answer(route: Route, environ: Environ, groups: Mapping[str, str]) -> Answer | Begin | StreamedAnswer:
    answer = route.methods.get(environ["REQUEST_METHOD"])
    if answer is None:
        raise MethodNotAllowed(", ".join(route.methods))
    return answer(environ, **groups)


def _compressed(answer: Answer, accepted: ReplyCoding | None) -> Answer:
    status, headers, body = answer
    if status >= 400:
        return answer
    if accepted and len(body) >= accepted.least:
        headers = (*headers, ("Content-Encoding", accepted.name), VARY)
        return status, headers, compress(body, accepted.name)
    return (status, (*headers, VARY), body) if len(body) >= SMALLEST_COMPRESSED else answer


def error_text(error: Exception) -> str:
    """What a client is told of it; what is our own fault is logged."""
    if isinstance(error, VintnerError):
        return error.message
    logger.error("a request failed", exc_info=error)
    return "internal error; the server's log has the details"


def error_answer(error: Exception) -> Answer:
    """The status of the error table, and when to try again if that can help."""
    status, headers = error_head(error)
    return status, headers, codec.encode_error(error_text(error))


def error_head(error: Exception) -> tuple[int, Headers]:
    """What `error_answer` begins with."""
    if not isinstance(error, VintnerError):
        return 500, (JSON,)
    headers = [JSON, *getattr(error, "headers", ())]
    if isinstance(error, Unavailable):
        headers.append(("Retry-After", str(error.retry_after)))
    return getattr(error, "status", None) or STATUS[error.code], headers
