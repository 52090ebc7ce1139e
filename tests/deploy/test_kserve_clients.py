"""KServe's own clients, and OpenAI's, of servers that were started with exactly what the runtimes render.

One server for each runtime, with another kind of model and layout: IR, ONNX by ONNX Runtime, a language model.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import cache
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import grpc
import kserve_calls
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from kserve_calls import Outcome, Question
from kserve_pods import DEPLOY, LOCAL, documents, rendered, runtime, start_container
from model_builders import onnx_doubling, openvino_doubling
from openai import OpenAI
from running_server import ROOT, RunningServer

WAIT = 100.0
"""Seconds; the first call waits for a process that imports kserve, which is large."""
MODELS = ROOT / "model_repository"
MOUNTS = {
    "vintner": MODELS / "digits" / "1",
    "vintner-knative-http": MODELS / "digits_onnx",
    "vintner-knative-grpc": MODELS / "text_lines",
    "vintner-genai": MODELS / "tiny_llm" / "1",
}
"""What the storage initializer puts into /mnt/models: the files of one model, or its versions."""
TENSORS = ["vintner", "vintner-knative-http"]
NAME = "my-service"
SEVEN = np.array(
    [[[
        [0, 0, 7, 8, 13, 16, 15, 1], [0, 0, 7, 7, 4, 11, 12, 0], [0, 0, 0, 0, 8, 13, 1, 0], [0, 4, 8, 8, 15, 15, 6, 0],
        [0, 2, 11, 15, 15, 4, 0, 0], [0, 0, 0, 16, 5, 0, 0, 0], [0, 0, 9, 15, 1, 0, 0, 0], [0, 0, 13, 5, 0, 0, 0, 0],
    ]]],
    np.float32,
)  # fmt: skip

Call = Callable[..., Any]
Serve = Callable[[str], RunningServer]


@pytest.fixture(scope="module")
def call(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Call]:
    """Calls a function in a process that has KServe's messages."""
    place: Path = tmp_path_factory.mktemp("kserve")
    with ProcessPoolExecutor(1, get_context("spawn"), initializer=kserve_calls.prepare, initargs=(place,)) as pool:
        yield lambda function, *arguments: pool.submit(function, *arguments).result(WAIT)


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """The server that a runtime renders, for the InferenceService `my-service`."""
    place = tmp_path_factory.mktemp("servers")
    with ExitStack() as stack:

        @cache
        def begin(name: str) -> RunningServer:
            here = [f"--model_dir={MOUNTS[name]}", f"--cache-dir={place / name}", *LOCAL]
            arguments = rendered(runtime(name)["spec"]["containers"][0], {"name": NAME}, here)
            server = start_container(arguments, place / f"{name}.log", {"INFERENCE_SERVICE_NAME": NAME})
            stack.callback(server.kill)
            return server

        yield begin


@pytest.mark.parametrize("name", MOUNTS)
def test_every_probe_passes(name: str, serve: Serve) -> None:
    container, server = runtime(name)["spec"]["containers"][0], serve(name)
    for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
        if "httpGet" in container[kind]:
            assert server.request("GET", container[kind]["httpGet"]["path"])[0] == 200
        else:
            request = health_pb2.HealthCheckRequest(service=container[kind]["grpc"].get("service", ""))
            with grpc.insecure_channel(server.grpc) as channel:
                answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=WAIT)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize("name", MOUNTS)
def test_metrics_are_where_the_annotations_say(name: str, serve: Serve) -> None:
    path = runtime(name)["spec"]["annotations"]["prometheus.kserve.io/path"]
    status, headers, body = serve(name).request("GET", path)
    assert (status, headers["Content-Type"].split(";")[0]) == (200, "text/plain")
    assert f'model="{NAME}"' in body.decode()


def test_the_metric_that_an_example_scales_by_is_there(serve: Serve) -> None:
    (service,) = documents(DEPLOY / "examples" / "autoscaling-keda.yaml")
    (metric,) = service["spec"]["predictor"]["autoScaling"]["metrics"]
    (name,) = re.findall(r"vintner_\w+", metric["external"]["metric"]["query"])
    assert f'\n{name}{{model="{NAME}"' in serve("vintner").request("GET", "/metrics")[2].decode()


