"""What the server says of itself and of its models: metadata, readiness, the index, health, reflection, names."""

from __future__ import annotations

import http.client
import json
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any
from urllib.parse import quote

import grpc
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from fake_backend import fake_model, write_model
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from infer_calls import PROTOCOLS, WAIT, Background, Given, Inference, answer, grpc_stub, refusal_of, rest_refusal
from running_server import RunningServer, start_server
from tritonclient.grpc import service_pb2

SERVICE = "inference.GRPCInferenceService"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
ODD_NAMES = ("mödel x", "100%", "a+b&c=d?e#f;g", "模型", "versions", 'it\'s "quoted"', " ")


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory, third_party: dict[str, str]) -> Iterator[RunningServer]:
    """`served` with versions 2, 9 and 10, its tensors renamed, where 11 does not load; and models with odd names."""
    root = tmp_path_factory.mktemp("described")
    for version in (2, 9, 10):
        write_model(root / "served" / str(version), fake_model("INT64", (-1, 2)))
    write_model(root / "served" / "11", fake_model() | {"fail": "the weights are missing"})
    (root / "served" / "config.yaml").write_text(
        "version_policy: all\ninputs: {input: {name: given}}\noutputs: {output: {name: doubled}}\n"
    )
    for name in ODD_NAMES:
        write_model(root / name / "1", fake_model(shape=(-1, 2)))
    server = start_server(root, root.parent / f"{root.name}.log", env=third_party)
    yield server
    server.kill()


def get(server: RunningServer, path: str, method: str = "GET", body: bytes | None = None) -> tuple[int, Any]:
    status, headers, reply = server.request(method, path, body)
    assert headers["Content-Type"] == "application/json"
    return status, json.loads(reply)


# -- the server ------------------------------------------------------------------------------------------------


def test_the_server_describes_itself_alike_everywhere(doubling: RunningServer) -> None:
    from vintner import __version__

    extensions = ["binary_tensor_data", "parameters", "statistics", "model_configuration", "schedule_policy"]
    extensions += ["classification", "logging"]
    expected = {"name": "vintner", "version": __version__, "extensions": extensions}
    for path in ("/v2", "/v2/", "/v2?x=1"):
        assert get(doubling, path) == (200, expected)
    with triton_grpc.InferenceServerClient(doubling.grpc) as client:
        assert client.get_server_metadata(as_json=True) == expected


def test_no_path_is_answered_with_a_redirect(doubling: RunningServer) -> None:
    connection = http.client.HTTPConnection(doubling.http, timeout=WAIT)
    for path in ("/v2", "/v2/", "/v2/models/pair", "/v2/models/pair/"):
        connection.request("GET", path)
        reply = connection.getresponse()
        assert (reply.status, bool(reply.read())) == (200, True)
    connection.close()


def test_the_bodies_of_health(doubling: RunningServer) -> None:
    assert get(doubling, "/v2/health/live") == (200, {"live": True})
    assert get(doubling, "/v2/health/ready") == (200, {"ready": True})
    assert get(doubling, "/v2/models/pair/ready") == (200, {"name": "pair", "ready": True})
    assert get(doubling, "/v2/models/pair/versions/1/ready") == (200, {"name": "pair", "ready": True})


@pytest.mark.parametrize("path", ["/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/pair", "/metrics"])
def test_head_is_get_without_the_body(doubling: RunningServer, path: str) -> None:
    status, headers, body = doubling.request("HEAD", path)
    assert (status, body) == (200, b"")
    assert int(headers["Content-Length"]) > 0


@pytest.mark.parametrize("module", [triton_grpc, triton_http], ids=PROTOCOLS)
def test_a_client_finds_the_server_and_its_models_ready(doubling: RunningServer, module: Any) -> None:
    address = doubling.grpc if module is triton_grpc else doubling.http
    with module.InferenceServerClient(address) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("pair")
        assert client.is_model_ready("pair", "1")


# -- models ----------------------------------------------------------------------------------------------------

VERSIONS = ["2", "9", "10"]
SERVED = {
    "name": "served",
    "platform": "fake",
    "inputs": [{"name": "given", "datatype": "INT64", "shape": [-1, 2]}],
    "outputs": [{"name": "doubled", "datatype": "INT64", "shape": [-1, 2]}],
}


