"""Which outputs come back, in what order, as JSON or as binary data; and what else of a request a reply repeats."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import permutations, product
from math import inf, nan
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from infer_calls import PROTOCOLS, Given, Inference, answer, grpc_stub
from running_server import RunningServer

PAIR = (Given("in0", data=(1, 2)), Given("in1", data=(3, 4)))
DOUBLED = {"out0": [2.0, 4.0], "out1": [6.0, 8.0]}


def pair(**changes: Any) -> Inference:
    return Inference(model="pair", inputs=PAIR, **changes)


def requested(*names: str) -> list[tuple[str, Mapping[str, Any]]]:
    return [(name, {}) for name in names]


@dataclass(frozen=True)
class Reply:
    """A REST reply, taken apart: its JSON, and the values of its binary outputs in the order of their bytes."""

    document: dict[str, Any]
    headers: Mapping[str, str]
    binary: dict[str, list[float]]

    @property
    def forms(self) -> dict[str, str]:
        return {output["name"]: "json" if "data" in output else "binary" for output in self.document["outputs"]}

    @property
    def values(self) -> dict[str, list[float]]:
        written = {o["name"]: o["data"] for o in self.document["outputs"] if "data" in o}
        return written | self.binary


def send(server: RunningServer, inference: Inference, document: dict[str, Any] | None = None, **headers: str) -> Reply:
    """Sends it as JSON, `document` in place of its own if given, and reads every byte of the reply."""
    body = json.dumps(document or inference.document()).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    status, received, reply = server.request("POST", inference.path(), body, named)
    assert status == 200, reply
    length = received["Inference-Header-Content-Length"]
    assert received["Content-Type"] == ("application/json" if length is None else "application/octet-stream")
    text, blobs = (reply, b"") if length is None else (reply[: int(length)], reply[int(length) :])
    parsed: dict[str, Any] = json.loads(text)
    binary = {}
    for output in parsed["outputs"]:
        size = output.get("parameters", {}).get("binary_data_size")
        assert (size is None) == ("data" in output)
        if size is not None:
            blob, blobs = blobs[:size], blobs[size:]
            binary[output["name"]] = np.frombuffer(blob, np.float32).tolist()
    assert blobs == b""
    return Reply(parsed, received, binary)


# -- which, and in what order ----------------------------------------------------------------------------------

CHOICES = [names for count in range(3) for names in permutations(DOUBLED, count)]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("names", CHOICES, ids=" ".join)
def test_the_outputs_are_those_requested_in_that_order(
    doubling: RunningServer, names: tuple[str, ...], protocol: str
) -> None:
    reply = answer(doubling, protocol, pair(outputs=requested(*names)))
    assert [(o["name"], o["data"]) for o in reply["outputs"]] == [(name, DOUBLED[name]) for name in names or DOUBLED]


def test_an_empty_list_of_outputs_asks_for_all(doubling: RunningServer) -> None:
    reply = send(doubling, pair(), pair().document() | {"outputs": []})
    assert reply.values == DOUBLED


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_inputs_may_come_in_any_order(doubling: RunningServer, protocol: str) -> None:
    reply = answer(doubling, protocol, Inference(model="pair", inputs=PAIR[::-1]))
    assert {o["name"]: o["data"] for o in reply["outputs"]} == DOUBLED


def test_raw_contents_belong_to_the_inputs_in_their_order(doubling: RunningServer) -> None:
    message = Inference(model="pair", inputs=[Given("in1", data=None), Given("in0", data=None)]).message()
    message.raw_input_contents.extend([np.float32([3, 4]).tobytes(), np.float32([1, 2]).tobytes()])
    with grpc_stub(doubling) as stub:
        reply = stub.ModelInfer(message)
    assert [output.name for output in reply.outputs] == ["out0", "out1"]
    assert [np.frombuffer(raw, np.float32).tolist() for raw in reply.raw_output_contents] == [*DOUBLED.values()]


def test_a_grpc_reply_is_raw_whatever_the_request_was(doubling: RunningServer) -> None:
    with grpc_stub(doubling) as stub:
        reply = stub.ModelInfer(pair().message())
    assert len(reply.raw_output_contents) == len(reply.outputs) == 2
    assert not any(output.HasField("contents") for output in reply.outputs)


# -- JSON or binary --------------------------------------------------------------------------------------------

SETTINGS = (None, False, True)


def binary_data(setting: bool | None) -> dict[str, bool]:
    return {} if setting is None else {"binary_data": setting}


@pytest.mark.parametrize("everything", SETTINGS, ids=lambda setting: f"binary_data_output={setting}")
@pytest.mark.parametrize("each", [*product(SETTINGS, SETTINGS)], ids=str)
def test_a_listed_output_is_as_it_says_itself_else_json(
    doubling: RunningServer, each: tuple[bool | None, bool | None], everything: bool | None
) -> None:
    outputs = [(name, binary_data(setting)) for name, setting in zip(("out1", "out0"), each, strict=True)]
    parameters = {} if everything is None else {"binary_data_output": everything}
    reply = send(doubling, pair(outputs=outputs, parameters=parameters))
    assert reply.forms == {
        name: "binary" if setting else "json" for name, setting in zip(("out1", "out0"), each, strict=True)
    }
    assert reply.values == DOUBLED
    assert list(reply.forms) == ["out1", "out0"]


@pytest.mark.parametrize("everything", SETTINGS)
def test_outputs_that_are_not_listed_are_as_the_request_says_else_json(
    doubling: RunningServer, everything: bool | None
) -> None:
    parameters = {} if everything is None else {"binary_data_output": everything}
    reply = send(doubling, pair(parameters=parameters))
    assert reply.forms == dict.fromkeys(DOUBLED, "binary" if everything else "json")
    assert reply.values == DOUBLED


@pytest.mark.parametrize("first", [True, False], ids=["first binary", "first JSON"])
@pytest.mark.parametrize("second", [True, False], ids=["second binary", "second JSON"])
def test_inputs_may_be_json_and_binary_side_by_side(doubling: RunningServer, first: bool, second: bool) -> None:
    inputs = []
    for given, binary in zip(PAIR, (first, second), strict=True):
        tensor = triton_http.InferInput(given.name, [1, 2], "FP32")
        tensor.set_data_from_numpy(np.float32([given.data]), binary_data=binary)
        inputs.append(tensor)
    with triton_http.InferenceServerClient(doubling.http) as client:
        for outputs in (None, [triton_http.InferRequestedOutput(name, binary_data=first) for name in DOUBLED]):
            result = client.infer("pair", inputs, outputs=outputs)
            assert {name: result.as_numpy(name)[0].tolist() for name in DOUBLED} == DOUBLED


def test_a_binary_output_without_a_byte_needs_no_binary_reply(doubling: RunningServer) -> None:
    empty = [Given(name, shape=(0, 2), data=()) for name in ("in0", "in1")]
    reply = send(doubling, Inference(model="pair", inputs=empty, parameters={"binary_data_output": True}))
    assert reply.headers["Content-Type"] == "application/json"
    assert reply.binary == {"out0": [], "out1": []}
    assert [output["shape"] for output in reply.document["outputs"]] == [[0, 2], [0, 2]]


def test_bytes_that_are_no_text_come_only_as_binary_data(doubling: RunningServer) -> None:
    blob = b"\1\0\0\0\xff\1\0\0\0a"
    given = {"name": "input", "datatype": "BYTES", "shape": [1, 2], "parameters": {"binary_data_size": len(blob)}}
    path = "/v2/models/double_bytes/infer"
    for binary in (False, True):
        text = json.dumps({"inputs": [given], "parameters": {"binary_data_output": binary}}).encode()
        headers = {"Inference-Header-Content-Length": str(len(text))}
        status, received, reply = doubling.request("POST", path, text + blob, headers)
        if binary:
            assert (status, reply[int(received["Inference-Header-Content-Length"]) :]) == (200, blob)
        else:
            assert status == 400
            assert "output 'output' is not UTF-8" in json.loads(reply)["error"]
            assert "binary" in json.loads(reply)["error"]


# -- what a reply repeats --------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("text", ["1", 'Ω 🍷 "quoted" \\ \n', "0" * 5000])
def test_the_id_comes_back_as_it_was(doubling: RunningServer, text: str, protocol: str) -> None:
    assert answer(doubling, protocol, Inference(id=text))["id"] == text


def test_without_an_id_there_is_none_in_the_reply(doubling: RunningServer) -> None:
    assert "id" not in answer(doubling, "rest", Inference())
    assert "id" not in send(doubling, Inference(), Inference().document() | {"id": ""}).document
    with grpc_stub(doubling) as stub:
        assert stub.ModelInfer(Inference().message()).id == ""


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(("asked", "served"), [("", "3"), ("1", "1"), ("3", "3")])
def test_the_reply_names_the_model_and_the_version_that_served(
    doubling: RunningServer, asked: str, served: str, protocol: str
) -> None:
    reply = answer(doubling, protocol, pair(version=asked))
    assert (reply["model_name"], reply["model_version"]) == ("pair", served)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_parameters_of_every_type_are_accepted(doubling: RunningServer, protocol: str) -> None:
    parameters = {"text": "Ω", "whole": -(2**63), "half": 0.5, "flag": True, "priority": 0, "timeout": 0}
    given = Given(parameters={"note": "mine"})
    reply = answer(doubling, protocol, Inference(inputs=[given], parameters=parameters))
    assert reply["outputs"][0]["data"] == [2, 4]


def test_keys_that_nobody_knows_are_ignored(doubling: RunningServer) -> None:
    document = pair(outputs=requested("out1")).document() | {"model_name": "other", "model_version": "9", "x": [None]}
    document["inputs"][0]["y"] = {"z": 1}
    document["outputs"][0]["y"] = None
    reply = send(doubling, pair(), document)
    assert (reply.document["model_name"], reply.values) == ("pair", {"out1": DOUBLED["out1"]})


@pytest.mark.parametrize(
    "data", [[[1.5, 2], [3, 4]], [1.5, 2, 3, 4], [[1.5, 2.0], [3e0, 4]]], ids=["nested", "flat", "mixed"]
)
def test_json_data_may_be_nested_or_flat_and_the_reply_is_flat(doubling: RunningServer, data: list[Any]) -> None:
    inference = Inference(inputs=[Given(shape=(2, 2), data=data)])
    assert send(doubling, inference).document["outputs"][0] == {
        "name": "output", "datatype": "FP32", "shape": [2, 2], "data": [3, 4, 6, 8],
    }  # fmt: skip


@pytest.mark.parametrize("datatype", ["FP16", "BF16", "FP32", "FP64"])
def test_what_is_not_finite_is_read_and_written_like_triton_does(doubling: RunningServer, datatype: str) -> None:
    inference = Inference(
        model=f"double_{datatype.lower()}", inputs=[Given("input", datatype, (2, 2), (nan, inf, -inf, 1.5))]
    )
    status, _, reply = doubling.request("POST", inference.path(), json.dumps(inference.document()).encode())
    assert status == 200
    assert b'"data":[NaN,Infinity,-Infinity,3.0]' in reply


# -- compression -----------------------------------------------------------------------------------------------

PLAINTEXT = {"gzip": gzip.decompress, "deflate": zlib.decompress, None: bytes}
LARGE = Inference(inputs=[Given(shape=(200, 2), data=[0.5] * 400)])


@pytest.mark.parametrize("coding", ["gzip", "deflate", "identity", "GZIP"])
def test_a_request_may_be_compressed(doubling: RunningServer, coding: str) -> None:
    compress = {"gzip": gzip.compress, "deflate": zlib.compress}.get(coding.lower(), bytes)
    body = compress(json.dumps(LARGE.document()).encode())
    status, headers, reply = doubling.request("POST", LARGE.path(), body, {"Content-Encoding": coding})
    assert (status, headers["Content-Encoding"]) == (200, None)
    assert json.loads(reply)["outputs"][0]["data"] == [1.0] * 400


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("gzip, deflate", "gzip"),
        ("gzip;q=0.5, deflate", "deflate"),
        ("br, gzip;q=0.1", "gzip"),
        ("gzip;q=0", None),
        ("identity", None),
        ("br", None),
    ],
)
@pytest.mark.parametrize("binary", [True, False], ids=["binary", "JSON"])
def test_a_reply_is_compressed_as_the_client_accepts_it(
    doubling: RunningServer, accepted: str, coding: str | None, binary: bool
) -> None:
    document = LARGE.document() | {"parameters": {"binary_data_output": binary}}
    body = json.dumps(document).encode()
    status, headers, reply = doubling.request("POST", LARGE.path(), body, {"Accept-Encoding": accepted})
    assert (status, headers["Content-Encoding"]) == (200, coding)
    plain = PLAINTEXT[coding](reply)
    if binary:
        plain = plain[int(headers["Inference-Header-Content-Length"]) :]
        assert plain == np.ones(400, np.float32).tobytes()
    else:
        assert json.loads(plain)["outputs"][0]["data"] == [1.0] * 400


@pytest.mark.parametrize("response", [None, "gzip", "deflate"])
@pytest.mark.parametrize("request_", [None, "gzip", "deflate"])
def test_a_client_may_compress_both_ways(doubling: RunningServer, request_: str | None, response: str | None) -> None:
    given = triton_http.InferInput("input", [300, 2], "FP32")
    values = np.arange(600, dtype=np.float32).reshape(300, 2)
    given.set_data_from_numpy(values)
    with triton_http.InferenceServerClient(doubling.http) as client:
        result = client.infer(
            "double_fp32",
            [given],
            request_compression_algorithm=request_,
            response_compression_algorithm=response,
        )
    np.testing.assert_array_equal(result.as_numpy("output"), values * 2)


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_a_grpc_message_may_be_compressed(doubling: RunningServer, algorithm: str) -> None:
    given = triton_grpc.InferInput("input", [300, 2], "FP32")
    values = np.arange(600, dtype=np.float32).reshape(300, 2)
    given.set_data_from_numpy(values)
    with triton_grpc.InferenceServerClient(doubling.grpc) as client:
        result = client.infer("double_fp32", [given], compression_algorithm=algorithm)
    np.testing.assert_array_equal(result.as_numpy("output"), values * 2)
