"""The access log of REST: a handler around another one.

Knows the transport's environment and answers, not what is served. A request finds its visit in its environment, under
`VISIT`, and only there is one where access is logged.
"""

from __future__ import annotations

import re
import time
from typing import Any, Final

from vintner import access_log
from vintner.access_log import Visit
from vintner.http_server import STATUS
from vintner.http_transport import Answer, Environ, Handler, Headers, Respond

VISIT: Final = "vintner.visit"

OF_A_MODEL: Final = re.compile(
    r"/v\d+/(?:repository/)?models/(?!stats$)(?P<model>[^/]+?)(?:/versions/(?P<version>[^/:]+))?(?::\w+|/.*)?"
)
CODES: Final = {status: code for code, status in STATUS.items()}


def logged(handler: Handler) -> Handler:
    """The handler, with a line for each request that it answers."""

    def handle(environ: Any, respond: Respond) -> Answer | None:
        visit = environ[VISIT] = _visit(environ)

        def late(status: int, headers: Headers, body: bytes) -> None:
            respond(status, headers, body)
            _write(visit, status, body)

        answer = handler(environ, late)
        if answer is not None:
            _write(visit, answer[0], answer[2])
        return answer

    return handle


def _visit(environ: Environ) -> Visit:
    path = environ["PATH_INFO"].encode("latin-1").decode("utf-8", "replace")
    length = environ.get("CONTENT_LENGTH")
    visit = Visit(
        "rest",
        environ["REQUEST_METHOD"],
        path,
        environ.get("REMOTE_ADDR", ""),
        time.monotonic(),
        None if length is None else int(length),
    )
    named = OF_A_MODEL.fullmatch(path)
    if named:
        visit.model, visit.version = named["model"], named["version"] or ""
    return visit


def _write(visit: Visit, status: int, body: bytes) -> None:
    code = "OK" if status < 400 else CODES.get(status, "INVALID_ARGUMENT" if status < 500 else "INTERNAL")
    access_log.write(visit, status, code, len(body))
