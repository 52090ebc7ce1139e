"""The access log of REST: a handler around another one.

Knows the transport's environment and answers, not what is served. A request finds its visit in its environment, under
`VISIT`, and only there is one where access is logged.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from vintner import access_log
from vintner.access_log import Visit
from vintner.http_server import STATUS
from vintner.http_transport import Answer, Environ, Handler, Headers, Parts, Respond, StreamedAnswer

VISIT: Final = "vintner.visit"

OF_A_MODEL: Final = re.compile(
    r"/v\d+/(?:repository/)?models/(?!stats$)(?P<model>[^/]+?)(?:/versions/(?P<version>[^/:]+))?(?::\w+|/.*)?"
)
CODES: Final = {status: code for code, status in reversed([*STATUS.items()])}


def logged(handler: Handler) -> Handler:
    """The handler, with a line for each request that it answers."""

    def handle(environ: Any, respond: Respond) -> Answer | StreamedAnswer | None:
        visit = environ[VISIT] = _visit(environ)

        def late(status: int, headers: Headers, body: bytes) -> None:
            respond(status, headers, body)
            _write(visit, status, len(body))

        answer = handler(environ, late)
        if isinstance(answer, StreamedAnswer):
            return replace(answer, parts=_Counted(answer.parts, lambda sent: _write(visit, answer.status, sent)))
        if answer is not None:
            _write(visit, answer[0], len(answer[2]))
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


class _Counted:
    """The parts of a streamed answer, which tell their size when they are over. One thread."""

    def __init__(self, parts: Parts, over: Callable[[int], None]) -> None:
        self._parts = parts
        self._over: Callable[[int], None] | None = over
        self._sent = 0

    def __next__(self) -> bytes:
        part = next(self._parts)
        self._sent += len(part)
        return part

    def close(self) -> None:
        self._parts.close()
        over, self._over = self._over, None
        if over is not None:
            over(self._sent)


def _write(visit: Visit, status: int, sent: int) -> None:
    code = "OK" if status < 400 else CODES.get(status, "INVALID_ARGUMENT" if status < 500 else "INTERNAL")
    access_log.write(visit, status, code, sent)
