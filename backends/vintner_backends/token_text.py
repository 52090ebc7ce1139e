"""Text of tokens, piece by piece, for the runtimes of language models.

Pure: knows no runtime but by a function that decodes. Where the text of a sequence is that of its tokens one after the
other, as with all byte-level vocabularies, a table does it, a hundred times as fast; that is found out by comparing
the two. Invariant: a piece of text never has a part of a character.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

Decode = Callable[[Sequence[int]], str]
"""The runtime's own: the text of a whole sequence, without special tokens."""

REPLACEMENT: Final = "\ufffd"
SAMPLES: Final = 64
"""Sequences with which a table is compared."""
SAMPLE_LENGTH: Final = 12


class TableDecoder:
    """By the bytes of each token."""

    __slots__ = ("_bytes", "_decode")

    def __init__(self, table: Sequence[bytes]) -> None:
        """Bytes by token id; none for a special token."""
        self._bytes = table
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode

    def feed(self, tokens: Sequence[int]) -> str:
        if len(tokens) == 1:
            return self._decode(self._bytes[tokens[0]])
        return self._decode(b"".join([self._bytes[token] for token in tokens]))

    def finish(self) -> str:
        return self._decode(b"", True)


class WholeDecoder:
    """By decoding the last few tokens again with each new one, for vocabularies whose tokens depend on each other."""

    __slots__ = ("_decode", "_tokens", "_told")

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._tokens: list[int] = []
        self._told = 0  # tokens of which the text was told

    def feed(self, tokens: Sequence[int]) -> str:
        self._tokens.extend(tokens)
        text = self._new_text()
        if text.endswith(REPLACEMENT):  # a part of a character, or a token that is none
            return ""
        return self._tell(text)

    def finish(self) -> str:
        return self._tell(self._new_text())

    def _new_text(self) -> str:
        before = self._decode(self._tokens[: self._told]) if self._told else ""
        return self._decode(self._tokens)[len(before) :]

    def _tell(self, text: str) -> str:
        """The tokens that were told the last time are decoded again with the next ones, which may depend on them. They
        begin where a text ended, so not within a character."""
        if text:
            del self._tokens[: self._told]
            self._told = len(self._tokens)
        return text


def byte_table(vocabulary: Mapping[bytes, int], special: frozenset[int], decode: Decode) -> Sequence[bytes] | None:
    """The bytes of each token, if the runtime's decoding is one token after the other; else None."""
    size = max(vocabulary.values(), default=-1) + 1
    table = [b""] * size
    for text, token in vocabulary.items():
        if token not in special:
            table[token] = text
    return table if all(_alike(table, sample, decode) for sample in _samples(size, special)) else None


def _alike(table: Sequence[bytes], sample: Sequence[int], decode: Decode) -> bool:
    text = b"".join(table[token] for token in sample).decode(errors="replace")
    return text == decode(sample)


def _samples(size: int, special: frozenset[int]) -> Iterator[list[int]]:
    """Sequences from all over the vocabulary, in an order that is not its own."""
    tokens = [token for token in range(size) if token not in special]
    stride = max(1, len(tokens) // (SAMPLES * SAMPLE_LENGTH))
    chosen = tokens[::stride]
    half = len(chosen) // 2
    mixed = [token for pair in zip(chosen[:half], reversed(chosen[half:]), strict=False) for token in pair]
    for begin in range(0, len(mixed), SAMPLE_LENGTH):
        yield mixed[begin : begin + SAMPLE_LENGTH]
