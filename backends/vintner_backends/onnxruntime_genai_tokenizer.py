"""Text and tokens of a model of ONNX Runtime GenAI, by the runtime's own tokenizer, which needs no model.

Three things are done here that the tokenizer does not: text is brought into the form NFC where the model's makers want
it so, a NUL does not end a text, and the text of tokens comes by the bytes of each, where the table of them is found to
be right when the model is loaded.

Threads: any; the runtime holds the interpreter's lock while it tokenizes (7 MB of text per second).
"""

from __future__ import annotations

import json
import logging
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime_genai as runtime
from vintner.errors import InvalidArgument, LoadError
from vintner.generation import Decoder

from vintner_backends.token_text import TokenText
from vintner_backends.tokenizer_json import composes, read_tokens

logger = logging.getLogger(__name__)

NAME: Final = "tokenizer.json"
AT_ONCE: Final = 256
"""Tokens that are compared together."""


class RuntimeTokenizer:
    """Of one model's directory."""

    def __init__(self, directory: Path) -> None:
        """Raises LoadError."""
        try:
            self._plain, self._with_special = (_tokenizer(directory, flag) for flag in ("false", "true"))
        except Exception as exc:  # the runtime's exceptions have no base of their own
            raise LoadError(f"the tokenizer cannot be loaded: {exc}") from exc
        described = _described(directory)
        self._composes = composes(described)
        self._tokens = read_tokens(described)
        self._exact = self._tokens is not None and agrees(self._tokens, self._plain)
        self._nul = self._tokens.token_of(b"\0") if self._tokens is not None else None
        if not self._exact:
            logger.info("%s: text is made by the runtime, token by token", directory)

    def encode(self, text: str, special_tokens: bool = True) -> Sequence[int]:
        """Raises InvalidArgument for a NUL that the vocabulary does not have."""
        first, *others = (unicodedata.normalize("NFC", text) if self._composes else text).split("\0")
        tokens = self._encode(first, special_tokens)
        for part in others:
            if self._nul is None:
                raise InvalidArgument("the model has no token for the character NUL, which the text contains")
            tokens += [self._nul, *self._encode(part, False)]
        return tokens

    def _encode(self, text: str, special_tokens: bool) -> list[int]:
        tokens: list[int] = (self._with_special if special_tokens else self._plain).encode(text).tolist()
        return tokens

    def decoder(self) -> Decoder:
        if self._exact and self._tokens is not None:
            return self._tokens.decoder()
        return StreamDecoder(self._plain)

    def token_bytes(self, token: int) -> bytes:
        if self._tokens is not None:
            return self._tokens.token_bytes(token)
        return text_of(self._plain, [token]).encode()


class StreamDecoder:
    """The text of one sequence by the runtime: for vocabularies of which the table is not known."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._stream = tokenizer.create_stream()
        self._silent: list[int] = []  # those at the end that have given no text yet

    def feed(self, tokens: Sequence[int]) -> str:
        text = ""
        for token in tokens:
            more = self._stream.decode(token)
            self._silent = [] if more else [*self._silent, token]
            text += more
        return text

    def finish(self) -> str:
        left, self._silent = self._silent, []
        return "\ufffd" if left and text_of(self._tokenizer, left) else ""


def agrees(tokens: TokenText, tokenizer: Any) -> bool:
    """Whether a table gives the text that the runtime does, of all tokens that are whole characters."""
    whole = [token for token in range(len(tokens)) if _is_text(tokens.token_bytes(token))]
    for start in range(0, len(whole), AT_ONCE):
        some = whole[start : start + AT_ONCE]
        decoder = tokens.decoder()
        if decoder.feed(some) + decoder.finish() != text_of(tokenizer, some):
            return False
    return True


def text_of(tokenizer: Any, tokens: Sequence[int]) -> str:
    text: str = tokenizer.decode(np.array(tokens, np.int32))
    return text


def _is_text(piece: bytes) -> bool:
    """Whether it is text that the runtime gives whole: it ends a text at a NUL."""
    try:
        return bool(piece) and "\0" not in piece.decode()
    except UnicodeDecodeError:
        return False


def _tokenizer(directory: Path, add_special_tokens: str) -> Any:
    tokenizer = runtime.Tokenizer(str(directory))
    tokenizer.update_options(add_special_tokens=add_special_tokens)
    return tokenizer


def _described(directory: Path) -> dict[str, Any]:
    """What the file says; nothing where there is none, as with the tokenizers of older models."""
    path = directory / NAME
    if not path.is_file():
        return {}
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise LoadError(f"{NAME} cannot be read: {exc}") from exc
    return described if isinstance(described, dict) else {}
