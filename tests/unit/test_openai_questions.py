"""What requests to the OpenAI API come to, with a language model in memory of which a token is a byte."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from vintner.chat_templates import ChatTemplate
from vintner.errors import ContextExceeded, InvalidArgument, NotFound, Unsupported
from vintner.openai_chat import ChatQuestion, read_chat
from vintner.openai_completions import CompletionQuestion, read_completion
from vintner.openai_questions import ModelName
from vintner.openai_request import Parameters
from vintner.openai_tokenize import MOST_CHARACTERS, MOST_TEXTS, TokenizeQuestion
from vintner.prompts import Language

TEMPLATE = ChatTemplate(
    "{% for message in messages %}{{ message.role }}:{{ message.content }}\n{% endfor %}"
    "{% if tools %}tools\n{% endif %}{% if add_generation_prompt %}>{% endif %}",
    {},
)
LOOK: Any = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
HELLO = [{"role": "user", "content": "hello"}]
ALL = frozenset({"constraints", "logprobs", "adapters", "min_p", "presence_penalty", "frequency_penalty", "min_tokens"})


class Bytes:
    """Counts the characters that were made tokens of."""

    def __init__(self) -> None:
        self.encoded = 0

    def encode(self, text: str, special_tokens: bool = True) -> Sequence[int]:
        self.encoded += len(text)
        return [*([0] if special_tokens else []), *text.encode()]

    def decoder(self) -> Bytes:
        return self

    def feed(self, tokens: Sequence[int]) -> str:
        return bytes(tokens).decode()

    def finish(self) -> str:
        return ""

    def token_bytes(self, token: int) -> bytes:
        return bytes([token])


def language(**more: Any) -> Language:
    return Language("m", "3", Bytes(), **{"template": TEMPLATE, "context_length": 100, "vocabulary_size": 256, **more})


def chat(messages: Any = HELLO, /, adapter: str = "", **asked: Any) -> ChatQuestion:
    return read_chat(Parameters({"messages": messages, **asked}), ModelName("m", "m", adapter), "chatcmpl-1", 7)


def completion(prompt: Any, /, **asked: Any) -> CompletionQuestion:
    return read_completion(Parameters({"prompt": prompt, **asked}), ModelName("m", "m"), "cmpl-1", 7)


def prompt(question: ChatQuestion | CompletionQuestion, model: Language | None = None) -> bytes:
    return bytes(question.prepare(model or language())[0].prompts[0])


def test_messages_go_through_the_template_without_special_tokens() -> None:
    assert prompt(chat()) == b"user:hello\n>"
    assert prompt(chat(add_special_tokens=True)) == b"\0user:hello\n>"
    assert prompt(chat(add_generation_prompt=False)) == b"user:hello\n"
    assert prompt(chat([*HELLO, {"role": "assistant", "content": "good"}], continue_final_message=True)) == (
        b"user:hello\nassistant:good"
    )


def test_a_model_without_a_template_says_so() -> None:
    with pytest.raises(InvalidArgument, match="model 'm' has no chat template") as caught:
        chat().prepare(language(template=None))
    assert caught.value.param == "model"


def test_what_a_request_does_not_say_is_as_the_model_recommends_and_else_as_openai_does() -> None:
    sampling = chat().prepare(language())[0].sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.max_new_tokens) == (1.0, 1.0, 0, 0)
    recommended = {"temperature": 0.6, "top_k": 20.0}
    sampling = chat(top_p=0.5).prepare(language(defaults=recommended))[0].sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.6, 0.5, 20)
    sampling = chat(temperature=0, top_k=-1).prepare(language(defaults=recommended))[0].sampling
    assert (sampling.temperature, sampling.top_k) == (0.0, 0)


@pytest.mark.parametrize(
    ("default", "text", "expected"), [(0, "a", 16), (5, "a", 5), (0, "a" * 94, 5), (200, "a" * 9, 90)]
)
def test_a_completion_is_short_unless_its_model_says_otherwise(default: int, text: str, expected: int) -> None:
    assert completion(text).prepare(language(default_tokens=default))[0].sampling.max_new_tokens == expected


def test_what_a_runtime_cannot_do_is_refused() -> None:
    for question in (chat(response_format={"type": "json_object"}), chat(logprobs=True), chat(min_p=0.5)):
        with pytest.raises(Unsupported):
            question.prepare(language())
        question.prepare(language(supported=ALL))


def test_an_answer_may_be_exactly_as_long_as_it_must() -> None:
    sampling = chat(min_tokens=3, max_tokens=3).prepare(language(supported=ALL))[0].sampling
    assert (sampling.min_new_tokens, sampling.max_new_tokens) == (3, 3)
    with pytest.raises(InvalidArgument, match="expected at most 'max_tokens', 3, got 4"):
        chat(min_tokens=4, max_tokens=3).prepare(language(supported=ALL))


def test_seeds_of_either_sign_are_seeds_of_their_own() -> None:
    seeds = [chat(seed=seed).prepare(language())[0].sampling.seed for seed in (3, -3, 0, -1)]
    assert len(set(seeds)) == 4
    assert all(seed is not None and seed >= 0 for seed in seeds)


def test_an_adapter_is_chosen_by_name() -> None:
    model = language(supported=ALL, adapters=frozenset({"french"}))
    assert chat(adapter="french").prepare(model)[0].sampling.adapters == {"french": 1.0}
    assert chat().prepare(model)[0].sampling.adapters == {}
    with pytest.raises(NotFound, match="has no adapter 'german'"):
        chat(adapter="german").prepare(model)


def test_tools_are_shown_unless_none_may_be_called() -> None:
    with_parser = language(tool_parser="hermes", supported=ALL)
    assert prompt(chat(tools=[LOOK]), with_parser) == b"user:hello\ntools\n>"
    assert prompt(chat(tools=[LOOK], tool_choice="none"), with_parser) == b"user:hello\n>"
    with pytest.raises(Unsupported, match="has no parser for calls of tools"):
        chat(tools=[LOOK]).prepare(language())
    for choice in ("required", {"type": "function", "function": {"name": "look"}}):
        constraint = chat(tools=[LOOK], tool_choice=choice).prepare(language(supported=ALL))[0].sampling.constraint
        assert constraint is not None
        assert constraint.kind == "json_schema"


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"tools": LOOK}, "tools"),
        ({"tools": [LOOK, LOOK]}, "tools"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"type": "function", "function": {"name": ""}}]}, "tools[0].function.name"),
        ({"tools": [{**LOOK, "more": 1}]}, "tools[0]"),
        ({"tools": [LOOK], "tool_choice": "any"}, "tool_choice"),
        ({"tools": [LOOK], "tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice"),
        ({"response_format": {"type": "json_object"}, "guided_regex": "a"}, None),
        ({"structured_outputs": {"yaml": True}}, "structured_outputs.yaml"),
        ({"guided_json": "{"}, "guided_json"),
        ({"guided_choice": []}, "guided_choice"),
        ({"stop": ["a"] * 100}, "stop"),
        ({"seed": 2**63}, "seed"),
        ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(asked: dict[str, Any], param: str | None) -> None:
    with pytest.raises(InvalidArgument) as caught:
        chat(**asked)
    assert caught.value.param == param


def test_more_least_than_most_tokens_are_refused() -> None:
    with pytest.raises(InvalidArgument) as caught:
        chat(min_tokens=5, max_tokens=4).prepare(language(supported=ALL))
    assert caught.value.param == "min_tokens"


def test_a_long_text_is_not_made_tokens_of_as_a_whole() -> None:
    model = language()
    with pytest.raises(ContextExceeded, match="the prompt of 1000000 characters has more than") as caught:
        completion("a" * 10**6).prepare(model)
    assert caught.value.param == "prompt"
    tail = completion("a" * 10**6 + "bc", truncate_prompt_tokens=3, max_tokens=1).prepare(model)[0]
    assert bytes(tail.prompts[0]) == b"abc"
    fill = completion("a" * 200, truncate_prompt_tokens=-1, max_tokens=10).prepare(model)[0]
    assert len(fill.prompts[0]) == 90
    assert model.tokenizer.encoded < 10**5  # type: ignore[attr-defined]


def test_tokens_of_a_prompt_are_kept_and_checked() -> None:
    assert completion([5, 6], echo=False).prepare(language())[0].prompts == [[5, 6]]
    for wrong in ([256], [-1]):
        with pytest.raises(InvalidArgument, match="out of range") as caught:
            completion(wrong).prepare(language())
        assert caught.value.param == "prompt"


@pytest.mark.parametrize(
    ("texts", "said"),
    [(["a"] * (MOST_TEXTS + 1), f"at most {MOST_TEXTS}"), (["a" * (MOST_CHARACTERS // 2 + 1)] * 2, "all together")],
)
def test_no_more_texts_are_made_tokens_of_than_take_a_moment(texts: list[str], said: str) -> None:
    with pytest.raises(InvalidArgument, match=said) as caught:
        TokenizeQuestion(Parameters({"prompt": texts}))
    assert caught.value.param == "prompt"


def test_the_tokens_of_a_chat_are_those_of_its_prompt() -> None:
    question = TokenizeQuestion(Parameters({"messages": HELLO}))
    text = b"user:hello\n>"
    assert question.answer(language()) == (
        b'{"tokens":[%b],"count":%d,"max_model_len":100}' % (",".join(map(str, text)).encode(), len(text))
    )
