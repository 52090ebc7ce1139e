"""TensorFlow Serving's and KServe v1's REST API over sockets, as their clients and OpenVINO Model Server's use it."""

from __future__ import annotations

import gzip
import json
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_backend import fake_model, write_model
from held_backend import held_loads
from infer_calls import Background, rest_refusal, wait_until
from model_builders import openvino_doubling
from ovmsclient import make_http_client
from ovmsclient.tfs_compat.base.errors import InvalidInputError, ModelNotFoundError
from running_server import RunningServer, start_server
from vintner.types import DTYPES

Start = Callable[..., RunningServer]

AVAILABLE = {"state": "AVAILABLE", "status": {"error_code": "OK", "error_message": "OK"}}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, third_party: dict[str, str]) -> Iterator[RunningServer]:
    """`labelled` in versions 1 (FP32) and 2 (INT64), `a:b c` and `text` of OpenVINO, `fixed` [2,2], and more."""
    root = tmp_path_factory.mktemp("v1")
    write_model(root / "labelled" / "1", fake_model(shape=(-1, 2)))
    write_model(root / "labelled" / "2", fake_model("INT64", (-1, 2)))
    (root / "labelled" / "config.yaml").write_text("version_labels: {stable: 1, next: 2, gone: 9}\n")
    openvino_doubling(root / "a:b c" / "1")
    openvino_doubling(root / "text" / "1", "BYTES", (-1,))
    write_model(root / "fixed" / "1", fake_model(shape=(2, 2)))
    write_model(root / "scalar" / "1", fake_model(shape=()))
    write_model(root / "broken" / "1", {**fake_model(), "fail": "it is bad"})
    running = start_server(root, root.parent / "v1.log", "--no-strict-readiness", env=third_party)
    yield running
    running.kill()


def predict(server: RunningServer, path: str, document: Any, **headers: str) -> Any:
    status, received, body = server.request(
        "POST", f"/v1/models/{path}:predict", json.dumps(document).encode(), headers
    )
    assert (status, received["Content-Type"]) == (200, "application/json"), body
    return json.loads(body)


def get(server: RunningServer, path: str) -> Any:
    status, _, body = server.request("GET", f"/v1/models/{path}")
    assert status == 200, body
    return json.loads(body)


# -- predict ---------------------------------------------------------------------------------------------------

VALUES = {"BOOL": [[True, False]], "BYTES": [["a", "Ω"]]}


@pytest.mark.parametrize("datatype", DTYPES)
def test_every_datatype_both_ways(doubling: RunningServer, datatype: str) -> None:
    values = VALUES.get(datatype, [[1, 2], [3, 50]])
    expected = values if datatype in VALUES else [[2, 4], [6, 100]]
    model = f"double_{datatype.lower()}"
    assert predict(doubling, model, {"instances": values}) == {"predictions": expected}
    assert predict(doubling, model, {"inputs": values}) == {"outputs": expected}
    named = [{"input": row} for row in values]
    assert predict(doubling, model, {"instances": named}) == {"predictions": expected}
    assert predict(doubling, model, {"inputs": {"input": values}}) == {"outputs": expected}


def test_several_outputs_have_names(doubling: RunningServer) -> None:
    named = {"in0": [[1, 2]], "in1": [[3, 4]]}
    assert predict(doubling, "pair", {"inputs": named}) == {"outputs": {"out0": [[2, 4]], "out1": [[6, 8]]}}


def test_bytes_come_back_as_text_or_base64(doubling: RunningServer) -> None:
    bytes_ = {"b64": b64encode(b"\xff\xd8").decode()}
    assert predict(doubling, "double_bytes", {"instances": [[bytes_, "a"]]}) == {"predictions": [[bytes_, "a"]]}


