"""What a client asks of a language model, and what it is given, as the front ends and the core share it.

Knows no protocol: chat, completion, Triton's `text_input` are each an `Asked` of their front end. Invariant: of the
pieces of one choice only the last has a finish reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from vintner.generation import Sampling, Tokenizer

Finish = Literal["", "stop", "length"]


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token that was generated, and the logarithm of its probability."""

    token: int
    logprob: float


@dataclass(slots=True)
class Piece:
    """What came to one choice since its piece before."""

    index: int
    """Of the choice: the prompt's number times `n`, plus the number of its answer."""
    text: str
    tokens: int
    """That were generated since."""
    logprobs: Sequence[TokenLogprob] = ()
    """Of these tokens, if they were asked for."""
    finish: Finish = ""
    """Why the choice ends here; empty if it goes on."""
    stop: str | None = None
    """The stop string at which it ends, if it is one."""


@dataclass(frozen=True, slots=True)
class Work:
    """What is to be generated: `n` answers to each of the prompts, which are tokens."""

    prompts: Sequence[Sequence[int]]
    sampling: Sampling
    """With a `max_new_tokens` of 0 for as many as fit into the context. The seeds of a prompt's answers count up."""
    n: int = 1
    stop: tuple[str, ...] = ()
    """Strings at which the text ends, before them."""
    include_stop: bool = False
    """Whether the text ends behind the stop string instead."""


@dataclass(frozen=True, slots=True)
class Language:
    """What a loaded language model is to those who ask it."""

    name: str
    version: str
    tokenizer: Tokenizer
    template: Template | None
    """None where the model has no chat template."""
    context_length: int
    vocabulary_size: int
    defaults: Mapping[str, float] = field(default_factory=dict)
    """What its makers recommend of `temperature`, `top_p`, `top_k`, `min_p` and `repetition_penalty`."""
    supported: frozenset[str] = frozenset()
    """As `LanguageModel.supported`."""
    default_tokens: int = 0
    """Tokens of an answer to a request that does not say how many; 0: as many as fit."""
    adapters: frozenset[str] = frozenset()
    tool_parser: str | None = None
    """What reads calls of tools in what it generates, by name; None: nothing does."""
    reasoning_parser: str | None = None


class Template(Protocol):
    """A chat template."""

    @property
    def source(self) -> str: ...

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        kwargs: Mapping[str, Any] = ...,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
    ) -> str:
        """The prompt. Raises InvalidArgument, with the template's own reason where it gives one."""
        ...


class Asked(Protocol):
    """What one request asks."""

    streams: bool
    """Whether pieces are wanted as they come; otherwise each choice is one piece."""

    def prepare(self, language: Language) -> Work:
        """Called once, in the thread that submits the request. Raises InvalidArgument, or Unsupported."""
        ...

    def has_room(self) -> bool:
        """Whether a piece would be sent soon; if not, it comes with more later. Must be quick."""
        ...

    def take(self, pieces: Sequence[Piece]) -> None:
        """Takes pieces of different choices, in the model's thread, which it must not hold up."""
        ...
