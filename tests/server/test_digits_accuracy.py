"""The shipped digits through the server, beside the same files run by the runtimes in this process."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnxruntime
import openvino
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from digits_data import held_out
from running_server import ROOT, RunningServer

MODELS = ROOT / "model_repository"


def in_process(model: str, version: str, images: Any) -> Any:
    directory = MODELS / model / version
    if model == "digits_onnx":
        return onnxruntime.InferenceSession(directory / "model.onnx").run(["scores"], {"image": images})[0]
    compiled = openvino.Core().compile_model(directory / "model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return compiled(images)["scores"]


def over_grpc(server: RunningServer, model: str, version: str, images: Any) -> Any:
    with triton_grpc.InferenceServerClient(server.grpc) as client:
        given = triton_grpc.InferInput("image", list(images.shape), "FP32")
        given.set_data_from_numpy(images)
        return client.infer(model, [given], model_version=version).as_numpy("scores")


def over_rest(server: RunningServer, model: str, version: str, images: Any) -> Any:
    with triton_http.InferenceServerClient(server.http) as client:
        given = triton_http.InferInput("image", list(images.shape), "FP32")
        given.set_data_from_numpy(images)
        return client.infer(model, [given], model_version=version).as_numpy("scores")


@pytest.mark.parametrize("infer", [over_grpc, over_rest])
@pytest.mark.parametrize(
    ("model", "version", "least"), [("digits", "1", 0.9), ("digits", "2", 0.97), ("digits_onnx", "1", 0.97)]
)
def test_scores_and_accuracy_are_the_runtimes(
    shipped: RunningServer, infer: Any, model: str, version: str, least: float
) -> None:
    images, labels = held_out()
    expected = in_process(model, version, images)
    with ThreadPoolExecutor(16) as clients:
        # A picture a request, many at once: whatever batches they are stacked into, each gets its own scores.
        parts = clients.map(lambda image: infer(shipped, model, version, image[np.newaxis]), images)
        scores = np.concatenate(list(parts))
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    accuracy = float((scores.argmax(axis=1) == labels).mean())
    assert accuracy >= least
    assert accuracy == float((expected.argmax(axis=1) == labels).mean())
