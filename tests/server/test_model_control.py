"""Loading and unloading over the API, by Triton's own clients and by requests that they would not send."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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
from running_server import RunningServer, start_server, vintner
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

FAULT = "config.yaml: unknown key 'devise'; did you mean 'device'?"
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
    never = {"second/": {}, "broken/": {}, "faulty/": {"state": "UNAVAILABLE", "reason": FAULT}}
    assert index(server, protocol) == {"first/": {}, **never}
    with client_of(server, protocol) as client:
        client.load_model("first")
        assert client.is_model_ready("first")
        assert doubled(server, "first")["model_version"] == "2"
        assert index(server, protocol) == {"first/2": {"state": "READY"}, **never}
        client.unload_model("first", unload_dependents=True)
        assert not ready(client, "first")
        assert index(server, protocol)["first/2"] == {"state": "UNAVAILABLE", "reason": "unloaded"}
        for _ in range(2):
            client.load_model("first")
            assert client.is_model_ready("first")
        client.unload_model("nobody")


def ready(client: Any, model: str) -> bool:
    """Whether a known model is ready; the two clients tell of one that is not in two ways."""
    try:
        answered: bool = client.is_model_ready(model)
    except InferenceServerException:
        return False
    return answered


def test_the_index_says_nothing_but_the_name_of_what_was_never_loaded(server: RunningServer) -> None:
    entries = json.loads(server.request("POST", "/v2/repository/index", b"")[2])
    assert {"name": "second"} in entries


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_load_sees_what_the_repository_has_by_now(server: RunningServer, models: Path, protocol: str) -> None:
    write_model(models / "late" / "1", fake_model(shape=(-1, 2)))
    with client_of(server, protocol) as client:
        client.load_model("late")
        write_model(models / "late" / "3", fake_model(shape=(-1, 2)))
        assert doubled(server, "late")["model_version"] == "1"
        client.load_model("late")
    assert doubled(server, "late")["model_version"] == "3"


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "config",
    [
        {"batching": {"max_batch_size": 3}, "version_policy": "all"},
        {"max_batch_size": 3, "version_policy": {"all": {}}, "dynamic_batching": {}},
        {"maxBatchSize": 3, "name": "first", "versionPolicy": {"specific": {"versions": ["1", 2]}}},
    ],
    ids=["as in config.yaml", "Triton's", "Triton's, in JSON's names"],
)
def test_a_configuration_lasts_until_the_next_load(server: RunningServer, config: Any, protocol: str) -> None:
    with client_of(server, protocol) as client:
        client.load_model("first", config=json.dumps(config))
        assert max_batch_size(server) == 3
        assert doubled(server, "first", "1")["model_version"] == "1"
        client.load_model("first")
        assert max_batch_size(server) == 0
        assert "first/1" not in index(server, protocol) or index(server, protocol)["first/1"]["state"] != "READY"
        client.load_model("first", config=json.dumps(config))
        client.unload_model("first")
        client.load_model("first")
        assert max_batch_size(server) == 0


def max_batch_size(server: RunningServer, model: str = "first") -> int:
    limit: int = json.loads(server.request("GET", f"/v2/models/{model}/config")[2])["max_batch_size"]
    return limit


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_model_can_be_loaded_with_the_configuration_that_it_shows(
    tmp_path: Path, start: Callable[..., RunningServer], protocol: str
) -> None:
    onnx_doubling(tmp_path / "models" / "m" / "1")
    server = start(tmp_path / "models", "--model-control-mode=explicit", "--load-model=m")
    with client_of(server, protocol) as client:
        if protocol == "grpc":
            shown = client.get_model_config("m", as_json=True)["config"]
        else:
            shown = client.get_model_config("m")
        client.load_model("m", config=json.dumps(shown))
        assert client.is_model_ready("m")


# -- uploads ---------------------------------------------------------------------------------------------------


def stored(uploads: Path) -> list[str]:
    """Every file that is kept of uploads, as `<version>/<name>`."""
    walk = os.walk(uploads)  # which passes over what is removed meanwhile
    return sorted(f"{Path(directory).name}/{file}" for directory, _, files in walk for file in files)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_uploaded_model_is_served_until_it_is_unloaded(
    server: RunningServer, uploads: Path, models: Path, tmp_path: Path, protocol: str
) -> None:
    content = onnx_doubling(tmp_path / "source").read_bytes()
    before = sorted(models.rglob("*"))
    with client_of(server, protocol) as client:
        client.load_model("sent", config='{"backend": "onnxruntime"}', files={"file:3/model.onnx": content})
        module = {"grpc": tritonclient.grpc, "rest": tritonclient.http}[protocol]
        tensor = module.InferInput("input", [2, 4], "FP32")
        tensor.set_data_from_numpy(np.ones((2, 4), np.float32))
        result = client.infer("sent", [tensor])
        np.testing.assert_array_equal(result.as_numpy("output"), np.full((2, 4), 2))
        assert client.get_model_metadata("sent", **AS_JSON[protocol])["versions"] == ["3"]
        assert stored(uploads) == ["3/model.onnx"]
        assert all(path.stat().st_mode & 0o077 == 0 for path in uploads.iterdir())
        client.unload_model("sent")
        wait_until(lambda: stored(uploads) == [])
        with pytest.raises(InferenceServerException, match="failed to load 'sent', failed to poll from model repos"):
            client.load_model("sent")
    assert sorted(models.rglob("*")) == before


AS_JSON = {"grpc": {"as_json": True}, "rest": {}}


def fake_file(columns: int) -> bytes:
    return json.dumps(fake_model(shape=(-1, columns))).encode()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_upload_stands_in_for_the_model_of_the_repository(
    server: RunningServer, uploads: Path, protocol: str
) -> None:
    with client_of(server, protocol) as client:
        client.load_model("second")
        for columns in (3, 5):
            client.load_model("second", config=HELD, files={"file:1/model.fake": fake_file(columns)})
            assert shape(server, "second") == [-1, columns]
            wait_until(lambda: stored(uploads) == ["1/model.fake"])
        client.load_model("second")
        assert shape(server, "second") == [-1, 2]
        wait_until(lambda: stored(uploads) == [])


def shape(server: RunningServer, model: str) -> list[int]:
    extents: list[int] = json.loads(server.request("GET", f"/v2/models/{model}")[2])["inputs"][0]["shape"]
    return extents


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_upload_that_fails_leaves_what_was_served(server: RunningServer, uploads: Path, protocol: str) -> None:
    broken = {"config": HELD, "file:1/model.fake": b"{"}
    ask(server, protocol, "load", "second", {})
    message = refused(server, protocol, "INVALID_ARGUMENT", "load", "second", broken)
    assert message.startswith("load failed for model 'second': version 1 is at UNAVAILABLE state: cannot read model.")
    doubled(server, "second")
    ask(server, protocol, "load", "second", {})
    wait_until(lambda: stored(uploads) == [])
    doubled(server, "second")


def test_an_upload_is_kept_for_as_long_as_a_request_runs_on_it(server: RunningServer, uploads: Path) -> None:
    with client_of(server, "grpc") as client:
        client.load_model("sent", config=HELD, files={"file:1/model.fake": fake_file(2)})
        [file] = uploads.rglob("*.fake")
        with held(file.parent):
            running = Background(answer, server, "rest", Inference(model="sent"))
            wait_for_queued(server, "sent", running=1, waiting=0)
            again = Background(ask, server, "grpc", "load", "sent", {"config": HELD, "file:1/model.fake": fake_file(3)})
            wait_until(lambda: shape(server, "sent") == [-1, 3])
            assert file.exists()
        assert running.outcome["outputs"][0]["data"] == [2, 4]
        assert again.outcome is not None
        wait_until(lambda: not file.exists())
        assert len(stored(uploads)) == 1


def test_what_was_uploaded_is_gone_when_the_server_ends(server: RunningServer, uploads: Path) -> None:
    ask(server, "rest", "load", "sent", UPLOAD)
    assert stored(uploads) == ["1/model.fake"]
    assert server.terminate() == 0
    assert not list(uploads.iterdir())


def test_uploads_are_refused_unless_they_are_allowed(models: Path, start: Callable[..., RunningServer]) -> None:
    server = start(models, "--model-control=explicit")
    for protocol in PROTOCOLS:
        message = refused(server, protocol, "PERMISSION_DENIED", "load", "sent", UPLOAD)
        assert "start the server with --allow-model-upload" in message


def test_the_size_of_an_upload_is_limited(models: Path, start: Callable[..., RunningServer]) -> None:
    content = UPLOAD["file:1/model.fake"]
    assert isinstance(content, bytes)
    limit = 300_000
    server = start(
        models, "--model-control=explicit", "--allow-model-upload", f"--max-upload-bytes={limit}",
        "--max-request-bytes=100KiB",
    )  # fmt: skip
    for protocol in PROTOCOLS:
        for padding, code in ((limit - len(content), "OK"), (limit - len(content) + 1, "RESOURCE_EXHAUSTED")):
            parameters = {**UPLOAD, "file:1/readme": bytes(padding)}
            if code == "OK":
                ask(server, protocol, "load", "sent", parameters)
            else:
                message = refused(server, protocol, code, "load", "sent", parameters)
                assert f"{limit + 1} bytes were uploaded, at most {limit} are allowed (--max-upload-bytes)" in message
    refusal = rest_refusal(server, "POST", path_of("load", "sent"), b" " * 600_000)
    assert refusal.code == "413"
    assert "--max-upload-bytes" in refusal.message


# -- refusals --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_model_that_cannot_be_loaded_is_refused_with_the_reason(server: RunningServer, protocol: str) -> None:
    for model, code, expected in (
        ("nobody", "NOT_FOUND", "failed to load 'nobody', failed to poll from model repository"),
        (
            "broken",
            "INVALID_ARGUMENT",
            "load failed for model 'broken': version 1 is at UNAVAILABLE state: the weights are missing;",
        ),
        ("faulty", "INVALID_ARGUMENT", f"load failed for model 'faulty': {FAULT}"),
    ):
        for parameters in ({}, {"config": HELD}):
            assert refused(server, protocol, code, "load", model, parameters).startswith(expected)
    assert index(server, protocol)["broken/1"] == {"state": "UNAVAILABLE", "reason": "the weights are missing"}


WRONG: dict[str, tuple[str, dict[str, Any], str]] = {
    "an unknown parameter of a load": (
        "load", {"confg": "{}"}, "unknown parameter 'confg' of a load; did you mean 'config'?",
    ),
    "an unknown parameter of an unload": (
        "unload", {"config": "{}"}, "unknown parameter 'config' of an unload; expected one of: unload_dependents",
    ),
    "unload_dependents that is a number": (
        "unload", {"unload_dependents": 1}, "parameter 'unload_dependents' must be a boolean, got 1",
    ),
    "a config that is a number": ("load", {"config": 1}, "parameter 'config' must be a string of JSON, got 1"),
    "a config that is a boolean": ("load", {"config": True}, "must be a string of JSON, got a boolean"),
    "a config that is no JSON": ("load", {"config": "{"}, "parameter 'config': malformed JSON"),
    "a config that is a list": ("load", {"config": "[]"}, "parameter 'config': expected a JSON object"),
    "an unknown key": (
        "load", {"config": '{"max_batch_sze": 1}'},
        "'config': unknown key 'max_batch_sze'; did you mean 'max_batch_size'?",
    ),
    "two kinds of keys": (
        "load", {"config": '{"device": "CPU", "max_batch_size": 1}'},
        "'device' is a key of config.yaml, 'max_batch_size' one of Triton's; use one kind",
    ),
    "a bad value of our keys": ("load", {"config": '{"instances": 0}'}, "instances: expected a positive integer"),
    "a bad value of Triton's keys": ("load", {"config": '{"max_batch_size": "x"}'}, "max_batch_size"),
    "what is not served of Triton's": ("load", {"config": '{"ensemble_scheduling": {"step": []}}'}, "ensemble_sched"),
    "another model's name": ("load", {"config": '{"name": "second"}'}, "it names the model 'second', the load 'first'"),
    "options that may be paths": (
        "load", {"config": '{"backend_options": {"CACHE_DIR": "/x"}}'},
        "backend_options can be set only in the model's own config.yaml",
    ),
    "a policy that selects nothing": (
        "load", {"config": '{"version_policy": {"specific": [7]}}'}, "the policy is 'specific [7]', there is 1, 2",
    ),
    "a file without a config": ("load", {"file:1/model.fake": b"x"}, "'file:1/model.fake' needs the parameter 'conf"),
    "a pin that is a boolean": ("load", {"pin_version": True}, "must be a version, or 0 for none, got a boolean"),
    "a pin that is a text": ("load", {"pin_version": "2"}, "must be a version, or 0 for none, got a string"),
    "a pin below zero": ("load", {"pin_version": -1}, "must be a version, or 0 for none, got -1"),
    "traffic that is a number": ("load", {"traffic": 5}, "parameter 'traffic' must be an object, such as {}, got 5"),
    "traffic that is no JSON": ("load", {"traffic": "{"}, "parameter 'traffic': malformed JSON"),
    "a file outside of versions": ("load", {"config": "{}", "file:model.fake": b"x"}, "expected file:<version>/<file>"),
    "a file outside of the model": ("load", {"config": "{}", "file:1/../../x": b"x"}, "'..' cannot be the name of a"),
}  # fmt: skip


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, third_party: dict[str, str]) -> Iterator[RunningServer]:
    """A server on which nothing is ever loaded."""
    root = tmp_path_factory.mktemp("control")
    for version in "12":
        write_model(root / "models" / "first" / version, fake_model(shape=(-1, 2)))
    (root / "uploads").mkdir()
    options = ("--model-control=explicit", "--allow-model-upload", f"--upload-dir={root / 'uploads'}")
    server = start_server(root / "models", root / "log", *options, env=third_party)
    yield server
    assert not stored(root / "uploads")
    assert index(server, "rest") == {"first/": {}}
    server.kill()


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("fault", WRONG)
def test_faulty_parameters_are_an_invalid_argument(shared: RunningServer, fault: str, protocol: str) -> None:
    operation, parameters, expected = WRONG[fault]
    assert expected in refused(shared, protocol, "INVALID_ARGUMENT", operation, "first", parameters)


BODIES: dict[str, tuple[Any, str]] = {
    "half a document": (b"{", "malformed JSON"),
    "an array": ([], "the request body must be a JSON object"),
    "parameters that are an array": ({"parameters": []}, "'parameters' of the request must be an object"),
    "a parameter that is null": ({"parameters": {"config": None}}, "parameter 'config' must be a boolean, an integer"),
    "a parameter that is an array": ({"parameters": {"traffic": []}}, "parameter 'traffic' must be a boolean, an int"),
    "a config that is an object": ({"parameters": {"config": {}}}, "must be a string of JSON, got an object"),
    "a file that is an object": (
        {"parameters": {"config": "{}", "file:1/m": {}}}, "'file:1/m' must be the content of a file, a string in",
    ),
    "a file that is no base64": (
        {"parameters": {"config": "{}", "file:1/m": "%%%%"}}, "parameter 'file:1/m' is not valid base64",
    ),
    "a file that is half in base64": (
        {"parameters": {"config": "{}", "file:1/m": "QUJ"}}, "parameter 'file:1/m' is not valid base64",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", BODIES)
def test_a_faulty_body_is_a_400(shared: RunningServer, fault: str) -> None:
    body, expected = BODIES[fault]
    for operation in ("load", "unload") if "parameters" not in (body if isinstance(body, dict) else ()) else ("load",):
        refusal = rest_refusal(shared, "POST", path_of(operation, "first"), body)
        assert refusal.code == "400"
        assert expected in refusal.message


def test_a_faulty_message_is_an_invalid_argument(shared: RunningServer) -> None:
    for model, parameters, expected in (
        ("", {}, "Model name cannot be empty"),
        (" ", {}, "Model name cannot be empty"),
        ("../first", {}, "a model cannot be named '../first'"),
        ("first", {"config": None}, "parameter 'config' has no value"),
        ("first", {"config": b"{}"}, "parameter 'config' must be a string of JSON, got bytes"),
        ("first", {"config": "{}", "file:1/m": "text"}, "'file:1/m' must be the content of a file, in bytes_param"),
    ):
        assert expected in refused(shared, "grpc", "INVALID_ARGUMENT", "load", model, parameters)


def test_repositories_have_no_names(shared: RunningServer) -> None:
    for path in ("index", "models/first/load", "models/first/unload"):
        refusal = rest_refusal(shared, "POST", f"/v2/repository/mine/{path}", {})
        assert (refusal.code, refusal.message) == ("501", "'repository_name' specification is not supported")
    with grpc_stub(shared) as stub:
        for call, request in (
            (stub.RepositoryIndex, service_pb2.RepositoryIndexRequest(repository_name="mine")),
            (
                stub.RepositoryModelLoad,
                service_pb2.RepositoryModelLoadRequest(repository_name="mine", model_name="first"),
            ),
        ):
            refusal = refusal_of(lambda call=call, request=request: call(request))
            assert (refusal.code, refusal.message) == (
                "UNIMPLEMENTED", "'repository_name' specification is not supported",
            )  # fmt: skip


def test_kserves_messages_name_the_model_where_tritons_name_the_repository(server: RunningServer) -> None:
    with grpc_stub(server) as stub:
        stub.RepositoryModelLoad(service_pb2.RepositoryModelLoadRequest(repository_name="first"), timeout=WAIT)
        doubled(server, "first")
        stub.RepositoryModelUnload(service_pb2.RepositoryModelUnloadRequest(repository_name="first"), timeout=WAIT)
    assert index(server, "rest")["first/2"]["state"] == "UNAVAILABLE"


@pytest.mark.parametrize("body", [None, b"", b"{}", b'{"parameters": {}}', b'{"model_name": "x"}'])
def test_a_load_needs_no_body(server: RunningServer, body: bytes | None) -> None:
    for operation in ("load", "unload"):
        status, headers, reply = server.request("POST", path_of(operation, "first"), body)
        assert (status, headers["Content-Type"], reply) == (200, "application/json", b"{}")


# -- modes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["none", "poll"])
def test_where_loading_is_not_explicit_only_versions_can_be_chosen(
    models: Path, start: Callable[..., RunningServer], mode: str
) -> None:
    (models / "first" / "config.yaml").write_text("version_policy: all\n")
    server = start(models, f"--model-control={mode}")
    for protocol in PROTOCOLS:
        for operation, parameters in (
            ("load", {}),
            ("load", {"config": "{}"}),
            ("load", {"config": "{}", "pin_version": 1}),
            ("unload", {}),
        ):
            assert refused(server, protocol, "UNAVAILABLE", operation, "first", parameters) == POLLED
        assert doubled(server, "first")["model_version"] == "2"
        ask(server, protocol, "load", "first", {"pin_version": 1})
        assert doubled(server, "first")["model_version"] == "1"
        ask(server, protocol, "load", "first", {"pin_version": 0})
        assert doubled(server, "first")["model_version"] == "2"
        assert "'nobody'" in refused(server, protocol, "NOT_FOUND", "load", "nobody", {"pin_version": 1})
    assert "model_repository" not in extensions(server)


@pytest.mark.parametrize("mode", ["poll", "explicit"])
def test_traffic_is_divided_as_a_client_says(models: Path, start: Callable[..., RunningServer], mode: str) -> None:
    (models / "first" / "config.yaml").write_text("version_policy: all\n")
    server = start(models, f"--model-control={mode}", *(["--load-model=first"] if mode == "explicit" else []))
    for protocol, traffic in (("rest", {"default": 1}), ("grpc", '{"default": 1}')):
        assert doubled(server, "first")["model_version"] == "2"
        ask(server, protocol, "load", "first", {"traffic": traffic})
        assert doubled(server, "first")["model_version"] == "1"
        assert doubled(server, "first", "2")["model_version"] == "2"
        ask(server, protocol, "load", "first", {"traffic": "{}"})
    assert "traffic: canary.version" in refused(
        server, "rest", "INVALID_ARGUMENT", "load", "first", {"traffic": {"canary": {}}}
    )
    assert "'nobody'" in refused(server, "rest", "NOT_FOUND", "load", "nobody", {"traffic": {"default": 1}})
    assert refused(
        server, "rest", "NOT_FOUND", "load", "first", {"traffic": {"shadow": {"version": 7, "percent": 1}}}
    ) == ("model 'first' has no version 7 for its traffic; there is 1, 2")


def extensions(server: RunningServer) -> list[str]:
    tokens: list[str] = json.loads(server.request("GET", "/v2")[2])["extensions"]
    return tokens


def test_a_load_may_pin_what_it_loads(server: RunningServer) -> None:
    assert extensions(server)[-2:] == ["model_repository", "model_repository(unload_dependents)"]
    ask(server, "rest", "load", "first", {"config": '{"version_policy": "all"}', "pin_version": 1})
    assert doubled(server, "first")["model_version"] == "1"


def test_the_models_to_begin_with_are_loaded_at_the_start(models: Path, start: Callable[..., RunningServer]) -> None:
    server = start(models, "--model-control-mode", "explicit", "--load-model", "first", "--load-model=second")
    assert server.ready
    states = {name: entry.get("state") for name, entry in index(server, "grpc").items()}
    assert states == {"first/2": "READY", "second/1": "READY", "broken/": None, "faulty/": "UNAVAILABLE"}


def test_a_star_loads_all_models_at_the_start(models: Path, start: Callable[..., RunningServer]) -> None:
    server = start(models, "--model-control=explicit", "--load-model=*")
    assert not server.ready
    states = {name: entry["state"] for name, entry in index(server, "rest").items()}
    assert states == {
        "first/2": "READY", "second/1": "READY", "broken/1": "UNAVAILABLE", "faulty/": "UNAVAILABLE",
    }  # fmt: skip


def test_a_model_to_begin_with_that_is_not_there_holds_the_server_up(
    models: Path, start: Callable[..., RunningServer]
) -> None:
    server = start(models, "--model-control=explicit", "--load-model=nobody")
    assert not server.ready
    assert (
        "'nobody' is UNAVAILABLE: it is not in the model repository"
        in server.request("GET", "/v2/health/ready")[2].decode()
    )


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--load-model=first"], "--load-model needs --model-control explicit; it is poll"),
        (["--load-model=*", "--model-control=none"], "--load-model needs --model-control explicit; it is none"),
        (["--allow-model-upload"], "--allow-model-upload needs --model-control explicit; it is poll"),
        (["--upload-dir={models}-not-there"], "--upload-dir needs --allow-model-upload"),
        (["--grpc-max-connection-age-grace-seconds=1"], "--grpc-max-connection-age-grace-seconds needs --grpc-max-"),
        (
            ["--model-control=explicit", "--load-model=*", "--load-model=first"],
            "--load-model: '*' means all models and has to be alone, got *, first",
        ),
        (
            ["--model-control=explicit", "--allow-model-upload", "--upload-dir={models}/first"],
            "--upload-dir: {models}/first is in the model repository {models}; expected one outside of it",
        ),
        (
            ["--model-control=explicit", "--allow-model-upload", "--upload-dir={models}-not-there"],
            "cannot keep uploads in {models}-not-there/",
        ),
    ],
)
def test_options_that_contradict_each_other_are_told(models: Path, options: list[str], expected: str) -> None:
    arguments = [option.format(models=models) for option in options]
    run = vintner("serve", f"--model-repository={models}", "--http-port=0", "--grpc-port=0", *arguments)
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1].startswith(f"vintner: error: {expected.format(models=models)}")


# -- many at once ----------------------------------------------------------------------------------------------


def test_loads_that_wait_leave_threads_for_health_checks(server: RunningServer, models: Path) -> None:
    write_model(models / "slow" / "1", fake_model(shape=(-1, 2)))
    (models / "slow" / "config.yaml").write_text("warmup: true\n")
    with grpc_stub(server) as stub:
        with held(models / "slow" / "1"):
            request = service_pb2.RepositoryModelLoadRequest(model_name="slow")
            waiting = [stub.RepositoryModelLoad.future(request, timeout=WAIT) for _ in range(40)]
            wait_until(lambda: sum(call.done() for call in waiting) == 40 - 16)
            for protocol in PROTOCOLS:
                message = refused(server, protocol, "UNAVAILABLE", "unload", "first", {})
                assert message == "Exceeds maximum queue size: 16 loads and unloads are under way already"
            assert stub.ServerLive(service_pb2.ServerLiveRequest(), timeout=WAIT).live
            assert server.request("GET", "/v2/health/live")[0] == 200
        codes = [call.code().name for call in waiting]
    assert (codes.count("OK"), codes.count("UNAVAILABLE")) == (16, 24)
    doubled(server, "slow")
    ask(server, "rest", "unload", "slow", {})
