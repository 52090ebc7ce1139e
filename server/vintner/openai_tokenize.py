"""Requests for the tokens of a prompt, as vLLM and OpenVINO Model Server have them.

Pure but for the model's template and tokenizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import orjson

from vintner.errors import InvalidArgument
from vintner.openai_chat import Chat, read_chat_prompt
from vintner.openai_prompts import Encoding
from vintner.openai_request import Parameters, bad
from vintner.openai_tools import read_tools
from vintner.prompts import Language

PROMPTS: Final = ("prompt", "text", "messages")
MOST_TEXTS: Final = 1024
MOST_CHARACTERS: Final = 1 << 20
"""Of all texts of a request: to make tokens of them holds up everything else in the process."""


class TokenizeQuestion:
    """One request's: a text, several, or messages that go into the chat template."""

    def __init__(self, parameters: Parameters) -> None:
        """Raises InvalidArgument."""
        self._chat: Chat | None = None
        self._functions: Sequence[Any] = ()
        self._texts: list[str] = []
        self._several = False
        given = [name for name in PROMPTS if parameters.has(name)]
        if len(given) != 1:
            raise InvalidArgument(
                f"expected one of {', '.join(PROMPTS)}, got {' and '.join(given) or 'none'}", "prompt"
            )
        if given == ["messages"]:
            self._chat = read_chat_prompt(parameters)
            self._functions = read_tools(parameters).functions
            self._encoding = self._chat.encoding
        else:
            self._read_texts(parameters, given[0])
        self._with_texts = parameters.flag("return_token_strs")
        parameters.finish()

    def _read_texts(self, parameters: Parameters, name: str) -> None:
        texts = parameters.value(name)
        self._several = isinstance(texts, list)
        self._texts = list(texts) if isinstance(texts, list) else [texts]
        if not all(isinstance(text, str) for text in self._texts):
            raise bad(name, "a string, or an array of strings", texts)
        if len(self._texts) > MOST_TEXTS:
            raise bad(name, f"at most {MOST_TEXTS} texts", len(self._texts))
        length = sum(map(len, self._texts))
        if self._several and length > MOST_CHARACTERS:
            raise bad(name, f"texts of at most {MOST_CHARACTERS} characters, all together", length)
        self._encoding = Encoding(parameters.flag("add_special_tokens", True))

    def answer(self, language: Language) -> bytes:
        """The JSON: tokens of one text, or lists of tokens; `count` is of all of them."""
        texts = [self._chat.prompt(language, self._functions)] if self._chat is not None else self._texts
        tokens = [[int(token) for token in self._encoding.encoded(language, text)] for text in texts]
        document: dict[str, Any] = {
            "tokens": tokens if self._several else tokens[0],
            "count": sum(map(len, tokens)),
            "max_model_len": language.context_length,
        }
        if self._with_texts:
            written = [[_text(language, token) for token in each] for each in tokens]
            document["token_strs"] = written if self._several else written[0]
        return orjson.dumps(document)


def _text(language: Language, token: int) -> str:
    return language.tokenizer.token_bytes(token).decode(errors="replace")
