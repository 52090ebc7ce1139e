"""OpenVINO GenAI's tokenizer as the seam has it.

Invariant: what is decoded is what the library decodes, though most of it is read from a table.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from vintner.errors import InvalidArgument
from vintner.generation import Decoder

from vintner_backends.token_text import TableDecoder, WholeDecoder, byte_table

AT_ONCE: Final = 4096
"""Tokens that are decoded in one call, to see which are special."""


class OpenVINOTokenizer:
    """Threads: any; the library has an infer request for each."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        vocabulary: dict[bytes, int] = tokenizer.get_vocab()
        self.size = max(vocabulary.values(), default=-1) + 1
        self._names = {token: text for text, token in vocabulary.items()}
        self._table = byte_table(vocabulary, self._without_text(), self._decode)

    def encode(self, text: str, special_tokens: bool = True) -> Sequence[int]:
        try:
            encoded = self._tokenizer.encode(text, add_special_tokens=special_tokens)
        except RuntimeError as exc:
            raise InvalidArgument(f"the text cannot be made into tokens: {exc}") from exc
        tokens: Sequence[int] = np.asarray(encoded.input_ids.data).reshape(-1).tolist()
        return tokens

    def decoder(self) -> Decoder:
        return TableDecoder(self._table) if self._table is not None else WholeDecoder(self._decode)

    def token_bytes(self, token: int) -> bytes:
        return self._names.get(token, b"")

    def _decode(self, tokens: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(list(tokens), skip_special_tokens=True)
        return text

    def _without_text(self) -> frozenset[int]:
        found: set[int] = set()
        for begin in range(0, self.size, AT_ONCE):
            tokens = range(begin, min(self.size, begin + AT_ONCE))
            texts = self._tokenizer.decode([[token] for token in tokens], skip_special_tokens=True)
            found.update(token for token, text in zip(tokens, texts, strict=True) if not text)
        return frozenset(found)
