"""Which changes of the repository are picked up in which mode, what is loaded at the start, and what is ready then."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tritonclient.grpc
import tritonclient.http
from fake_backend import fake_model, write_model
from infer_calls import PROTOCOLS, Inference, answer, refuse, wait_until
from model_builders import openvino_scaling
from repository_calls import answering, index, loads, wait_for
from running_server import RunningServer

Start = Callable[..., RunningServer]

QUICK = ("--repository-settle-seconds=0.05", "--repository-poll-seconds=0.1")


def client_of(server: RunningServer, protocol: str) -> Any:
    module, address = {"grpc": (tritonclient.grpc, server.grpc), "rest": (tritonclient.http, server.http)}[protocol]
    return module.InferenceServerClient(address)


def change_all(root: Path) -> None:
    """Every kind of change: of files, versions, configurations and models."""
    openvino_scaling(root / "m" / "1", 5)
    openvino_scaling(root / "new" / "1", 6)
    (root / "configured" / "config.yaml").write_text("outputs: {output: {name: other}}\n")
    openvino_scaling(root / "versions" / "2", 7)
    shutil.rmtree(root / "gone")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "repository"
    for name in ("m", "configured", "versions", "gone"):
        openvino_scaling(root / name / "1", 2)
    return root


def test_with_none_nothing_changes_however_the_repository_does(root: Path, start: Start) -> None:
    server = start(root, "--model-control=none", *QUICK)
    before = index(server)
    change_all(root)
    watched = start(root, *QUICK)  # so long, at least, it has had time to look
    assert watched.ready
    assert index(server) == before
    assert loads(server) == (4, 0)
    for name in ("m", "configured", "versions", "gone"):
        assert answering(server, name) == (200, "1", 2.0)
    assert answering(server, "new")[0] == 404
    assert answering(watched) == (200, "1", 5.0)


def test_with_poll_every_change_is_picked_up(root: Path, start: Start) -> None:
    server = start(root, *QUICK)
    change_all(root)
    ready = dict.fromkeys(("m/1", "configured/1", "versions/2", "new/1"), ("READY", ""))
    wait_until(lambda: index(server) == ready | {"versions/1": ("UNAVAILABLE", "unloaded")})
    wait_until(lambda: answering(server) == (200, "1", 5.0))
    assert answering(server, "versions") == (200, "2", 7.0)
    assert answering(server, "gone")[0] == 404
    outputs = json.loads(server.request("GET", "/v2/models/configured")[2])["outputs"]
    assert [output["name"] for output in outputs] == ["other"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_with_explicit_a_change_is_picked_up_by_the_next_load_of_its_model(
    root: Path, start: Start, protocol: str
) -> None:
    server = start(root, "--model-control=explicit", "--load-model=m", "--load-model=versions", *QUICK)
    assert server.ready
    change_all(root)
    with client_of(server, protocol) as client:
        client.load_model("new")
        assert answering(server, "new") == (200, "1", 6.0)
        assert answering(server) == (200, "1", 2.0)
        client.load_model("m")
        assert answering(server) == (200, "1", 5.0)
        assert answering(server, "versions") == (200, "1", 2.0)
        client.load_model("versions")
        assert answering(server, "versions") == (200, "2", 7.0)
        assert answering(server, "configured")[0] == 503
        shutil.rmtree(root / "m")
        client.load_model("versions")  # which looks at everything
        assert answering(server) == (200, "1", 5.0)
        client.unload_model("m")
    assert answering(server)[0] == 404
    assert index(server)["versions/2"] == ("READY", "")


def test_strict_readiness_names_the_models_that_are_not_ready(tmp_path: Path, start: Start) -> None:
    root = tmp_path / "repository"
    write_model(root / "good" / "1", fake_model(shape=(-1, 2)))
    write_model(root / "bad" / "1", fake_model() | {"fail": "the weights are missing"})
    write_model(root / "worse" / "1")
    (root / "worse" / "config.yaml").write_text("devise: CPU\n")
    server = start(root, *QUICK)
    status, _, body = server.request("GET", "/v2/health/ready")
    reasons = json.loads(body)
    assert (status, reasons["ready"]) == (503, False)
    text = body.decode()
    assert "model 'bad' version 1 is UNAVAILABLE: the weights are missing" in text
    assert "model 'worse' is UNAVAILABLE: config.yaml: unknown key 'devise'" in text
    assert "good" not in text
    (root / "worse" / "config.yaml").unlink()
    write_model(root / "bad" / "1")
    wait_until(lambda: server.request("GET", "/v2/health/ready")[0] == 200)
    write_model(root / "good" / "2", fake_model() | {"fail": "the weights are missing"})
    wait_for(server, "good/2", "UNAVAILABLE", "the weights are missing")
    assert server.request("GET", "/v2/health/ready")[0] == 200, "a change never turns it false"
    for protocol in PROTOCOLS:
        assert answer(server, protocol, Inference(model="good"))["outputs"][0]["data"] == [2, 4]
        refuse(server, protocol, Inference(model="good", version="2"), "UNAVAILABLE")
