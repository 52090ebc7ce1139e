"""Checks that OpenVINO GenAI gives for tiny_embeddings and tiny_reranker what their originals gave.

    python scripts/check_tiny_encoders.py [--repository FOLDER]

Invariant: it exits with 0 only if all numbers agree, and if another pooling than the right one would have shown.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Final

import numpy as np
import openvino_genai

ROOT: Final = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests"))
import tiny_encoders  # noqa: E402

PRECISE: Final = {"INFERENCE_PRECISION_HINT": "f32"}
TOLERANCE: Final = 1e-4


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repository", type=Path, default=ROOT / "model_repository")
    repository = parser.parse_args().repository
    pooling = openvino_genai.TextEmbeddingPipeline.PoolingType
    right = embedding_error(repository / "tiny_embeddings" / "1", pooling.MEAN)
    wrong = embedding_error(repository / "tiny_embeddings" / "1", pooling.CLS)
    scores = rerank_error(repository / "tiny_reranker" / "1")
    print(f"largest differences: mean pooling {right:.1e}, CLS pooling {wrong:.1e}, scores {scores:.1e}")
    return int(right > TOLERANCE or scores > TOLERANCE or wrong < 100 * TOLERANCE)


def embedding_error(folder: Path, pooling: openvino_genai.TextEmbeddingPipeline.PoolingType) -> float:
    config = openvino_genai.TextEmbeddingPipeline.Config(pooling_type=pooling, normalize=True)
    pipeline = openvino_genai.TextEmbeddingPipeline(str(folder), "CPU", config, **PRECISE)
    sentences = list(tiny_encoders.vectors())
    found = np.array(pipeline.embed_documents(sentences))
    return float(np.abs(found - np.array(list(tiny_encoders.vectors().values()))).max())


def rerank_error(folder: Path) -> float:
    documents = list(tiny_encoders.documents())
    config = openvino_genai.TextRerankPipeline.Config(top_n=len(documents))
    pipeline = openvino_genai.TextRerankPipeline(str(folder), "CPU", config, **PRECISE)
    worst = 0.0
    for query, logits in tiny_encoders.logits().items():
        found = dict(pipeline.rerank(query, documents))
        scores = 1 / (1 + np.exp(-np.array(logits)))
        worst = max(worst, *(abs(found[index] - score) for index, score in enumerate(scores)))
    return worst


if __name__ == "__main__":
    sys.exit(main())
