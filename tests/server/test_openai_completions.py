"""Completions of texts and tokens of prompts, with the language model that ships."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from running_server import RunningServer
from tiny_chats import COMPLETIONS, messages

MODEL = "tiny_llm"
FOX = COMPLETIONS["fox"].prompt
JUMPS = COMPLETIONS["fox"].answer


@pytest.fixture(scope="module")
def client(tiny_llm: RunningServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"http://{tiny_llm.http}/v1", api_key="none", max_retries=0) as client:
        yield client


def complete(client: openai.OpenAI, prompt: Any = FOX, **asked: Any) -> Any:
    return client.completions.create(model=MODEL, prompt=prompt, **{"temperature": 0, "max_tokens": 100, **asked})


def tokenized(server: RunningServer, path: str = "/tokenize", **asked: Any) -> tuple[int, dict[str, Any]]:
    headers = {"Content-Type": "application/json"}
    status, _, body = server.request("POST", f"/v1{path}", json.dumps({"model": MODEL, **asked}).encode(), headers)
    return status, json.loads(body)


@pytest.mark.parametrize("name", COMPLETIONS)
def test_a_text_is_completed_whole_and_in_a_stream(client: openai.OpenAI, name: str) -> None:
    prompt, answer = COMPLETIONS[name].prompt, COMPLETIONS[name].answer
    whole = complete(client, prompt)
    assert whole.choices[0].text == answer
    assert (whole.object, whole.choices[0].finish_reason) == ("text_completion", "stop")
    assert whole.id.startswith("cmpl-")
    chunks = list(complete(client, prompt, stream=True, stream_options={"include_usage": True}))
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == answer
    assert chunks[-1].usage == whole.usage


def test_prompts_are_texts_or_tokens_one_or_several(client: openai.OpenAI, tiny_llm: RunningServer) -> None:
    tokens = tokenized(tiny_llm, prompt=FOX)[1]["tokens"]
    other = COMPLETIONS["function"]
    assert complete(client, tokens).choices[0].text == JUMPS
    for prompts in ([FOX, other.prompt], [tokens, tokenized(tiny_llm, prompt=other.prompt)[1]["tokens"]]):
        reply = complete(client, prompts, n=2)
        assert [choice.text for choice in reply.choices] == [JUMPS, JUMPS, other.answer, other.answer]
        assert [choice.index for choice in reply.choices] == [0, 1, 2, 3]
        alone = [complete(client, prompt).usage for prompt in prompts]
        assert reply.usage.prompt_tokens == sum(usage.prompt_tokens for usage in alone)
        assert reply.usage.completion_tokens == 2 * sum(usage.completion_tokens for usage in alone)


def test_a_prompt_is_told_again_if_it_is_wanted(client: openai.OpenAI, tiny_llm: RunningServer) -> None:
    assert complete(client, echo=True).choices[0].text == FOX + JUMPS
    chunks = complete(client, tokenized(tiny_llm, prompt=FOX)[1]["tokens"], echo=True, stream=True)
    assert "".join(chunk.choices[0].text for chunk in chunks) == FOX + JUMPS


def test_without_a_bound_there_are_sixteen_tokens(client: openai.OpenAI) -> None:
    reply = client.completions.create(model=MODEL, prompt=COMPLETIONS["alphabet"].prompt, temperature=0)
    assert reply.usage.completion_tokens == 16
    assert reply.choices[0].finish_reason == "length"


def test_logprobs_have_their_places_in_the_text(client: openai.OpenAI) -> None:
    choice = complete(client, logprobs=1).choices[0]
    logprobs = choice.logprobs
    assert "".join(logprobs.tokens) == choice.text
    assert all(
        choice.text.startswith(token, place) for token, place in zip(logprobs.tokens, logprobs.text_offset, strict=True)
    )
    assert [{token: value} for token, value in zip(logprobs.tokens, logprobs.token_logprobs, strict=True)] == [
        *logprobs.top_logprobs
    ]
    assert complete(client, logprobs=0).choices[0].logprobs.top_logprobs is None


def test_only_the_last_tokens_of_a_prompt_are_kept_if_it_is_wanted(client: openai.OpenAI) -> None:
    long = "one two three four five " * 2000
    with pytest.raises(openai.BadRequestError, match="maximum context length is 2048 tokens") as caught:
        complete(client, long)
    assert (caught.value.param, caught.value.code) == ("prompt", "context_length_exceeded")
    reply = complete(client, long + FOX, extra_body={"truncate_prompt_tokens": 50})
    assert reply.usage.prompt_tokens == 50
    filled = complete(client, long, max_tokens=8, extra_body={"truncate_prompt_tokens": -1})
    assert filled.usage.prompt_tokens == 2048 - 8


@pytest.mark.parametrize(
    ("asked", "param", "code"),
    [
        ({"prompt": []}, "prompt", None),
        ({"prompt": None}, "prompt", None),
        ({"prompt": ""}, "prompt", None),
        ({"prompt": {"a": 1}}, "prompt", None),
        ({"prompt": [[1, 2], "x", True]}, "prompt", None),
        ({"prompt": [10**9]}, "prompt", None),
        ({"prompt": ["x"] * 129}, "prompt", None),
        ({"best_of": 2}, "best_of", "unsupported_parameter"),
        ({"suffix": "x"}, "suffix", "unsupported_parameter"),
        ({"extra_body": {"num_assistant_tokens": 3}}, "num_assistant_tokens", "unsupported_parameter"),
        ({"logprobs": 3}, "logprobs", "unsupported_parameter"),
        ({"logprobs": 0, "echo": True}, "logprobs", "unsupported_parameter"),
        ({"extra_body": {"tools": []}}, "tools", None),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(
    client: openai.OpenAI, asked: dict[str, Any], param: str, code: str | None
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        complete(client, **asked)
    assert (caught.value.param, caught.value.code) == (param, code)


def test_tokens_are_told_of_texts_and_of_messages(client: openai.OpenAI, tiny_llm: RunningServer) -> None:
    status, reply = tokenized(tiny_llm, text=FOX, return_token_strs=True)
    assert status == 200
    assert reply["count"] == len(reply["tokens"]) == complete(client).usage.prompt_tokens
    assert reply["max_model_len"] == 2048
    assert "".join(reply["token_strs"]) == FOX
    assert tokenized(tiny_llm, prompt=FOX)[1]["tokens"] == reply["tokens"]
    assert tokenized(tiny_llm, text=[FOX, FOX])[1]["tokens"] == [reply["tokens"]] * 2
    chat = client.chat.completions.create(model=MODEL, messages=messages("capital"), max_tokens=1)
    assert chat.usage is not None
    assert tokenized(tiny_llm, messages=messages("capital"))[1]["count"] == chat.usage.prompt_tokens


@pytest.mark.parametrize(
    ("asked", "status", "param"),
    [
        ({}, 400, "prompt"),
        ({"text": "x", "prompt": "x"}, 400, "prompt"),
        ({"text": 5}, 400, "text"),
        ({"text": "x", "max_length": 5}, 400, "max_length"),
        ({"text": "x", "model": "nobody"}, 404, "model"),
        ({"text": "x", "model": ""}, 400, "model"),
    ],
)
def test_what_has_no_tokens_is_refused(
    tiny_llm: RunningServer, asked: dict[str, Any], status: int, param: str | None
) -> None:
    answered, reply = tokenized(tiny_llm, **asked)
    assert (answered, reply["error"]["param"]) == (status, param)
