"""Text of tokens, piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vintner.generation import Decoder
from vintner_backends.token_text import TableDecoder, WholeDecoder, byte_table

BYTES = [bytes([value]) for value in range(256)]
WORDS = [b" the", "né".encode(), "中".encode(), "😀".encode()[:2], b"ing"]
TABLE = [*BYTES, *WORDS, b""]
SPECIAL = len(TABLE) - 1


def decode(tokens: Sequence[int]) -> str:
    return b"".join(TABLE[token] for token in tokens).decode(errors="replace")


def stripped(tokens: Sequence[int]) -> str:
    """As vocabularies have it of which a word's token begins with its space."""
    return decode(tokens).removeprefix(" ")


decoders = pytest.mark.parametrize("make", [lambda: TableDecoder(TABLE), lambda: WholeDecoder(decode)])


@decoders
@given(st.text(max_size=40), st.lists(st.integers(1, 5), max_size=20))
def test_pieces_are_the_text_and_have_no_part_of_a_character(
    make: Callable[[], Decoder], text: str, cuts: list[int]
) -> None:
    tokens, pieces, decoder = list(text.encode()), [], make()
    for cut in [*cuts, len(tokens)]:
        pieces.append(decoder.feed(tokens[:cut]) if tokens[:cut] else "")
        del tokens[:cut]
    pieces.append(decoder.finish())
    assert "".join(pieces) == text
    if "\ufffd" not in text:
        assert all("\ufffd" not in piece for piece in pieces)


@decoders
@pytest.mark.parametrize("tail", ["😀".encode()[:1], "😀".encode()[:3], b"\xff"])
def test_what_is_left_of_a_character_is_told_in_the_end(make: Callable[[], Decoder], tail: bytes) -> None:
    decoder = make()
    pieces = [decoder.feed([token]) for token in [*b"wine", *tail]]
    assert "".join(pieces).startswith("wine")
    assert "".join([*pieces, decoder.finish()]).rstrip("\ufffd") == "wine"


def test_a_vocabulary_whose_words_begin_with_spaces_keeps_them_between_words() -> None:
    decoder = WholeDecoder(stripped)
    pieces = [decoder.feed([token]) for token in (256, 256, ord("!"))]
    assert "".join([*pieces, decoder.finish()]) == "the the!"


def test_a_table_is_made_where_the_runtime_decodes_token_by_token_and_nowhere_else() -> None:
    vocabulary = {text: token for token, text in enumerate(TABLE[:-1])} | {b"<end>": SPECIAL}
    table = byte_table(vocabulary, frozenset({SPECIAL}), decode)
    assert table == [*TABLE[:-1], b""]
    assert byte_table(vocabulary, frozenset({SPECIAL}), lambda tokens: decode(tokens).upper()) is None
