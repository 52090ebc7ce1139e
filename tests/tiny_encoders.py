"""What the tiny encoders in model_repository were taught, and what the originals of them give.

Texts and numbers only: it knows neither tokens nor runtimes. Invariant: the vectors have length 1.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

DATA: Final = Path(__file__).parent / "data"


def topics() -> dict[str, tuple[str, ...]]:
    """Sentences of one topic are nearer to each other than to any of another."""
    return {topic: tuple(sentences) for topic, sentences in read("tiny_embeddings.json")["topics"].items()}


def vectors() -> dict[str, list[float]]:
    """The embedding of each sentence: mean of the last hidden states, of length 1, computed in float32."""
    found: dict[str, list[float]] = read("tiny_embeddings_expected.json")["vectors"]
    return found


def documents() -> tuple[str, ...]:
    return tuple(read("tiny_reranker.json")["documents"])


def rankings() -> dict[str, tuple[int, ...]]:
    """For each query the documents that answer it, best first; all others are worse."""
    return {query: tuple(order) for query, order in read("tiny_reranker.json")["queries"].items()}


def logits() -> dict[str, list[float]]:
    """For each query the model's output for each document, before the sigmoid, computed in float32."""
    found: dict[str, list[float]] = read("tiny_reranker_expected.json")["logits"]
    return found


def read(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((DATA / name).read_text())
    return content
