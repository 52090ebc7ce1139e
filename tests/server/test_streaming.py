"""Streams over both protocols: Triton's gRPC streams by its own clients, and the generate extension."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.grpc.aio as triton_grpc_aio
import tritonclient.http as triton_http
from fake_backend import fake_model, write_model
from held_backend import held
from infer_calls import ARRIVES, grpc_stub, refusal_of, rest_refusal, wait_until
from running_server import RunningServer, start_server
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

WAIT = 20.0
ROWS = fake_model("INT32", (-1, 1)) | {"decoupled": True}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ordinary models `double` and `text`; `rows`, decoupled, with a response for each row; `breaks`, which fails after
    two of them."""
    root = tmp_path_factory.mktemp("streaming")
    write_model(root / "double" / "1", fake_model("FP32", (-1, 2)))
    write_model(root / "text" / "1", fake_model("BYTES", (-1,)))
    write_model(root / "rows" / "1", ROWS)
    (root / "rows" / "config.yaml").write_text("instances: 4\n")
    write_model(root / "breaks" / "1", ROWS | {"fail_after": 2})
    return root


@pytest.fixture(scope="module")
def server(models: Path, third_party: dict[str, str]) -> Iterator[RunningServer]:
    running = start_server(models, models.parent / "streaming.log", env=third_party)
    yield running
    running.kill()


def tensor(values: Any, datatype: str) -> list[Any]:
    array = np.array(values, {"FP32": np.float32, "INT32": np.int32}[datatype])
    given = triton_grpc.InferInput("input", array.shape, datatype)
    given.set_data_from_numpy(array)
    return [given]


def rows(*values: int) -> list[Any]:
    return tensor([[value] for value in values], "INT32")


class Stream:
    """tritonclient's stream, and what came over it."""

    def __init__(self, server: RunningServer, **options: Any) -> None:
        self.client = triton_grpc.InferenceServerClient(server.grpc)
        self.events: SimpleQueue[tuple[Any, Any]] = SimpleQueue()
        self.client.start_stream(lambda result, error: self.events.put((result, error)), **options)

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def ask(self, model: str, inputs: list[Any], **options: Any) -> None:
        self.client.async_stream_infer(model, inputs, **options)

    def next(self) -> Any:
        result, error = self.events.get(timeout=WAIT)
        assert error is None, error
        return result

    def error(self) -> InferenceServerException:
        result, error = self.events.get(timeout=WAIT)
        assert result is None
        return error


# -- gRPC ----------------------------------------------------------------------------------------------------


def test_answers_of_an_ordinary_model_come_in_the_order_of_the_requests(server: RunningServer) -> None:
    with Stream(server) as stream:
        for number in range(50):
            stream.ask("double", tensor([[number, -number]], "FP32"), request_id=str(number))
        for number in range(50):
            found = stream.next()
            assert found.get_response().id == str(number)
            assert found.get_response().parameters["triton_final_response"].bool_param
            assert found.as_numpy("output").tolist() == [[2 * number, -2 * number]]


def test_a_decoupled_model_gives_a_response_for_each_row_and_an_empty_last_one_if_that_is_wanted(
    server: RunningServer,
) -> None:
    with Stream(server) as stream:
        stream.ask("rows", rows(1, 2, 3), request_id="a", enable_empty_final_response=True)
        found = [stream.next() for _ in range(4)]
    assert [one.as_numpy("output").tolist() for one in found[:3]] == [[2], [4], [6]]
    flags = [one.get_response().parameters["triton_final_response"].bool_param for one in found]
    assert flags == [False, False, False, True]
    assert {one.get_response().id for one in found} == {"a"}
    assert not found[3].get_response().outputs


def test_triton_asks_of_the_configuration_whether_a_model_is_decoupled(server: RunningServer) -> None:
    client = triton_grpc.InferenceServerClient(server.grpc)
    for model, expected in (("rows", True), ("double", False)):
        assert client.get_model_config(model).config.model_transaction_policy.decoupled is expected


def test_an_error_is_told_in_band_with_the_id_and_the_stream_goes_on(server: RunningServer) -> None:
    with grpc_stub(server) as stub:
        bad = service_pb2.ModelInferRequest(model_name="nobody", id="7")
        good = service_pb2.ModelInferRequest(model_name="double", id="8")
        good.inputs.add(name="input", datatype="FP32", shape=[1, 2]).contents.fp32_contents.extend([1, 2])
        first, second = stub.ModelStreamInfer(iter([bad, good]), timeout=WAIT)
    assert "'nobody' is not found" in first.error_message
    assert first.infer_response.id == "7"
    assert (second.error_message, second.infer_response.id) == ("", "8")
    with Stream(server) as stream:
        stream.ask("breaks", rows(1, 2, 3))
        assert [stream.next().as_numpy("output").tolist() for _ in range(2)] == [[2], [4]]
        assert "failed after 2 responses" in stream.error().message()
        stream.ask("double", tensor([[1, 2, 3]], "FP32"))
        assert "unexpected shape for input 'input'" in stream.error().message()
        stream.ask("double", tensor([[1, 2]], "FP32"))
        stream.next()


