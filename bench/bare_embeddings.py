"""OpenVINO GenAI's TextEmbeddingPipeline with nothing around it, given texts in batches.

Says `ready`, then for each number N on its standard input embeds N texts and says `ran N in SECONDS`. Usage:
`bare_embeddings.py MODEL_DIRECTORY TEXTS BATCH`, where TEXTS is a JSON array, of which it takes one after the other.
"""

from __future__ import annotations

import json
import sys
import time
from itertools import cycle, islice
from pathlib import Path

from openvino_genai import TextEmbeddingPipeline

PROPERTIES = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": "f32"}


def main(directory: str, file: str, batch: int) -> None:
    config = TextEmbeddingPipeline.Config(pooling_type=TextEmbeddingPipeline.PoolingType.MEAN, normalize=True)
    pipeline = TextEmbeddingPipeline(directory, "CPU", config, **PROPERTIES)
    texts = cycle(json.loads(Path(file).read_text()))
    pipeline.embed_documents(list(islice(texts, batch)))
    print("ready", flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        for begin in range(0, int(line), batch):
            pipeline.embed_documents(list(islice(texts, min(batch, int(line) - begin))))
        print(f"ran {int(line)} in {time.perf_counter() - start}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
