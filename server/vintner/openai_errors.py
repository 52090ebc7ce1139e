"""Errors as clients of the OpenAI API read them: `{"error": {"message", "type", "param", "code"}}`.

Pure. Knows the tree of errors and the table of statuses, not what failed. Invariant: the status is the same as
elsewhere on this server, but for what is not supported, which is 400 to these clients: they try again on any 5xx.
"""

from __future__ import annotations

from typing import Any, Final

import orjson

from vintner.errors import ContextExceeded, NotFound, RequestError, Unsupported, VintnerError
from vintner.http_server import error_head, error_text
from vintner.http_transport import Answer

CODES: Final = (
    (ContextExceeded, "context_length_exceeded"),
    (NotFound, "model_not_found"),
    (Unsupported, "unsupported_parameter"),
)
"""What programs tell errors of clients by, as OpenAI names it; errors of the server go by their outcome's name."""


def openai_error(error: Exception) -> Answer:
    """The answer to a request that failed before anything of its answer was sent."""
    status, headers = error_head(error)
    return 400 if isinstance(error, Unsupported) else status, headers, orjson.dumps(error_object(error))


def error_object(error: Exception) -> dict[str, Any]:
    """The body of such an answer, and the event of a stream that fails later."""
    client = isinstance(error, RequestError)
    described = {
        "message": error_text(error),
        "type": "invalid_request_error" if client else "server_error",
        "param": _param(error),
        "code": _code(error),
    }
    return {"error": described}


def _param(error: Exception) -> str | None:
    """Models are all that these routes do not find."""
    if not isinstance(error, RequestError):
        return None
    return error.param or ("model" if isinstance(error, NotFound) else None)


def _code(error: Exception) -> str | None:
    if isinstance(error, RequestError):
        return next((code for kind, code in CODES if isinstance(error, kind)), None)
    return error.outcome if isinstance(error, VintnerError) else "internal"
