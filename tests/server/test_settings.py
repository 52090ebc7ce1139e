"""Triton's log and trace settings, by Triton's clients and over plain HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
import tritonclient.http.aio
from fake_backend import write_model
from google.protobuf.json_format import MessageToDict
from infer_calls import Refusal, grpc_stub, refusal_of, rest_refusal, wait_until
from running_server import RunningServer, start_server
from tritonclient.grpc import service_pb2 as pb
from tritonclient.utils import InferenceServerException

LOG = {
    "log_file": "",
    "log_info": True,
    "log_warning": True,
    "log_error": True,
    "log_verbose_level": 0,
    "log_format": "ISO8601",
}
TRACE = {
    "trace_level": ["OFF"],
    "trace_rate": "1000",
    "trace_count": "-1",
    "log_frequency": "0",
    "trace_file": "",
    "trace_mode": "triton",
}
CLIENTS = ["grpc", "http"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, third_party: dict[str, str]) -> Iterator[RunningServer]:
    root = tmp_path_factory.mktemp("settings")
    write_model(root / "models" / "m" / "1")
    options = ("--model-control=explicit", "--load-model=m")
    running = start_server(root / "models", root / "log", *options, env=third_party)
    yield running
    running.kill()


def client_of(server: RunningServer, kind: str) -> Any:
    if kind == "grpc":
        return tritonclient.grpc.InferenceServerClient(server.grpc)
    return tritonclient.http.InferenceServerClient(server.http)


def log_of(reply: Any) -> Mapping[str, Any]:
    """The settings in a client's reply."""
    if isinstance(reply, dict):
        return reply
    settings = MessageToDict(reply, preserving_proto_field_name=True)["settings"]
    return {name: next(iter(value.values())) for name, value in settings.items()}


def trace_of(reply: Any) -> Mapping[str, Any]:
    if isinstance(reply, dict):
        return reply
    values = {name: list(setting.value) for name, setting in reply.settings.items()}
    return {name: each if name == "trace_level" else "".join(each) for name, each in values.items()}


@pytest.mark.parametrize("kind", CLIENTS)
def test_the_log_settings_are_told(server: RunningServer, kind: str) -> None:
    with client_of(server, kind) as client:
        assert log_of(client.get_log_settings()) == LOG
        assert log_of(client.update_log_settings({})) == LOG


@pytest.mark.parametrize("kind", CLIENTS)
def test_a_level_is_switched_off_and_on_again(server: RunningServer, kind: str) -> None:
    def loads_logged() -> int:
        return server.log.read_text().count("is ready after")

    with client_of(server, kind) as client:
        client.load_model("m")
        wait_until(lambda: loads_logged() > 0)
        before = loads_logged()
        changed = client.update_log_settings({"log_info": False, "log_verbose_level": 0})
        assert log_of(changed) == log_of(client.get_log_settings()) == LOG | {"log_info": False}
        client.unload_model("m")
        client.load_model("m")
        assert loads_logged() == before
        assert log_of(client.update_log_settings({"log_info": True})) == LOG
        client.unload_model("m")
        client.load_model("m")
        wait_until(lambda: loads_logged() == before + 1)


@pytest.mark.parametrize("kind", CLIENTS)
@pytest.mark.parametrize(
    ("settings", "status"),
    [
        ({"log_file": "/tmp/x"}, "UNIMPLEMENTED"),
        ({"log_format": "default"}, "UNIMPLEMENTED"),
        ({"log_format": "text"}, "INVALID_ARGUMENT"),
        ({"log_nothing": True}, "INVALID_ARGUMENT"),
    ],
)
def test_other_changes_of_what_is_logged_are_refused(
    server: RunningServer, kind: str, settings: dict[str, Any], status: str
) -> None:
    http = {"UNIMPLEMENTED": "501", "INVALID_ARGUMENT": "400"}
    with client_of(server, kind) as client:
        with pytest.raises(InferenceServerException) as caught:
            client.update_log_settings({"log_info": False} | settings)
        assert caught.value.status() == (f"StatusCode.{status}" if kind == "grpc" else http[status])
        assert log_of(client.get_log_settings()) == LOG


