"""Every row of the error table over both protocols: status, form of the error, and what its message says."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from fake_backend import fake_model, write_model
from held_backend import held
from infer_calls import (
    ARRIVES,
    PROTOCOLS,
    Background,
    Given,
    Inference,
    answer,
    grpc_stub,
    refusal_of,
    refuse,
    rest_refusal,
    wait_for_queued,
    wait_until,
)
from model_builders import onnx_value, save_onnx
from onnx import helper
from running_server import RunningServer, start_server
from tritonclient.grpc import service_pb2

PAIR = Inference(model="pair", inputs=[Given("in0"), Given("in1")])


def given(name: str = "input", datatype: str = "FP32", shape: Any = (1, 2), data: Any = (1, 2)) -> Inference:
    """A request to the doubling model of the datatype."""
    return Inference(model=f"double_{datatype.lower()}", inputs=[Given(name, datatype, shape, data)])


REFUSED = {
    "datatype of another model": (
        Inference(model="double_fp32", inputs=[Given(datatype="INT32")]),
        ["inference input 'input' data-type is 'INT32', but model 'double_fp32' expects 'FP32'"],
    ),
    "unknown datatype": (
        Inference(inputs=[Given(datatype="FP31")]),
        ["input 'input' has unknown datatype 'FP31'; did you mean 'FP32'?"],
    ),
    "extent that the model does not have": (
        given(shape=(1, 3), data=(1, 2, 3)),
        ["unexpected shape for input 'input' for model 'double_fp32'. Expected [-1,2], got [1,3]"],
    ),
    "rank that the model does not have": (
        given(shape=(2,)),
        ["unexpected shape for input 'input' for model 'double_fp32'. Expected [-1,2], got [2]"],
    ),
    "negative dimension": (given(shape=(-1, 2)), ["'input'", "negative dimension"]),
    "too few elements": (given(data=(1,)), ["'input'", "[1, 2]", "1"]),
    "too many elements": (given(data=(1, 2, 3)), ["'input'", "[1, 2]", "3"]),
    "integer above the range": (given(datatype="INT8", data=(1, 128)), ["'input'", "INT8"]),
    "integer below the range": (given(datatype="UINT8", data=(0, 256)), ["'input'", "UINT8"]),
    "missing input": (
        Inference(model="pair", inputs=[Given("in0")]),
        ["expected 2 inputs but got 1 inputs for model 'pair'", "missing required input(s) ['in1']"],
    ),
    "no inputs": (Inference(inputs=[]), ["'double_fp32'", "missing required input(s) ['input']"]),
    "unknown input": (
        given(name="inputs"),
        ["unexpected inference input 'inputs' for model 'double_fp32'; did you mean 'input'?"],
    ),
    "input given twice": (
        Inference(model="pair", inputs=[Given("in0"), Given("in0")]),
        ["input 'in0' already exists in request"],
    ),
    "input without data": (given(data=None), ["'input'"]),
    "unknown output": (
        Inference(outputs=[("outputt", {})]),
        ["unexpected inference output 'outputt' for model 'double_fp32'; did you mean 'output'?"],
    ),
    "output requested twice": (
        Inference(outputs=[("output", {}), ("output", {})]),
        ["output 'output' already exists in request"],
    ),
    "reserved parameter": (
        Inference(parameters={"triton_x": 1}),
        ["parameter keys starting with 'triton_' are reserved for Triton usage and should not be specified."],
    ),
    "priority that is a word": (
        Inference(parameters={"priority": "high"}),
        ["parameter 'priority': expected a whole number of at least 0, got 'high'"],
    ),
    "negative time-out": (
        Inference(parameters={"timeout": -1}),
        ["parameter 'timeout': expected a whole number of at least 0, got -1"],
    ),
    "timing that is a number": (
        Inference(parameters={"timing": 1}),
        ["parameter 'timing': expected a boolean, got 1"],
    ),
    "version that is no number": (Inference(version="newest"), ["'newest'", "'double_fp32'"]),
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("fault", REFUSED)
def test_a_faulty_inference_is_an_invalid_argument(doubling: RunningServer, fault: str, protocol: str) -> None:
    inference, expected = REFUSED[fault]
    refusal = refuse(doubling, protocol, inference, "INVALID_ARGUMENT")
    for text in expected:
        assert text in refusal.message


def with_input(**changes: Any) -> dict[str, Any]:
    document = Inference().document()
    document["inputs"][0].update(changes)
    return document


NESTED = "'data' of input 'input' is not nested as shape [1, 2] says"
FAULTY_BODIES: dict[str, tuple[Any, str]] = {
    "nothing": (b"", "malformed JSON"),
    "half a document": (b'{"inputs": [', "malformed JSON"),
    "no UTF-8": (b'{"id": "\xff", "inputs": []}', "malformed JSON"),
    "an array": ([], "the request body must be a JSON object"),
    "no inputs at all": ({}, "'inputs' of the request is missing"),
    "inputs that are an object": ({"inputs": {}}, "'inputs' of the request must be an array"),
    "an input that is a string": ({"inputs": ["input"]}, "each of the inputs must be an object"),
    "an input without a name": ({"inputs": [{}]}, "'name' of the input is missing"),
    "a name that is a number": (with_input(name=1), "'name' of the input must be a string"),
    "a datatype that is null": (with_input(datatype=None), "'datatype' of the input 'input' must be a string"),
    "a shape that is a number": (with_input(shape=2), "'shape' of the input 'input' must be an array"),
    "a shape of floats": (with_input(shape=[1.0, 2]), "'shape' of input 'input' must be an array of integers"),
    "a shape of booleans": (with_input(shape=[True, 2]), "'shape' of input 'input' must be an array of integers"),
    "data that is a number": (with_input(data=1), "'data' of input 'input' must be an array"),
    "data that is an object": (with_input(data={}), "'data' of input 'input' must be an array"),
    "data nested otherwise": (with_input(data=[[1], [2]]), NESTED),
    "data nested unevenly": (with_input(data=[[1, 2], 3]), NESTED),
    "data too deep": (with_input(data=[[[1], [2]]]), "'input'"),
    "a string for a float": (with_input(data=["1", 2]), "'input'"),
    "a boolean for a float": (with_input(data=[True, 2]), "'input'"),
    "null for a float": (with_input(data=[None, 2]), "'input'"),
    "a float out of range": (with_input(data=[1e39, 2]), "'input'"),
    "data and binary data": (
        with_input(parameters={"binary_data_size": 8}),
        "Input must set only one of the following fields: 'data', 'binary_data_size'",
    ),
    "no data of any kind": (
        {"inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 2]}]},
        "Input must set only one of the following fields: 'data', 'binary_data_size' in 'parameters', "
        "'shared_memory_region' in 'parameters'. Input 'input' sets none.",
    ),
    "a negative binary size": (
        {"inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": -8}}]},
        "'binary_data_size' of input 'input' must be an integer that is not negative",
    ),
    "input parameters that are an array": (with_input(parameters=[]), "'parameters' of the input 'input' must be an"),
    "an id that is a number": (Inference().document() | {"id": 7}, "'id' of the request must be a string"),
    "outputs that are an object": (Inference().document() | {"outputs": {}}, "'outputs' of the request must be an"),
    "parameters that are an array": (Inference().document() | {"parameters": []}, "'parameters' of the request must"),
    "a parameter that is null": (Inference().document() | {"parameters": {"p": None}}, "parameter 'p' must be a"),
    "a parameter that is an object": (Inference().document() | {"parameters": {"p": {}}}, "parameter 'p' must be a"),
    "binary_data that is a number": (
        Inference(outputs=[("output", {"binary_data": 1})]).document(),
        "'binary_data' of the output 'output' must be a boolean",
    ),
    "binary_data_output that is a string": (
        Inference(parameters={"binary_data_output": "yes"}).document(),
        "'binary_data_output' of the request's parameters must be a boolean",
    ),
}


@pytest.mark.parametrize("fault", FAULTY_BODIES)
def test_a_faulty_body_is_a_400(doubling: RunningServer, fault: str) -> None:
    body, expected = FAULTY_BODIES[fault]
    refusal = rest_refusal(doubling, "POST", Inference().path(), body)
    assert refusal.code == "400"
    assert expected in refusal.message


@pytest.mark.parametrize(
    ("datatype", "data"),
    [("INT32", [1.0, 2]), ("INT64", [2**63, 0]), ("UINT64", [-1, 0]), ("BOOL", [1, 0]), ("BYTES", [1, 2])],
)
def test_no_number_in_json_is_turned_into_another(doubling: RunningServer, datatype: str, data: list[Any]) -> None:
    document = given(datatype=datatype, data=data)
    refusal = rest_refusal(doubling, "POST", document.path(), document.document())
    assert refusal.code == "400"
    assert "'input'" in refusal.message
    assert datatype in refusal.message


def message(**changes: Any) -> Any:
    return Inference(**changes).message()


def contents_beside_raw() -> Any:
    request = message()
    request.raw_input_contents.append(bytes(8))
    return request


def raw_entries(count: int) -> Any:
    request = message(inputs=[Given(data=None)])
    request.raw_input_contents.extend([bytes(8)] * count)
    return request


def raw_entry(size: int) -> Any:
    request = message(inputs=[Given(data=None)])
    request.raw_input_contents.append(bytes(size))
    return request


def two_lists() -> Any:
    request = message()
    request.inputs[0].contents.int_contents.append(1)
    return request


def half_contents() -> Any:
    request = message(model="double_fp16", inputs=[Given(datatype="FP16", data=None)])
    request.inputs[0].contents.fp32_contents.extend([1, 2])
    return request


def parameter_without_value() -> Any:
    request = message()
    request.parameters["p"].SetInParent()
    return request


FAULTY_MESSAGES = {
    "contents beside raw contents": (
        contents_beside_raw(),
        "contents field must not be specified when using raw_input_contents for 'input' for model 'double_fp32'",
    ),
    "a raw entry too many": (raw_entries(2), "expected 1 entries in raw_input_contents"),
    "a raw entry that is too long": (
        raw_entry(12),
        "input byte size mismatch for input 'input' for model 'double_fp32'. Expected 8, got 12",
    ),
    "strings too few": (
        message(model="double_bytes", inputs=[Given(datatype="BYTES", data=("a",))]),
        "input 'input' with shape [1, 2] needs 2 elements in contents, got 1",
    ),
    "two lists of contents": (two_lists(), "unexpected explicit tensor data for input tensor 'input'"),
    "FP16 in contents": (half_contents(), "input 'input' is FP16, which can be sent only in raw_input_contents"),
    "a parameter without a value": (parameter_without_value(), "parameter 'p' has no value"),
    "an empty final response that is a word": (
        message(parameters={"triton_enable_empty_final_response": "no"}),
        "parameter 'triton_enable_empty_final_response': expected a boolean, got 'no'",
    ),
    "no model": (message(model=""), "Model name cannot be empty"),
}


@pytest.mark.parametrize("fault", FAULTY_MESSAGES)
def test_a_faulty_message_is_an_invalid_argument(doubling: RunningServer, fault: str) -> None:
    request, expected = FAULTY_MESSAGES[fault]
    with grpc_stub(doubling) as stub:
        refusal = refusal_of(lambda: stub.ModelInfer(request))
    assert refusal.code == "INVALID_ARGUMENT"
    assert expected in refusal.message


def test_raw_contents_too_few_are_an_invalid_argument(doubling: RunningServer) -> None:
    request = message(model="pair", inputs=[Given("in0", data=None), Given("in1", data=None)])
    request.raw_input_contents.append(bytes(8))
    with grpc_stub(doubling) as stub:
        refusal = refusal_of(lambda: stub.ModelInfer(request))
    assert refusal.code == "INVALID_ARGUMENT"
    assert "expected 2 entries in raw_input_contents, one for each input of model 'pair', got 1" in refusal.message


@pytest.mark.parametrize(
    "method", ["ModelInfer", "ModelReady", "ModelMetadata", "RepositoryIndex", "RepositoryModelLoad"]
)
def test_bytes_that_are_no_message_are_an_invalid_argument(doubling: RunningServer, method: str) -> None:
    with grpc.insecure_channel(doubling.grpc) as channel:
        call = channel.unary_unary(f"/inference.GRPCInferenceService/{method}")
        refusal = refusal_of(lambda: call(b"\x0a\xff\xff"))
    assert refusal.code == "INVALID_ARGUMENT"
    assert "no valid inference." in refusal.message


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("inference", "expected"),
    [
        (Inference(model="double_fp33"), "Request for unknown model: 'double_fp33' is not found"),
        (Inference(model="pair", version="2"), "Request for unknown model: 'pair' version 2 is not found"),
        (Inference(version="9" * 30), f"'double_fp32' version {'9' * 30} is not found"),
        (Inference(version="01"), "Request for unknown model: 'double_fp32' version 01 is not found"),
    ],
)
def test_an_unknown_model_or_version_is_not_found(
    doubling: RunningServer, inference: Inference, expected: str, protocol: str
) -> None:
    assert expected in refuse(doubling, protocol, inference, "NOT_FOUND").message


@pytest.mark.parametrize("route", ["", "/ready", "/versions/1", "/versions/1/ready"])
def test_readiness_and_metadata_of_an_unknown_model_are_not_found(doubling: RunningServer, route: str) -> None:
    refusal = rest_refusal(doubling, "GET", f"/v2/models/nobody{route}")
    assert refusal.code == "404"
    assert "'nobody'" in refusal.message
    version = "1" if "versions" in route else ""
    with grpc_stub(doubling) as stub:
        for call, request in (
            (stub.ModelReady, service_pb2.ModelReadyRequest(name="nobody", version=version)),
            (stub.ModelMetadata, service_pb2.ModelMetadataRequest(name="nobody", version=version)),
        ):
            assert refusal_of(lambda call=call, request=request: call(request)).code == "NOT_FOUND"


@pytest.mark.parametrize(
    "path", ["/nothing", "/v1", "/v2/nothing", "/v2/models", "/v2/models//infer", "/v3", "//v2", "/v2//"]
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_an_unknown_route_is_a_404(doubling: RunningServer, method: str, path: str) -> None:
    refusal = rest_refusal(doubling, method, path)
    assert (refusal.code, refusal.message) == ("404", "Not Found")


def test_an_unknown_rpc_is_unimplemented(doubling: RunningServer) -> None:
    with grpc.insecure_channel(doubling.grpc) as channel:
        for path in ("/inference.GRPCInferenceService/Nothing", "/nobody.Nowhere/Nothing"):
            call = channel.unary_unary(path)
            assert refusal_of(lambda call=call: call(b"")).code == "UNIMPLEMENTED"


ALLOWED = {
    "/v2": {"GET", "HEAD"},
    "/v2/health/live": {"GET", "HEAD"},
    "/v2/health/ready": {"GET", "HEAD"},
    "/v2/models/pair": {"GET", "HEAD"},
    "/v2/models/pair/versions/1/ready": {"GET", "HEAD"},
    "/v2/models/pair/infer": {"POST"},
    "/v2/repository/index": {"POST"},
    "/v2/repository/models/pair/load": {"POST"},
    "/v2/repository/models/pair/unload": {"POST"},
    "/metrics": {"GET", "HEAD"},
}


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"])
@pytest.mark.parametrize("path", ALLOWED)
def test_a_wrong_method_is_told_the_right_ones(doubling: RunningServer, path: str, method: str) -> None:
    if method in ALLOWED[path]:
        assert doubling.request(method, path, b"")[0] != 405
        return
    refusal = rest_refusal(doubling, method, path)
    assert (refusal.code, refusal.message) == ("405", "Method Not Allowed")
    assert set(refusal.headers["Allow"].split(", ")) == ALLOWED[path]


def test_the_metrics_port_knows_only_metrics(doubling: RunningServer) -> None:
    for method, path, expected in (("GET", "/v2", 404), ("POST", "/metrics", 405)):
        status, headers, body = doubling.request(method, path, b"" if method == "POST" else None, port=doubling.metrics)
        assert (status, headers["Content-Type"]) == (expected, "application/json")
        assert list(json.loads(body)) == ["error"]


@pytest.mark.parametrize("operation", ["Load", "Unload"])
def test_loading_where_it_is_not_explicit_is_unavailable(doubling: RunningServer, operation: str) -> None:
    refusal = rest_refusal(doubling, "POST", f"/v2/repository/models/pair/{operation.lower()}", {})
    assert refusal.code == "503"
    assert refusal.message == "explicit model load / unload is not allowed if polling is enabled"
    with grpc_stub(doubling) as stub:
        request = getattr(service_pb2, f"RepositoryModel{operation}Request")(model_name="pair")
        call = refusal_of(lambda: getattr(stub, f"RepositoryModel{operation}")(request))
    assert (call.code, call.message) == ("UNAVAILABLE", refusal.message)


def test_a_repository_name_is_a_501(doubling: RunningServer) -> None:
    for path in ("index", "models/pair/load", "models/pair/unload"):
        refusal = rest_refusal(doubling, "POST", f"/v2/repository/mine/{path}", {})
        assert (refusal.code, refusal.message) == ("501", "'repository_name' specification is not supported")


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, gzip", "x"])
@pytest.mark.parametrize("path", ["/v2/models/pair/infer", "/v2/repository/index"])
def test_an_unsupported_content_encoding_is_a_415(doubling: RunningServer, path: str, coding: str) -> None:
    refusal = rest_refusal(doubling, "POST", path, {}, Content_Encoding=coding)
    assert refusal.code == "415"
    assert coding in refusal.message
    assert "gzip, deflate" in refusal.message


REGION = {"shared_memory_region": "region", "shared_memory_byte_size": 8}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("inference", "named"),
    [
        (Inference(inputs=[Given(data=None, parameters=REGION)]), "--allow-client-shm=true"),
        (Inference(outputs=[("output", REGION)]), "--allow-client-shm=true"),
    ],
    ids=["shared memory in", "shared memory out"],
)
def test_what_triton_has_and_this_server_has_not_is_unimplemented(
    doubling: RunningServer, inference: Inference, named: str, protocol: str
) -> None:
    assert named in refuse(doubling, protocol, inference, "UNIMPLEMENTED").message


@pytest.mark.parametrize(
    ("method", "path", "what"),
    [
        ("GET", "/v2/cudasharedmemory/status", "shared memory"),
        ("POST", "/v2/cudasharedmemory/region/r/register", "shared memory"),
        ("GET", "/v2/cudasharedmemory/region/r/status", "shared memory"),
        ("POST", "/v2/cudasharedmemory/unregister", "shared memory"),
        ("POST", "/v2/systemsharedmemory/region/r/register", "--allow-client-shm=true"),
        ("POST", "/v2/systemsharedmemory/unregister", "--allow-client-shm=true"),
    ],
)
def test_what_triton_has_and_this_server_has_not_is_a_501(
    doubling: RunningServer, method: str, path: str, what: str
) -> None:
    refusal = rest_refusal(doubling, method, path, {} if method == "POST" else None)
    assert refusal.code == "501"
    assert what in refusal.message


# -- a server with models that fail ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`slow` has one instance that a test can hold up, `short` besides a queue of one, `broken` does not load."""
    root = tmp_path_factory.mktemp("failing")
    for name in ("slow", "short", "poisoned"):
        write_model(root / name / "1", fake_model(shape=(-1, 2)))
    (root / "short" / "config.yaml").write_text("queue: {max_requests: 1}\n")
    write_model(root / "broken" / "1", fake_model() | {"fail": "the weights are missing"})
    write_model(root / "faulty" / "1")
    (root / "faulty" / "config.yaml").write_text("devise: CPU\n")
    shape = ("rows", "columns")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["left", "right"], ["output"])],
        "product",
        [onnx_value("left", "FP32", shape), onnx_value("right", "FP32", ("columns_too", "width"))],
        [onnx_value("output", "FP32", ("rows", "width"))],
    )
    save_onnx(root / "product" / "1", graph)
    (root / "product" / "config.yaml").write_text("backend: onnxruntime\n")
    return root


