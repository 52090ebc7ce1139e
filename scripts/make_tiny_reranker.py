"""Trains model_repository/tiny_reranker, and writes what its original gives into tests/data.

    python scripts/make_tiny_reranker.py        (with scripts/requirements-models.txt installed)

What it learns is tests/data/tiny_reranker.json. Invariant: for each query the right documents come first, in order.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Final

import torch
from tiny_encoder import config_for, export, learn, write_rows
from torch.nn.functional import mse_loss
from transformers import BertForSequenceClassification, BertTokenizer

ROOT: Final = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests"))
import tiny_encoders  # noqa: E402

SEED: Final = 6
VOCABULARY: Final = 300
STEPS: Final = 900
BEST, STEP_DOWN, WORST = 4.0, 1.5, -4.0
"""The logits to learn: of the best document, less for each after it, and of all that do not belong."""


def main() -> None:
    repository = parse().repository
    torch.manual_seed(SEED)
    documents, rankings = tiny_encoders.documents(), tiny_encoders.rankings()
    tokenizer = learn([*documents, *rankings], VOCABULARY)
    model = BertForSequenceClassification(config_for(tokenizer, num_labels=1))
    wanted = torch.tensor([targets(order, len(documents)) for order in rankings.values()])
    train(model, tokenizer, wanted)
    logits = score(model, tokenizer).detach()
    check(logits)
    export(model, tokenizer, "text-classification", repository / "tiny_reranker" / "1")
    rounded = {query: [round(x, 5) for x in row.tolist()] for query, row in zip(rankings, logits, strict=True)}
    write_rows(tiny_encoders.DATA / "tiny_reranker_expected.json", "logits", rounded)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repository", type=Path, default=ROOT / "model_repository")
    return parser.parse_args()


def targets(order: tuple[int, ...], documents: int) -> list[float]:
    return [BEST - STEP_DOWN * order.index(each) if each in order else WORST for each in range(documents)]


def score(model: BertForSequenceClassification, tokenizer: BertTokenizer) -> torch.Tensor:
    """Logits of shape [queries, documents]."""
    documents, queries = tiny_encoders.documents(), list(tiny_encoders.rankings())
    pairs = [(query, document) for query in queries for document in documents]
    tokens = tokenizer([query for query, _ in pairs], [text for _, text in pairs], return_tensors="pt", padding=True)
    logits: torch.Tensor = model(**tokens).logits
    return logits.view(len(queries), len(documents))


def train(model: BertForSequenceClassification, tokenizer: BertTokenizer, wanted: torch.Tensor) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(STEPS):
        loss = mse_loss(score(model, tokenizer), wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()


def check(logits: torch.Tensor) -> None:
    for (query, order), row in zip(tiny_encoders.rankings().items(), logits, strict=True):
        ranked = row.argsort(descending=True).tolist()
        print(query, [round(x, 2) for x in row.tolist()])
        if tuple(ranked[: len(order)]) != order:
            sys.exit(f"the order is {ranked} for {query!r}, not {order}")


if __name__ == "__main__":
    main()
