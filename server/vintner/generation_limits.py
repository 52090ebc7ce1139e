"""What a request may ask of a language model, whatever protocol it came by.

Pure. Invariant: what passed can be given to the model's runtime as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from vintner.errors import ContextExceeded, InvalidArgument, Unsupported
from vintner.generation import Sampling
from vintner.prompts import Language

MOST_CHOICES: Final = 128
"""Choices of one request, of all its prompts."""

CHARACTERS: Final = 32
"""Of a token, at most, on the average of a long text; there is hardly one of so many."""

BOUNDS: Final[Mapping[str, tuple[float, float]]] = {
    "temperature": (0.0, 2.0),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "repetition_penalty": (0.0, 10.0),
    "presence_penalty": (-2.0, 2.0),
    "frequency_penalty": (-2.0, 2.0),
}
POSITIVE: Final = ("top_p", "repetition_penalty")
"""Of which the lower bound itself is too low."""


def checked_sampling(sampling: Sampling, language: Language) -> Sampling:
    """The sampling, if the model can do it. Raises InvalidArgument for a value out of bounds, and Unsupported, naming
    the parameter."""
    for name, (least, most) in BOUNDS.items():
        value = getattr(sampling, name)
        if not least <= value <= most or (value == least and name in POSITIVE):
            above = "above" if name in POSITIVE else "at least"
            raise InvalidArgument(
                f"parameter '{name}': expected {above} {least:g} and at most {most:g}, got {value!r}", name
            )
    wanted = {
        "min_p": sampling.min_p != 0,
        "presence_penalty": sampling.presence_penalty != 0,
        "frequency_penalty": sampling.frequency_penalty != 0,
        "logprobs": sampling.logprobs,
        "constraints": sampling.constraint is not None,
        "adapters": bool(sampling.adapters),
        "ignore_eos": sampling.ignore_eos,
        "min_tokens": sampling.min_new_tokens != 0,
    }
    for name, given in wanted.items():
        if given and name not in language.supported:
            raise Unsupported(f"the runtime of model '{language.name}' does not support '{name}'", name)
    _check_tokens(sampling, language)
    return sampling


def _check_tokens(sampling: Sampling, language: Language) -> None:
    least, most = sampling.min_new_tokens, sampling.max_new_tokens
    if 0 < most < least:
        raise InvalidArgument(
            f"parameter 'min_tokens': expected at most 'max_tokens', {most}, got {least}", "min_tokens"
        )
    wrong = [token for token in sampling.stop_token_ids if not 0 <= token < language.vocabulary_size]
    if wrong:
        name = "stop_token_ids"
        raise InvalidArgument(
            f"parameter '{name}': token id {wrong[0]} is out of range: the model has {language.vocabulary_size} tokens",
            name,
        )


def check_prompt(language: Language, tokens: Sequence[int], max_new_tokens: int = 0) -> None:
    """Raises InvalidArgument for a prompt that does not fit, with so many tokens to come, or that is none."""
    check_length(language, tokens, max_new_tokens)
    wrong = next((token for token in tokens if not 0 <= token < language.vocabulary_size), None)
    if wrong is not None:
        raise InvalidArgument(f"token id {wrong} is out of range: the model has {language.vocabulary_size} tokens")


def check_length(language: Language, tokens: Sequence[int], max_new_tokens: int = 0) -> None:
    """As `check_prompt`, but for what the tokens are."""
    if not tokens:
        raise InvalidArgument("the prompt is empty: expected at least one token")
    least = max(1, max_new_tokens)
    if len(tokens) + least > language.context_length:
        asked = f"{least} for the answer" if max_new_tokens else "at least 1 for the answer"
        raise ContextExceeded(
            f"this model's maximum context length is {language.context_length} tokens, but {len(tokens) + least} were"
            f" requested: {len(tokens)} in the prompt, {asked}"
        )


def encoded(language: Language, text: str, special_tokens: bool = True, keep: int = 0) -> Sequence[int]:
    """All tokens of a text, or more than the last `keep`. Raises ContextExceeded for one that is too long by far: to
    make tokens of it would hold up everything else in the process."""
    encode, most = language.tokenizer.encode, language.context_length
    longest = CHARACTERS * most
    if len(text) > longest:
        part = text[-longest:] if keep else text[:longest]
        tokens = encode(part, special_tokens)
        if keep and len(tokens) > keep:
            return tokens
        if len(tokens) > most:
            raise ContextExceeded(
                f"this model's maximum context length is {most} tokens, but the prompt of {len(text)} characters has"
                f" more than {len(tokens)}"
            )
    return encode(text, special_tokens)
