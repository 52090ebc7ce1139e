"""A request for completions of texts.

Pure but for the model's tokenizer. Invariant: what passed `prepare` can be given to the runtime.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from vintner.errors import Unsupported
from vintner.generation_limits import MOST_CHOICES
from vintner.openai_answers import TextWriter
from vintner.openai_chat import check_likeliest
from vintner.openai_prompts import Encoding, read_encoding, read_prompts
from vintner.openai_questions import Manner, ModelName, read_manner
from vintner.openai_request import Parameters, bad, blamed
from vintner.openai_sampling import NEUTRAL, SamplingAsked, read_sampling
from vintner.prompts import Language, Work

DEFAULT_TOKENS: Final = 16
"""OpenAI's, for a request that does not say how many are wanted."""

TEXT_NEUTRAL: Final[Mapping[str, Sequence[Any]]] = {**NEUTRAL, "prompt_embeds": (), "suffix": ("",)}
"""As `NEUTRAL`, with what only completions have."""


@dataclass(frozen=True, slots=True)
class CompletionQuestion:
    """One request's. With `echo` the texts begin with the prompts."""

    manner: Manner
    prompts: Sequence[str | Sequence[int]]
    encoding: Encoding
    asked: SamplingAsked
    echo: bool

    def prepare(self, language: Language) -> tuple[Work, TextWriter]:
        sampling = self.asked.sampling(language)
        with blamed("prompt"):
            prompts = [self.encoding.tokens(language, prompt, sampling.max_new_tokens) for prompt in self.prompts]
        if not sampling.max_new_tokens:
            room = language.context_length - max(map(len, prompts))
            to_come = min(language.default_tokens or DEFAULT_TOKENS, room)
            sampling = replace(sampling, max_new_tokens=to_come)
        writer = TextWriter(
            self.manner.head(language),
            sum(map(len, prompts)),
            [text for text in self._echoes(language) for _ in range(self.asked.n)],
            token_bytes=language.tokenizer.token_bytes if sampling.logprobs else None,
            likeliest=self.asked.logprobs or 0,
            with_usage=self.manner.usage,
        )
        return Work(prompts, sampling, self.asked.n, self.asked.stop, self.asked.include_stop), writer

    def _echoes(self, language: Language) -> list[str]:
        if not self.echo:
            return ["" for _ in self.prompts]
        return [prompt if isinstance(prompt, str) else _text(language, prompt) for prompt in self.prompts]


def _text(language: Language, tokens: Sequence[int]) -> str:
    decoder = language.tokenizer.decoder()
    return decoder.feed(tokens) + decoder.finish()


def read_completion(parameters: Parameters, name: ModelName, identity: str, created: int) -> CompletionQuestion:
    """Raises RequestError."""
    manner = read_manner(parameters, name, identity, created)
    prompts = read_prompts(parameters)
    echo = parameters.flag("echo")
    logprobs = parameters.whole("logprobs", 0, 5)
    check_likeliest(logprobs or 0, "logprobs")
    if echo and logprobs is not None:
        raise Unsupported("echo and logprobs together are not supported: prompts have no logprobs here", "logprobs")
    asked = read_sampling(parameters, ("max_tokens",), logprobs, name.adapter)
    if len(prompts) * asked.n > MOST_CHOICES:
        raise bad("prompt", f"{MOST_CHOICES} choices of all prompts at most", len(prompts) * asked.n)
    encoding = read_encoding(parameters, special_tokens=True)
    parameters.finish(TEXT_NEUTRAL)
    return CompletionQuestion(manner, prompts, encoding, asked, echo)