def wrong_size(request: Any) -> None:
    request.inputs[0].ClearField("contents")
    request.raw_input_contents.append(bytes(7))


WRONG = {
    "input byte size mismatch for input 'input'": wrong_size,
    "unexpected inference input 'inputs'": lambda request: setattr(request.inputs[0], "name", "inputs"),
    "reserved for Triton usage": lambda request: request.parameters["triton_x"].SetInParent(),
    "output 'output' already exists": lambda request: [request.outputs.add(name="output") for _ in range(2)],
    "keeps no state between requests": lambda request: setattr(request.parameters["sequence_id"], "int64_param", 7),
    "shared memory is disabled": lambda request: setattr(
        request.outputs.add(name="output").parameters["shared_memory_region"], "string_param", "r"
    ),
}


@pytest.mark.parametrize("expected", WRONG)
def test_an_error_has_the_id_whatever_is_wrong_with_the_request(server: RunningServer, expected: str) -> None:
    request = service_pb2.ModelInferRequest(model_name="double", id="7")
    request.inputs.add(name="input", datatype="FP32", shape=[1, 2]).contents.fp32_contents.extend([1, 2])
    WRONG[expected](request)
    with grpc_stub(server) as stub:
        (reply,) = stub.ModelStreamInfer(iter([request]), timeout=WAIT)
    assert expected in reply.error_message
    assert reply.infer_response.id == "7"


def test_a_client_may_want_the_first_error_as_the_status_of_the_stream(server: RunningServer) -> None:
    with Stream(server, headers={"triton_grpc_error": "true"}) as stream:
        stream.ask("nobody", rows(1))
        assert stream.error().status() == "StatusCode.NOT_FOUND"


def test_nonsense_in_a_stream_is_told_and_ends_nothing(server: RunningServer) -> None:
    import grpc

    good = service_pb2.ModelInferRequest(model_name="double", id="8")
    good.inputs.add(name="input", datatype="FP32", shape=[1, 2]).contents.fp32_contents.extend([1, 2])
    with grpc.insecure_channel(server.grpc) as channel:
        call = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
        replies = list(call(iter([b"\xff\xff", good.SerializeToString()]), timeout=WAIT))
    first, second = map(service_pb2.ModelStreamInferResponse.FromString, replies)
    assert "no valid inference.ModelInferRequest" in first.error_message
    assert second.infer_response.id == "8"


def test_the_asynchronous_client_streams(server: RunningServer) -> None:
    async def requests() -> AsyncIterator[dict[str, Any]]:
        for number in range(5):
            yield {"model_name": "rows", "inputs": rows(number, number + 1), "request_id": str(number)}

    async def talk() -> list[int]:
        async with triton_grpc_aio.InferenceServerClient(server.grpc) as client:
            found = []
            async for result, error in client.stream_infer(requests()):
                assert error is None
                found += result.as_numpy("output").tolist()
            return found

    assert sorted(asyncio.run(talk())) == sorted(2 * value for number in range(5) for value in (number, number + 1))


def test_the_deadline_of_a_stream_ends_what_it_asked(server: RunningServer, models: Path) -> None:
    def ended() -> float:
        """Either side may notice first."""
        outcomes = ("deadline_exceeded", "cancelled")
        return sum(server.counter("vintner_requests_total", model="rows", outcome=outcome) for outcome in outcomes)

    before = ended()
    with held(models / "rows" / "1"), Stream(server, stream_timeout=ARRIVES) as stream:
        stream.ask("rows", rows(1))
        assert "deadline" in stream.error().message().lower()
        wait_until(lambda: ended() > before)


def test_a_client_that_goes_away_cancels_what_runs_and_what_waits(server: RunningServer, models: Path) -> None:
    def cancelled() -> float:
        return server.counter("vintner_requests_total", model="rows", outcome="cancelled")

    before = cancelled()
    with held(models / "rows" / "1"):
        with Stream(server) as stream:
            for _ in range(6):
                stream.ask("rows", rows(1, 2))
            wait_until(lambda: server.counter("vintner_queue_requests", model="rows") == 2)
            stream.client.stop_stream(cancel_requests=True)
        wait_until(lambda: cancelled() == before + 6)
    wait_until(lambda: server.counter("vintner_instances_busy", model="rows") == 0)


