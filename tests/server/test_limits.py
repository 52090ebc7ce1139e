"""Limits at, below and above what they allow, and requests that mean harm: afterwards the server answers as before."""

from __future__ import annotations

import gzip
import http.client
import json
import random
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from fake_backend import fake_model, write_model
from held_backend import held
from infer_calls import (
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
from running_server import RunningServer, start_server

LIMIT = 256 * 1024
MANY = 1024


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("limits")
    settings = {
        "plain": "",
        "rows": "batching: {max_batch_size: 4}\n",
        "queue": "queue: {max_requests: 2}\n",
        "bytes": "queue: {max_bytes: 48}\n",
        "slow": "",
    }
    for name, text in settings.items():
        write_model(root / name / "1", fake_model(shape=(-1, 2)))
        (root / name / "config.yaml").write_text(text)
    names = [{"name": name, "datatype": "FP32", "shape": [-1, 2]} for name in ("in0", "in1")]
    write_model(root / "twins" / "1", {"inputs": names, "outputs": names})
    (root / "twins" / "config.yaml").write_text("batching: {max_batch_size: 4}\n")
    tensors = [{"name": str(number), "datatype": "FP32", "shape": [1]} for number in range(MANY + 1)]
    write_model(root / "wide" / "1", {"inputs": tensors, "outputs": tensors})
    return root


@pytest.fixture(scope="module")
def bounded(models: Path, third_party: dict[str, str]) -> Iterator[RunningServer]:
    flags = [f"--max-request-bytes={LIMIT}", f"--max-message-bytes={LIMIT}", "--max-concurrent-requests=3"]
    server = start_server(models, models.parent / f"{models.name}.log", *flags, env=third_party)
    yield server
    server.kill()


@pytest.fixture(autouse=True)
def still_answering(bounded: RunningServer) -> Iterator[None]:
    """After each test, whatever it sent."""
    yield
    for protocol in PROTOCOLS:
        assert answer(bounded, protocol, Inference(model="plain"))["outputs"][0]["data"] == [2, 4]
    assert bounded.process.poll() is None


# -- sizes -----------------------------------------------------------------------------------------------------

PLAIN = Inference(model="plain")


def body_of(size: int) -> bytes:
    """A good request of so many bytes."""
    text = json.dumps(PLAIN.document()).encode()
    return text + b" " * (size - len(text))


def chunked(server: RunningServer, body: bytes) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(server.http, timeout=30)
    try:
        chunks = (body[start : start + 10_000] for start in range(0, len(body), 10_000))
        connection.request("POST", PLAIN.path(), chunks, encode_chunked=True, headers={"Transfer-Encoding": "chunked"})
        reply = connection.getresponse()
        return reply.status, json.loads(reply.read())
    finally:
        connection.close()


@pytest.mark.parametrize("size", [LIMIT - 1, LIMIT])
def test_a_body_up_to_the_limit_is_read(bounded: RunningServer, size: int) -> None:
    body = body_of(size)
    for headers, sent in (
        ({}, body),
        ({"Content-Encoding": "gzip"}, gzip.compress(body)),
        ({"Content-Encoding": "deflate"}, zlib.compress(body)),
    ):
        status, _, reply = bounded.request("POST", PLAIN.path(), sent, headers)
        assert (status, json.loads(reply)["outputs"][0]["data"]) == (200, [2, 4])
    assert chunked(bounded, body)[0] == 200


TOO_LARGE = f"request body is larger than the limit of {LIMIT} bytes (--max-request-bytes)"


@pytest.mark.parametrize("path", [PLAIN.path(), "/v2/repository/index"])
def test_a_body_above_the_limit_is_a_413(bounded: RunningServer, path: str) -> None:
    body = body_of(LIMIT + 1)
    for coding, sent in (
        ("identity", body),
        ("gzip", gzip.compress(body)),
        ("deflate", zlib.compress(body)),
        ("gzip", random.Random(0).randbytes(LIMIT + 1)),
    ):
        refusal = rest_refusal(bounded, "POST", path, sent, Content_Encoding=coding)
        assert (refusal.code, refusal.message) == ("413", TOO_LARGE)


def test_a_chunked_body_above_the_limit_is_a_413(bounded: RunningServer) -> None:
    assert chunked(bounded, body_of(LIMIT + 1)) == (413, {"error": TOO_LARGE})


def test_a_bomb_is_a_413(bounded: RunningServer) -> None:
    bomb = gzip.compress(bytes(50 * 2**20), 9)
    assert len(bomb) < LIMIT
    assert rest_refusal(bounded, "POST", PLAIN.path(), bomb, Content_Encoding="gzip").code == "413"


def test_binary_tensors_count_towards_the_limit(bounded: RunningServer) -> None:
    for rows, expected in ((LIMIT // 8 - 100, 200), (LIMIT // 8, 413)):
        given = {"name": "input", "datatype": "FP32", "shape": [rows, 2], "parameters": {"binary_data_size": rows * 8}}
        text = json.dumps({"inputs": [given], "parameters": {"binary_data_output": True}}).encode()
        headers = {"Inference-Header-Content-Length": str(len(text))}
        assert bounded.request("POST", PLAIN.path(), text + bytes(rows * 8), headers)[0] == expected


@pytest.mark.parametrize(("size", "expected"), [(LIMIT - 8, 200), (LIMIT, 200), (LIMIT + 8, 413)])
@pytest.mark.parametrize("coding", ["identity", "gzip"])
def test_a_raw_request_is_limited_as_any(bounded: RunningServer, size: int, expected: int, coding: str) -> None:
    sent = gzip.compress(bytes(size)) if coding == "gzip" else bytes(size)
    headers = {"Inference-Header-Content-Length": "0", "Content-Encoding": coding}
    assert bounded.request("POST", PLAIN.path(), sent, headers)[0] == expected


def test_an_announced_length_above_the_limit_is_a_413_before_anything_was_sent(bounded: RunningServer) -> None:
    connection = http.client.HTTPConnection(bounded.http, timeout=30)
    connection.putrequest("POST", PLAIN.path())
    connection.putheader("Content-Length", str(10**12))
    connection.endheaders()
    reply = connection.getresponse()
    assert (reply.status, json.loads(reply.read())) == (413, {"error": TOO_LARGE})
    connection.close()


def test_a_client_that_sends_far_more_than_is_read_is_told_so(bounded: RunningServer) -> None:
    refusal = rest_refusal(bounded, "POST", PLAIN.path(), bytes(20 * 2**20))
    assert (refusal.code, refusal.message) == ("413", TOO_LARGE)


@pytest.mark.parametrize(("size", "code"), [(LIMIT - 1, ""), (LIMIT, ""), (LIMIT + 1, "RESOURCE_EXHAUSTED")])
def test_the_size_of_a_grpc_message_is_limited(bounded: RunningServer, size: int, code: str) -> None:
    message = PLAIN.message()
    message.id = "x" * (size - message.ByteSize() - 4)
    assert message.ByteSize() == size
    with grpc_stub(bounded) as stub:
        if code:
            assert refusal_of(lambda: stub.ModelInfer(message)).code == code
        else:
            assert stub.ModelInfer(message).id == message.id


# -- JSON ------------------------------------------------------------------------------------------------------


def nested(depth: int) -> bytes:
    """A request of so many levels, the document being the first."""
    text = json.dumps(PLAIN.document())
    return f'{text[:-1]}, "deep": {"[" * (depth - 1)}{"]" * (depth - 1)}}}'.encode()


@pytest.mark.parametrize("depth", [99, 100])
def test_json_may_nest_to_100(bounded: RunningServer, depth: int) -> None:
    assert bounded.request("POST", PLAIN.path(), nested(depth))[0] == 200


@pytest.mark.parametrize("depth", [101, 1000, 30_000])
def test_json_may_not_nest_deeper(bounded: RunningServer, depth: int) -> None:
    refusal = rest_refusal(bounded, "POST", PLAIN.path(), nested(depth))
    assert refusal.code == "400"
    if depth <= 1000:
        assert "JSON nesting depth exceeds maximum allowed limit (100)" in refusal.message


def test_data_may_not_be_an_abyss(bounded: RunningServer) -> None:
    text = json.dumps(PLAIN.document()).replace("[1, 2]", f"{'[' * 30_000}{']' * 30_000}")
    assert rest_refusal(bounded, "POST", PLAIN.path(), text.encode()).code == "400"


@pytest.mark.parametrize(("keys", "status"), [(MANY - 1, 200), (MANY, 200), (MANY + 1, 400)])
def test_the_keys_of_a_json_object_are_limited(bounded: RunningServer, keys: int, status: int) -> None:
    document = PLAIN.document() | {f"k{number}": 0 for number in range(keys - 1)}
    assert len(document) == keys
    code, _, reply = bounded.request("POST", PLAIN.path(), json.dumps(document).encode())
    assert code == status
    assert (f"{keys} keys, at most 1024" in reply.decode()) == (status == 400)


@pytest.mark.parametrize(("outputs", "status"), [(MANY - 1, 200), (MANY, 200), (MANY + 1, 400)])
def test_the_outputs_that_a_json_request_lists_are_limited(bounded: RunningServer, outputs: int, status: int) -> None:
    inputs = [{"name": str(n), "datatype": "FP32", "shape": [1], "data": [n]} for n in range(MANY + 1)]
    body = json.dumps({"inputs": inputs, "outputs": [{"name": str(n)} for n in range(outputs)]}).encode()
    code, _, reply = bounded.request("POST", "/v2/models/wide/infer", body)
    assert code == status
    document = json.loads(reply)
    if status == 200:
        assert [output["data"] for output in document["outputs"]] == [[2 * n] for n in range(outputs)]
    else:
        assert f"{outputs} outputs, at most 1024" in document["error"]


# -- rows, queues, requests ------------------------------------------------------------------------------------


def rows_of(rows: int) -> Given:
    return Given(shape=(rows, 2), data=range(rows * 2))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_request_may_have_as_many_rows_as_a_batch(bounded: RunningServer, protocol: str) -> None:
    for rows in (1, 3, 4):
        reply = answer(bounded, protocol, Inference(model="rows", inputs=[rows_of(rows)]))
        assert reply["outputs"][0]["data"] == [2 * value for value in range(rows * 2)]
    refusal = refuse(bounded, protocol, Inference(model="rows", inputs=[rows_of(5)]), "INVALID_ARGUMENT")
    assert "inference request batch-size must be <= 4 for 'rows', got 5" in refusal.message


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_inputs_of_a_batched_model_have_as_many_rows_as_each_other(bounded: RunningServer, protocol: str) -> None:
    inputs = [Given("in0", shape=(1, 2), data=range(2)), Given("in1", shape=(2, 2), data=range(4))]
    refusal = refuse(bounded, protocol, Inference(model="twins", inputs=inputs), "INVALID_ARGUMENT")
    expected = "input 'in1' batch size does not match other inputs for 'twins': the inputs have [1, 2] rows"
    assert refusal.message == expected


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_shape_without_the_batch_is_told_that_it_lacks_it(bounded: RunningServer, protocol: str) -> None:
    note = " NOTE: Setting a non-zero max_batch_size in the model config requires a batch dimension to be prepended"
    expected = "unexpected shape for input 'input' for model '{}'. Expected [-1,2], got [2]."
    for model, more in (("rows", note), ("plain", "")):
        inference = Inference(model=model, inputs=[Given(shape=(2,), data=(1, 2))])
        message = refuse(bounded, protocol, inference, "INVALID_ARGUMENT").message
        assert message.startswith(expected.format(model).rstrip("." if not more else "") + more)
        assert ("NOTE" in message) == bool(more)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(("model", "rows"), [("queue", 1), ("bytes", 3)])
def test_what_waits_for_a_model_is_limited(
    bounded: RunningServer, models: Path, model: str, rows: int, protocol: str
) -> None:
    """Two requests of a row fill a queue of two, two of three rows, 24 bytes each, one of 48 bytes."""
    inference, too_big = (Inference(model=model, inputs=[rows_of(number)]) for number in (rows, rows + 4))
    calls = []
    with held(models / model / "1"):
        for waiting in range(3):
            calls.append(Background(answer, bounded, protocol, inference))
            wait_for_queued(bounded, model, running=1, waiting=waiting)
            if model == "bytes" and waiting == 1:
                refuse(bounded, protocol, too_big, "UNAVAILABLE")
        bounded_queue = refuse(bounded, protocol, Inference(model=model), "UNAVAILABLE")
    assert "Exceeds maximum queue size" in bounded_queue.message
    assert [call.outcome["outputs"][0]["shape"] for call in calls] == [[rows, 2]] * 3


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_requests_in_the_server_are_limited(bounded: RunningServer, models: Path, protocol: str) -> None:
    """Whichever protocol they came over, and whatever model they are for."""
    slow = Inference(model="slow")
    with held(models / "slow" / "1"):
        calls = [Background(answer, bounded, "grpc", slow), Background(answer, bounded, "rest", slow)]
        wait_until(lambda: bounded.counter("vintner_requests_in_flight", model="slow") == 2)
        assert answer(bounded, protocol, PLAIN)["outputs"][0]["data"] == [2, 4]
        calls.append(Background(answer, bounded, protocol, slow))
        wait_until(lambda: bounded.counter("vintner_requests_in_flight", model="slow") == 3)
        refusal = refuse(bounded, protocol, PLAIN, "UNAVAILABLE")
    assert "Exceeds maximum queue size: the server runs 3 requests already" in refusal.message
    assert [call.outcome["outputs"][0]["data"] for call in calls] == [[2, 4]] * 3


# -- requests that mean harm -----------------------------------------------------------------------------------

HOSTILE_SHAPES = {
    "the one that ends another server": [9223372036854775808, 3],
    "product beyond 64 bits": [2**62, 2**62],
    "bytes beyond 64 bits": [2**61, 2],
    "wraps around to two elements": [2**63 + 1, 2],
    "negative": [-1, -2],
    "least integer": [-(2**63), 2],
    "no elements, and too many": [0, 2**62, 2**62],
    "no elements, and one too many": [2**63, 0],
    "many dimensions": [1] * 65 + [2],
    "a whole list of dimensions": [1] * 10_000,
    "beyond any integer": [10**400, 2],
}


@pytest.mark.parametrize("shape", HOSTILE_SHAPES.values(), ids=HOSTILE_SHAPES)
def test_no_shape_hurts_rest(bounded: RunningServer, shape: list[int]) -> None:
    document = PLAIN.document()
    document["inputs"][0]["shape"] = shape
    refusal = rest_refusal(bounded, "POST", PLAIN.path(), document)
    assert refusal.code == "400"
    binary = {"name": "input", "datatype": "FP32", "shape": shape, "parameters": {"binary_data_size": 8}}
    text = json.dumps({"inputs": [binary]}).encode()
    length = str(len(text))
    refusal = rest_refusal(bounded, "POST", PLAIN.path(), text + bytes(8), Inference_Header_Content_Length=length)
    assert refusal.code == "400"


@pytest.mark.parametrize(
    "shape",
    [shape for shape in HOSTILE_SHAPES.values() if all(-(2**63) <= extent < 2**63 for extent in shape)],
    ids=str,
)
@pytest.mark.parametrize("datatype", ["FP32", "BYTES"])
@pytest.mark.parametrize("raw", [True, False], ids=["raw", "contents"])
def test_no_shape_hurts_grpc(bounded: RunningServer, shape: list[int], datatype: str, raw: bool) -> None:
    message = Inference(model="plain", inputs=[Given(datatype=datatype, shape=shape, data=None)]).message()
    if raw:
        message.raw_input_contents.append(bytes(8))
    with grpc_stub(bounded) as stub:
        assert refusal_of(lambda: stub.ModelInfer(message)).code == "INVALID_ARGUMENT"


def binary_body(size: int, blob: bytes, datatype: str = "FP32", shape: tuple[int, ...] = (1, 2)) -> tuple[bytes, int]:
    """A request with one binary input, and how long its JSON is."""
    given = {"name": "input", "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": size}}
    text = json.dumps({"inputs": [given]}).encode()
    return text + blob, len(text)


@pytest.mark.parametrize("coding", ["identity", "gzip"])
@pytest.mark.parametrize(
    ("size", "blob", "expected"),
    [
        (8, bytes(7), "unexpected size for input 'input', expecting 1 additional bytes for model 'plain'"),
        (8, b"", "unexpected size for input 'input', expecting 8 additional bytes for model 'plain'"),
        (8, bytes(9), "unexpected additional input data for model 'plain'"),
        (7, bytes(7), "input byte size mismatch for input 'input' for model 'plain'. Expected 8, got 7"),
        (2**62, bytes(8), "unexpected size for input 'input'"),
    ],
)
def test_a_lie_about_binary_data_is_a_400(
    bounded: RunningServer, size: int, blob: bytes, expected: str, coding: str
) -> None:
    body, json_size = binary_body(size, blob)
    sent = gzip.compress(body) if coding == "gzip" else body
    headers = {"Inference_Header_Content_Length": str(json_size), "Content_Encoding": coding}
    refusal = rest_refusal(bounded, "POST", PLAIN.path(), sent, **headers)
    assert refusal.code == "400"
    assert expected in refusal.message


@pytest.mark.parametrize("coding", ["identity", "gzip"])
@pytest.mark.parametrize(
    ("length", "expected"),
    [
        ("x", "Unable to parse Inference-Header-Content-Length, got: x"),
        ("1e3", "Unable to parse Inference-Header-Content-Length, got: 1e3"),
        ("4294967296", "value is out of range"),
        ("9" * 5000, "value is out of range"),
        ("-1", "inference header size should be in range"),
        ("100000", "inference header size should be in range"),
        ("3", "malformed JSON"),
    ],
)
def test_a_lie_about_the_length_of_the_json_is_a_400(
    bounded: RunningServer, length: str, expected: str, coding: str
) -> None:
    body, _ = binary_body(8, bytes(8))
    sent = gzip.compress(body) if coding == "gzip" else body
    headers = {"Inference_Header_Content_Length": length, "Content_Encoding": coding}
    refusal = rest_refusal(bounded, "POST", PLAIN.path(), sent, **headers)
    assert refusal.code == "400"
    assert expected in refusal.message


@pytest.mark.parametrize(
    "blob",
    [b"\xff\xff\xff\xff", struct.pack("<I", 5) + b"abc", struct.pack("<I", 1) + b"ab", b"\1\0", bytes(12)],
    ids=["a length of 4 GiB", "an element cut short", "an element too long", "half a length", "an element too many"],
)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_lengths_of_strings_that_lie_are_refused(bounded: RunningServer, protocol: str, blob: bytes) -> None:
    if protocol == "rest":
        body, json_size = binary_body(len(blob), blob, "BYTES")
        headers = {"Inference_Header_Content_Length": str(json_size)}
        refusal = rest_refusal(bounded, "POST", PLAIN.path(), body, **headers)
        assert refusal.code == "400"
    else:
        message = Inference(model="plain", inputs=[Given(datatype="BYTES", data=None)]).message()
        message.raw_input_contents.append(blob)
        with grpc_stub(bounded) as stub:
            refusal = refusal_of(lambda: stub.ModelInfer(message))
        assert refusal.code == "INVALID_ARGUMENT"
    assert "expected 2 string elements for inference input 'input'" in refusal.message


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", b"no gzip"),
        ("gzip", gzip.compress(body_of(200))[:-9]),
        ("gzip", gzip.compress(body_of(200)) + b"more"),
        ("deflate", gzip.compress(body_of(200))),
        ("deflate", b""),
    ],
    ids=["nonsense", "cut short", "more behind", "gzip for deflate", "nothing"],
)
def test_a_broken_compressed_body_is_a_400(bounded: RunningServer, coding: str, body: bytes) -> None:
    refusal = rest_refusal(bounded, "POST", PLAIN.path(), body, Content_Encoding=coding)
    assert refusal.code == "400"
    assert f"not valid {coding} data" in refusal.message


