"""What requests with tensors ask, as Triton's backends of language models name it."""

from __future__ import annotations

from typing import Any

import pytest
from vintner.errors import InvalidArgument, Unsupported
from vintner.prompts import Language
from vintner.text_parameters import NEUTRAL, read_text_parameters

LANGUAGE: Any = Language(
    "m",
    "1",
    None,  # type: ignore[arg-type]
    None,
    100,
    10,
    supported=frozenset({"adapters", "constraints", "logprobs"}),
    adapters=frozenset({"french"}),
)


def test_what_triton_s_own_samples_send_is_understood() -> None:
    texts = {"temperature": "0.1", "top_p": "0.95", "max_tokens": "100"}
    sampling = read_text_parameters(texts).sampling(LANGUAGE)
    assert (sampling.temperature, sampling.top_p, sampling.max_new_tokens) == (0.1, 0.95, 100)
    asked = read_text_parameters({"max_tokens": 20, "bad_words": "", "stop_words": ""})
    assert asked.stop == ()


def test_an_object_comes_before_what_stands_alone() -> None:
    asked = read_text_parameters({"max_tokens": 9, "sampling_parameters": '{"max_tokens": "5", "seed": null}'})
    assert asked.sampling(LANGUAGE).max_new_tokens == 5
    assert asked.sampling(LANGUAGE).seed is None


@pytest.mark.parametrize(
    ("given", "field", "value"),
    [
        ({"top_k": -1}, "top_k", 0),
        ({"random_seed": 7}, "seed", 7),
        ({"stop_token_ids": [3, 5]}, "stop_token_ids", frozenset({3, 5})),
        ({"lora_name": "french"}, "adapters", {"french": 1.0}),
        ({"return_logprobs": True}, "logprobs", True),
        ({"return_cumulative_logprob": True}, "logprobs", True),
        ({"max_new_tokens": 3.0}, "max_new_tokens", 3),
    ],
)
def test_each_parameter_has_its_effect(given: dict[str, Any], field: str, value: Any) -> None:
    assert getattr(read_text_parameters(given).sampling(LANGUAGE), field) == value


@pytest.mark.parametrize(
    ("given", "kind", "value"),
    [
        ({"guided_json": '{"type": "boolean"}'}, "json_schema", '{"type":"boolean"}'),
        ({"guided_regex": "a[bc]"}, "regex", "a[bc]"),
        ({"response_format": '{"type": "json_object"}'}, "json_schema", None),
        ({"sampling_parameters": '{"structured_outputs": {"choice": ["a", "b"]}}'}, "regex", "(a)|(b)"),
    ],
)
def test_an_answer_can_be_constrained(given: dict[str, Any], kind: str, value: str | None) -> None:
    constraint = read_text_parameters(given).sampling(LANGUAGE).constraint
    assert constraint is not None
    assert constraint.kind == kind
    assert value in (None, constraint.value)


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ({"max_tokns": 1}, InvalidArgument, "unknown parameter 'max_tokns' of a language model; did you mean"),
        ({"temperature": "warm"}, InvalidArgument, "expected a number, got 'warm'"),
        ({"max_tokens": "true"}, InvalidArgument, "expected a whole number from 0 to 2147483647, got 'true'"),
        ({"stop": [1]}, InvalidArgument, "'stop': expected a string or a list of strings"),
        ({"stop_token_ids": ["a"]}, InvalidArgument, "expected a list of token ids"),
        ({"sampling_parameters": "[1]"}, InvalidArgument, "expected a JSON object, got \\[1\\]"),
        ({"sampling_parameters": "{"}, InvalidArgument, "expected a JSON object"),
        ({"guided_json": '{"type": "nothing"}'}, InvalidArgument, "guided_json"),
        ({"n": 2}, Unsupported, "parameter 'n' is not supported: got 2"),
        ({"n": True}, Unsupported, "parameter 'n'"),
        ({"use_beam_search": 0}, Unsupported, "parameter 'use_beam_search'"),
        ({"bad_words": "tea"}, Unsupported, "parameter 'bad_words' is not supported: got 'tea'"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(given: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        read_text_parameters(given)


def test_an_adapter_that_there_is_not_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="no adapter 'frensh'; did you mean 'french'"):
        read_text_parameters({"lora_name": "frensh"}).sampling(LANGUAGE)


@pytest.mark.parametrize("name", NEUTRAL)
def test_what_asks_for_nothing_is_passed_over(name: str) -> None:
    for value in NEUTRAL[name]:
        assert read_text_parameters({name: value}) == read_text_parameters({})
