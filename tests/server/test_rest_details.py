"""REST beyond its JSON: raw binary requests, methods, paths, content codings, connections."""

from __future__ import annotations

import gzip
import http.client
import json
import re
import socket
import struct
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from infer_calls import WAIT, Inference, rest_refusal
from running_server import RunningServer

RAW = {"Inference-Header-Content-Length": "0"}
PATH = "/v2/models/double_fp32/infer"


def exchange(server: RunningServer, sent: bytes) -> bytes:
    """All that comes back for these bytes until the server closes."""
    host, _, port = server.http.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=WAIT) as connection:
        connection.sendall(sent)
        return b"".join(iter(lambda: connection.recv(65536), b""))


# -- raw binary requests ---------------------------------------------------------------------------------------


def outputs_of(headers: Mapping[str, str], body: bytes) -> tuple[dict[str, Any], bytes]:
    assert headers["Content-Type"] == "application/octet-stream"
    length = int(headers["Inference-Header-Content-Length"])
    document: dict[str, Any] = json.loads(body[:length])
    assert [o["parameters"]["binary_data_size"] for o in document["outputs"]] == [len(body) - length]
    return document, body[length:]


@pytest.mark.parametrize("coding", ["identity", "gzip"])
@pytest.mark.parametrize("rows", [1, 3])
def test_a_body_may_be_nothing_but_the_only_input(doubling: RunningServer, rows: int, coding: str) -> None:
    body = np.arange(2 * rows, dtype=np.float32).tobytes()
    sent = gzip.compress(body) if coding == "gzip" else body
    status, headers, reply = doubling.request("POST", PATH, sent, RAW | {"Content-Encoding": coding})
    assert status == 200, reply
    document, blob = outputs_of(headers, reply)
    assert document["outputs"][0]["shape"] == [rows, 2]
    assert np.frombuffer(blob, np.float32).tolist() == [2.0 * value for value in range(2 * rows)]


def test_the_version_of_a_raw_request_is_that_of_its_path(doubling: RunningServer) -> None:
    headers, reply = doubling.request("POST", "/v2/models/double_int8/versions/1/infer", b"\1\2", RAW)[1:]
    document, blob = outputs_of(headers, reply)
    assert (document["model_version"], blob) == ("1", b"\2\4")


REFUSED_RAW = {
    "/v2/models/pair/infer": ("400", "needs a model with one input, model 'pair' has 2"),
    "/v2/models/double_bytes/infer": ("400", "input 'input', BYTES [-1, 2], can have no shape of one element"),
    PATH: ("400", "input 'input', FP32 [-1, 2], needs a multiple of 8 bytes, got 9"),
    "/v2/models/nobody/infer": ("404", "'nobody' is not found"),
    "/v2/models/double_fp32/versions/7/infer": ("404", "'double_fp32' version 7 is not found"),
}


@pytest.mark.parametrize("path", REFUSED_RAW)
def test_a_raw_request_that_does_not_fit_is_refused(doubling: RunningServer, path: str) -> None:
    before = doubling.counter("vintner_rejected_requests_total", protocol="rest")
    refusal = rest_refusal(doubling, "POST", path, bytes(9), Inference_Header_Content_Length="0")
    code, text = REFUSED_RAW[path]
    assert refusal.code == code
    assert text in refusal.message
    assert doubling.counter("vintner_rejected_requests_total", protocol="rest") == before + 1


# -- content codings -------------------------------------------------------------------------------------------

BINARY = json.dumps(
    {
        "inputs": [{"name": "input", "datatype": "FP32", "shape": [100, 2], "parameters": {"binary_data_size": 800}}],
        "parameters": {"binary_data_output": True},
    }
).encode()


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_the_length_of_the_json_counts_before_compression_both_ways(doubling: RunningServer, coding: str) -> None:
    pack, unpack = {"gzip": (gzip.compress, gzip.decompress), "deflate": (zlib.compress, zlib.decompress)}[coding]
    sent = pack(BINARY + bytes(800))
    named = {"Content-Encoding": coding, "Accept-Encoding": coding, "Inference-Header-Content-Length": str(len(BINARY))}
    status, headers, reply = doubling.request("POST", PATH, sent, named)
    assert (status, headers["Content-Encoding"], headers["Content-Type"]) == (200, coding, "application/octet-stream")
    document, blob = outputs_of(headers, unpack(reply))
    assert (document["outputs"][0]["shape"], blob) == ([100, 2], bytes(800))