@pytest.fixture(scope="module")
def failing(models: Path, third_party: dict[str, str]) -> Iterator[RunningServer]:
    server = start_server(models, models.parent / f"{models.name}.log", "--max-concurrent-requests=4", env=third_party)
    yield server
    server.kill()


def at(model: str) -> Inference:
    return Inference(model=model)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("version", ["", "1"])
def test_a_model_that_failed_to_load_is_unavailable_with_the_reason(
    failing: RunningServer, protocol: str, version: str
) -> None:
    refusal = refuse(failing, protocol, Inference(model="broken", version=version), "UNAVAILABLE")
    expected = "model 'broken' version 1 is not at ready state" if version else "'broken' has no available versions"
    assert expected in refusal.message
    assert "version 1" in refusal.message
    assert "the weights are missing" in refusal.message


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_model_with_a_faulty_configuration_is_unavailable_with_the_reason(
    failing: RunningServer, protocol: str
) -> None:
    refusal = refuse(failing, protocol, at("faulty"), "UNAVAILABLE")
    assert "unknown key 'devise'; did you mean 'device'?" in refusal.message


def test_readiness_and_metadata_of_a_model_that_failed_to_load(failing: RunningServer) -> None:
    for version in ("", "/versions/1"):
        assert rest_refusal(failing, "GET", f"/v2/models/broken{version}").code == "503"
        status, headers, body = failing.request("GET", f"/v2/models/broken{version}/ready")
        assert (status, headers["Content-Type"], int(headers["Retry-After"]) > 0) == (503, "application/json", True)
        document = json.loads(body)
        assert (document["name"], document["ready"]) == ("broken", False)
        assert "the weights are missing" in document["reasons"][0]
    with grpc_stub(failing) as stub:
        assert not stub.ModelReady(service_pb2.ModelReadyRequest(name="broken")).ready
        refusal = refusal_of(lambda: stub.ModelMetadata(service_pb2.ModelMetadataRequest(name="broken")))
    assert refusal.code == "UNAVAILABLE"
    assert "the weights are missing" in refusal.message