def test_what_is_not_finite_is_spelled(doubling: RunningServer) -> None:
    body = b'{"instances": [[NaN, -Infinity]]}'
    status, _, reply = doubling.request("POST", "/v1/models/double_fp32:predict", body)
    assert (status, reply) == (200, b'{"predictions":[[NaN,-Infinity]]}')


def test_a_path_may_name_a_version_or_a_label(server: RunningServer) -> None:
    document = {"instances": [[1, 2]]}
    for path in ("labelled", "labelled/versions/2", "labelled/versions/0", "labelled/labels/next"):
        assert repr(predict(server, path, document)) == "{'predictions': [[2, 4]]}"
    for path in ("labelled/versions/1", "labelled/labels/stable"):
        assert repr(predict(server, path, document)) == "{'predictions': [[2.0, 4.0]]}"


@pytest.mark.parametrize("path", ["a:b%20c", "a%3Ab%20c", "a:b%20c/versions/1"])
def test_a_name_may_have_colons_and_be_encoded(server: RunningServer, path: str) -> None:
    assert predict(server, path, {"instances": [[1, 2, 3, 4]]}) == {"predictions": [[2, 4, 6, 8]]}
    assert get(server, path)["model_version_status"] == [{"version": "1"} | AVAILABLE]


def test_instances_make_the_first_dimension_of_any_shape(server: RunningServer) -> None:
    assert predict(server, "fixed", {"instances": [[1, 2], [3, 4]]}) == {"predictions": [[2, 4], [6, 8]]}
    refusal = rest_refusal(server, "POST", "/v1/models/fixed:predict", {"instances": [[1, 2]]})
    assert refusal.message == "unexpected shape for input 'input' for model 'fixed'. Expected [2,2], got [1,2]"
    assert predict(server, "scalar", {"inputs": 2.5}) == {"outputs": 5}


def test_compressed_bodies_and_replies(doubling: RunningServer) -> None:
    rows = [[1, 2]] * 100
    body = gzip.compress(json.dumps({"instances": rows}).encode())
    headers = {"Content-Encoding": "gzip", "Accept-Encoding": "gzip"}
    status, received, reply = doubling.request("POST", "/v1/models/double_fp32:predict", body, headers)
    assert (status, received["Content-Encoding"]) == (200, "gzip")
    assert json.loads(gzip.decompress(reply)) == {"predictions": [[2, 4]] * 100}


REFUSED = {
    "no JSON": ("double_fp32", b"{", 400, "malformed JSON"),
    "neither format": ("double_fp32", {}, 400, "Could not detect row or column format"),
    "a missing input": ("pair", {"inputs": {"in0": [[1, 2]]}}, 400, "missing required input(s) ['in1']"),
    "a wrong value": ("double_int8", {"instances": [[1, 128]]}, 400, "an integer from -128 to 127"),
    "a wrong shape": ("double_fp32", {"instances": [1, 2]}, 400, "Expected [-1,2], got [2]"),
    "an unknown model": ("nobody", {"instances": [[1, 2]]}, 404, "Request for unknown model: 'nobody'"),
    "an unknown version": ("pair/versions/9", {"inputs": 1}, 404, "'pair' version 9 is not found"),
    "a version that is none": ("pair/versions/new", {"inputs": 1}, 400, "version 'new' for 'pair' is not a positive"),
    "an unknown label": ("pair/labels/x", {"inputs": 1}, 404, "model 'pair' has no version label 'x'"),
    "a body over the limit": ("double_fp32", b" " * 2**20 + b"{}", 413, "larger than the limit"),
}  # fmt: skip


@pytest.mark.parametrize("fault", REFUSED)
def test_what_is_wrong_is_refused_and_counted(doubling: RunningServer, fault: str) -> None:
    path, body, status, expected = REFUSED[fault]
    refused = ("vintner_requests_total", "vintner_rejected_requests_total")
    before = [doubling.counter(name, protocol="rest") for name in refused]
    refusal = rest_refusal(doubling, "POST", f"/v1/models/{path}:predict", body)
    assert refusal.code == str(status)
    assert expected in refusal.message
    wait_until(lambda: sum(doubling.counter(name, protocol="rest") for name in refused) == sum(before) + 1)


