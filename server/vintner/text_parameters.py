"""What a request with tensors asks besides its prompts, by the names that Triton's backends of language models have.

A parameter of the request, a key of the JSON object `sampling_parameters`, and an input of that name are the same.
Invariant: no parameter is passed over: each is known here, stands at a value that asks for nothing, or is refused by
name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from vintner.errors import InvalidArgument, Unsupported, nearest
from vintner.generation import Sampling
from vintner.generation_limits import checked_sampling
from vintner.openai_constraints import KINDS, read_constraint
from vintner.openai_request import Parameters
from vintner.prompts import Language
from vintner.stop_strings import StopStrings

Kind = Callable[[str, Any], Any]


def _number(name: str, value: Any) -> float:
    number = _spelled(value)
    if type(number) not in (int, float):
        raise InvalidArgument(f"parameter '{name}': expected a number, got {value!r:.60}")
    return float(number)


MOST_TOKENS: Final = 2**31 - 1
MOST_WHOLE: Final = {"seed": 2**64 - 1, "random_seed": 2**64 - 1}
"""Of whole numbers that are not counts of tokens."""


def _whole(name: str, value: Any) -> int:
    number = _spelled(value)
    if type(number) is float and number.is_integer():
        number = int(number)
    most = MOST_WHOLE.get(name, MOST_TOKENS)
    if type(number) is not int or not 0 <= number <= most:
        raise InvalidArgument(f"parameter '{name}': expected a whole number from 0 to {most}, got {value!r:.60}")
    return number


def _top_k(name: str, value: Any) -> int:
    return 0 if _spelled(value) == -1 else _whole(name, value)


def _spelled(value: Any) -> Any:
    """A number that came as text, as Triton's own samples send them."""
    if not isinstance(value, str) or len(value) > 32:
        return value
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError:
        return value


def _boolean(name: str, value: Any) -> bool:
    if type(value) is not bool:
        raise InvalidArgument(f"parameter '{name}': expected true or false, got {value!r:.60}")
    return value


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise InvalidArgument(f"parameter '{name}': expected a string, got {value!r:.60}")
    return value


def _strings(name: str, value: Any) -> tuple[str, ...]:
    """An empty string is none at all, as in the samples of Triton's TensorRT-LLM backend."""
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not all(isinstance(one, str) for one in values):
        raise InvalidArgument(f"parameter '{name}': expected a string or a list of strings, got {value!r:.60}")
    strings = tuple(one for one in values if one)
    StopStrings(strings)
    return strings


def _tokens(name: str, value: Any) -> frozenset[int]:
    values = [value] if type(value) is int else value
    if not isinstance(values, list) or not all(type(one) is int for one in values):
        raise InvalidArgument(f"parameter '{name}': expected a list of token ids, got {value!r:.60}")
    return frozenset(values)


def _object(name: str, value: Any) -> Any:
    """A JSON object, or the text of one."""
    if not isinstance(value, str):
        return value
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError as exc:
        raise InvalidArgument(f"parameter '{name}': expected a JSON object, {exc}") from None


SAMPLING: Final[Mapping[str, tuple[str, Kind]]] = {
    "max_tokens": ("max_new_tokens", _whole),
    "max_new_tokens": ("max_new_tokens", _whole),
    "min_tokens": ("min_new_tokens", _whole),
    "temperature": ("temperature", _number),
    "top_p": ("top_p", _number),
    "top_k": ("top_k", _top_k),
    "min_p": ("min_p", _number),
    "repetition_penalty": ("repetition_penalty", _number),
    "presence_penalty": ("presence_penalty", _number),
    "frequency_penalty": ("frequency_penalty", _number),
    "seed": ("seed", _whole),
    "random_seed": ("seed", _whole),
    "stop_token_ids": ("stop_token_ids", _tokens),
    "ignore_eos": ("ignore_eos", _boolean),
}
"""Parameters, with what of `Sampling` they are."""

CONSTRAINTS: Final[Mapping[str, Kind]] = {
    "response_format": _object,
    "structured_outputs": _object,
    **{f"guided_{kind}": lambda name, value: value for kind in KINDS},
}
"""As in the OpenAI API."""

