"""Reads a byte-level vocabulary from `tokenizer.json`, the file format of Hugging Face's tokenizers.

Pure. Knows no other vocabularies: of those it has no table. Invariant: a table has all tokens, or there is none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final


def read_pieces(tokenizer: Mapping[str, Any]) -> Sequence[bytes] | None:
    """The bytes of each token, of special ones their names; None if the text of tokens is not made byte by byte."""
    decoder, model = tokenizer.get("decoder") or {}, tokenizer.get("model") or {}
    vocabulary = model.get("vocab")
    if decoder.get("type") != "ByteLevel" or not isinstance(vocabulary, Mapping):
        return None
    try:
        pieces = {token: bytes(map(BYTES.__getitem__, text)) for text, token in vocabulary.items()}
    except KeyError:  # a character that stands for no byte
        return None
    pieces |= {one["id"]: one["content"].encode() for one in _added(tokenizer)}
    return [pieces.get(token, b"") for token in range(max(pieces, default=-1) + 1)]


def special_tokens(tokenizer: Mapping[str, Any]) -> frozenset[int]:
    """Those that become no text."""
    return frozenset(one["id"] for one in _added(tokenizer) if one.get("special"))


def composes(tokenizer: Mapping[str, Any]) -> bool:
    """Whether text is brought into Unicode's form NFC before it is cut into tokens."""
    normalizer = tokenizer.get("normalizer") or {}
    return any(one.get("type") == "NFC" for one in (normalizer, *(normalizer.get("normalizers") or ())))


def _added(tokenizer: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    return tokenizer.get("added_tokens") or ()


def _byte_characters() -> Mapping[str, int]:
    """The character that stands for each byte in GPT-2's vocabulary: itself if it can be seen, else one from U+0100."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(0x100 + rank): byte for rank, byte in enumerate(hidden)}


BYTES: Final = _byte_characters()