def test_a_log_setting_without_a_value_is_refused(server: RunningServer) -> None:
    message = pb.LogSettingsRequest()
    message.settings["log_info"].SetInParent()
    with grpc_stub(server) as stub:
        refused = refusal_of(lambda: stub.LogSettings(message))
    assert refused == Refusal("INVALID_ARGUMENT", "log setting 'log_info' has no value")


@pytest.mark.parametrize("path", ["/v2/logging", "/v2/trace/setting", "/v2/models/m/trace/setting"])
def test_a_post_without_a_body_changes_nothing(server: RunningServer, path: str) -> None:
    state = server.request("GET", path)[2]
    assert json.loads(state) == (LOG if path == "/v2/logging" else TRACE)
    for body in (b"", b"{}", b" \n"):
        status, headers, reply = server.request("POST", path, body)
        assert (status, headers["Content-Type"], reply) == (200, "application/json", state)
    for wrong in ([], "x", b"{", b"\xff"):
        assert rest_refusal(server, "POST", path, wrong).code == "400"
    assert rest_refusal(server, "PUT", path, {}).code == "405"


@pytest.mark.parametrize("kind", CLIENTS)
@pytest.mark.parametrize("model", [None, "m"])
def test_the_trace_settings_are_told_and_stay(server: RunningServer, kind: str, model: str | None) -> None:
    with client_of(server, kind) as client:
        assert trace_of(client.get_trace_settings(model_name=model)) == TRACE
        same = {"trace_level": ["OFF"], "trace_rate": "1000", "trace_count": None}
        assert trace_of(client.update_trace_settings(model_name=model, settings=same)) == TRACE
        for settings, status in (
            ({"trace_level": ["TIMESTAMPS"]}, ("UNIMPLEMENTED", "501")),
            ({"x": "1"}, ("INVALID_ARGUMENT", "400")),
        ):
            with pytest.raises(InferenceServerException) as caught:
                client.update_trace_settings(model_name=model, settings=settings)
            assert caught.value.status().removeprefix("StatusCode.") in status
        assert trace_of(client.get_trace_settings(model_name=model)) == TRACE


@pytest.mark.parametrize("kind", CLIENTS)
def test_an_unknown_model_has_no_trace_settings(server: RunningServer, kind: str) -> None:
    with client_of(server, kind) as client, pytest.raises(InferenceServerException) as caught:
        client.get_trace_settings(model_name="nobody")
    assert caught.value.status() in ("StatusCode.NOT_FOUND", "404")
    assert "nobody" in caught.value.message()


def test_the_trace_settings_of_a_version_over_rest(server: RunningServer) -> None:
    assert json.loads(server.request("GET", "/v2/models/m/versions/1/trace/setting")[2]) == TRACE
    assert rest_refusal(server, "GET", "/v2/models/m/versions/7/trace/setting").code == "404"
    refusal = rest_refusal(server, "POST", "/v2/trace/setting", {"trace_rate": 1000})
    assert (refusal.code, refusal.message) == ("400", "trace setting 'trace_rate': expected strings, got 1000")


def test_tritons_asynchronous_clients_may_ask_too(server: RunningServer) -> None:
    async def ask(kind: Any, address: str) -> None:
        async with kind.InferenceServerClient(address) as client:
            assert log_of(await client.get_log_settings()) == LOG
            assert log_of(await client.update_log_settings({"log_verbose_level": 0})) == LOG
            assert trace_of(await client.get_trace_settings(model_name="m")) == TRACE
            assert trace_of(await client.update_trace_settings(settings={"trace_level": None})) == TRACE

    for kind, address in ((tritonclient.grpc.aio, server.grpc), (tritonclient.http.aio, server.http)):
        asyncio.run(ask(kind, address))