@pytest.mark.parametrize("verb", ["classify", "regress", "explain"])
@pytest.mark.parametrize("path", ["pair", "pair/versions/1", "pair/labels/x"])
def test_other_verbs_are_not_implemented(doubling: RunningServer, path: str, verb: str) -> None:
    refusal = rest_refusal(doubling, "POST", f"/v1/models/{path}:{verb}", {})
    assert (refusal.code, refusal.message) == ("501", f":{verb} is not supported by this server; :predict is")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [("GET", "pair:predict", "POST"), ("POST", "pair", "GET, HEAD"), ("PUT", "pair/versions/1:predict", "POST")],
)
def test_other_methods_are_not_allowed(doubling: RunningServer, method: str, path: str, allow: str) -> None:
    refusal = rest_refusal(doubling, method, f"/v1/models/{path}")
    assert (refusal.code, refusal.headers["Allow"]) == ("405", allow)


def test_a_request_wakes_a_model_and_has_its_datatype(tmp_path: Path, start: Start) -> None:
    version = write_model(tmp_path / "models" / "m" / "1", fake_model("INT64", (-1, 2))).parent
    (tmp_path / "models" / "m" / "config.yaml").write_text("load: on_demand\n")
    server = start(tmp_path / "models")
    assert get(server, "m")["ready"]
    with held_loads(version):
        waiting = Background(predict, server, "m", {"instances": [[1, 2]]})
        wait_until(lambda: get(server, "m/versions/1")["model_version_status"][0]["state"] == "LOADING")
    assert waiting.outcome == {"predictions": [[2, 4]]}


# -- status and metadata ---------------------------------------------------------------------------------------


def test_one_reply_has_what_each_client_of_a_model_reads(server: RunningServer) -> None:
    reply = get(server, "labelled")
    created = reply.pop("created")
    assert reply == {
        "id": "labelled", "object": "model", "owned_by": "vintner",
        "model_version_status": [{"version": "1"} | AVAILABLE, {"version": "2"} | AVAILABLE],
        "name": "labelled", "ready": True,
    }  # fmt: skip
    listed = get(server, "")
    assert listed["object"] == "list"
    assert [entry.pop("id") for entry in listed["data"]] == ["a:b c", "fixed", "labelled", "scalar", "text"]
    assert listed["data"] == 5 * [{"object": "model", "created": created, "owned_by": "vintner"}]


def test_a_model_that_failed_is_not_ready_and_says_why(server: RunningServer) -> None:
    status, headers, body = server.request("GET", "/v1/models/broken")
    reply = json.loads(body)
    assert (status, reply["ready"], int(headers["Retry-After"]) > 0) == (503, False, True)
    failed = {"version": "1", "state": "LOADING", "status": {"error_code": "UNKNOWN", "error_message": "it is bad"}}
    assert reply["model_version_status"] == [failed]
    assert "it is bad" in reply["reasons"][0]
    assert get(server, "broken/versions/1") == {"model_version_status": [failed]}


def test_the_status_of_one_version(server: RunningServer) -> None:
    for path in ("labelled/versions/1", "labelled/labels/stable"):
        assert get(server, path) == {"model_version_status": [{"version": "1"} | AVAILABLE]}


@pytest.mark.parametrize("path", ["", "/versions/2", "/labels/next"])
def test_metadata_is_of_the_version_that_is_asked_for(server: RunningServer, path: str) -> None:
    def tensor(name: str) -> dict[str, Any]:
        dimensions = [{"size": "-1", "name": ""}, {"size": "2", "name": ""}]
        return {"dtype": "DT_INT64", "tensorShape": {"dim": dimensions, "unknownRank": False}, "name": name}

    assert get(server, f"labelled{path}/metadata") == {
        "modelSpec": {"name": "labelled", "signatureName": "", "version": "2"},
        "metadata": {
            "signature_def": {
                "@type": "type.googleapis.com/tensorflow.serving.SignatureDefMap",
                "signatureDef": {
                    "serving_default": {
                        "inputs": {"input": tensor("input")},
                        "outputs": {"output": tensor("output")},
                        "methodName": "",
                        "defaults": {},
                    }
                },
            }
        },
    }


