"""Errors in OpenAI's shape, with the statuses of the one table."""

from __future__ import annotations

import orjson
import pytest
from vintner.errors import (
    BackendError,
    ContextExceeded,
    DeadlineExceeded,
    InvalidArgument,
    ModelNotReady,
    NotFound,
    QueueFull,
    TooLarge,
    Unsupported,
)
from vintner.http_server import MethodNotAllowed
from vintner.openai_errors import openai_error

CLIENT, SERVER = "invalid_request_error", "server_error"


@pytest.mark.parametrize(
    ("error", "status", "kind", "param", "code"),
    [
        (InvalidArgument("no", "top_p"), 400, CLIENT, "top_p", None),
        (InvalidArgument("no"), 400, CLIENT, None, None),
        (ContextExceeded("no", "messages"), 400, CLIENT, "messages", "context_length_exceeded"),
        (Unsupported("no", "logit_bias"), 400, CLIENT, "logit_bias", "unsupported_parameter"),
        (NotFound("no"), 404, CLIENT, "model", "model_not_found"),
        (MethodNotAllowed("POST"), 405, CLIENT, None, None),
        (TooLarge("no"), 413, CLIENT, None, None),
        (QueueFull("no"), 503, SERVER, None, "queue_full"),
        (ModelNotReady("no"), 503, SERVER, None, "not_ready"),
        (DeadlineExceeded("no"), 504, SERVER, None, "deadline_exceeded"),
        (BackendError("no"), 500, SERVER, None, "backend"),
        (ValueError("a secret"), 500, SERVER, None, "internal"),
    ],
)
def test_an_error_has_its_status_and_shape(
    error: Exception, status: int, kind: str, param: str | None, code: str | None
) -> None:
    answered, headers, body = openai_error(error)
    described = orjson.loads(body)["error"]
    assert answered == status
    assert (described["type"], described["param"], described["code"]) == (kind, param, code)
    assert described["message"]
    assert "secret" not in described["message"]
    assert ("Content-Type", "application/json") in headers
    assert ("Retry-After" in dict(headers)) == (status == 503)
