"""Embeddings and rankings through a real server: OpenAI's, Triton's client and curl get what the originals gave."""

from __future__ import annotations

import asyncio
import json
import subprocess
from base64 import b64decode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
import tiny_encoders
import tritonclient.grpc as triton
from fake_backend import fake_model, write_model
from running_server import ROOT, RunningServer, start_server

TOLERANCE = 1e-4
EMBEDDINGS, RERANKER = "tiny_embeddings", "tiny_reranker"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, third_party: dict[str, str]) -> Iterator[RunningServer]:
    """The shipped models in full precision; `bounded`, which takes 3 rows; and one that is not of texts."""
    root = tmp_path_factory.mktemp("embeddings")
    for name, source, more in (
        (EMBEDDINGS, EMBEDDINGS, ""),
        (RERANKER, RERANKER, ""),
        ("bounded", EMBEDDINGS, "batching: {max_batch_size: 3}\n"),
    ):
        (root / "models" / name).mkdir(parents=True)
        (root / "models" / name / "1").symlink_to(ROOT / "model_repository" / source / "1")
        (root / "models" / name / "config.yaml").write_text(f"precision: f32\n{more}")
    write_model(root / "models" / "double" / "1", fake_model())
    running = start_server(root / "models", root / "log", "--follow-external-links", env=third_party)
    yield running
    running.kill()


@pytest.fixture(scope="module")
def client(server: RunningServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"http://{server.http}/v1", api_key="none", max_retries=0) as made:
        yield made


def post(server: RunningServer, path: str, document: Any) -> tuple[int, Any]:
    headers = {"Content-Type": "application/json"}
    status, _, body = server.request("POST", path, json.dumps(document).encode(), headers)
    return status, json.loads(body)


def difference(reply: Any, texts: list[str]) -> float:
    expected = np.array([tiny_encoders.vectors()[text] for text in texts])
    assert [one.index for one in reply.data] == list(range(len(texts)))
    return float(np.abs(np.array([one.embedding for one in reply.data]) - expected).max())


@pytest.mark.parametrize("format_", ["float", "base64", openai.omit])
def test_openais_client_gets_the_vectors_of_the_original(client: openai.OpenAI, format_: Any) -> None:
    texts = list(tiny_encoders.vectors())
    reply = client.embeddings.create(model=EMBEDDINGS, input=texts, encoding_format=format_)
    if format_ == "base64":
        for one in reply.data:
            one.embedding = np.frombuffer(b64decode(one.embedding), "<f4").tolist()
    assert difference(reply, texts) < TOLERANCE
    assert (reply.object, reply.model, reply.data[0].object) == ("list", EMBEDDINGS, "embedding")
    assert reply.usage.total_tokens == reply.usage.prompt_tokens > 3 * len(texts)


def test_usage_counts_the_tokens_and_no_padding(client: openai.OpenAI) -> None:
    texts = list(tiny_encoders.vectors())
    alone = [client.embeddings.create(model=EMBEDDINGS, input=text).usage.prompt_tokens for text in texts]
    assert len(set(alone)) > 1
    assert client.embeddings.create(model=EMBEDDINGS, input=texts).usage.prompt_tokens == sum(alone)


@pytest.mark.parametrize("model", [EMBEDDINGS, "bounded"])
def test_many_texts_get_their_vectors_in_their_order(client: openai.OpenAI, model: str) -> None:
    texts = list(tiny_encoders.vectors()) * 9
    assert difference(client.embeddings.create(model=model, input=texts), texts) < TOLERANCE


def test_the_async_client_gets_them_too_and_requests_are_run_together(server: RunningServer) -> None:
    texts = list(tiny_encoders.vectors()) * 10

    async def ask() -> list[Any]:
        async with openai.AsyncOpenAI(base_url=f"http://{server.http}/v3", api_key="none", max_retries=0) as client:
            return await asyncio.gather(*(client.embeddings.create(model=EMBEDDINGS, input=text) for text in texts))

    def counts() -> tuple[float, float]:
        labels = {"model": EMBEDDINGS}
        names = ("vintner_inferences_total", "vintner_executions_total")
        return server.counter(names[0], **labels), server.counter(names[1], **labels)

    rows, runs = counts()
    replies = asyncio.run(ask())
    more_rows, more_runs = counts()
    assert max(difference(reply, [text]) for reply, text in zip(replies, texts, strict=True)) < TOLERANCE
    assert more_rows - rows == len(texts)
    assert more_runs - runs < len(texts)


def test_requests_of_many_clients_are_not_mixed_up(server: RunningServer) -> None:
    texts = list(tiny_encoders.vectors())

    def ask(start: int) -> float:
        with openai.OpenAI(base_url=f"http://{server.http}/openai/v1", api_key="none", max_retries=0) as client:
            part = (texts * 3)[start : start + 1 + start % 40]
            return difference(client.embeddings.create(model=EMBEDDINGS, input=part), part)

    with ThreadPoolExecutor(8) as threads:
        assert max(threads.map(ask, range(len(texts)))) < TOLERANCE


def test_an_empty_text_has_a_vector(client: openai.OpenAI) -> None:
    (found,) = client.embeddings.create(model=EMBEDDINGS, input="").data
    assert np.isclose(np.linalg.norm(found.embedding), 1, atol=TOLERANCE)