@pytest.mark.parametrize("name", MOUNTS)
def test_the_service_is_ready_under_its_name(name: str, serve: Serve, call: Call) -> None:
    server = serve(name)
    assert call(kserve_calls.readiness_over_rest, server.http, [NAME, "nobody"]) == [True, True, True, False]
    assert call(kserve_calls.readiness_over_grpc, server.grpc, [NAME, "nobody"]) == [True, True, True, "NOT_FOUND"]


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("name", TENSORS)
def test_a_digit_is_read(name: str, binary: bool, serve: Serve, call: Call) -> None:
    server, question = serve(name), Question(NAME, {"image": SEVEN}, binary)
    for function, address in (
        (kserve_calls.infer_over_rest, server.http),
        (kserve_calls.infer_over_grpc, server.grpc),
    ):
        outcome = call(function, address, question)
        assert (outcome.model, outcome.status) == (NAME, "")
        assert np.argmax(outcome.outputs[0], axis=1).tolist() == [7]


def test_strings_are_answered(serve: Serve, call: Call) -> None:
    server = serve("vintner-knative-grpc")
    question = Question(NAME, {"line": np.array([b"a glass of red"], np.object_)}, binary=True)
    outcome = call(kserve_calls.infer_over_grpc, server.grpc, question)
    assert [each.tolist() for each in outcome.outputs] == [[b"A GLASS OF RED"], [4]]


def test_a_string_without_dimensions_is_a_scalar(tmp_path: Path, call: Call) -> None:
    """As KServe's own tests send one. A model that wants a dimension says so."""
    onnx_doubling(tmp_path / "onnx", "BYTES", ())
    openvino_doubling(tmp_path / "ir", "BYTES", ())
    onnx_doubling(tmp_path / "lines", "BYTES", (-1,))
    server = start_container([f"--model_dir={tmp_path}", *LOCAL], tmp_path / "log")
    text, expected = np.array(b"a glass", np.object_), "Expected [-1], got []"
    try:
        for function, address in (
            (kserve_calls.infer_over_rest, server.http),
            (kserve_calls.infer_over_grpc, server.grpc),
        ):
            for name, binary in product(["onnx", "ir"], [False, True]):
                (output,) = call(function, address, Question(name, {"input": text}, binary)).outputs
                assert (output.shape, output.item() in ("a glass", b"a glass")) == ((), True)
            refused = call(function, address, Question("lines", {"input": text}))
            assert refused.status in ("400", "INVALID_ARGUMENT")
            assert expected in refused.text
    finally:
        server.kill()


@pytest.mark.parametrize("name", TENSORS)
def test_v1_predicts_and_does_not_explain(name: str, serve: Serve, call: Call) -> None:
    server = serve(name)
    assert call(kserve_calls.readiness_over_v1, server.http, [NAME, "nobody"]) == [True, True, 404]
    found = call(kserve_calls.predict_over_v1, server.http, NAME, {"instances": SEVEN.tolist()})
    assert np.argmax(found["predictions"], axis=1).tolist() == [7]
    refused = call(kserve_calls.predict_over_v1, server.http, NAME, {"instances": SEVEN.tolist()}, "explain")
    assert isinstance(refused, Outcome)
    assert refused.status == "501"


@pytest.mark.parametrize("prefix", ["/openai/v1", "/v1"])
def test_openais_client_chats_with_the_service(prefix: str, serve: Serve) -> None:
    client = OpenAI(base_url=f"http://{serve('vintner-genai').http}{prefix}", api_key="none", max_retries=0)
    with client:
        question: Any = [{"role": "user", "content": "Who are you?"}]
        answer = client.chat.completions.create(model=NAME, messages=question, temperature=0)
        assert [model.id for model in client.models.list()] == [NAME]
    assert answer.choices[0].message.content.startswith("I am a very small language model.")


def test_kserves_client_generates(serve: Serve, call: Call) -> None:
    server = serve("vintner-genai")
    question = Question(NAME, {"text_input": np.array([b"1, 2, "], np.object_)})
    for function, address in (
        (kserve_calls.infer_over_rest, server.http),
        (kserve_calls.infer_over_grpc, server.grpc),
    ):
        outcome = call(function, address, question)
        assert (outcome.model, outcome.status, len(outcome.outputs)) == (NAME, "", 1)