@pytest.mark.parametrize(
    ("path", "accepted", "coding", "varies"),
    [
        ("/metrics", None, None, True),
        ("/metrics", "gzip", "gzip", True),
        ("/metrics", "*;q=0", None, True),
        ("/metrics", "identity, gzip;q=0.5", None, True),
        ("/v2/health/live", "gzip", None, False),
        ("/v2/health/live", "gzip, identity;q=0", "gzip", True),
    ],
)
def test_a_reply_says_when_its_coding_was_a_choice(
    doubling: RunningServer, path: str, accepted: str | None, coding: str | None, varies: bool
) -> None:
    given = {} if accepted is None else {"Accept-Encoding": accepted}
    sent = "".join(f"{name}: {value}\r\n" for name, value in given.items())
    request = f"GET {path} HTTP/1.1\r\nHost: here\r\nConnection: close\r\n{sent}\r\n"
    head = exchange(doubling, request.encode()).partition(b"\r\n\r\n")[0].decode().lower()
    assert (f"content-encoding: {coding}" in head) if coding else ("content-encoding" not in head)
    assert ("vary: accept-encoding" in head) == varies


def test_the_refusal_of_a_coding_has_the_header_that_lists_the_known(doubling: RunningServer) -> None:
    refusal = rest_refusal(doubling, "POST", PATH, b"x", Content_Encoding="br")
    assert (refusal.code, refusal.headers["Accept-Encoding"]) == ("415", "gzip, deflate")


# -- paths -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    ["/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/pair", "/v2/models/pair/versions/3", "/metrics",
     "/v2/models/pair/ready", "/v2/models/pair/config", "/v2/models/pair/versions/1/stats", "/v2/models/stats"],
)  # fmt: skip
def test_a_slash_at_the_end_of_what_is_read_changes_nothing(doubling: RunningServer, path: str) -> None:
    plain, slashed = (doubling.request("GET", end)[:2] for end in (path, f"{path}/"))
    assert plain[0] == slashed[0] == 200
    assert plain[1]["Content-Type"] == slashed[1]["Content-Type"]
    assert doubling.request("HEAD", f"{path}/")[0] == 200
    assert rest_refusal(doubling, "GET", f"{path}//").code == "404"


def test_a_slash_at_the_end_of_what_does_something_is_another_path(doubling: RunningServer) -> None:
    for path in (PATH, "/v2/repository/index"):
        assert rest_refusal(doubling, "POST", f"{path}/", {}).code == "404"


@pytest.mark.parametrize("query", ["", "x", "x=1&y=%00", "%2F..%2F", "?", "a/b/infer"])
def test_queries_are_ignored(doubling: RunningServer, query: str) -> None:
    assert doubling.request("GET", f"/v2/models/pair?{query}")[0] == 200
    body = json.dumps(Inference().document()).encode()
    assert doubling.request("POST", f"{PATH}?{query}", body)[0] == 200


@pytest.mark.parametrize("escaped", ["%70air", "p%61i%72"])
def test_a_name_may_be_escaped(doubling: RunningServer, escaped: str) -> None:
    assert json.loads(doubling.request("GET", f"/v2/models/{escaped}")[2])["name"] == "pair"


@pytest.mark.parametrize("escaped", ["%2570air", "pair%2F", "%2E%2E%2Fpair", "pair%00", "pair%0A", "%zz", "%", "%C3"])
def test_a_name_is_unescaped_once_and_never_a_path(doubling: RunningServer, escaped: str) -> None:
    status, headers, body = doubling.request("GET", f"/v2/models/{escaped}/ready")
    assert (status, headers["Content-Type"], list(json.loads(body))) == (404, "application/json", ["error"])


@pytest.mark.parametrize("version", ["x", "-1", "+1", "1.0", " 1", "%D9%A1", "1%00", "\u00b9"])
def test_a_version_is_of_digits(doubling: RunningServer, version: str) -> None:
    path = f"/v2/models/pair/versions/{version.replace(' ', '%20').encode().decode('latin-1')}"
    for method, end in (("GET", ""), ("GET", "/ready"), ("POST", "/infer")):
        line = f"{method} {path}{end} HTTP/1.1\r\nHost: here\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        assert re.match(rb"HTTP/1.1 400 ", exchange(doubling, line.encode("latin-1")))


