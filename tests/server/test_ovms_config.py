"""OpenVINO Model Server's `config.json`, and its `/v1/config`: a real server, real models, a published client."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from infer_calls import wait_until
from model_builders import openvino_doubling
from running_server import RunningServer, vintner
from tritonclient.utils import InferenceServerException

Start = Callable[..., RunningServer]

AVAILABLE = {"state": "AVAILABLE", "status": {"error_code": "OK", "error_message": "OK"}}


class Site:
    """A directory with models and a `config.json` that lists some of them by relative paths."""

    def __init__(self, root: Path) -> None:
        self.file = root / "site" / "config.json"
        for name in ("one", "two", "three"):
            openvino_doubling(root / "site" / "models" / name / "1")

    def add_version(self, name: str, version: int, shape: tuple[int, ...] = (-1, 4)) -> None:
        openvino_doubling(self.file.parent / "models" / name / str(version), shape=shape)

    def write(self, **models: dict[str, Any]) -> None:
        entries = [{"config": {"name": name, "base_path": f"models/{name}", **more}} for name, more in models.items()]
        self.file.write_text(json.dumps({"model_config_list": entries}))


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.fixture
def served(site: Site, start: Start, tmp_path: Path) -> RunningServer:
    site.write(one={}, two={"nireq": 1, "plugin_config": {"NUM_STREAMS": "1"}})
    return start([], f"--config_path={site.file}")


def states(server: RunningServer) -> dict[str, dict[str, Any]]:
    status, headers, body = server.request("GET", "/v1/config")
    assert (status, headers["Content-Type"]) == (200, "application/json")
    return by_version(json.loads(body))


def by_version(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    assert all(list(model) == ["model_version_status"] for model in document.values())
    return {
        name: {status.pop("version"): status for status in model["model_version_status"]}
        for name, model in document.items()
    }


def reload(server: RunningServer) -> tuple[int, dict[str, Any]]:
    status, headers, body = server.request("POST", "/v1/config/reload", b"")
    assert headers["Content-Type"] == "application/json"
    return status, json.loads(body)


def doubled(server: RunningServer, model: str, version: str = "", rows: int = 3) -> str:
    """The version that answered, and rightly."""
    values = np.arange(rows * 4, dtype=np.float32).reshape(rows, 4)
    given = triton.InferInput("input", values.shape, "FP32")
    given.set_data_from_numpy(values)
    with triton.InferenceServerClient(server.grpc) as client:
        result = client.infer(model, [given], model_version=version)
    np.testing.assert_array_equal(result.as_numpy("output"), values * 2)
    return result.get_response().model_version


def test_the_models_of_the_file_are_served(served: RunningServer) -> None:
    assert served.ready
    assert [doubled(served, "one"), doubled(served, "two")] == ["1", "1"]
    assert states(served) == {"one": {"1": AVAILABLE}, "two": {"1": AVAILABLE}}
    assert served.request("GET", "/v2/models/three")[0] == 404


def test_a_reload_picks_up_what_was_added_and_removed(site: Site, served: RunningServer) -> None:
    assert reload(served) == (200, json.loads(served.request("GET", "/v1/config")[2]))
    site.write(one={"model_version_policy": {"all": {}}}, three={})
    site.add_version("one", 5)
    status, document = reload(served)
    assert status == 201
    reloaded = by_version(document)
    assert reloaded["one"] == {"1": AVAILABLE, "5": AVAILABLE}
    assert reloaded["three"] == {"1": AVAILABLE}
    assert [doubled(served, "one"), doubled(served, "one", "1"), doubled(served, "three")] == ["5", "1", "1"]
    wait_until(lambda: "two" not in states(served))
    with pytest.raises(InferenceServerException, match=r"unknown model: .two. is not found"):
        doubled(served, "two")
    assert reload(served)[0] == 200


@pytest.mark.parametrize(
    ("content", "status", "problem"),
    [
        ("{", 400, "Reloading config file failed"),
        ('{"models": []}', 400, "model_config_list: expected a list"),
        (None, 500, "Config file not found or cannot open"),
    ],
)
def test_a_broken_file_changes_nothing(
    site: Site, served: RunningServer, content: str | None, status: int, problem: str
) -> None:
    if content is None:
        site.file.unlink()
    else:
        site.file.write_text(content)
    answered, document = reload(served)
    assert (answered, list(document)) == (status, ["error"])
    assert problem in document["error"]
    assert [doubled(served, "one"), doubled(served, "two")] == ["1", "1"]
    site.write(one={}, two={"nireq": 1, "plugin_config": {"NUM_STREAMS": "1"}})
    assert reload(served)[0] == 200


def test_a_model_that_is_wrong_is_told_and_keeps_no_other_from_being_served(site: Site, start: Start) -> None:
    site.write(one={}, two={"nireq": "many"}, three={"layout": "CN"}, four={})
    server = start([], "--config-path", str(site.file), "--no-strict-readiness")
    assert server.ready
    found = states(server)
    assert found["one"] == {"1": AVAILABLE}
    for name, version, reason in [
        ("two", "0", "nireq: expected a whole number"),
        ("three", "1", "the batch N in front"),
        ("four", "0", "No such file"),
    ]:
        assert found[name][version]["state"] == "LOADING"
        assert found[name][version]["status"]["error_code"] == "UNKNOWN"
        assert reason in found[name][version]["status"]["error_message"]
    assert doubled(server, "one") == "1"
    site.add_version("four", 1)
    site.write(one={}, four={}, two={"unknown": 1})
    status, document = reload(server)
    assert status == 201, document
    assert [doubled(server, name) for name in ("one", "two", "four")] == ["1", "1", "1"]
    assert "model 'two': unknown key 'unknown'" in server.log.read_text()


def test_a_reload_that_leaves_something_failed_says_so(site: Site, served: RunningServer) -> None:
    site.write(one={}, two={"nireq": 1, "plugin_config": {"NUM_STREAMS": "1"}}, four={})
    status, document = reload(served)
    assert status == 400
    assert "Reloading models versions failed" in document["error"]
    assert "model 'four'" in document["error"]
    assert "No such file" in document["error"]
    assert [doubled(served, "one"), doubled(served, "two")] == ["1", "1"]


def test_shapes_layouts_and_names_are_as_the_file_says(site: Site, start: Start) -> None:
    site.add_version("one", 1, (1, 3, 4, 6))
    mapping = {"inputs": {"input": "image"}, "outputs": {"output": "twice"}}
    (site.file.parent / "models" / "one" / "1" / "mapping_config.json").write_text(json.dumps(mapping))
    site.write(one={"layout": {"image": "NHWC:NCHW", "twice": "NHWC:NCHW"}, "shape": {"image": "(2,4,-1,3)"}})
    server = start([], f"--config-path={site.file}")
    pixels = np.arange(2 * 4 * 5 * 3, dtype=np.float32).reshape(2, 4, 5, 3)
    given = triton.InferInput("image", pixels.shape, "FP32")
    given.set_data_from_numpy(pixels)
    with triton.InferenceServerClient(server.grpc) as client:
        metadata = client.get_model_metadata("one")
        result = client.infer("one", [given])
    assert [list(tensor.shape) for tensor in (*metadata.inputs, *metadata.outputs)] == [[2, 4, -1, 3]] * 2
    np.testing.assert_array_equal(result.as_numpy("twice"), pixels * 2)


def test_a_server_may_have_a_repository_beside_the_file(site: Site, start: Start, tmp_path: Path) -> None:
    openvino_doubling(tmp_path / "repository" / "four" / "1")
    openvino_doubling(tmp_path / "repository" / "one" / "1")
    site.write(one={}, two={})
    server = start(tmp_path / "repository", f"--config-path={site.file}", "--no-strict-readiness")
    assert [doubled(server, "two"), doubled(server, "four")] == ["1", "1"]
    assert states(server)["one"]["0"]["status"] == {
        "error_code": "UNKNOWN",
        "error_message": "model appears in two or more repositories",
    }


def test_nothing_configured_is_an_empty_object(site: Site, start: Start) -> None:
    site.write()
    server = start([], f"--config-path={site.file}")
    assert server.request("GET", "/v1/config")[2] == b"{}"
    assert reload(server) == (200, {})


def test_the_methods_are_those_of_openvino_model_server(served: RunningServer) -> None:
    for method, path, allow in [("POST", "/v1/config", "GET, HEAD"), ("GET", "/v1/config/reload", "POST")]:
        status, headers, _ = served.request(method, path, b"" if method == "POST" else None)
        assert (status, headers["Allow"]) == (405, allow)


def test_a_file_that_is_broken_from_the_start_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    run = vintner("serve", f"--config-path={tmp_path / 'config.json'}")
    assert run.returncode == 1
    assert run.stderr.startswith(f"vintner: error: {tmp_path / 'config.json'}: it is not valid JSON")
    assert len(run.stderr.splitlines()) == 1
