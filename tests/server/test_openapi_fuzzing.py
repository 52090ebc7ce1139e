"""What the OpenAPI document says, held against a running server by schemathesis, with good requests and bad ones."""

from __future__ import annotations

import copy
import shutil
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import schemathesis
from fake_backend import fake_model, write_model
from hypothesis import HealthCheck, Phase, given, settings
from infer_calls import WAIT
from running_server import ROOT, RunningServer, start_server
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from vintner.http_docs import describe

CHECKS = [
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
ALLOWED = {501, 503}
MODELS = ["floats", "texts", "broken", "nobody", "tiny_llm"]
INPUTS = [
    [{"name": "input", "datatype": "FP32", "shape": [1, 2], "data": [1, 2.5]}],
    [{"name": "input", "datatype": "FP32", "shape": [0, 2], "data": []}],
    [{"name": "input", "datatype": "BYTES", "shape": [1, 2], "data": ["a", "Ω"]}],
]
OUTPUTS = [[], [{"name": "output"}], [{"name": "output", "parameters": {"binary_data": True}}]]
PREDICT = [{"instances": [[1, 2], [3, 4]]}, {"inputs": {"input": [["a", "b"]]}}, {"instances": [{"input": [1, 2]}]}]
CHATS = [
    {"model": "tiny_llm", "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 4, **more}
    for more in ({}, {"stream": True}, {"n": 2, "logprobs": True}, {"stop": "l", "seed": 7}, {"model": "floats"})
]
COMPLETIONS = [{"model": "tiny_llm", "prompt": prompt, "max_tokens": 4} for prompt in ("a b c d", ["a", "b"], [5, 6])]
TOKENIZE = [{"model": "tiny_llm", "prompt": "a"}, {"model": "tiny_llm", "text": ["a", "b"], "return_token_strs": True}]
GENERATE = [{"input": [1, 2]}, {"input": ["a", "b"], "id": "7"}, {"input": 1}]


def at_home() -> dict[str, Any]:
    """The document as someone would use it who knows the models: what it says of other requests is left out."""
    document = copy.deepcopy(describe())
    components = document["components"]
    components["parameters"]["model"]["schema"] = {"enum": MODELS}
    components["parameters"]["version"]["schema"] = {"enum": ["1", "7"]}
    components["schemas"]["InferenceRequest"]["properties"] |= {
        "inputs": {"enum": INPUTS},
        "outputs": {"enum": OUTPUTS},
    }
    components["schemas"]["PredictRequest"] = {"enum": PREDICT}
    components["schemas"]["GenerateRequest"] = {"enum": [*GENERATE, {"text_input": "a", "max_tokens": 4}]}
    components["schemas"]["ChatRequest"] = {"enum": CHATS}
    components["schemas"]["CompletionRequest"] = {"enum": COMPLETIONS}
    components["schemas"]["TokenizeRequest"] = {"enum": TOKENIZE}
    for path, item in document["paths"].items():
        if path.endswith("/infer"):
            item["post"].pop("parameters", None)
            item["post"]["requestBody"]["content"].pop("application/octet-stream", None)
    return document


DOCUMENTS = {"abroad": describe(), "at home": at_home()}
SCHEMAS = {name: schemathesis.openapi.from_dict(document) for name, document in DOCUMENTS.items()}
KINDS = (
    ("abroad", GenerationMode.POSITIVE, 6),
    ("abroad", GenerationMode.NEGATIVE, 15),
    ("at home", GenerationMode.POSITIVE, 20),
)
"""For each kind of requests, how many."""

OPERATIONS = [
    (path, method, *kind)
    for path, item in describe()["paths"].items()
    for method in ("GET", "POST")
    for kind in KINDS
    if method.lower() in item and (kind[1] is GenerationMode.POSITIVE or "requestBody" in item[method.lower()])
]


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory, third_party: dict[str, str]) -> Iterator[RunningServer]:
    root = tmp_path_factory.mktemp("fuzzed")
    write_model(root / "floats" / "1", fake_model(shape=(-1, 2)))
    write_model(root / "texts" / "1", fake_model("BYTES", (-1, 2)))
    write_model(root / "broken" / "1", fake_model() | {"fail": "the weights are missing"})
    shutil.copytree(ROOT / "model_repository" / "tiny_llm", root / "tiny_llm")
    flags = [
        "--model-control=explicit",
        "--load-model=*",
        "--max-request-bytes=64KiB",
        "--no-strict-readiness",
        "--allow-client-shm",
    ]
    server = start_server(root, root.parent / "fuzzed.log", *flags, env=third_party)
    yield server
    server.kill()


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    with requests.Session() as made:
        yield made


@pytest.fixture(scope="module")
def seen() -> Counter[tuple[str, int]]:
    """How often which path was answered with which status."""
    return Counter()


@pytest.mark.parametrize(("path", "method", "document", "mode", "examples"), OPERATIONS, ids=str)
def test_the_server_answers_as_the_document_says(
    fuzzed: RunningServer,
    session: requests.Session,
    seen: Counter[tuple[str, int]],
    path: str,
    method: str,
    document: str,
    mode: GenerationMode,
    examples: int,
) -> None:
    @settings(
        max_examples=examples * (3 if path == "/v2/models/{model}/infer" else 1),
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=SCHEMAS[document][path][method].as_strategy(mode))
    def ask(case: Any) -> None:
        response = case.call(base_url=f"http://{fuzzed.http}", session=session, timeout=WAIT)
        seen[path, response.status_code] += 1
        assert response.status_code < 500 or response.status_code in ALLOWED, (case.body, response.content)
        case.validate_response(response, checks=CHECKS)

    ask()
    assert fuzzed.process.poll() is None


def test_the_requests_came_far_enough(seen: Counter[tuple[str, int]]) -> None:
    """Or the test above would say little: models ran, were loaded and unloaded, and refused much."""
    expected = {
        "/v2/models/{model}": {200, 404, 503},
        "/v2/models/{model}/versions/{version}/stats": {200, 404, 503},
        "/v2/models/{model}/infer": {200, 400, 404, 503},
        "/v2/models/{model}/generate": {200, 400, 404, 503},
        "/v2/models/{model}/generate_stream": {200, 400, 404, 503},
        "/v1/chat/completions": {200, 400, 404},
        "/openai/v1/completions": {200, 400, 404},
        "/v3/tokenize": {200, 400},
        "/v3/models/{model}": {200, 404, 503},
        "/v1/models/{model}:predict": {200, 400, 404, 503},
        "/v1/models/{model}": {200, 404, 503},
        "/v2/repository/models/{model}/load": {200, 400, 404},
        "/v2/repository/models/{model}/unload": {200, 400},
    }
    for path, statuses in expected.items():
        assert statuses <= {status for other, status in seen if other == path}, path