def test_many_streams_at_once_each_get_their_own_answers(server: RunningServer) -> None:
    failures: list[Any] = []

    def talk(number: int) -> None:
        try:
            with Stream(server) as stream:
                for turn in range(10):
                    value = 100 * number + turn
                    stream.ask("rows", rows(value, value + 1))
                    found = [stream.next().as_numpy("output").tolist() for _ in range(2)]
                    assert found == [[2 * value], [2 * value + 2]]
                    stream.ask("double", tensor([[value, 1]], "FP32"))
                    assert stream.next().as_numpy("output").tolist() == [[2 * value, 2]]
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=talk, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures


def test_a_decoupled_model_gives_no_single_answer(server: RunningServer) -> None:
    with grpc_stub(server) as stub:
        request = service_pb2.ModelInferRequest(model_name="rows")
        request.inputs.add(name="input", datatype="INT32", shape=[1, 1]).contents.int_contents.append(1)
        refusal = refusal_of(lambda: stub.ModelInfer(request, timeout=WAIT))
    assert refusal.code == "UNIMPLEMENTED"
    assert "doesn't support models with decoupled transaction policy" in refusal.message
    body = {"inputs": [{"name": "input", "datatype": "INT32", "shape": [1, 1], "data": [1]}]}
    assert rest_refusal(server, "POST", "/v2/models/rows/infer", body).code == "501"


def test_a_stream_that_is_open_at_the_end_is_answered_and_told(models: Path, third_party: dict[str, str]) -> None:
    running = start_server(models, models.parent / "end.log", env=third_party)
    try:
        with Stream(running) as idle, Stream(running) as busy:
            with held(models / "rows" / "1"):
                busy.ask("rows", rows(1))
                wait_until(lambda: running.counter("vintner_instances_busy", model="rows") == 1)
                running.process.terminate()
                assert idle.error().status() == "StatusCode.UNAVAILABLE"
            assert busy.next().as_numpy("output").tolist() == [2]
            assert busy.error().status() == "StatusCode.UNAVAILABLE"
        assert running.process.wait(WAIT) == 0
    finally:
        running.kill()


def test_triton_is_told_how_long_the_responses_took_by_their_place(server: RunningServer) -> None:
    kinds = ("success", "empty_response", "fail", "compute_infer", "compute_output", "cancel")
    expected = {
        "rows": [(1, 0, 0, 1, 1, 0), (1, 0, 0, 1, 1, 0), (0, 1, 0, 1, 0, 0)],
        "breaks": [(1, 0, 0, 1, 1, 0), (1, 0, 0, 1, 1, 0), (0, 0, 1, 1, 0, 0)],
    }
    for model, counts in expected.items():
        before = response_statistics(server, model)
        generate(server, model, {"input": [1, 2] if model == "rows" else [1, 2, 3]}, "generate_stream")
        after = response_statistics(server, model)
        nothing = {kind: {"count": 0, "ns": 0} for kind in kinds}
        for place, more in enumerate(counts):
            was, now = before.get(str(place), nothing), after[str(place)]
            assert tuple(now[kind]["count"] - was[kind]["count"] for kind in kinds) == more
            assert all(now[kind]["ns"] > was[kind]["ns"] for kind, count in zip(kinds, more, strict=True) if count)
    with triton_grpc.InferenceServerClient(server.grpc) as client:
        message = client.get_inference_statistics("breaks").model_stats[0].response_stats["2"]
    assert message.fail.count == response_statistics(server, "breaks")["2"]["fail"]["count"]
    assert response_statistics(server, "double") == {}


def response_statistics(server: RunningServer, model: str) -> dict[str, Any]:
    with triton_http.InferenceServerClient(server.http) as client:
        statistics: dict[str, Any] = client.get_inference_statistics(model)["model_stats"][0]["response_stats"]
    return statistics


# -- generate ------------------------------------------------------------------------------------------------


def generate(server: RunningServer, model: str, body: Any, how: str = "generate") -> Any:
    status, headers, reply = server.request("POST", f"/v2/models/{model}/{how}", json.dumps(body).encode())
    assert status == 200, reply
    expected = "application/json" if how == "generate" else "text/event-stream; charset=utf-8"
    assert headers["Content-Type"] == expected
    return json.loads(reply) if how == "generate" else events(reply)


def events(text: bytes) -> list[Any]:
    assert text.endswith(b"\n\n")
    found = []
    for event in text[:-2].split(b"\n\n"):
        assert event.startswith(b"data: ")
        found.append(json.loads(event[6:]))
    return found


