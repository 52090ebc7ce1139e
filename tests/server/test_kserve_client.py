"""KServe's own clients, over both protocols: their readiness calls, their tensors, and how they see an error."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import kserve_calls
import numpy as np
import pytest
from kserve_calls import Outcome, Question
from running_server import RunningServer

WAIT = 60.0
VALUES = np.arange(6, dtype=np.float32).reshape(3, 2)
TEXTS = np.array([[b"a", "Ω".encode()]], np.object_)

Call = Callable[..., Any]


@pytest.fixture(scope="module")
def call(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Call]:
    """Calls a function in a process that works in an empty directory, and leaves it so."""
    place: Path = tmp_path_factory.mktemp("kserve")
    with ProcessPoolExecutor(1, get_context("spawn"), initializer=os.chdir, initargs=(place,)) as pool:
        yield lambda function, *arguments: pool.submit(function, *arguments).result(WAIT)
    assert not list(place.iterdir())


def test_readiness(call: Call, doubling: RunningServer) -> None:
    models = ["pair", "nobody"]
    assert call(kserve_calls.readiness_over_rest, doubling.http, models) == [True, True, True, False]
    assert call(kserve_calls.readiness_over_grpc, doubling.grpc, models) == [True, True, True, "NOT_FOUND"]


def test_readiness_over_v1(call: Call, doubling: RunningServer) -> None:
    assert call(kserve_calls.readiness_over_v1, doubling.http, ["pair", "nobody"]) == [True, True, 404]


def test_predictions_over_v1(call: Call, doubling: RunningServer) -> None:
    predict = kserve_calls.predict_over_v1
    bare = {"instances": VALUES.tolist()}
    assert call(predict, doubling.http, "double_fp32", bare) == {"predictions": (VALUES * 2).tolist()}
    named = {"instances": [{"in0": [1, 2], "in1": [3, 4]}]}
    assert call(predict, doubling.http, "pair", named) == {"predictions": [{"out0": [2, 4], "out1": [6, 8]}]}
    refusal: Outcome = call(predict, doubling.http, "pair", bare)
    assert refusal.status == "400"
    assert "values need their names: in0, in1" in refusal.text
    refusal = call(predict, doubling.http, "double_fp32", bare, "explain")
    assert refusal.status == "501"
    assert ":explain is not supported by this server" in refusal.text


@pytest.mark.parametrize("binary_out", [True, False], ids=["binary out", "JSON out"])
@pytest.mark.parametrize("binary_in", [True, False], ids=["binary in", "JSON in"])
def test_numbers_over_rest(call: Call, doubling: RunningServer, binary_in: bool, binary_out: bool) -> None:
    question = Question("double_fp32", {"input": VALUES}, binary_in, {"binary_data_output": binary_out})
    outcome: Outcome = call(kserve_calls.infer_over_rest, doubling.http, question)
    assert (outcome.id, outcome.model) == ("7", "double_fp32")  # this client does not read the version
    np.testing.assert_array_equal(outcome.outputs[0], VALUES * 2)


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "JSON"])
def test_texts_over_rest(call: Call, doubling: RunningServer, binary: bool) -> None:
    question = Question("double_bytes", {"input": TEXTS}, binary, {"binary_data_output": binary})
    outcome: Outcome = call(kserve_calls.infer_over_rest, doubling.http, question)
    texts = [text if isinstance(text, bytes) else text.encode() for text in outcome.outputs[0].ravel()]
    assert texts == TEXTS.ravel().tolist()


@pytest.mark.parametrize("binary", [True, False], ids=["raw", "contents"])
def test_inference_over_grpc(call: Call, doubling: RunningServer, binary: bool) -> None:
    question = Question("pair", {"in0": VALUES, "in1": VALUES + 1}, binary)
    outcome: Outcome = call(kserve_calls.infer_over_grpc, doubling.grpc, question)
    assert (outcome.id, outcome.model, outcome.version) == ("7", "pair", "3")
    np.testing.assert_array_equal(outcome.outputs, [VALUES * 2, VALUES * 2 + 2])


def test_the_text_of_an_error_reaches_the_caller(call: Call, doubling: RunningServer) -> None:
    """Over REST only because its content type is exactly what the client compares it with."""
    question = Question("double_int64", {"input": VALUES})
    expected = "inference input 'input' data-type is 'FP32', but model 'double_int64' expects 'INT64'"
    over_rest: Outcome = call(kserve_calls.infer_over_rest, doubling.http, question)
    assert over_rest.status == "400"
    assert expected in over_rest.text
    over_grpc: Outcome = call(kserve_calls.infer_over_grpc, doubling.grpc, question)
    assert (over_grpc.status, over_grpc.text) == ("INVALID_ARGUMENT", expected)
