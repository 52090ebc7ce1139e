"""Reads a vocabulary from `tokenizer.json`, the file format of Hugging Face's tokenizers.

Pure. Knows the two ways in which the models of today write bytes as characters; of others it says that it does not
know them. Invariant: a table is complete, or there is none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from vintner_backends.token_text import TokenText

BYTE: Final = re.compile(r"<0x([0-9A-F]{2})>")
SPACE: Final = "▁"
SENTENCEPIECE: Final = (
    {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
    {"type": "ByteFallback"},
    {"type": "Fuse"},
)
STRIP: Final = {"type": "Strip", "content": " ", "start": 1, "stop": 0}


def read_tokens(tokenizer: Mapping[str, Any]) -> TokenText | None:
    """The file's tokens, or None where their text is made in a way that is not known here."""
    vocabulary = _vocabulary(tokenizer.get("model") or {})
    decoder = tokenizer.get("decoder") or {}
    if vocabulary is None:
        return None
    if decoder.get("type") == "ByteLevel":
        return _table(tokenizer, {token: _byte_level(text) for text, token in vocabulary.items()}, False)
    steps = decoder.get("decoders") or []
    if decoder.get("type") == "Sequence" and tuple(steps[:3]) == SENTENCEPIECE and steps[3:] in ([], [STRIP]):
        return _table(tokenizer, {token: _sentencepiece(text) for text, token in vocabulary.items()}, bool(steps[3:]))
    return None


def composes(tokenizer: Mapping[str, Any]) -> bool:
    """Whether text is brought into Unicode's form NFC before it is cut into tokens."""
    return "NFC" in _kinds(tokenizer.get("normalizer") or {})


def _kinds(normalizer: Mapping[str, Any]) -> list[str]:
    inner = [kind for part in normalizer.get("normalizers") or () for kind in _kinds(part)]
    return [str(normalizer.get("type")), *inner]


def _vocabulary(model: Mapping[str, Any]) -> Mapping[str, int] | None:
    vocabulary = model.get("vocab")
    return vocabulary if isinstance(vocabulary, Mapping) and model.get("type", "BPE") == "BPE" else None


def _table(tokenizer: Mapping[str, Any], known: Mapping[int, bytes | None], space: bool) -> TokenText | None:
    added: Sequence[Mapping[str, Any]] = tokenizer.get("added_tokens") or ()
    pieces = {**known, **{one["id"]: str(one["content"]).encode() for one in added}}
    if not pieces or None in pieces.values():
        return None
    table = [pieces.get(token) or b"" for token in range(max(pieces) + 1)]
    special = {one["id"] for one in added if one.get("special")}
    return TokenText(table, special, drops_first_space=space)


def _byte_characters() -> Mapping[str, int]:
    """The character that stands for each byte in GPT-2's vocabulary: itself if it can be seen, else one from U+0100."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(0x100 + rank): byte for rank, byte in enumerate(hidden)}


BYTES: Final = _byte_characters()


def _byte_level(text: str) -> bytes | None:
    try:
        return bytes(map(BYTES.__getitem__, text))
    except KeyError:
        return None


def _sentencepiece(text: str) -> bytes:
    byte = BYTE.fullmatch(text)
    return bytes([int(byte[1], 16)]) if byte else text.replace(SPACE, " ").encode()
