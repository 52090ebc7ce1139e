"""What a line of the access log says, and that no client can forge one."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vintner import access_log
from vintner.access_log import LONGEST, Visit, fields
from vintner.errors import BackendError, NotFound, QueueFull
from vintner.http_access_log import OF_A_MODEL
from vintner.logs import ACCESS, JsonFormatter, TextFormatter
from vintner.timing import Timing
from vintner.types import Response

FORGERY = 'x status=OK\n2026-01-01T00:00:00.000Z INFO vintner.access: request status=OK\r\u202e\u2028","status":"OK'


def visit(**more: Any) -> Visit:
    return Visit("grpc", "", "/inference.GRPCInferenceService/ModelInfer", "ipv4:127.0.0.1:5", 10.0, **more)


def lines_of(told: Visit, caplog: pytest.LogCaptureFixture) -> tuple[str, dict[str, Any]]:
    """The text and the JSON of its line."""
    caplog.clear()
    with caplog.at_level(logging.INFO, ACCESS):
        access_log.write(told, "OK", "OK", 7)
    (record,) = caplog.records
    assert record.name == ACCESS
    return TextFormatter().format(record), json.loads(JsonFormatter().format(record))


def test_a_line_has_all_that_is_known() -> None:
    timing = Timing(10.0)
    timing.ran(0.25, (0.1, 0.5, 0.1), 4, 2)
    told = visit(received=3, request_id="a", model="m", version="2", outcome="ok", timing=timing)
    assert fields(told, "OK", "OK", 5, 11.0000004) == {
        "protocol": "grpc",
        "path": "/inference.GRPCInferenceService/ModelInfer",
        "status": "OK",
        "outcome": "ok",
        "request_id": "a",
        "model": "m",
        "version": "2",
        "received": 3,
        "sent": 5,
        "seconds": 1.0,
        "peer": "ipv4:127.0.0.1:5",
        "queue_seconds": 0.25,
        "compute_seconds": 0.5,
    }


def test_what_is_empty_or_unknown_is_left_out() -> None:
    told = Visit("rest", "GET", "/v2", "", 10.0, timing=Timing(10.0))
    assert fields(told, 200, "OK", None, 10.0) == {
        "protocol": "rest",
        "method": "GET",
        "path": "/v2",
        "status": 200,
        "outcome": "ok",
        "seconds": 0.0,
    }
    assert fields(visit(received=0), "OK", "OK", 0, 10.0)["sent"] == 0


@pytest.mark.parametrize(
    ("noted", "code", "outcome"),
    [
        ("", "OK", "ok"),
        ("", "NOT_FOUND", "not_found"),
        ("", "RESOURCE_EXHAUSTED", "too_large"),
        ("", "UNIMPLEMENTED", "unsupported"),
        ("queue_full", "UNAVAILABLE", "queue_full"),
        ("ok", "OK", "ok"),
        ("ok", "RESOURCE_EXHAUSTED", "too_large"),
        ("cancelled", "OK", "cancelled"),  # of a stream
    ],
)
def test_the_outcome_is_the_metrics_one_and_never_better_than_the_status(noted: str, code: str, outcome: str) -> None:
    assert fields(visit(outcome=noted), code, code, None, 10.0)["outcome"] == outcome


@pytest.mark.parametrize(
    ("result", "outcome", "version"),
    [
        (Response("m", "3", {}), "ok", "3"),
        (NotFound("no"), "not_found", ""),
        (QueueFull("no"), "queue_full", ""),
        (BackendError("no"), "backend", ""),
        (ValueError("no"), "internal", ""),
    ],
)
def test_a_witness_notes_the_result_and_passes_it_on(result: Any, outcome: str, version: str) -> None:
    told = visit()
    passed: list[object] = []
    told.witness(passed.append)(result)
    assert (told.outcome, told.version, passed) == (outcome, version, [result])


@given(text=st.one_of(st.text(), st.just(FORGERY), st.text("=\n\r \"'\\\u202e\u2028\0m,:{}", min_size=1)))
def test_what_a_client_chose_can_forge_neither_line_nor_field(text: str) -> None:
    told = visit(request_id=text, model=text, version=text)
    told.path, told.method, told.peer = text, text, text
    record = logging.makeLogRecord({"name": ACCESS, "levelname": "INFO", "levelno": 20, "msg": "request"})
    vars(record).update(fields(told, "NOT_FOUND", "NOT_FOUND", 0, 11.0))
    line = TextFormatter().format(record)
    assert line.isprintable()
    assert pairs_of(line)["status"] == "NOT_FOUND"
    names = {"method", "path", "request_id", "model", "version", "peer"} if text else set()
    assert pairs_of(line).keys() == {"protocol", "status", "outcome", "sent", "seconds"} | names
    document = JsonFormatter().format(record)
    assert document.isascii()
    assert "\n" not in document
    event = json.loads(document)
    assert (event["status"], event["message"], event["level"]) == ("NOT_FOUND", "request", "info")
    assert event.get("request_id", "") == access_log.bounded(text)


def pairs_of(line: str) -> dict[str, str]:
    """The fields as a machine would find them in text: `name=value`, a value with anything else in it in quotes."""
    rest = line.split(": request ", 1)[1]
    found: dict[str, str] = {}
    while rest:
        name, _, rest = rest.partition("=")
        assert name.isidentifier()
        assert name not in found
        if rest.startswith('"'):
            end = 1
            while rest[end] != '"':
                end += 2 if rest[end] == "\\" else 1
            found[name], rest = rest[: end + 1], rest[end + 1 :]
            assert rest[:1] in ("", " ")
            rest = rest[1:]
        else:
            found[name], _, rest = rest.partition(" ")
    return found


def test_what_is_long_is_cut(caplog: pytest.LogCaptureFixture) -> None:
    text, event = lines_of(visit(request_id="\0" * 10**6, model="m" * 10**6), caplog)
    assert event["request_id"] == "\0" * LONGEST + "…"
    assert event["model"] == "m" * LONGEST + "…"
    assert len(text) < 2000


def test_a_line_is_written_whatever_the_levels_are(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, "vintner"):
        assert "status=OK" in lines_of(visit(), caplog)[0]


@pytest.mark.parametrize(
    ("path", "model", "version"),
    [
        ("/v2/models/m", "m", None),
        ("/v2/models/m/", "m", None),
        ("/v2/models/m/infer", "m", None),
        ("/v2/models/m/versions/3/infer", "m", "3"),
        ("/v2/models/m/versions/3", "m", "3"),
        ("/v2/models/versions/versions/3/ready", "versions", "3"),
        ("/v2/models/stats/infer", "stats", None),
        ("/v2/repository/models/m/load", "m", None),
        ("/v1/models/m:predict", "m", None),
        ("/v1/models/m/versions/2:predict", "m", "2"),
        ("/v1/models/m/versions/2/metadata", "m", "2"),
        ("/v2/models/a:b/infer", "a:b", None),
    ],
)
def test_the_model_and_the_version_in_a_path(path: str, model: str, version: str | None) -> None:
    match = OF_A_MODEL.fullmatch(path)
    assert match
    assert (match["model"], match["version"]) == (model, version)


@pytest.mark.parametrize(
    "path", ["/v2", "/v2/models/stats", "/v2/health/live", "/v2/repository/index", "/metrics", "/"]
)
def test_other_paths_name_no_model(path: str) -> None:
    assert OF_A_MODEL.fullmatch(path) is None
