"""Text and tokens of a model of ONNX Runtime GenAI, by the runtime's own tokenizer, which needs no model.

Two things are done here that it does not do: text is brought into the form NFC where the model's tokens are made of
that, and a NUL does not end a text. What is decoded is what the runtime decodes, though most of it is read from a
table.

Threads: any; the runtime holds the interpreter's lock while it tokenizes, 7 MB of text per second.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime_genai as runtime
from vintner.errors import InvalidArgument, LoadError
from vintner.generation import Decoder
from vintner.json_files import read_object

from vintner_backends.token_text import REPLACEMENT, Decode, TableDecoder
from vintner_backends.tokenizer_json import composes, read_pieces, special_tokens

DESCRIPTION: Final = "tokenizer.json"
AT_ONCE: Final = 256
"""Tokens that are compared together."""


class OnnxRuntimeTokenizer:
    """Of one model's directory."""

    def __init__(self, directory: Path) -> None:
        """Raises OperatorError."""
        try:
            self._plain, self._with_special = (_tokenizer(directory, flag) for flag in ("false", "true"))
        except Exception as exc:  # the runtime's exceptions have no base of their own
            raise LoadError(f"the tokenizer cannot be loaded: {exc}") from exc
        described = read_object(directory / DESCRIPTION)  # older kinds have other files
        self._composes = composes(described)
        self._pieces = read_pieces(described) or ()
        self._nul = self._pieces.index(b"\0") if b"\0" in self._pieces else None
        special = special_tokens(described)
        table = [b"" if token in special else piece for token, piece in enumerate(self._pieces)]
        self._table = table if table and self._agrees(table) else None

    def encode(self, text: str, special_tokens: bool = True) -> Sequence[int]:
        """Raises InvalidArgument for a NUL that the vocabulary does not have."""
        first, *others = (unicodedata.normalize("NFC", text) if self._composes else text).split("\0")
        tokens = _encode(self._with_special if special_tokens else self._plain, first)
        for part in others:
            if self._nul is None:
                raise InvalidArgument("the text contains the character NUL, for which the model has no token")
            tokens += [self._nul, *_encode(self._plain, part)]
        return tokens

    def decoder(self) -> Decoder:
        return TableDecoder(self._table) if self._table is not None else StreamDecoder(self._plain, self._decode)

    def token_bytes(self, token: int) -> bytes:
        if token < len(self._pieces):
            return self._pieces[token]
        return self._decode([token]).encode()

    def _decode(self, tokens: Sequence[int]) -> str:
        if not tokens:  # which the runtime would make U+FFFD of
            return ""
        text: str = self._plain.decode(np.array(tokens, np.int32))
        return text

    def _agrees(self, table: Sequence[bytes]) -> bool:
        """Whether it gives the text that the runtime does, of all tokens that are whole characters."""
        whole = [token for token, piece in enumerate(table) if _is_text(piece)]
        for begin in range(0, len(whole), AT_ONCE):
            some = whole[begin : begin + AT_ONCE]
            if b"".join(table[token] for token in some).decode() != self._decode(some):
                return False
        return True


class StreamDecoder:
    """The text of one sequence by the runtime, of a vocabulary for which there is no table."""

    __slots__ = ("_decode", "_next", "_silent")

    def __init__(self, tokenizer: Any, decode: Decode) -> None:
        self._next = tokenizer.create_stream().decode
        self._decode = decode
        self._silent: list[int] = []  # the last tokens, of which no text has come

    def feed(self, tokens: Sequence[int]) -> str:
        text = ""
        for token in tokens:
            more: str = self._next(token)
            text += more
            self._silent = [] if more else [*self._silent, token]
        return text

    def finish(self) -> str:
        """The runtime's stream keeps a part of a character to itself."""
        return REPLACEMENT if self._decode(self._silent) else ""


def _is_text(piece: bytes) -> bool:
    """Whether the runtime gives it whole: it, too, would end a text at a NUL."""
    try:
        return bool(piece) and "\0" not in piece.decode()
    except UnicodeDecodeError:
        return False


def _tokenizer(directory: Path, add_special_tokens: str) -> Any:
    tokenizer = runtime.Tokenizer(str(directory))
    tokenizer.update_options(add_special_tokens=add_special_tokens)
    return tokenizer


def _encode(tokenizer: Any, text: str) -> list[int]:
    tokens: list[int] = tokenizer.encode(text).tolist()
    return tokens
