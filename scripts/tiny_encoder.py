"""The tokenizer, the configuration and the export that tiny_embeddings and tiny_reranker share: a BERT of two layers.

It knows no lessons. Invariant: what is exported has float32 weights, so that it can be held against the original.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from model_exports import OPENVINO_ENCODER, export_openvino
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import BertConfig, BertTokenizer, PreTrainedModel

MAX_TOKENS: Final = 128
SPECIAL: Final = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def learn(texts: Iterable[str], size: int) -> BertTokenizer:
    """WordPiece of `size` tokens at most."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=size, special_tokens=list(SPECIAL), show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return BertTokenizer(vocab=tokenizer.get_vocab(), model_max_length=MAX_TOKENS)


def config_for(tokenizer: BertTokenizer, **more: int) -> BertConfig:
    """Without dropout: there is nothing to generalise from."""
    return BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=MAX_TOKENS,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=tokenizer.pad_token_id,
        **more,
    )


def export(model: PreTrainedModel, tokenizer: BertTokenizer, task: str, target: Path) -> None:
    with tempfile.TemporaryDirectory() as original:
        model.save_pretrained(original)
        tokenizer.save_pretrained(original)
        export_openvino(Path(original), target, task, "fp32", OPENVINO_ENCODER)


def write_rows(path: Path, key: str, rows: dict[str, list[float]]) -> None:
    """One row a line."""
    lines = ",\n".join(f"    {json.dumps(text, ensure_ascii=False)}: {json.dumps(row)}" for text, row in rows.items())
    path.write_text(f'{{\n  "{key}": {{\n{lines}\n  }}\n}}\n')
