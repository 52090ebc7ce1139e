"""What `helm test` runs: asks a server what its first client would, by way of its Service, and ends with 1 and a line
that says what was wrong.

Knows nothing but Python's standard library, so that any image with Python can run it.
"""

import argparse
import json
import socket
import sys
import urllib.error
import urllib.request
from typing import Any, NoReturn

SECONDS = 30
HTTP2_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
EMPTY_SETTINGS = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
SETTINGS = 4


def failed(what: str) -> NoReturn:
    sys.exit(f"FAILED: {what}")


def asked(url: str, body: object = None) -> bytes:
    """The answer's body; POST if there is something to send."""
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data), timeout=SECONDS) as reply:
            answer: bytes = reply.read()
    except urllib.error.HTTPError as error:
        failed(f"{url} answered {error.code}: {error.read().decode(errors='replace')}")
    except OSError as error:
        failed(f"{url} cannot be reached: {error}")
    return answer


def check_grpc(address: str) -> None:
    """HTTP/2 without TLS, as gRPC has it: each side begins with its settings."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=SECONDS) as connection:
            connection.sendall(HTTP2_GREETING + EMPTY_SETTINGS)
            frame = connection.recv(len(EMPTY_SETTINGS), socket.MSG_WAITALL)
    except OSError as error:
        failed(f"{address} cannot be reached: {error}")
    if len(frame) < len(EMPTY_SETTINGS) or frame[3] != SETTINGS:
        failed(f"{address} does not speak HTTP/2: expected its settings, got {frame!r}")


def check_index(http: str) -> None:
    index: list[dict[str, Any]] = json.loads(asked(f"{http}/v2/repository/index", {}))
    for model in index:
        print(*(model[key] for key in ("name", "version", "state", "reason") if model.get(key)))
    if not index:
        failed("the repository has no model")


def check_inference(http: str, model: str) -> None:
    """One empty image to the network that reads digits: its answers are probabilities."""
    image = {"name": "image", "datatype": "FP32", "shape": [1, 1, 8, 8], "data": [0] * 64}
    scores = json.loads(asked(f"{http}/v2/models/{model}/infer", {"inputs": [image]}))["outputs"][0]
    if scores["shape"] != [1, 10] or abs(sum(scores["data"]) - 1) > 0.01:
        failed(f"{model}: expected ten probabilities, got {scores}")
    print(f"{model} answered an inference")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--http", required=True, help="http://HOST:PORT")
    parser.add_argument("--grpc", required=True, help="HOST:PORT")
    parser.add_argument("--metrics", required=True, help="http://HOST:PORT")
    parser.add_argument("--digits", help="name of the model that reads digits, to send it one")
    options = parser.parse_args()
    asked(f"{options.http}/v2/health/ready")
    check_index(options.http)
    if options.digits:
        check_inference(options.http, options.digits)
    check_grpc(options.grpc)
    if b"# TYPE vintner_" not in asked(f"{options.metrics}/metrics"):
        failed(f"{options.metrics}/metrics has no metric of the server")
    print("ready, and REST, gRPC and metrics answer")


main()
