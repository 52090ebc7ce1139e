"""How a request to the OpenAI API wants its text generated, and what its model makes of that.

Pure. Names and meanings are OpenAI's, and beyond them vLLM's. What a request does not say is as the model's makers
recommend, else as in OpenAI's API: so a request without a temperature is sampled with one of 1.0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from vintner.errors import InvalidArgument, NotFound, Unsupported
from vintner.generation import Constraint, Sampling
from vintner.generation_limits import MOST_CHOICES, checked_sampling
from vintner.openai_constraints import read_constraint
from vintner.openai_request import Parameters
from vintner.prompts import Language
from vintner.stop_strings import StopStrings

MOST_TOKENS: Final = 2**31 - 1
SEEDS: Final = 2**63
NUMBERS: Final = (
    "temperature",
    "top_p",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
)
DEFAULTS: Final[Mapping[str, float]] = {"temperature": 1.0}
"""OpenAI's, where they differ from `Sampling`'s."""

NEUTRAL: Final[Mapping[str, Sequence[Any]]] = {
    "best_of": (1,),
    "length_penalty": (1, 1.0),
    "logit_bias": ({},),
    "prompt_logprobs": (0,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "use_beam_search": (False,),
    "allowed_token_ids": ([],),
    "bad_words": ([],),
    "return_token_ids": (False,),
    "logits_processors": ([],),
    "num_assistant_tokens": (0,),
    "assistant_confidence_threshold": (0, 0.0),
    "max_ngram_size": (0,),
    "return_tokens_as_token_ids": (False,),
}
"""Parameters that ask for what there is not here, with the values at which they ask for nothing."""


@dataclass(frozen=True, slots=True)
class SamplingAsked:
    """What a request says of it."""

    given: Mapping[str, Any]
    """By names of `Sampling`."""
    n: int
    stop: tuple[str, ...]
    include_stop: bool
    constraint: Constraint | None
    adapter: str = ""
    logprobs: int | None = None
    """None: none are wanted. Else so many of the likeliest tokens are, of which the one that was chosen is given."""

    def sampling(self, language: Language, constraint: Constraint | None = None) -> Sampling:
        """For a model. Raises InvalidArgument, or Unsupported for what its runtime cannot do."""
        constraint = constraint or self.constraint
        if constraint is not None and "constraints" not in language.supported:
            raise Unsupported(f"the runtime of model '{language.name}' cannot constrain what it generates")
        if self.adapter and self.adapter not in language.adapters:
            raise NotFound(f"model '{language.name}' has no adapter '{self.adapter[:64]}'")
        values = {"max_new_tokens": 0, **DEFAULTS, **_whole(language.defaults), **self.given}
        return checked_sampling(
            Sampling(
                **values,
                logprobs=self.logprobs is not None,
                constraint=constraint,
                adapters={self.adapter: 1.0} if self.adapter else {},
            ),
            language,
        )


def _whole(defaults: Mapping[str, float]) -> dict[str, Any]:
    """With a `top_k` that is a whole number."""
    return {name: int(value) if name == "top_k" else value for name, value in defaults.items()}


def read_sampling(parameters: Parameters, limits: Sequence[str], logprobs: int | None, adapter: str) -> SamplingAsked:
    """`limits` are the names of the parameters that say how many tokens are wanted. Raises RequestError."""
    given: dict[str, Any] = {name: parameters.number(name) for name in NUMBERS}
    given["max_new_tokens"] = _most_tokens(parameters, limits)
    given["min_new_tokens"] = parameters.whole("min_tokens", 0, MOST_TOKENS)
    given["top_k"] = _top_k(parameters)
    given["seed"] = _seed(parameters)
    given["stop_token_ids"] = frozenset(parameters.whole_numbers("stop_token_ids")) or None
    given["ignore_eos"] = parameters.flag("ignore_eos")
    stop = parameters.strings("stop")
    return SamplingAsked(
        {name: value for name, value in given.items() if value is not None},
        parameters.whole("n", 1, MOST_CHOICES) or 1,
        _checked_stop(stop),
        parameters.flag("include_stop_str_in_output"),
        read_constraint(parameters),
        adapter,
        logprobs,
    )


def _most_tokens(parameters: Parameters, names: Sequence[str]) -> int | None:
    given = {name: value for name in names if (value := parameters.whole(name, 1, MOST_TOKENS)) is not None}
    if len(set(given.values())) > 1:
        raise InvalidArgument(f"{' and '.join(given)} contradict one another: expected one of them", next(iter(given)))
    return next(iter(given.values()), None)


def _top_k(parameters: Parameters) -> int | None:
    top_k = parameters.whole("top_k", -1, MOST_TOKENS)
    return 0 if top_k == -1 else top_k


def _seed(parameters: Parameters) -> int | None:
    """Of any sign, as OpenAI's; the runtimes have none below zero."""
    seed = parameters.whole("seed", -SEEDS, SEEDS - 1)
    return None if seed is None else seed % SEEDS


def _checked_stop(stop: tuple[str, ...]) -> tuple[str, ...]:
    try:
        StopStrings(stop)
    except InvalidArgument as exc:
        raise InvalidArgument(exc.message, "stop") from None
    return stop
