"""Embeddings and reranking as OpenAI, Jina and Cohere have them: from the parameters of a request to texts, and from
the tensors of the answers to a body.

Pure. Invariant: what is answered is in the order of the texts that were sent, but for rankings, which say their index.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import orjson

from vintner.errors import InvalidArgument, Unsupported
from vintner.openai_request import Parameters, bad
from vintner.types import Array, Request, Tensor, TensorSpec

MOST_TEXTS: Final = 2048
"""Of one request, as in OpenAI's API."""

TEXT, QUERY, DOCUMENT = "text", "query", "document"
EMBEDDING, SCORE, TOKENS = "embedding", "score", "tokens"
"""What inputs and outputs of embedding models and rerankers are called."""


@dataclass(frozen=True, slots=True)
class Texts:
    """Inputs that are yet to be held against those of the version that gets them."""

    columns: Mapping[str, Array]
    """BYTES, as many in each."""
    kind: str
    """What a model of such inputs is called."""

    @property
    def size(self) -> int:
        return sum(len(text) for column in self.columns.values() for text in column)

    def fill(self, request: Request, specs: Sequence[TensorSpec]) -> None:
        """Raises InvalidArgument for a model that is of another kind."""
        if {(spec.name, spec.datatype, spec.shape) for spec in specs} != {
            (name, "BYTES", (-1,)) for name in self.columns
        }:
            raise InvalidArgument(f"model '{request.model_name}' is no {self.kind}", "model")
        request.inputs = {name: Tensor("BYTES", column) for name, column in self.columns.items()}


@dataclass(frozen=True, slots=True)
class EmbeddingsAsked:
    """What a request for embeddings wants."""

    model: str
    texts: Array
    base64: bool
    dimensions: int | None

    kind = "embedding model"
    param = "input"
    output = EMBEDDING

    @property
    def columns(self) -> Mapping[str, Array]:
        return {TEXT: self.texts}

    def answer(self, vectors: Array, tokens: int) -> bytes:
        """The body, for FP32 [texts, values]. Raises Unsupported for dimensions that they have not."""
        if self.dimensions not in (None, vectors.shape[1]):
            raise Unsupported(
                f"parameter 'dimensions' is not supported: embeddings of model '{self.model}' have {vectors.shape[1]}"
                f" values, and cannot be cut to {self.dimensions}",
                "dimensions",
            )
        data = [
            {"object": "embedding", "index": index, "embedding": _in_base64(vector) if self.base64 else vector}
            for index, vector in enumerate(vectors)
        ]
        body = {"object": "list", "data": data, "model": self.model, "usage": _usage(tokens)}
        return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)


@dataclass(frozen=True, slots=True)
class RerankAsked:
    """What a request to rank documents wants."""

    model: str
    query: bytes
    documents: Array
    top: int
    returns_documents: bool

    kind = "reranker"
    param = "documents"
    output = SCORE

    @property
    def columns(self) -> Mapping[str, Array]:
        queries = np.empty(len(self.documents), np.object_)
        queries.fill(self.query)  # numpy.full makes copies of it, without a NUL at its end
        return {QUERY: queries, DOCUMENT: self.documents}

    def answer(self, scores: Array, tokens: int) -> bytes:
        """The body, for FP32 [documents]: the most relevant first, equals as they came."""
        best = np.argsort(-scores, kind="stable")[: self.top]
        body = {
            "model": self.model,
            "results": [self._result(int(i), scores[i]) for i in best],
            "usage": _usage(tokens),
        }
        return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)

    def _result(self, index: int, score: Any) -> dict[str, Any]:
        result = {"index": index, "relevance_score": score}
        if self.returns_documents:
            result["document"] = {"text": self.documents[index].decode()}
        return result


Asked = EmbeddingsAsked | RerankAsked


def decode_embeddings(parameters: Parameters) -> EmbeddingsAsked:
    """Raises RequestError."""
    asked = EmbeddingsAsked(
        model=parameters.required("model"),
        texts=_texts("input", parameters.value("input")),
        base64=parameters.choice("encoding_format", ("float", "base64"), "float") == "base64",
        dimensions=parameters.whole("dimensions", 1),
    )
    parameters.text("user")
    parameters.finish()
    return asked


def decode_rerank(parameters: Parameters) -> RerankAsked:
    """Raises RequestError."""
    documents = parameters.value("documents")
    texts = _texts("documents", [_document(one) for one in documents] if isinstance(documents, list) else documents)
    asked = RerankAsked(
        model=parameters.required("model"),
        query=_encoded(parameters.required("query")),
        documents=texts,
        top=parameters.whole("top_n", 1) or len(texts),
        returns_documents=parameters.flag("return_documents"),
    )
    parameters.finish({"rank_fields": (["text"],), "max_chunks_per_doc": (), "max_tokens_per_doc": ()})
    return asked


def _document(given: Any) -> Any:
    """The text of an object that has nothing but one."""
    return given["text"] if isinstance(given, dict) and given.keys() == {"text"} else given


def _texts(name: str, given: Any) -> Array:
    """BYTES [texts]. Raises RequestError for what is neither a text nor texts."""
    if given is None:
        raise InvalidArgument(f"parameter '{name}' is missing: expected texts", name)
    texts = [given] if isinstance(given, str) and name == "input" else given
    if not isinstance(texts, list) or not texts:
        raise bad(name, "a text or an array of texts" if name == "input" else "an array of texts", given)
    if len(texts) > MOST_TEXTS:
        raise bad(name, f"at most {MOST_TEXTS} texts", f"{len(texts)} of them")
    if name == "input" and type(texts[0]) in (int, list):
        raise Unsupported(f"parameter '{name}' is not supported as tokens: send the texts", name)
    array = np.empty(len(texts), np.object_)
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise bad(name, "an array of texts", text)
        array[index] = _encoded(text)
    return array


def _encoded(text: str) -> bytes:
    return text.encode()


def _in_base64(vector: Array) -> str:
    """As OpenAI's clients read it: little-endian FP32."""
    return b64encode(vector.astype("<f4").tobytes()).decode()


def _usage(tokens: int) -> dict[str, int]:
    return {"prompt_tokens": tokens, "total_tokens": tokens}
