"""The seam to the runtimes of language models: what generates tokens for many requests at once, a step at a time.

A backend whose model generates text returns a `LanguageModel` from `Backend.load` instead of a `LoadedModel`. Knows
neither protocols nor text formats. Continuous batching is the runtime's; which sequences it has, and since when, is the
server's.

Threads: an `Engine` is used by one thread at a time, the model's stepping thread; a `Tokenizer` by any number at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

End = Literal["", "stop", "length", "no_room"]
"""Why a sequence ends: an end token, the number of tokens that was asked for, or no room left in the key-value cache,
which is no success. Empty: it goes on."""


@dataclass(frozen=True, slots=True)
class Constraint:
    """What the generated text must be: `value` is a JSON schema, a regular expression, or a grammar in EBNF."""

    kind: Literal["json_schema", "regex", "grammar"]
    value: str


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one sequence is generated. A temperature of 0 is greedy. Names and meanings are those of OpenAI's API and of
    Hugging Face's `GenerationConfig`."""

    max_new_tokens: int
    min_new_tokens: int = 0
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    """0: all tokens."""
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    stop_token_ids: frozenset[int] = frozenset()
    """Besides the model's own end tokens."""
    ignore_eos: bool = False
    logprobs: bool = False
    """Whether the logarithm of each chosen token's probability is wanted."""
    constraint: Constraint | None = None
    adapters: Mapping[str, float] = field(default_factory=dict)
    """Names of the model's LoRA adapters, with their weights."""

    @property
    def greedy(self) -> bool:
        return self.temperature == 0.0

    @property
    def minds_begin(self) -> bool:
        """Whether a token depends on where the answer begins, not only on those in front of it; where it is drawn,
        a penalty that has not seen them all makes no difference that could be told."""
        penalised = self.presence_penalty != 0 or self.frequency_penalty != 0
        return self.constraint is not None or (self.greedy and penalised)


@dataclass(slots=True)
class Progress:
    """What a step gave to one sequence. An end token is not among the tokens, nor one of `stop_token_ids`."""

    key: int
    tokens: Sequence[int]
    logprobs: Sequence[float] = ()
    """As many as tokens, if they were asked for."""
    end: End = ""


@dataclass(frozen=True, slots=True)
class CacheUse:
    """Of the key-value cache. `total` is 0 where it grows as needed, or cannot be known."""

    used: float = 0.0
    """Between 0 and 1."""
    size: int = 0
    """Bytes that are allocated."""
    blocks: int = 0
    """Blocks that there are at most; 0: no bound is known."""
    block_tokens: int = 0
    """Tokens of a block; 0: nothing is known of the cache."""


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """How an engine is to be made."""

    max_sequences: int = 256
    """That generate at the same time."""
    max_batched_tokens: int | None = None
    """Of all sequences in one step, prompts included; None leaves it to the backend."""
    cache_bytes: int | None = None
    """Of the key-value cache; None lets it grow."""
    prefix_caching: bool = True
    draft_model: Path | None = None
    """A smaller model with the same tokens, whose guesses are checked: speculative decoding."""
    draft_device: str = "CPU"
    assistant_tokens: int = 0
    """Tokens that are guessed ahead, by the draft model or from the prompt."""
    ngram: int = 0
    """If not 0, tokens are guessed by looking up so many of the last ones in the prompt: prompt lookup."""
    adapters: Mapping[str, Path] = field(default_factory=dict)
    """LoRA adapters by name: files in the safetensors format."""


class Engine(Protocol):
    """One model that generates."""

    @property
    def max_sequences(self) -> int:
        """That it can generate at the same time; more must not be added."""
        ...

    @property
    def in_waves(self) -> bool:
        """Whether a sequence that is added while others run waits for all of them, so that it had better be added
        with others once they have ended."""
        ...

    @property
    def mixes_adapters(self) -> bool:
        """Whether sequences with different adapters can run at the same time."""
        ...

    @property
    def cache(self) -> CacheUse:
        """Cheap; asked between steps."""
        ...

    def add(self, key: int, tokens: Sequence[int], sampling: Sampling) -> None:
        """Begins a sequence with a prompt of at least one token. Keys are never used again.

        Raises InvalidArgument for what the runtime finds wrong with the request, and Unsupported, naming the parameter,
        for what it cannot do.
        """
        ...

    def cancel(self, key: int) -> None:
        """Ends a sequence that may have ended already. Nothing more is told of it."""
        ...

    def step(self) -> Sequence[Progress]:
        """Generates for all sequences, as far as one step goes. Those of which nothing is new may be left out.

        Blocks without holding Python's global lock. Raises BackendError if the runtime failed, for all of them.
        """
        ...

    def reset(self) -> None:
        """Ends all sequences, after a step failed; the engine can be used again then. Raises BackendError if not."""
        ...


class Decoder(Protocol):
    """Makes text of the tokens of one sequence, piece by piece. Used by one thread at a time."""

    def feed(self, tokens: Sequence[int]) -> str:
        """The text that is certain now: never a part of a character."""
        ...

    def finish(self) -> str:
        """What is left; a part of a character is U+FFFD."""
        ...


class Tokenizer(Protocol):
    """Between text and tokens."""

    def encode(self, text: str, special_tokens: bool = True) -> Sequence[int]:
        """Without `special_tokens` none are added, such as one that begins a text; those that are written out in the
        text are tokens either way."""
        ...

    def decoder(self) -> Decoder:
        """Special tokens become no text."""
        ...

    def token_bytes(self, token: int) -> bytes:
        """Those that a token stands for, special ones by their names."""
        ...


class LanguageModel(Protocol):
    """A loaded model that generates text."""

    @property
    def platform(self) -> str:
        """What metadata reports, such as `openvino_genai`."""
        ...

    @property
    def engine(self) -> Engine: ...

    @property
    def tokenizer(self) -> Tokenizer: ...

    @property
    def context_length(self) -> int:
        """Tokens of prompt and answer together."""
        ...

    @property
    def vocabulary_size(self) -> int:
        """Token ids are below it."""
        ...

    @property
    def directory(self) -> Path:
        """Where its files are: a chat template is read from there."""
        ...

    @property
    def defaults(self) -> Mapping[str, float]:
        """What its makers recommend, of `temperature`, `top_p`, `top_k`, `min_p` and `repetition_penalty`."""
        ...

    @property
    def supported(self) -> frozenset[str]:
        """Of what not every runtime can do: `constraints`, `logprobs`, `adapters`, `min_p`, `presence_penalty`, ...;
        with `seed` each answer that is drawn has one, so that it can be drawn again."""
        ...

    def close(self) -> None:
        """Gives back memory and device. Called once, when nothing is stepped any more."""
        ...
