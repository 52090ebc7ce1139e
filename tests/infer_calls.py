"""Inferences written once and sent over both protocols, also those that a client library would not let through.

Knows a server only by its addresses. gRPC goes through the stub of the published tritonclient, REST through the
standard library, so nothing between the test and the socket mends a request.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from running_server import RunningServer
from tritonclient.grpc import service_pb2, service_pb2_grpc
from waiting import wait_until

PROTOCOLS = ("grpc", "rest")
WAIT = 30.0
ARRIVES = 5.0
"""Seconds: a deadline that will pass, but not before the request has reached the server, even where the machine stalls
for a while."""
STATUS = {
    "OK": 200, "INVALID_ARGUMENT": 400, "UNAUTHENTICATED": 401, "PERMISSION_DENIED": 403, "NOT_FOUND": 404,
    "RESOURCE_EXHAUSTED": 413, "INTERNAL": 500, "UNIMPLEMENTED": 501, "DEADLINE_EXCEEDED": 504,
    "UNAVAILABLE": 503,
}  # fmt: skip
CONTENTS = {
    "BOOL": "bool_contents", "INT8": "int_contents", "UINT8": "uint_contents", "INT32": "int_contents",
    "INT64": "int64_contents", "FP32": "fp32_contents", "BYTES": "bytes_contents",
}  # fmt: skip
PARAMETERS = {bool: "bool_param", int: "int64_param", float: "double_param", str: "string_param"}


@dataclass(frozen=True, slots=True)
class Given:
    """One input, flat; `data` None leaves it out."""

    name: str = "input"
    datatype: str = "FP32"
    shape: Sequence[int] = (1, 2)
    data: Sequence[Any] | None = (1, 2)
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Inference:
    """A request in terms of neither protocol. `outputs` are names, with parameters where they have any."""

    model: str = "double_fp32"
    version: str = ""
    inputs: Sequence[Given] = (Given(),)
    outputs: Sequence[tuple[str, Mapping[str, Any]]] = ()
    id: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """The JSON of the REST request; what is empty is left out."""
        optional = {
            "id": self.id,
            "parameters": dict(self.parameters),
            "outputs": [{"name": name, "parameters": dict(parameters)} for name, parameters in self.outputs],
        }
        inputs = [
            {"name": given.name, "datatype": given.datatype, "shape": list(given.shape)}
            | ({} if given.data is None else {"data": list(given.data)})
            | ({"parameters": dict(given.parameters)} if given.parameters else {})
            for given in self.inputs
        ]
        return {key: value for key, value in optional.items() if value} | {"inputs": inputs}

    def path(self) -> str:
        return f"/v2/models/{self.model}{f'/versions/{self.version}' if self.version else ''}/infer"

    def message(self) -> Any:
        """The gRPC request, with typed contents."""
        message = service_pb2.ModelInferRequest(model_name=self.model, model_version=self.version, id=self.id)
        _fill(message.parameters, self.parameters)
        for given in self.inputs:
            tensor = message.inputs.add(name=given.name, datatype=given.datatype, shape=given.shape)
            _fill(tensor.parameters, given.parameters)
            if given.data is not None:
                texts = [value.encode() if isinstance(value, str) else value for value in given.data]
                getattr(tensor.contents, CONTENTS.get(given.datatype, "fp32_contents")).extend(texts)
        for name, parameters in self.outputs:
            _fill(message.outputs.add(name=name).parameters, parameters)
        return message


def _fill(target: Any, parameters: Mapping[str, Any]) -> None:
    for key, value in parameters.items():
        setattr(target[key], PARAMETERS[type(value)], value)


@dataclass(frozen=True, slots=True)
class Refusal:
    """The error that a call was answered with; `headers` are REST's."""

    code: str
    message: str
    headers: Mapping[str, str] = field(default_factory=dict)


@contextmanager
def grpc_stub(server: RunningServer) -> Any:
    with grpc.insecure_channel(server.grpc) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def refusal_of(call: Callable[[], Any]) -> Refusal:
    """The status of a gRPC call that fails."""
    try:
        answer = call()
    except grpc.RpcError as error:
        return Refusal(error.code().name, error.details())
    raise AssertionError(f"answered: {answer}")


def rest_refusal(server: RunningServer, method: str, path: str, body: Any = None, **headers: str) -> Refusal:
    """A REST call that fails, once its reply has been found to be an error as every error has to be.

    A body that is not bytes is sent as JSON. `headers` have underscores for dashes.
    """
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    status, received, reply = server.request(method, path, data, named)
    assert status >= 400, reply
    assert received["Content-Type"] == "application/json"
    document = json.loads(reply)
    assert list(document) == ["error"], document
    assert "Traceback" not in document["error"]
    assert ("Retry-After" in received) == (status == 503)
    if status == 503:
        assert int(received["Retry-After"]) >= 1
    return Refusal(str(status), document["error"], received)


def refuse(server: RunningServer, protocol: str, inference: Inference, code: str) -> Refusal:
    """Sends an inference that has to be refused with this gRPC status, or REST's for it."""
    if protocol == "grpc":
        with grpc_stub(server) as stub:
            refusal = refusal_of(lambda: stub.ModelInfer(inference.message(), timeout=WAIT))
        assert refusal.code == code, refusal
    else:
        refusal = rest_refusal(server, "POST", inference.path(), inference.document())
        assert refusal.code == str(STATUS[code]), refusal
    return refusal


def answer(server: RunningServer, protocol: str, inference: Inference) -> dict[str, Any]:
    """The reply in REST's terms: `id` where there is one, model, version, and outputs whose `data` are flat numbers."""
    if protocol == "rest":
        status, _, reply = server.request("POST", inference.path(), json.dumps(inference.document()).encode())
        assert status == 200, reply
        document: dict[str, Any] = json.loads(reply)
        return document
    with grpc_stub(server) as stub:
        message = stub.ModelInfer(inference.message(), timeout=WAIT)
    return _document_of(message)


def _document_of(message: Any) -> dict[str, Any]:
    from tritonclient.grpc import InferResult

    result = InferResult(message)
    outputs = [
        {
            "name": o.name,
            "datatype": o.datatype,
            "shape": list(o.shape),
            "data": result.as_numpy(o.name).ravel().tolist(),
        }
        for o in message.outputs
    ]
    named = {"id": message.id} if message.id else {}
    return named | {"model_name": message.model_name, "model_version": message.model_version, "outputs": outputs}


class Background(threading.Thread):
    """Runs a call beside the test; `outcome` has what it returned or raised."""

    def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
        super().__init__()
        self._call, self._arguments = call, arguments
        self._result: Any = None
        self.start()

    def run(self) -> None:
        try:
            self._result = self._call(*self._arguments)
        except BaseException as exc:
            self._result = exc

    @property
    def outcome(self) -> Any:
        self.join(WAIT)
        assert not self.is_alive(), "no answer"
        return self._result


def wait_for_queued(server: RunningServer, model: str, *, running: int, waiting: int) -> None:
    """Until so many instances of a model run and so many requests wait for one."""
    wait_until(
        lambda: (
            server.counter("vintner_instances_busy", model=model) == running
            and server.counter("vintner_queue_requests", model=model) == waiting
        )
    )