def test_a_server_that_is_not_ready_says_when_to_ask_again(failing: RunningServer) -> None:
    status, headers, body = failing.request("GET", "/v2/health/ready")
    assert (status, headers["Content-Type"], int(headers["Retry-After"]) > 0) == (503, "application/json", True)
    document = json.loads(body)
    assert document["ready"] is False
    assert any("'broken' version 1" in reason and "the weights" in reason for reason in document["reasons"])


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_full_queue_is_unavailable(failing: RunningServer, models: Path, protocol: str) -> None:
    with held(models / "short" / "1"):
        calls = [Background(answer, failing, protocol, at("short"))]
        wait_for_queued(failing, "short", running=1, waiting=0)
        calls.append(Background(answer, failing, protocol, at("short")))
        wait_for_queued(failing, "short", running=1, waiting=1)
        refusal = refuse(failing, protocol, at("short"), "UNAVAILABLE")
    assert "Exceeds maximum queue size" in refusal.message
    assert [call.outcome["outputs"][0]["data"] for call in calls] == [[2, 4]] * 2
    assert answer(failing, protocol, at("short"))["outputs"][0]["data"] == [2, 4]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_server_with_too_many_requests_is_unavailable_and_still_says_that_it_lives(
    failing: RunningServer, models: Path, protocol: str
) -> None:
    other = PROTOCOLS[1 - PROTOCOLS.index(protocol)]
    with held(models / "slow" / "1"):
        calls = [Background(answer, failing, other, at("slow")) for _ in range(4)]
        wait_until(lambda: failing.counter("vintner_requests_in_flight", model="slow") == 4)
        refusal = refuse(failing, protocol, at("poisoned"), "UNAVAILABLE")
        assert failing.request("GET", "/v2/health/live")[0] == 200
        with grpc_stub(failing) as stub:
            assert stub.ServerLive(service_pb2.ServerLiveRequest()).live
    assert "Exceeds maximum queue size" in refusal.message
    assert [call.outcome["outputs"][0]["data"] for call in calls] == [[2, 4]] * 4
    assert answer(failing, protocol, at("poisoned"))["outputs"][0]["data"] == [2, 4]


