"""Vocabularies of Hugging Face's tokenizers: which of them are byte by byte, and what their tokens stand for."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vintner_backends.tokenizer_json import BYTES, composes, read_pieces, special_tokens

CHARACTERS = {byte: character for character, byte in BYTES.items()}


def described(**changes: Any) -> dict[str, Any]:
    return {"model": {"vocab": {"a": 0, "Ġb": 1, "Ã©": 2}}, "decoder": {"type": "ByteLevel"}, **changes}


def test_characters_stand_for_bytes() -> None:
    assert read_pieces(described()) == [b"a", b" b", "é".encode()]


@given(st.binary(min_size=1))
def test_any_bytes_can_be_a_token(piece: bytes) -> None:
    written = "".join(CHARACTERS[byte] for byte in piece)
    assert read_pieces(described(model={"vocab": {written: 0}})) == [piece]


def test_added_tokens_are_written_as_they_are_and_may_leave_gaps() -> None:
    added = [{"id": 5, "content": "<ü>", "special": True}, {"id": 4, "content": "<tool>", "special": False}]
    tokens = described(added_tokens=added)
    assert read_pieces(tokens) == [b"a", b" b", "é".encode(), b"", b"<tool>", "<ü>".encode()]
    assert special_tokens(tokens) == {5}


@pytest.mark.parametrize(
    "other",
    [
        described(decoder={"type": "Metaspace"}),
        described(decoder=None),
        described(model={"vocab": [["a", -1.0]]}),
        described(model={"vocab": {"▁a": 0}}),
        {},
    ],
    ids=["SentencePiece", "no decoder", "Unigram", "a character that is no byte", "nothing"],
)
def test_of_other_vocabularies_there_is_no_table(other: dict[str, Any]) -> None:
    assert read_pieces(other) is None


@pytest.mark.parametrize(
    ("normalizer", "expected"),
    [
        (None, False),
        ({"type": "NFC"}, True),
        ({"type": "NFKC"}, False),
        ({"type": "Sequence", "normalizers": [{"type": "Strip"}, {"type": "NFC"}]}, True),
    ],
)
def test_whether_text_is_composed(normalizer: dict[str, Any] | None, expected: bool) -> None:
    assert composes(described(normalizer=normalizer)) is expected
