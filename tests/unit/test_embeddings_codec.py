"""Requests for embeddings and rankings are read, or refused by name; answers are in the order of the texts."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest
from vintner.embeddings_codec import MOST_TEXTS, Texts, decode_embeddings, decode_rerank
from vintner.errors import InvalidArgument, RequestError, Unsupported
from vintner.openai_request import Parameters
from vintner.types import Request, TensorSpec

EMBED: dict[str, Any] = {"model": "m", "input": "a"}
RANK: dict[str, Any] = {"model": "m", "query": "q", "documents": ["a", {"text": "b"}]}


@pytest.mark.parametrize(("given", "texts"), [("a", [b"a"]), (["a", "ö"], [b"a", "ö".encode()]), ("", [b""])])
def test_input_is_a_text_or_texts(given: Any, texts: list[bytes]) -> None:
    assert decode_embeddings(Parameters(EMBED | {"input": given, "user": "me"})).texts.tolist() == texts


@pytest.mark.parametrize(
    ("change", "error", "param", "said"),
    [
        ({"input": None}, InvalidArgument, "input", "missing"),
        ({"input": []}, InvalidArgument, "input", "expected a text or an array of texts"),
        ({"input": ["a", 1]}, InvalidArgument, "input", "expected an array of texts, got 1"),
        ({"input": {"text": "a"}}, InvalidArgument, "input", "expected a text"),
        ({"input": [1, 2]}, Unsupported, "input", "as tokens"),
        ({"input": [[1, 2]]}, Unsupported, "input", "as tokens"),
        ({"input": ["a"] * (MOST_TEXTS + 1)}, InvalidArgument, "input", "at most 2048 texts"),
        ({"encoding_format": "int8"}, InvalidArgument, "encoding_format", "one of float, base64"),
        ({"dimensions": 0}, InvalidArgument, "dimensions", "at least 1"),
        ({"truncate_prompt_tokens": 5}, InvalidArgument, "truncate_prompt_tokens", "unknown parameter"),
        ({"model": ""}, InvalidArgument, "model", "missing"),
    ],
)
def test_what_cannot_be_embedded_is_refused_by_name(
    change: dict[str, Any], error: type[RequestError], param: str, said: str
) -> None:
    with pytest.raises(error, match=said) as caught:
        decode_embeddings(Parameters(EMBED | change))
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("change", "param", "said"),
    [
        ({"documents": []}, "documents", "expected an array of texts"),
        ({"documents": "a"}, "documents", "expected an array of texts"),
        ({"documents": [{"title": "a"}]}, "documents", "expected an array of texts"),
        ({"query": None}, "query", "missing"),
        ({"top_n": 0}, "top_n", "at least 1"),
        ({"rank_fields": ["title"]}, "rank_fields", "not supported"),
        ({"max_chunks_per_doc": 3}, "max_chunks_per_doc", "not supported"),
    ],
)
def test_what_cannot_be_ranked_is_refused_by_name(change: dict[str, Any], param: str, said: str) -> None:
    with pytest.raises(RequestError, match=said) as caught:
        decode_rerank(Parameters(RANK | change))
    assert caught.value.param == param


def test_vectors_are_numbers_or_base64_as_asked() -> None:
    vectors = np.array([[0.1, -2.5], [3.0, 1e-8]], np.float32)
    plain = json.loads(decode_embeddings(Parameters(EMBED)).answer(vectors, 7))
    assert [np.float32(one["embedding"]).tolist() for one in plain["data"]] == vectors.tolist()
    assert plain["usage"] == {"prompt_tokens": 7, "total_tokens": 7}
    coded = json.loads(decode_embeddings(Parameters(EMBED | {"encoding_format": "base64"})).answer(vectors, 7))
    found = [np.frombuffer(base64.b64decode(one["embedding"]), "<f4").tolist() for one in coded["data"]]
    assert found == vectors.tolist()


@pytest.mark.parametrize(("dimensions", "fits"), [(2, True), (1, False), (3, False)])
def test_dimensions_are_those_of_the_model(dimensions: int, fits: bool) -> None:
    asked = decode_embeddings(Parameters(EMBED | {"dimensions": dimensions}))
    vectors = np.zeros((1, 2), np.float32)
    if fits:
        assert asked.answer(vectors, 1)
        return
    with pytest.raises(Unsupported, match="have 2 values"):
        asked.answer(vectors, 1)


def test_the_documents_share_one_query() -> None:
    asked = decode_rerank(Parameters(RANK | {"query": "a\0", "documents": ["a"] * 3}))
    queries = asked.columns["query"]
    assert queries.tolist() == [b"a\0"] * 3
    assert all(query is asked.query for query in queries)


def test_the_most_relevant_documents_come_first_and_equals_as_they_were_sent() -> None:
    documents = ["a", "b", "c", "d"]
    asked = decode_rerank(Parameters(RANK | {"documents": documents, "top_n": 3, "return_documents": True}))
    found = json.loads(asked.answer(np.array([0.5, 0.9, 0.5, 0.1], np.float32), 9))
    assert [(one["index"], one["document"]["text"]) for one in found["results"]] == [(1, "b"), (0, "a"), (2, "c")]
    assert "document" not in json.loads(decode_rerank(Parameters(RANK)).answer(np.zeros(2), 1))["results"][0]


@pytest.mark.parametrize(
    "specs", [[TensorSpec("x", "FP32", (-1, 2))], [TensorSpec("text", "BYTES", (-1, 1))], [], None]
)
def test_texts_are_for_models_that_take_them(specs: list[TensorSpec] | None) -> None:
    texts = Texts({"text": np.array([b"a"], np.object_)}, "embedding model")
    request = Request("m", "", {})
    if specs is None:
        texts.fill(request, [TensorSpec("text", "BYTES", (-1,))])
        assert request.inputs["text"].array.tolist() == [b"a"]
        return
    with pytest.raises(InvalidArgument, match="'m' is no embedding model"):
        texts.fill(request, specs)