def test_random_bytes_are_an_error_and_nothing_else(bounded: RunningServer) -> None:
    source = random.Random(1)
    good_json, good_message = body_of(150), PLAIN.message().SerializeToString()
    with grpc.insecure_channel(bounded.grpc) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        for _ in range(100):
            noise = source.randbytes(source.randrange(1, 300))
            assert bounded.request("POST", PLAIN.path(), noise)[0] == 400
            changed = bytearray(good_json)
            changed[source.randrange(len(changed))] = source.randrange(256)
            assert bounded.request("POST", PLAIN.path(), bytes(changed))[0] in (200, 400)
            message = bytearray(good_message)
            message[source.randrange(len(message))] = source.randrange(256)
            outcome = call.future(bytes(message))
            assert outcome.code().name in ("OK", "INVALID_ARGUMENT", "NOT_FOUND")


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("letter", ["x", "Ω"])
def test_a_name_of_any_length_gets_the_error_that_it_deserves(
    bounded: RunningServer, protocol: str, letter: str
) -> None:
    name = letter * 20_000
    refuse(bounded, protocol, Inference(model="plain", inputs=[Given(name)]), "INVALID_ARGUMENT")
    refuse(bounded, protocol, Inference(model="plain", inputs=[Given(datatype=name)]), "INVALID_ARGUMENT")
    refuse(bounded, protocol, Inference(model="plain", outputs=[(name, {})]), "INVALID_ARGUMENT")
    refuse(bounded, protocol, Inference(model="plain", parameters={"triton_" + name: 1}), "INVALID_ARGUMENT")
    if protocol == "grpc":
        refuse(bounded, protocol, Inference(model=name), "NOT_FOUND")