@pytest.mark.parametrize(("version", "listed"), [("", VERSIONS), ("2", ["2"]), ("10", ["10"])])
def test_metadata_lists_the_ready_versions_or_the_one_asked_for(
    described: RunningServer, version: str, listed: Sequence[str]
) -> None:
    path = f"/v2/models/served{f'/versions/{version}' if version else ''}"
    assert get(described, path) == (200, SERVED | {"versions": listed})
    with grpc_stub(described) as stub:
        metadata = stub.ModelMetadata(service_pb2.ModelMetadataRequest(name="served", version=version))
    assert (metadata.name, metadata.platform, list(metadata.versions)) == ("served", "fake", listed)
    for kind, tensors in (("inputs", metadata.inputs), ("outputs", metadata.outputs)):
        assert [{"name": t.name, "datatype": t.datatype, "shape": list(t.shape)} for t in tensors] == SERVED[kind]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_highest_ready_version_is_the_default(described: RunningServer, protocol: str) -> None:
    given = Given("given", "INT64")
    for asked, served in (("", "10"), ("2", "2"), ("9", "9")):
        reply = answer(described, protocol, Inference(model="served", version=asked, inputs=[given]))
        assert (reply["model_version"], reply["outputs"][0]["name"]) == (served, "doubled")


def test_a_version_that_is_not_ready_does_not_hold_its_model_up(described: RunningServer) -> None:
    assert get(described, "/v2/models/served/ready")[0] == 200
    status, body = get(described, "/v2/models/served/versions/11/ready")
    assert (status, body["ready"]) == (503, False)
    refusal = rest_refusal(described, "GET", "/v2/models/served/versions/11")
    assert refusal.code == "503"
    assert "version 11 is not at ready state" in refusal.message
    with grpc_stub(described) as stub:
        request = service_pb2.ModelReadyRequest
        assert stub.ModelReady(request(name="served")).ready
        assert not stub.ModelReady(request(name="served", version="11")).ready
        assert refusal_of(lambda: stub.ModelReady(request(name="served", version="3"))).code == "NOT_FOUND"


INDEX = [
    *({"name": "served", "version": version, "state": "READY"} for version in VERSIONS),
    {"name": "served", "version": "11", "state": "UNAVAILABLE", "reason": "the weights are missing"},
]


@pytest.mark.parametrize(
    ("body", "expected"), [(None, INDEX), ({}, INDEX), ({"ready": False}, INDEX), ({"ready": True}, INDEX[:3])]
)
def test_the_index_lists_every_version_with_its_state(described: RunningServer, body: Any, expected: Any) -> None:
    status, entries = get(described, "/v2/repository/index", "POST", b"" if body is None else json.dumps(body).encode())
    assert (status, [entry for entry in entries if entry["name"] == "served"]) == (200, expected)
    assert {entry["name"] for entry in entries} == {"served", *ODD_NAMES}
    with grpc_stub(described) as stub:
        request = service_pb2.RepositoryIndexRequest(ready=bool((body or {}).get("ready")))
        models = stub.RepositoryIndex(request).models
    listed = [{"name": m.name, "version": m.version, "state": m.state, "reason": m.reason} for m in models]
    assert [{key: text for key, text in entry.items() if text} for entry in listed] == entries


@pytest.mark.parametrize(
    ("body", "expected"), [(b"[]", "object"), (b'{"ready": 1}', "expected a boolean"), (b"{", "malformed JSON")]
)
def test_a_faulty_index_request_is_a_400(described: RunningServer, body: bytes, expected: str) -> None:
    refusal = rest_refusal(described, "POST", "/v2/repository/index", body)
    assert refusal.code == "400"
    assert expected in refusal.message


# -- names -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_model_may_have_any_name(described: RunningServer, name: str) -> None:
    path = f"/v2/models/{quote(name, safe='')}"
    assert get(described, path)[1]["name"] == name
    assert get(described, f"{path}/versions/1/ready") == (200, {"name": name, "ready": True})
    body = json.dumps(Inference().document()).encode()
    status, reply = get(described, f"{path}/infer", "POST", body)
    assert (status, reply["model_name"], reply["outputs"][0]["data"]) == (200, name, [2, 4])
    over_grpc = answer(described, "grpc", Inference(model=name))
    assert (over_grpc["model_name"], over_grpc["outputs"][0]["data"]) == (name, [2, 4])


@pytest.mark.parametrize("escaped", ["a%2Fb", "%2Fetc%2Fpasswd", "..%2Fserved", "%2E%2E", "%00", "served%5C", "%FF"])
def test_what_can_be_no_name_is_a_404(described: RunningServer, escaped: str) -> None:
    for method, path in (("GET", ""), ("GET", "/ready"), ("POST", "/infer")):
        body = Inference().document() if method == "POST" else None
        assert rest_refusal(described, method, f"/v2/models/{escaped}{path}", body).code == "404"


@pytest.mark.parametrize("name", ["../served", "served/1", "a\\b", "\0", "..", "served/"])
def test_a_path_for_a_name_is_not_found(described: RunningServer, name: str) -> None:
    with grpc_stub(described) as stub:
        for call, request in (
            (stub.ModelReady, service_pb2.ModelReadyRequest(name=name)),
            (stub.ModelInfer, Inference(model=name).message()),
        ):
            assert refusal_of(lambda call=call, request=request: call(request)).code == "NOT_FOUND"


