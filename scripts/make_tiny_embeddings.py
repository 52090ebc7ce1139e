"""Trains model_repository/tiny_embeddings, and writes what its original gives into tests/data.

    python scripts/make_tiny_embeddings.py        (with scripts/requirements-models.txt installed)

What it learns is tests/data/tiny_embeddings.json. Invariant: each sentence is nearest to one of its own topic.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Final

import torch
from model_exports import write_json
from tiny_encoder import MAX_TOKENS, config_for, export, learn, write_rows
from torch.nn.functional import cross_entropy, normalize
from transformers import BertModel, BertTokenizer

ROOT: Final = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests"))
import tiny_encoders  # noqa: E402

SEED: Final = 6
VOCABULARY: Final = 400
STEPS: Final = 12
TEMPERATURE: Final = 0.2
"""High, so that sentences of a topic end up near each other and not all at one point."""


def main() -> None:
    repository = parse().repository
    torch.manual_seed(SEED)
    sentences = {text: topic for topic, texts in tiny_encoders.topics().items() for text in texts}
    tokenizer = learn(sentences, VOCABULARY)
    model = BertModel(config_for(tokenizer), add_pooling_layer=False)
    train(model, tokenizer, list(sentences), list(sentences.values()))
    vectors = embed(model, tokenizer, list(sentences)).detach()
    check(vectors, list(sentences.values()))
    folder = repository / "tiny_embeddings" / "1"
    export(model, tokenizer, "feature-extraction", folder)
    describe(folder, vectors.shape[1])
    rounded = {text: [round(x, 6) for x in row.tolist()] for text, row in zip(sentences, vectors, strict=True)}
    write_rows(tiny_encoders.DATA / "tiny_embeddings_expected.json", "vectors", rounded)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repository", type=Path, default=ROOT / "model_repository")
    return parser.parse_args()


def embed(model: BertModel, tokenizer: BertTokenizer, sentences: list[str]) -> torch.Tensor:
    """Rows of length 1: the mean over the tokens that are no padding."""
    tokens = tokenizer(sentences, return_tensors="pt", padding=True)
    hidden = model(**tokens).last_hidden_state
    mask = tokens.attention_mask[:, :, None]
    return normalize((hidden * mask).sum(dim=1) / mask.sum(dim=1))


def train(model: BertModel, tokenizer: BertTokenizer, sentences: list[str], topics: list[str]) -> None:
    """Each sentence is to find the others of its topic among all (supervised contrastive loss)."""
    same = torch.tensor([[a == b for b in topics] for a in topics], dtype=torch.float).fill_diagonal_(0)
    wanted = same / same.sum(dim=1, keepdim=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(STEPS):
        vectors = embed(model, tokenizer, sentences)
        scores = (vectors @ vectors.T / TEMPERATURE).fill_diagonal_(-1e9)
        loss = cross_entropy(scores, wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()


def check(vectors: torch.Tensor, topics: list[str]) -> None:
    cosines = vectors @ vectors.T
    same = torch.tensor([[a == b for b in topics] for a in topics])
    print(f"within a topic at least {cosines[same].min():.3f}, between topics at most {cosines[~same].max():.3f}")
    if cosines[same].min() <= cosines[~same].max():
        sys.exit("two sentences of one topic are further apart than two of different ones")


def describe(folder: Path, dimensions: int) -> None:
    """As sentence-transformers describes a model, so that a server can find how to pool."""
    modules = ("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")
    write_json(
        folder / "modules.json",
        [
            {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{name}"}
            for index, (name, path) in enumerate(modules)
        ],
    )
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": MAX_TOKENS, "do_lower_case": False})
    (folder / "1_Pooling").mkdir()
    modes = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens")
    pooling = {f"pooling_mode_{mode}": mode == "mean_tokens" for mode in modes}
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": dimensions, **pooling})


if __name__ == "__main__":
    main()
