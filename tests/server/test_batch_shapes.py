"""Models of static shapes under many clients: each gets the answers to its own rows, as if the batch were dynamic."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from model_builders import onnx_doubling, onnx_row_sums, openvino_doubling, openvino_heavy
from running_server import RunningServer, start_server
from tritonclient.utils import InferenceServerException

RAGGED = """
backend: "onnxruntime" max_batch_size: 32 dynamic_batching { } instance_group { count: 1 kind: KIND_CPU }
input { name: "tokens" data_type: TYPE_FP32 dims: [ -1 ] allow_ragged_batch: true }
batch_input { kind: BATCH_ACCUMULATED_ELEMENT_COUNT target_name: "ends" data_type: TYPE_INT64 source_input: "tokens" }
output { name: "sums" data_type: TYPE_FP32 dims: [ ] }
"""
COLUMNS = 6
LARGEST = {"sized": 8, "four": 4, "one_row": 64}
CLIENTS, REQUESTS = 8, 15


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    root = tmp_path_factory.mktemp("shapes")
    openvino_doubling(root / "sized" / "1", shape=(1, COLUMNS))
    (root / "sized" / "config.yaml").write_text("{batching: {compiled_sizes: [1, 4, 8]}, warmup: true}")
    onnx_doubling(root / "four" / "1", shape=(4, COLUMNS))
    (root / "four" / "config.yaml").write_text("{backend: onnxruntime, batching: {compiled_sizes: [4]}}")
    openvino_doubling(root / "one_row" / "1", shape=(1, COLUMNS))
    openvino_heavy(root / "heavy" / "1", width=8, layers=2)
    openvino_doubling(root / "left_alone" / "1", shape=(1, COLUMNS))
    (root / "left_alone" / "config.yaml").write_text("batching: false")
    onnx_row_sums(root / "ragged" / "1")
    (root / "ragged" / "config.pbtxt").write_text(RAGGED)
    running = start_server(root, root.parent / "shapes.log")
    assert running.ready, running.log.read_text()
    yield running
    running.kill()


def client(server: RunningServer, number: int) -> tuple[Any, Any]:
    """Every other client speaks gRPC; the others REST."""
    if number % 2:
        return triton_grpc, triton_grpc.InferenceServerClient(server.grpc)
    return triton_http, triton_http.InferenceServerClient(server.http)


def infer(triton: Any, connection: Any, model: str, array: Any, names: tuple[str, str] = ("input", "output")) -> Any:
    given = triton.InferInput(names[0], list(array.shape), "FP32")
    given.set_data_from_numpy(array)
    return connection.infer(model, [given]).as_numpy(names[1])


@pytest.mark.parametrize("model", sorted(LARGEST))
def test_every_client_gets_the_answers_to_its_own_rows(server: RunningServer, model: str) -> None:
    sizes = [
        [1 + (number * 3 + request) % min(8, LARGEST[model]) for request in range(REQUESTS)]
        for number in range(CLIENTS)
    ]

    def send(number: int) -> None:
        triton, connection = client(server, number)
        for request, rows in enumerate(sizes[number]):
            first = (number * REQUESTS + request) * 100
            array = first + np.arange(rows * COLUMNS, dtype=np.float32).reshape(rows, COLUMNS)
            assert np.array_equal(infer(triton, connection, model, array), array * 2)
        connection.close()

    with ThreadPoolExecutor(CLIENTS) as pool:
        for sent in [pool.submit(send, number) for number in range(CLIENTS)]:
            sent.result()
    assert server.counter("vintner_inferences_total", model=model) == sum(map(sum, sizes))
    assert server.counter("vintner_requests_total", model=model, outcome="ok") == CLIENTS * REQUESTS


@pytest.mark.parametrize("number", [0, 1])
def test_what_is_served_is_a_dynamic_batch_up_to_the_largest_size(server: RunningServer, number: int) -> None:
    triton, connection = client(server, number)
    for model, extent, limit in (("sized", -1, 8), ("four", -1, 4), ("one_row", -1, 0), ("left_alone", 1, 0)):
        as_json = {"as_json": True} if number else {}
        [given] = connection.get_model_metadata(model, **as_json)["inputs"]
        assert [int(dimension) for dimension in given["shape"]] == [extent, COLUMNS]
        config = connection.get_model_config(model, **as_json)
        assert int(config.get("config", config).get("max_batch_size", 0)) == limit
        if limit:
            with pytest.raises(InferenceServerException, match=f"batch-size must be <= {limit} .*got {limit + 1}"):
                infer(triton, connection, model, np.zeros((limit + 1, COLUMNS), np.float32))
    with pytest.raises(InferenceServerException, match="unexpected shape"):
        infer(triton, connection, "left_alone", np.zeros((2, COLUMNS), np.float32))
    connection.close()


def test_a_network_of_one_row_answers_many_as_it_answers_each(server: RunningServer) -> None:
    triton, connection = client(server, 1)
    images = np.random.default_rng(0).random((4, 8, 56, 56), np.float32)
    alone = [infer(triton, connection, "heavy", image[None]) for image in images]
    np.testing.assert_allclose(infer(triton, connection, "heavy", images), np.concatenate(alone), atol=0.02)
    connection.close()


def test_rows_of_different_lengths_share_batches(server: RunningServer) -> None:
    """With whole numbers, which FP32 adds up exactly, so that the sums do not tell how they were batched."""

    def send(number: int) -> None:
        triton, connection = client(server, number)
        for request in range(4 * REQUESTS):
            array = np.random.default_rng((number, request)).integers(
                0, 9, (1 + request % 2, 1 + (number + request) % 7)
            )
            sums = infer(triton, connection, "ragged", array.astype(np.float32), ("tokens", "sums"))
            assert sums.tolist() == array.sum(1).tolist()
        connection.close()

    with ThreadPoolExecutor(CLIENTS) as pool:
        for sent in [pool.submit(send, number) for number in range(CLIENTS)]:
            sent.result()
    sent_requests = CLIENTS * 4 * REQUESTS
    assert server.counter("vintner_requests_total", model="ragged", outcome="ok") == sent_requests
    assert server.counter("vintner_executions_total", model="ragged") < sent_requests
    _, connection = client(server, 1)
    config = connection.get_model_config("ragged").config
    assert (config.input[0].allow_ragged_batch, list(config.input[0].dims)) == (True, [-1])
    assert [list(computed.target_name) for computed in config.batch_input] == [["ends"]]
    connection.close()