TENSORFLOW = {"BOOL": "DT_BOOL", "FP16": "DT_HALF", "FP32": "DT_FLOAT", "FP64": "DT_DOUBLE", "BF16": "DT_BFLOAT16",
          "BYTES": "DT_STRING"}  # fmt: skip


@pytest.mark.parametrize("datatype", DTYPES)
def test_metadata_names_datatypes_as_tensorflow_does(doubling: RunningServer, datatype: str) -> None:
    metadata = make_http_client(doubling.http).get_model_metadata(f"double_{datatype.lower()}")
    assert metadata["inputs"] == {"input": {"dtype": TENSORFLOW.get(datatype, f"DT_{datatype}"), "shape": [-1, 2]}}


@pytest.mark.parametrize("suffix", ["", "/metadata", "/versions/9", "/versions/9/metadata", "/labels/gone/metadata"])
def test_what_is_not_there_is_not_found(server: RunningServer, suffix: str) -> None:
    model = "labelled" if "9" in suffix or "gone" in suffix else "nobody"
    assert rest_refusal(server, "GET", f"/v1/models/{model}{suffix}").code == "404"


# -- OpenVINO Model Server's client ----------------------------------------------------------------------------


def test_the_ovms_client_finds_its_way(server: RunningServer, doubling: RunningServer) -> None:
    client = make_http_client(server.http)
    states = {
        version: (one["state"], one["error_code"]) for version, one in client.get_model_status("labelled").items()
    }
    assert states == {1: ("AVAILABLE", 0), 2: ("AVAILABLE", 0)}
    assert list(client.get_model_status("labelled", 2)) == [2]
    failed = client.get_model_status("broken")[1]
    assert (failed["state"], failed["error_code"], failed["error_message"]) == ("LOADING", 2, "it is bad")
    assert [client.get_model_metadata("labelled", version)["model_version"] for version in (0, 1, 2)] == [2, 1, 2]
    assert client.get_model_metadata("labelled", 1)["outputs"] == {"output": {"dtype": "DT_FLOAT", "shape": [-1, 2]}}
    np.testing.assert_array_equal(client.predict({"input": [[1, 2]]}, "labelled"), [[2, 4]])
    ones = np.ones((2, 2), np.float32)
    np.testing.assert_array_equal(client.predict({"input": ones}, "labelled", 1), ones * 2)
    outputs = make_http_client(doubling.http).predict({"in0": [[1, 2]], "in1": [[3, 4]]}, "pair")
    np.testing.assert_array_equal(outputs["out1"], [[6, 8]])


def test_the_ovms_client_sends_bytes_in_base64(server: RunningServer) -> None:
    answer = make_http_client(server.http).predict({"input": [b"a", b"\xff"]}, "text")
    assert answer.tolist() == ["a", {"b64": "/w=="}]


def test_the_ovms_client_tells_errors_apart(server: RunningServer) -> None:
    client = make_http_client(server.http)
    with pytest.raises(ModelNotFoundError, match="Request for unknown model: 'nobody'"):
        client.predict({"input": [[1, 2]]}, "nobody")
    with pytest.raises(ModelNotFoundError, match="'labelled' version 9 is not found"):
        client.get_model_metadata("labelled", 9)
    with pytest.raises(InvalidInputError, match=r"unexpected inference input 'inptu'.*; did you mean 'input'\?"):
        client.predict({"inptu": [[1, 2]]}, "labelled")
