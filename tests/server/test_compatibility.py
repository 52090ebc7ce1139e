"""docs/compatibility.md, each row of which is called: what it says is what the server does, and nothing is left out.

A row is added to the page; if its call needs a body or a message to be right in itself, that is added here.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import grpc
import pytest
from fake_backend import fake_model, write_model
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from infer_calls import WAIT, Inference
from running_server import ROOT, RunningServer, start_server
from tritonclient.grpc import service_pb2
from vintner import http_routes

PAGE = (ROOT / "docs" / "compatibility.md").read_text()
ROW = re.compile(r"^\| `([^`]+)` \| [^|]+ \| [^|]+ \| (yes|no|501|UNIMPLEMENTED)\b[^|]*\|$", re.MULTILINE)
ANY_ROW = re.compile(r"^\| `[^|]+` \|.*$", re.MULTILINE)

NAMES = {"m": "double", "v": "1", "l": "stable", "r": "here"}
INFERENCE = Inference(model="double")

OBJECT = f"/vintner-compatibility-{os.getpid()}"
"""Shared memory."""
REGION = {"key": OBJECT, "offset": 0, "byte_size": 8}

PREFIXES = ("/v1", "/openai/v1", "/v3")
EMBEDDINGS = {"model": "tiny_embeddings", "input": "a"}
CHAT = {"model": "tiny_llm", "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 1}
COMPLETION = {"model": "tiny_llm", "prompt": "a", "max_tokens": 1}
RERANK = {"model": "tiny_reranker", "query": "a", "documents": ["b"]}
BODIES: Mapping[str, Any] = {
    "/v2/models/{m}[/versions/{v}]/infer": INFERENCE.document(),
    "/v2/models/{m}[/versions/{v}]/generate": {"input": [1, 2]},
    "/v2/models/{m}[/versions/{v}]/generate_stream": {"input": [1, 2]},
    "/v2/systemsharedmemory/region/{r}/register": REGION,
    "/v2/cudasharedmemory/region/{r}/register": {"raw_handle": {"b64": ""}, "device_id": 0, "byte_size": 8},
    "/v2[/models/{m}]/trace/setting": {"trace_level": ["OFF"]},
    "/v2/logging": {"log_info": True},
    "/v1/models/{m}[/versions/{v}]:predict": {"instances": [[1, 2]]},
    "/v1/models/{m}/labels/{l}:predict": {"instances": [[1, 2]]},
    **{f"{prefix}/chat/completions": CHAT for prefix in PREFIXES},
    **{f"{prefix}/completions": COMPLETION for prefix in PREFIXES},
    **{f"{prefix}/tokenize": {"model": "tiny_llm", "prompt": "a"} for prefix in PREFIXES},
    **{f"{prefix}/embeddings": EMBEDDINGS for prefix in PREFIXES},
    **{f"{prefix}/rerank": RERANK for prefix in PREFIXES},
}
"""What is sent to a path with POST; to others, nothing."""

MODEL = {"name": NAMES["m"]}
LOAD = {"model_name": "spare"}
MESSAGES: Mapping[str, Any] = {
    "inference.GRPCInferenceService/ModelReady": service_pb2.ModelReadyRequest(**MODEL),
    "inference.GRPCInferenceService/ModelMetadata": service_pb2.ModelMetadataRequest(**MODEL),
    "inference.GRPCInferenceService/ModelInfer": INFERENCE.message(),
    "inference.GRPCInferenceService/ModelStreamInfer": INFERENCE.message(),
    "inference.GRPCInferenceService/ModelConfig": service_pb2.ModelConfigRequest(**MODEL),
    "inference.GRPCInferenceService/RepositoryModelLoad": service_pb2.RepositoryModelLoadRequest(**LOAD),
    "inference.GRPCInferenceService/RepositoryModelUnload": service_pb2.RepositoryModelUnloadRequest(**LOAD),
    "inference.GRPCInferenceService/SystemSharedMemoryRegister": service_pb2.SystemSharedMemoryRegisterRequest(
        name=NAMES["r"], **REGION
    ),
    **{
        f"grpc.reflection.{version}.ServerReflection/ServerReflectionInfo": reflection_pb2.ServerReflectionRequest(
            list_services=""
        )
        for version in ("v1alpha", "v1")
    },
    "grpc.health.v1.Health/Check": health_pb2.HealthCheckRequest(),
}
"""What is sent with an RPC; with others, an empty message."""


def rows(section: str) -> list[tuple[str, str]]:
    """What is called, and what it comes to, of each row under a heading."""
    text = PAGE.split(f"\n## {section}\n")[1].split("\n## ")[0]
    found: list[tuple[str, str]] = ROW.findall(text)
    assert len(found) == len(ANY_ROW.findall(text)), "each row has a `call`, two servers, and one of four words"
    return found


def paths(template: str) -> list[str]:
    """With and without what is in brackets, and with names for what is in braces."""
    forms = [re.sub(r"\[(.*?)\]", r"\1", template), re.sub(r"\[.*?\]", "", template)]
    return [re.sub(r"{(\w)}", lambda found: NAMES[found[1]], form) for form in dict.fromkeys(forms)]


ROUTES = rows("REST")
RPCS = rows("gRPC")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, third_party: dict[str, str]) -> Iterator[RunningServer]:
    """Allows everything that has to be allowed."""
    root = tmp_path_factory.mktemp("compatibility")
    for name in (NAMES["m"], "spare"):
        write_model(root / "models" / name / "1", fake_model(shape=(-1, 2)))
    (root / "models" / NAMES["m"] / "config.yaml").write_text("version_labels: {stable: 1}\n")
    config = root / "config.json"
    config.write_text(json.dumps({"model_config_list": []}))
    allowed = ("--model-control=explicit", "--load-model=*", f"--config-path={config}", "--allow-client-shm")
    memory = Path(f"/dev/shm{OBJECT}")
    memory.write_bytes(bytes(8))
    for name in (CHAT["model"], EMBEDDINGS["model"], RERANK["model"]):
        shutil.copytree(ROOT / "model_repository" / str(name), root / "models" / str(name))
    running = start_server(root / "models", root / "log", *allowed, env=third_party)
    yield running
    running.kill()
    memory.unlink()


def prepare(server: RunningServer, call: str) -> None:
    """A region can be asked about once it is registered, and registered as long as it is not."""
    if "systemsharedmemory" in call.lower():
        status_of(server, "POST", "/v2/systemsharedmemory/unregister", None)
        if not call.lower().endswith(("/register", "memoryregister")):
            status_of(server, "POST", f"/v2/systemsharedmemory/region/{NAMES['r']}/register", REGION)


def status_of(server: RunningServer, method: str, path: str, body: Any) -> int:
    connection = http.client.HTTPConnection(server.http, timeout=WAIT)
    try:
        headers = {} if body is None else {"Content-Type": "application/json"}
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        return connection.getresponse().status
    finally:
        connection.close()


STATUSES = {"yes": range(200, 300), "501": [501], "no": [404]}


@pytest.mark.parametrize(("call", "outcome"), ROUTES)
def test_a_route_answers_as_the_page_says(server: RunningServer, call: str, outcome: str) -> None:
    method, template = call.split()
    for path in paths(template):
        prepare(server, path)
        status = status_of(server, method, path, BODIES.get(template) if method == "POST" else None)
        assert status in STATUSES[outcome], (path, status)
    if path.endswith("/unload"):
        assert status_of(server, method, path.removesuffix("unload") + "load", None) in (200, 501)


def code_of(server: RunningServer, method: str, message: bytes) -> str:
    """The status of any RPC, whatever it streams: OK once there is an answer."""
    with grpc.insecure_channel(server.grpc) as channel:
        call = channel.stream_stream(f"/{method}")(iter([message]), timeout=WAIT)
        try:
            if next(call) == b"":  # grpcio sends an empty answer before the status of a unary call that failed
                return call.code().name
        except grpc.RpcError as error:
            return error.code().name
        finally:
            call.cancel()
        return "OK"


CODES = {"yes": "OK", "UNIMPLEMENTED": "UNIMPLEMENTED", "no": "UNIMPLEMENTED"}


@pytest.mark.parametrize(("call", "outcome"), RPCS)
def test_an_rpc_answers_as_the_page_says(server: RunningServer, call: str, outcome: str) -> None:
    message = MESSAGES[call].SerializeToString() if call in MESSAGES else b""
    prepare(server, call)
    assert code_of(server, call, message) == CODES[outcome]


def test_no_route_is_left_out() -> None:
    """What is not served is refused by every method alike, so one row is enough for it."""
    for route in http_routes.routes(MagicMock(), 1, 1):
        named = {
            "any" if outcome == "501" else call.split()[0]
            for call, outcome in ROUTES
            if any(map(route.pattern.fullmatch, paths(call.split()[1])))
        }
        assert "any" in named or route.methods.keys() - {"HEAD"} <= named, route.pattern.pattern


def test_no_rpc_is_left_out(server: RunningServer) -> None:
    """Of those that the server itself tells of."""
    with grpc.insecure_channel(server.grpc) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        pool = DescriptorPool(database)
        services = [pool.FindServiceByName(name) for name in database.get_services()]
        served = {f"{service.full_name}/{method.name}" for service in services for method in service.methods}
    named = dict(RPCS)
    assert served <= named.keys()
    assert {call for call, outcome in named.items() if outcome != "no"} <= served


def test_what_is_in_no_table_has_no_example() -> None:
    assert BODIES.keys() <= {call.split()[1] for call, _ in ROUTES}
    assert MESSAGES.keys() <= dict(RPCS).keys()


def test_what_is_called_differently_on_purpose_is_in_the_page(server: RunningServer) -> None:
    """Of the rows about one small request each."""
    path = "/v2/models/double/infer"
    large = INFERENCE.document() | {"inputs": [{"name": "input", "datatype": "FP32", "shape": [2**62, 3], "data": [1]}]}
    assert server.request("POST", path, b"{")[0] == 400
    assert server.request("POST", path, json.dumps(large).encode())[0] == 400
    assert server.request("POST", path, b"{}", {"Content-Encoding": "br"})[0] == 415
    assert server.request("POST", "/v2/repository/models/nothing/load", b"")[0] == 404
    assert server.request("DELETE", "/v2/health/live")[0] == 405