OTHERS: Final[Mapping[str, Kind]] = {
    "stop": _strings,
    "stop_words": _strings,
    "include_stop_str_in_output": _boolean,
    "lora_name": _text,
    "stream": _boolean,
    "exclude_input_in_output": _boolean,
    "return_finish_reason": _boolean,
    "return_cumulative_logprob": _boolean,
    "return_logprobs": _boolean,
    "return_num_input_tokens": _boolean,
    "return_num_output_tokens": _boolean,
}
NEUTRAL: Final[Mapping[str, tuple[Any, ...]]] = {
    "bad_words": ("", []),
    "beam_width": (1,),
    "best_of": (1,),
    "early_stopping": (False,),
    "length_penalty": (1,),
    "n": (1,),
    "return_context_logits": (False,),
    "return_generation_logits": (False,),
    "return_log_probs": (False,),
    "skip_special_tokens": (True,),
    "use_beam_search": (False,),
}
"""What those backends have, but not this server, with the values that ask for nothing."""

SCHEDULE: Final = ("priority", "timeout", "binary_data_output", "triton_enable_empty_final_response")
"""Parameters that are not the model's."""

DOCUMENTS: Final = ("sampling_parameters", "parameters")
"""What is an object of parameters, as JSON text."""


@dataclass(frozen=True, slots=True)
class TextParameters:
    """Those of one request, checked but for what only its model can tell."""

    given: Mapping[str, Any]
    """By name, without those that are of `SAMPLING`."""
    sampled: Mapping[str, Any]
    """What of `Sampling` was given."""

    @property
    def stop(self) -> tuple[str, ...]:
        return (*self.given.get("stop", ()), *self.given.get("stop_words", ()))

    @property
    def streams(self) -> bool:
        return bool(self.given.get("stream", True))

    def wants(self, name: str) -> bool:
        return bool(self.given.get(name))

    @property
    def logprobs(self) -> bool:
        return self.wants("return_logprobs") or self.wants("return_cumulative_logprob")

    def sampling(self, language: Language) -> Sampling:
        """Raises InvalidArgument, or Unsupported for what the model's runtime cannot do."""
        adapter = self.given.get("lora_name", "")
        if adapter and adapter not in language.adapters:
            known = nearest(adapter, language.adapters)
            raise InvalidArgument(f"parameter 'lora_name': the model has no adapter '{adapter[:64]}'{known}")
        sampling = Sampling(
            **{"max_new_tokens": 0, **self.sampled},
            logprobs=self.logprobs,
            constraint=self.given.get("constraint"),
            adapters={adapter: 1.0} if adapter else {},
        )
        return checked_sampling(sampling, language)


def read_text_parameters(parameters: Mapping[str, Any]) -> TextParameters:
    """Raises InvalidArgument for what is unknown, or is not what was expected; Unsupported for what there is not."""
    given: dict[str, Any] = {}
    sampled: dict[str, Any] = {}
    for name, value in _flat(parameters).items():
        if name in SAMPLING:
            own, kind = SAMPLING[name]
            sampled[own] = kind(name, value)
        elif name in CONSTRAINTS or name in OTHERS:
            given[name] = (CONSTRAINTS.get(name) or OTHERS[name])(name, value)
        elif name not in SCHEDULE:
            _check_neutral(name, value)
    wanted = {name: given.pop(name) for name in CONSTRAINTS if name in given}
    if wanted:
        given["constraint"] = read_constraint(Parameters(wanted))
    return TextParameters(given, sampled)


def _flat(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """With what is in the objects among them, which comes before what stands alone."""
    flat = {name: value for name, value in parameters.items() if name not in DOCUMENTS}
    for name in DOCUMENTS:
        if name in parameters:
            flat |= _members(name, parameters[name])
    return flat


def _members(name: str, text: Any) -> Mapping[str, Any]:
    document = _object(name, text)
    if not isinstance(document, dict):
        raise InvalidArgument(f"parameter '{name}': expected a JSON object, got {document!r:.60}")
    return {key: value for key, value in document.items() if value is not None}


def _check_neutral(name: str, value: Any) -> None:
    if name not in NEUTRAL:
        known = [*SAMPLING, *OTHERS, *CONSTRAINTS]
        raise InvalidArgument(f"unknown parameter '{name[:64]}' of a language model{nearest(name, known)}")
    given = value if value == "" else _spelled(value)
    if not any(isinstance(given, bool) == isinstance(one, bool) and given == one for one in NEUTRAL[name]):
        raise Unsupported(f"parameter '{name}' is not supported: got {value!r:.60}", name)