def count(server: RunningServer, outcome: str) -> float:
    return server.counter("vintner_requests_total", model="slow", protocol="grpc", outcome=outcome)


def test_a_deadline_that_passes_in_the_queue_ends_the_request(failing: RunningServer, models: Path) -> None:
    before = count(failing, "deadline_exceeded")
    executions = failing.counter("vintner_executions_total", model="slow")
    with held(models / "slow" / "1"), grpc_stub(failing) as stub:
        first = Background(answer, failing, "rest", at("slow"))
        wait_for_queued(failing, "slow", running=1, waiting=0)
        refusal = refusal_of(lambda: stub.ModelInfer(at("slow").message(), timeout=ARRIVES))
        assert refusal.code == "DEADLINE_EXCEEDED"
        wait_until(lambda: count(failing, "deadline_exceeded") == before + 1)
        wait_for_queued(failing, "slow", running=1, waiting=0)
    assert first.outcome["outputs"][0]["data"] == [2, 4]
    assert failing.counter("vintner_executions_total", model="slow") == executions + 1


def test_a_client_that_goes_away_leaves_the_queue(failing: RunningServer, models: Path) -> None:
    before = count(failing, "cancelled")
    executions = failing.counter("vintner_executions_total", model="slow")
    with held(models / "slow" / "1"), grpc_stub(failing) as stub:
        first = Background(answer, failing, "rest", at("slow"))
        wait_for_queued(failing, "slow", running=1, waiting=0)
        call = stub.ModelInfer.future(at("slow").message())
        wait_for_queued(failing, "slow", running=1, waiting=1)
        call.cancel()
        wait_for_queued(failing, "slow", running=1, waiting=0)
        wait_until(lambda: count(failing, "cancelled") == before + 1)
    assert first.outcome["outputs"][0]["data"] == [2, 4]
    assert failing.counter("vintner_executions_total", model="slow") == executions + 1


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_bug_in_a_backend_is_internal_and_its_text_stays_in_the_log(
    failing: RunningServer, models: Path, protocol: str
) -> None:
    poison = models / "poisoned" / "1" / ".poison"
    poison.touch()
    try:
        refusal = refuse(failing, protocol, at("poisoned"), "INTERNAL")
    finally:
        os.unlink(poison)
    assert refusal.message == "internal error; the server's log has the details"
    log = failing.log.read_text()
    assert "Traceback" in log
    assert "RuntimeError: a bug in the backend" in log
    assert answer(failing, protocol, at("poisoned"))["outputs"][0]["data"] == [2, 4]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_model_that_fails_for_want_of_elements_says_so(failing: RunningServer, models: Path, protocol: str) -> None:
    poison = models / "poisoned" / "1" / ".poison"
    poison.write_text("Batch size is zero")
    empty = Inference(model="poisoned", inputs=[Given(shape=(0, 2), data=())])
    try:
        refusal = refuse(failing, protocol, empty, "INVALID_ARGUMENT")
        assert refuse(failing, protocol, at("poisoned"), "INTERNAL").message == "Batch size is zero"
    finally:
        poison.unlink()
    assert refusal.message == "the model does not run on a tensor without elements: Batch size is zero"
    assert answer(failing, protocol, empty)["outputs"][0]["data"] == []


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_failure_of_the_runtime_library_is_internal_with_its_reason(failing: RunningServer, protocol: str) -> None:
    ones = [1] * 6
    left, right = Given("left", shape=(2, 3), data=ones), Given("right", shape=(2, 3), data=ones)
    refusal = refuse(failing, protocol, Inference(model="product", inputs=[left, right]), "INTERNAL")
    assert "MatMul" in refusal.message
    assert "\n" not in refusal.message
    fitting = Given("right", shape=(3, 1), data=[1] * 3)
    reply = answer(failing, protocol, Inference(model="product", inputs=[left, fitting]))
    assert reply["outputs"][0]["data"] == [3, 3]