def test_generate_answers_of_any_model_that_gives_one_response(server: RunningServer) -> None:
    head = {"model_version": "1"}
    assert generate(server, "text", {"input": "hallo", "id": "7"}) == {
        "id": "7", "model_name": "text", "output": "hallo", **head,
    }  # fmt: skip
    assert generate(server, "double/versions/1", {"input": [1, 2]}) == {
        "model_name": "double", "output": [2.0, 4.0], **head,
    }  # fmt: skip
    assert generate(server, "rows", {"input": 4}) == {"model_name": "rows", "output": 8, **head}


def test_a_stream_of_events_has_one_for_each_response(server: RunningServer) -> None:
    found = generate(server, "rows", {"input": [1, 2, 3], "id": "7"}, "generate_stream")
    assert [event["output"] for event in found] == [2, 4, 6]
    assert found[0] == {"id": "7", "model_name": "rows", "model_version": "1", "output": 2}
    assert generate(server, "double", {"input": [1, 2]}, "generate_stream") == [
        {"model_name": "double", "model_version": "1", "output": [2.0, 4.0]}
    ]
    assert generate(server, "rows", {"input": 5, "parameters": {"repeat": 2}}, "generate_stream")[1]["output"] == 10


def test_an_error_after_the_first_response_is_an_event(server: RunningServer) -> None:
    found = generate(server, "breaks", {"input": [1, 2, 3]}, "generate_stream")
    assert [event.get("output") for event in found] == [2, 4, None]
    assert "failed after 2 responses" in found[2]["error"]


@pytest.mark.parametrize("how", ["generate", "generate_stream"])
@pytest.mark.parametrize(
    ("model", "body", "code", "message"),
    [
        ("nobody", {}, "404", "is not found"),
        ("double/versions/9", {}, "404", "version 9 is not found"),
        ("double", b"{", "400", "malformed JSON"),
        ("double", {"input": [1, 2, 3]}, "400", "needs a multiple of 2 elements"),
        ("double", {"inputs": 1}, "400", "missing required input(s) ['input']"),
        ("double", {"input": [1, 2], "x": {}}, "400", "parameter 'x' has invalid type"),
    ],
)
def test_what_fails_before_the_first_response_has_a_status(
    server: RunningServer, how: str, model: str, body: Any, code: str, message: str
) -> None:
    refusal = rest_refusal(server, "POST", f"/v2/models/{model}/{how}", body)
    assert refusal.code == code
    assert message in refusal.message


def test_generate_needs_exactly_one_response(server: RunningServer) -> None:
    for values in ([1, 2], [1, 2, 3, 4], []):
        refusal = rest_refusal(server, "POST", "/v2/models/rows/generate", {"input": values})
        assert refusal.code == "400"
        assert "exactly 1 response" in refusal.message


def test_events_leave_one_by_one_and_a_client_that_goes_away_ends_the_generation(
    server: RunningServer, models: Path
) -> None:
    before = server.counter("vintner_requests_total", model="rows", outcome="cancelled")
    host, port = server.http.split(":")
    body = json.dumps({"input": [1], "repeat": 10**7}).encode()
    with socket.create_connection((host, int(port)), WAIT) as connection:
        head = b"POST /v2/models/rows/generate_stream HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
        connection.sendall(head + body)
        received = b""
        while received.count(b"data: ") < 3:
            received += connection.recv(4096)
        assert server.counter("vintner_instances_busy", model="rows") == 1
    wait_until(lambda: server.counter("vintner_instances_busy", model="rows") == 0)
    assert server.counter("vintner_requests_total", model="rows", outcome="cancelled") == before + 1


def test_a_client_that_reads_nothing_takes_no_memory(server: RunningServer, models: Path) -> None:
    """What it does not read waits in the backend: there it costs nothing."""
    host, port = server.http.split(":")
    body = json.dumps({"input": [1], "repeat": 10**7}).encode()
    with socket.create_connection((host, int(port)), WAIT) as connection:
        head = b"POST /v2/models/rows/generate_stream HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
        connection.sendall(head + body)
        wait_until(lambda: server.counter("vintner_instances_busy", model="rows") == 1)
        seen = -1
        while (made := resident(server)) > seen + 2**20:  # it grows until the socket's buffers are full
            seen = made
            generate(server, "double", {"input": [1, 2]})
        assert server.counter("vintner_instances_busy", model="rows") == 1
    wait_until(lambda: server.counter("vintner_instances_busy", model="rows") == 0)


def resident(server: RunningServer) -> int:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))) * 1024