# -- grpc.health.v1 and reflection -----------------------------------------------------------------------------


@pytest.mark.parametrize("service", ["", SERVICE])
def test_health_of_the_server_and_of_its_service(doubling: RunningServer, service: str) -> None:
    with grpc.insecure_channel(doubling.grpc) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        assert health.Check(health_pb2.HealthCheckRequest(service=service)).status == SERVING


def test_health_of_an_unknown_service(doubling: RunningServer) -> None:
    unknown = health_pb2.HealthCheckRequest(service="nobody")
    with grpc.insecure_channel(doubling.grpc) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        assert refusal_of(lambda: health.Check(unknown)).code == "NOT_FOUND"
        watch = health.Watch(unknown, timeout=WAIT)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        watch.cancel()


def test_a_server_with_a_broken_model_is_not_serving(described: RunningServer) -> None:
    with grpc.insecure_channel(described.grpc) as channel:
        for service in ("", SERVICE):
            request = health_pb2.HealthCheckRequest(service=service)
            assert health_pb2_grpc.HealthStub(channel).Check(request).status == NOT_SERVING
    with grpc_stub(described) as stub:
        assert not stub.ServerReady(service_pb2.ServerReadyRequest()).ready
        assert stub.ServerLive(service_pb2.ServerLiveRequest()).live


def test_who_watches_health_is_told_of_the_end_while_inference_goes_on(start: Any, tmp_path: Path) -> None:
    write_model(tmp_path / "models" / "double_fp32" / "1", fake_model(shape=(-1, 2)))
    server = start(tmp_path / "models", "--drain-seconds=8", "--exit-timeout-seconds=5")
    seen: SimpleQueue[int] = SimpleQueue()

    def watch(channel: grpc.Channel) -> None:
        for reply in health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=WAIT):
            seen.put(reply.status)

    with grpc.insecure_channel(server.grpc) as channel:
        watcher = Background(watch, channel)
        assert seen.get(timeout=WAIT) == SERVING
        server.process.send_signal(signal.SIGTERM)
        assert seen.get(timeout=WAIT) == NOT_SERVING
        for protocol in PROTOCOLS:
            assert answer(server, protocol, Inference())["outputs"][0]["data"] == [2, 4]
        with grpc_stub(server) as stub:
            assert not stub.ServerReady(service_pb2.ServerReadyRequest()).ready
            assert stub.ModelReady(service_pb2.ModelReadyRequest(name="double_fp32")).ready
        assert watcher.outcome is None
        assert server.process.wait(WAIT) == 0  # without waiting for those who watch
    assert seen.empty()


def test_reflection_lists_the_services_and_describes_them(doubling: RunningServer) -> None:
    with grpc.insecure_channel(doubling.grpc) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        assert set(database.get_services()) == {
            SERVICE, "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection",
            "grpc.reflection.v1alpha.ServerReflection",
        }  # fmt: skip
        pool = DescriptorPool(database)
        service = pool.FindServiceByName(SERVICE)
        methods = {"ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer"}
        assert methods <= set(service.methods_by_name)
        fields = pool.FindMessageTypeByName("inference.ModelInferRequest").fields_by_name
        expected = service_pb2.ModelInferRequest.DESCRIPTOR.fields_by_name
        assert {name: field.number for name, field in fields.items()} == {n: f.number for n, f in expected.items()}
        assert "Watch" in pool.FindServiceByName("grpc.health.v1.Health").methods_by_name


def test_version_1_of_reflection_says_the_same_and_describes_itself(doubling: RunningServer) -> None:
    """As grpcurl asks, which tries version 1 first: its messages are made of what the server says they are."""
    with grpc.insecure_channel(doubling.grpc) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        service = DescriptorPool(database).FindServiceByName("grpc.reflection.v1.ServerReflection")
        method = service.methods_by_name["ServerReflectionInfo"]
        question, reply = (GetMessageClass(kind) for kind in (method.input_type, method.output_type))
        call = channel.stream_stream(
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            request_serializer=question.SerializeToString,
            response_deserializer=reply.FromString,
        )
        asked = [question(list_services="*"), question(file_containing_symbol=SERVICE), question(file_by_filename="no")]
        services, found, unknown = call(iter(asked), timeout=WAIT)
        names = [service.name for service in services.list_services_response.service]
        assert sorted(names) == sorted(database.get_services())
    files = [FileDescriptorProto.FromString(file) for file in found.file_descriptor_response.file_descriptor_proto]
    assert any(service.name == "GRPCInferenceService" for file in files for service in file.service)
    assert unknown.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]
