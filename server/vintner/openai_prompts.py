"""Prompts of requests to the OpenAI API, as tokens.

Pure but for the model's tokenizer. Invariant: no text is made tokens of at a greater length than a model can use, for
that holds up everything else in the process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vintner.errors import InvalidArgument
from vintner.generation_limits import check_length, check_prompt, encoded
from vintner.openai_request import Parameters, bad
from vintner.prompts import Language


@dataclass(frozen=True, slots=True)
class Encoding:
    """How texts become tokens. `keep` is for how many of the last tokens of a prompt are kept: 0 for all, -1 for as
    many as fit."""

    special_tokens: bool
    keep: int = 0

    def tokens(self, language: Language, prompt: str | Sequence[int], to_come: int) -> Sequence[int]:
        """Raises InvalidArgument for a prompt that is none, or too long. `to_come` are tokens of the answer."""
        keep = max(1, language.context_length - max(1, to_come)) if self.keep == -1 else self.keep
        tokens = self.encoded(language, prompt, keep) if isinstance(prompt, str) else prompt
        tokens = tokens[-keep:] if keep else tokens
        check = check_length if isinstance(prompt, str) else check_prompt
        check(language, tokens, to_come)
        return tokens

    def encoded(self, language: Language, text: str, keep: int = 0) -> Sequence[int]:
        """All tokens of a text that is not too long by far, or more than the last `keep`."""
        return encoded(language, text, self.special_tokens, keep)


def read_encoding(parameters: Parameters, special_tokens: bool) -> Encoding:
    """`special_tokens` is the default."""
    keep = parameters.whole("truncate_prompt_tokens", -1)
    if keep == 0:
        raise bad("truncate_prompt_tokens", "a whole number of at least 1, or -1", keep)
    return Encoding(parameters.flag("add_special_tokens", special_tokens), keep or 0)


def read_prompts(parameters: Parameters) -> list[str | Sequence[int]]:
    """`prompt`: a text, tokens, or several of either. Raises InvalidArgument."""
    given = parameters.value("prompt")
    if given is None:
        raise InvalidArgument(
            "parameter 'prompt' is missing: expected a string, an array of token ids, or of either", "prompt"
        )
    prompts = given if isinstance(given, list) and not _are_tokens(given) else [given]
    if not prompts or not all(isinstance(one, str) or _are_tokens(one) for one in prompts):
        raise bad("prompt", "a string, an array of token ids, or an array of either", given)
    return prompts


def _are_tokens(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(one) is int for one in value)