def test_no_path_of_any_bytes_is_more_than_a_404(doubling: RunningServer) -> None:
    """Each byte as it is and escaped, where a name and where a route is expected. What the parser refuses is a 400."""
    for byte in range(256):
        for text in (bytes([byte]), b"%%%02x" % byte):
            if text in b"#?/":
                continue  # these end a path, or part of one
            for path in (b"/v2/models/a" + text + b"b", b"/v2/" + text):
                reply = exchange(doubling, b"GET " + path + b" HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
                assert reply[9:12] in ((b"400", b"404") if len(text) == 1 else (b"404",)), path
    assert doubling.process.poll() is None


# -- methods ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["CONNECT", "get", "PRI", "M-SEARCH", "X" * 100])
def test_a_made_up_method_is_a_405_as_any(doubling: RunningServer, method: str) -> None:
    reply = exchange(doubling, f"{method} /v2 HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n".encode())
    assert re.match(rb"HTTP/1.1 (405|400) ", reply), reply
    if b" 405 " in reply[:13]:
        assert b"allow: get, head" in reply.lower()


def test_connect_and_the_star_are_no_routes(doubling: RunningServer) -> None:
    for line in (b"CONNECT elsewhere:443", b"OPTIONS *"):
        reply = exchange(doubling, line + b" HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
        assert reply.startswith(b"HTTP/1.1 404 "), reply
        assert b"application/json" in reply


# -- connections -----------------------------------------------------------------------------------------------


def test_a_connection_stays_open_for_the_next_request(doubling: RunningServer) -> None:
    body = json.dumps(Inference().document()).encode()
    one = f"POST {PATH} HTTP/1.1\r\nHost: here\r\nContent-Length: {len(body)}\r\n".encode()
    refused = b"GET /nothing HTTP/1.1\r\nHost: here\r\n\r\n"
    replies = exchange(doubling, refused + one + b"\r\n" + body + one + b"Connection: close\r\n\r\n" + body)
    assert re.findall(rb"HTTP/1.1 (\d+) ", replies) == [b"404", b"200", b"200"]


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("GET /v2/health/live", 200),
        ("HEAD /v2", 200),
        ("GET /nothing", 404),
        ("POST /v2/cudasharedmemory/unregister", 501),
    ],
)
def test_a_body_that_nobody_reads_does_not_end_the_connection(doubling: RunningServer, line: str, status: int) -> None:
    host, _, port = doubling.http.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=WAIT) as connection:
        for _ in range(2):
            connection.sendall(f"{line} HTTP/1.1\r\nHost: here\r\nContent-Length: 2\r\n\r\n".encode())
            reply = http.client.HTTPResponse(connection, method=line.split()[0])
            reply.begin()
            assert (reply.status, reply.will_close) == (status, False)
            reply.read()
            connection.sendall(b"{}")


def test_a_client_that_asks_whether_to_continue_is_told_so(doubling: RunningServer) -> None:
    head = f"POST {PATH} HTTP/1.1\r\nHost: here\r\nConnection: close\r\nExpect: 100-continue\r\n"
    body = json.dumps(Inference().document()).encode()
    reply = exchange(doubling, f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    assert reply.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK")
    for _ in range(20):
        refusal = exchange(doubling, f"{head}Content-Length: {2**40}\r\n\r\n".encode())
        assert refusal.startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    "head",
    ["Content-Length: x", "Content-Length: -1", "Content-Length: 1\r\nContent-Length: 2", "Transfer-Encoding: gzip"],
)
def test_a_body_of_no_certain_length_is_a_400(doubling: RunningServer, head: str) -> None:
    reply = exchange(doubling, f"POST {PATH} HTTP/1.1\r\nHost: here\r\n{head}\r\n\r\n".encode())
    assert reply.startswith(b"HTTP/1.1 400 ")


def test_a_body_in_thousands_of_chunks_is_read(doubling: RunningServer) -> None:
    values = np.arange(2, dtype=np.float32).tobytes() * 5000
    chunks = b"".join(b"1\r\n" + struct.pack("B", byte) + b"\r\n" for byte in values) + b"0\r\n\r\n"
    head = f"POST {PATH} HTTP/1.1\r\nHost: here\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n"
    reply = exchange(doubling, f"{head}Inference-Header-Content-Length: 0\r\n\r\n".encode() + chunks)
    assert reply.startswith(b"HTTP/1.1 200 ")
    assert b'"shape":[5000,2]' in reply