def test_one_text_that_is_too_long_fails_its_own_request_only(server: RunningServer, client: openai.OpenAI) -> None:
    texts = list(tiny_encoders.vectors())
    with ThreadPoolExecutor(8) as threads:
        asked = [threads.submit(client.embeddings.create, model=EMBEDDINGS, input=text) for text in texts]
        bad = [
            threads.submit(client.embeddings.create, model=EMBEDDINGS, input=["x", "wine " * size])
            for size in (200, 10**6)
        ]
        assert max(difference(one.result(), [text]) for one, text in zip(asked, texts, strict=True)) < TOLERANCE
        for one in bad:
            with pytest.raises(openai.BadRequestError, match="at most 128") as caught:
                one.result()
            assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "input")


@pytest.mark.parametrize(
    ("path", "document", "status", "param", "said"),
    [
        ("/v1/embeddings", {"model": "nope", "input": "a"}, 404, "model", "'nope' is not found"),
        ("/v1/embeddings", {"model": "double", "input": "a"}, 400, "model", "'double' is no embedding model"),
        ("/v1/embeddings", {"model": RERANKER, "input": ["a", "b"]}, 400, "model", "no embedding model"),
        ("/v1/embeddings", {"model": EMBEDDINGS, "input": "a", "dimensions": 7}, 400, "dimensions", "have 48 values"),
        ("/v1/embeddings", {"model": EMBEDDINGS, "input": [1, 2]}, 400, "input", "as tokens"),
        ("/v3/embeddings", {"model": EMBEDDINGS, "input": "a", "seed": 1}, 400, "seed", "unknown parameter"),
        ("/v1/rerank", {"model": EMBEDDINGS, "query": "a", "documents": ["b"]}, 400, "model", "is no reranker"),
        ("/v3/rerank", {"model": RERANKER, "query": "a", "documents": []}, 400, "documents", "an array of texts"),
        ("/v1/rerank", {"model": RERANKER, "documents": ["a"]}, 400, "query", "missing"),
    ],
)
def test_errors_have_openais_shape_and_name_what_is_wrong(
    server: RunningServer, path: str, document: Any, status: int, param: str, said: str
) -> None:
    found, body = post(server, path, document)
    assert found == status
    assert said in body["error"]["message"]
    assert (body["error"]["type"], body["error"]["param"]) == ("invalid_request_error", param)


@pytest.mark.parametrize("prefix", ["/v1", "/openai/v1", "/v3"])
def test_curl_gets_documents_ranked_as_the_original_ranks_them(server: RunningServer, prefix: str) -> None:
    documents = [*tiny_encoders.documents()]
    for query, logits in tiny_encoders.logits().items():
        body = json.dumps({"model": RERANKER, "query": query, "documents": documents, "return_documents": True})
        url = f"http://{server.http}{prefix}/rerank"
        command = ["curl", "-sf", url, "-H", "Content-Type: application/json", "-d", body]
        reply = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        scores = 1 / (1 + np.exp(-np.array(logits)))
        order = np.argsort(-scores, kind="stable").tolist()
        assert [one["index"] for one in reply["results"]] == order
        for one in reply["results"]:
            assert abs(one["relevance_score"] - scores[one["index"]]) < TOLERANCE
            assert one["document"] == {"text": documents[one["index"]]}


def test_only_so_many_documents_come_back_as_are_asked_for(server: RunningServer) -> None:
    query, (best, *_) = next(iter(tiny_encoders.rankings().items()))
    documents = [{"text": text} for text in tiny_encoders.documents()] * 20
    status, body = post(server, "/v1/rerank", {"model": RERANKER, "query": query, "documents": documents, "top_n": 2})
    assert status == 200
    assert [one["index"] for one in body["results"]] == [best, best + len(tiny_encoders.documents())]
    assert "document" not in body["results"][0]


def test_tritons_client_gets_vectors_and_tokens(server: RunningServer) -> None:
    texts = list(tiny_encoders.vectors())[:3]
    given = triton.InferInput("text", [3], "BYTES")
    given.set_data_from_numpy(np.array([text.encode() for text in texts], np.object_))
    with triton.InferenceServerClient(server.grpc) as client:
        found = client.infer(EMBEDDINGS, [given])
    expected = np.array([tiny_encoders.vectors()[text] for text in texts])
    assert np.abs(found.as_numpy("embedding") - expected).max() < TOLERANCE
    assert found.as_numpy("tokens").min() > 2


def test_a_text_that_is_too_long_is_the_clients_fault_over_grpc_too(server: RunningServer) -> None:
    given = triton.InferInput("text", [1], "BYTES")
    given.set_data_from_numpy(np.array([b"wine " * 200], np.object_))
    with (
        triton.InferenceServerClient(server.grpc) as client,
        pytest.raises(triton.InferenceServerException, match="at most 128") as caught,
    ):
        client.infer(EMBEDDINGS, [given])
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"


def test_the_server_ends_well_with_such_models(tmp_path: Path, third_party: dict[str, str]) -> None:
    """The library of the tokenizers' operations must outlive what was made of them."""
    models = tmp_path / "models"
    models.mkdir()
    (models / EMBEDDINGS).symlink_to(ROOT / "model_repository" / EMBEDDINGS)
    server = start_server(models, tmp_path / "log", "--follow-external-links", env=third_party)
    try:
        assert post(server, "/v1/embeddings", {"model": EMBEDDINGS, "input": "x"})[0] == 200
        assert server.terminate() == 0
    finally:
        server.kill()
