"""Loading and unloading over the API, by Triton's own clients and by requests that they would not send."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from fake_backend import fake_model, write_model
from held_backend import held
from infer_calls import (
    PROTOCOLS,
    STATUS,
    WAIT,
    Background,
    Given,
    Inference,
    Refusal,
    answer,
    grpc_stub,
    refusal_of,
    rest_refusal,
    wait_for_queued,
    wait_until,
)
from model_builders import onnx_doubling
from running_server import ROOT, RunningServer, start_server
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

POLLED = "explicit model load / unload is not allowed if polling is enabled"
HELD = json.dumps({"backend": "held"})
"""A configuration that says nothing but what the tests' backend is called."""

PARAMETERS = {bool: "bool_param", int: "int64_param", str: "string_param", bytes: "bytes_param"}
UPLOAD = {"config": "{}", "file:1/model.fake": json.dumps(fake_model(shape=(-1, 2))).encode()}


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """`first` has two versions, `second` one; `broken` does not load, `faulty` cannot even be tried."""
    root = tmp_path / "models"
    for version in "12":
        write_model(root / "first" / version, fake_model(shape=(-1, 2)))
    write_model(root / "second" / "1", fake_model(shape=(-1, 2)))
    write_model(root / "broken" / "1", fake_model() | {"fail": "the weights are missing"})
    write_model(root / "faulty" / "1")
    (root / "faulty" / "config.yaml").write_text("devise: CPU\n")
    return root


@pytest.fixture
def uploads(tmp_path: Path) -> Path:
    directory = tmp_path / "uploads"
    directory.mkdir()
    return directory


@pytest.fixture
def server(models: Path, uploads: Path, start: Callable[..., RunningServer]) -> RunningServer:
    """Loads only what it is asked for, and takes uploads."""
    return start(models, "--model-control=explicit", "--allow-model-upload", f"--upload-dir={uploads}")


@contextmanager
def client_of(server: RunningServer, protocol: str) -> Iterator[Any]:
    module, address = {"grpc": (tritonclient.grpc, server.grpc), "rest": (tritonclient.http, server.http)}[protocol]
    with module.InferenceServerClient(address) as client:
        yield client


def index(server: RunningServer, protocol: str) -> dict[str, dict[str, str]]:
    """What Triton's client says of each model, by name and version, without what is empty."""
    with client_of(server, protocol) as client:
        if protocol == "rest":
            entries = client.get_model_repository_index()
        else:
            entries = client.get_model_repository_index(as_json=True).get("models", [])
    return {f"{entry.pop('name')}/{entry.pop('version', '')}": entry for entry in entries}


def ask(server: RunningServer, protocol: str, operation: str, model: str, parameters: Mapping[str, Any]) -> Any:
    """A load or an unload with parameters of any kind. Raises grpc.RpcError, or returns REST's status and document."""
    if protocol == "rest":
        status, _, body = server.request("POST", path_of(operation, model), rest_body(parameters))
        assert status == 200, body
        return json.loads(body)
    with grpc_stub(server) as stub:
        return call_of(stub, operation, model, parameters)()


def path_of(operation: str, model: str) -> str:
    return f"/v2/repository/models/{model}/{operation}"


def rest_body(parameters: Mapping[str, Any]) -> bytes:
    plain = {k: base64.b64encode(v).decode() if isinstance(v, bytes) else v for k, v in parameters.items()}
    return json.dumps({"parameters": plain}).encode()


def call_of(stub: Any, operation: str, model: str, parameters: Mapping[str, Any]) -> Callable[[], Any]:
    kind = operation.capitalize()
    request = getattr(service_pb2, f"RepositoryModel{kind}Request")(model_name=model)
    for name, value in parameters.items():
        if value is None:
            request.parameters[name].SetInParent()
        else:
            setattr(request.parameters[name], PARAMETERS[type(value)], value)
    return lambda: getattr(stub, f"RepositoryModel{kind}")(request, timeout=WAIT)


def refused(
    server: RunningServer, protocol: str, code: str, operation: str, model: str, parameters: Mapping[str, Any]
) -> str:
    """The message of a load or an unload that has to be refused with this gRPC status, or REST's for it."""
    if protocol == "rest":
        refusal: Refusal = rest_refusal(server, "POST", path_of(operation, model), rest_body(parameters))
        assert refusal.code == str(STATUS[code]), refusal
    else:
        with grpc_stub(server) as stub:
            refusal = refusal_of(call_of(stub, operation, model, parameters))
        assert refusal.code == code, refusal
    return refusal.message


def doubled(server: RunningServer, model: str, version: str = "") -> dict[str, Any]:
    reply = answer(server, "rest", Inference(model=model, version=version))
    assert reply["outputs"][0]["data"] == [2, 4]
    return reply


# -- by Triton's clients ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_model_is_loaded_and_unloaded(server: RunningServer, protocol: str) -> None:
    assert server.ready  # there is nothing that it was told to load
    assert index(server, protocol) == {"first/": {}, "second/": {}, "broken/": {}, "faulty/": {}}
    with client_of(server, protocol) as client:
        assert not client.get_model_repository_index() or protocol == "rest" or True
        client.load_model("first")
        assert client.is_model_ready("first")
        assert doubled(server, "first")["model_version"] == "2"
        assert index(server, protocol)["first/2"] == {"state": "READY"}
        assert "second/" in index(server, protocol)
        client.unload_model("first", unload_dependents=True)
        assert index(server, protocol)["first/2"] == {"state": "UNAVAILABLE", "reason": "unloaded"}
        client.load_model("first")
        client.load_model("first")
        assert client.is_model_ready("first")
