"""Chats by OpenAI's own client, with the language model that ships."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from running_server import RunningServer
from tiny_chats import CHATS, answer, messages, tools

MODEL = "tiny_llm"
PLAIN = [name for name, chat in CHATS.items() if not chat.tools and not chat.thinking]
WEATHER = tools("tool")
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"enum": ["Bob"]},
        "age": {"type": "integer"},
        "skills": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["name", "age", "skills"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def client(tiny_llm: RunningServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"http://{tiny_llm.http}/v1", api_key="none", max_retries=0) as client:
        yield client


def ask(client: openai.OpenAI, name: str, **asked: Any) -> Any:
    return client.chat.completions.create(model=MODEL, messages=messages(name), **{"temperature": 0, **asked})


def joined(chunks: Any) -> tuple[str, str, list[str]]:
    """Content, thoughts and reasons to finish."""
    content, thoughts, reasons = "", "", []
    for chunk in chunks:
        for choice in chunk.choices:
            content += choice.delta.content or ""
            thoughts += getattr(choice.delta, "reasoning_content", None) or ""
            reasons += [choice.finish_reason] if choice.finish_reason else []
    return content, thoughts, reasons


@pytest.mark.parametrize("name", PLAIN)
def test_an_answer_is_right_whole_and_in_a_stream(client: openai.OpenAI, name: str) -> None:
    whole = ask(client, name)
    assert whole.choices[0].message.content == answer(name)
    assert (whole.object, whole.model, whole.choices[0].finish_reason) == ("chat.completion", MODEL, "stop")
    assert whole.id.startswith("chatcmpl-")
    assert joined(ask(client, name, stream=True)) == (answer(name), "", ["stop"])


def test_a_developer_speaks_for_the_system_and_no_role_is_passed_over(client: openai.OpenAI) -> None:
    system, *rest = messages("capital_loud")
    reply = client.chat.completions.create(
        model=MODEL, messages=[{**system, "role": "developer"}, *rest], temperature=0
    )
    assert reply.choices[0].message.content == answer("capital_loud")
    with pytest.raises(openai.BadRequestError, match="does not show 'judge'") as caught:
        client.chat.completions.create(model=MODEL, messages=[{**system, "role": "judge"}, *rest])  # type: ignore[list-item]
    assert caught.value.param == "messages"


def test_usage_is_the_same_whole_and_in_a_stream(client: openai.OpenAI) -> None:
    whole = ask(client, "story")
    chunks = list(ask(client, "story", stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert all(chunk.usage is None for chunk in chunks[:-1])
    usage = whole.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert 100 < usage.completion_tokens < len(answer("story"))
    assert {chunk.id for chunk in chunks} == {chunks[0].id}


def test_the_length_of_an_answer_is_bounded(client: openai.OpenAI) -> None:
    for name in ("max_tokens", "max_completion_tokens"):
        reply = ask(client, "story", **{name: 7})
        assert reply.usage.completion_tokens == 7
        assert reply.choices[0].finish_reason == "length"
        assert answer("story").startswith(reply.choices[0].message.content)


def test_an_answer_goes_on_when_its_end_is_ignored(client: openai.OpenAI) -> None:
    reply = ask(client, "yes", max_tokens=20, extra_body={"ignore_eos": True})
    assert reply.usage.completion_tokens == 20
    reply = ask(client, "yes", max_tokens=20, extra_body={"min_tokens": 12})
    assert 12 <= reply.usage.completion_tokens <= 20


def test_an_answer_ends_before_a_stop_string(client: openai.OpenAI) -> None:
    before = answer("stop_words").split("STOP", maxsplit=1)[0]
    for stop in ("STOP", ["never", "STOP"]):
        reply = ask(client, "stop_words", stop=stop)
        assert reply.choices[0].message.content == before
        assert reply.choices[0].finish_reason == "stop"
        assert joined(ask(client, "stop_words", stop=stop, stream=True)) == (before, "", ["stop"])
    included = ask(client, "stop_words", stop="STOP", extra_body={"include_stop_str_in_output": True})
    assert included.choices[0].message.content == before + "STOP"
    assert included.usage.completion_tokens < ask(client, "stop_words").usage.completion_tokens


def test_several_answers_come_whole_and_in_a_stream(client: openai.OpenAI) -> None:
    whole = ask(client, "capital", n=3)
    assert [choice.index for choice in whole.choices] == [0, 1, 2]
    assert {choice.message.content for choice in whole.choices} == {answer("capital")}
    alone = ask(client, "capital").usage
    assert whole.usage.prompt_tokens == alone.prompt_tokens
    assert whole.usage.completion_tokens == 3 * alone.completion_tokens
    texts = dict.fromkeys(range(3), "")
    for chunk in ask(client, "capital", n=3, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert set(texts.values()) == {answer("capital")}


def test_a_seed_makes_random_answers_the_same(client: openai.OpenAI) -> None:
    def drawn(seed: int) -> list[str]:
        reply = client.chat.completions.create(
            model=MODEL, messages=messages("story"), temperature=2.0, seed=seed, n=2, max_tokens=30
        )
        return [choice.message.content or "" for choice in reply.choices]

    first = drawn(5)
    assert drawn(5) == first
    assert first[0] != first[1]
    assert drawn(-6) != first


def test_without_a_temperature_an_answer_is_sampled(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "Roll a die."}], n=20, seed=1
    )
    assert len({choice.message.content for choice in reply.choices}) > 2
    greedy = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "Roll a die."}], n=20, seed=1, extra_body={"top_k": 1}
    )
    assert len({choice.message.content for choice in greedy.choices}) == 1


def test_logprobs_are_of_the_tokens_of_the_answer(client: openai.OpenAI) -> None:
    whole = ask(client, "greek", logprobs=True, top_logprobs=1)
    content = whole.choices[0].logprobs.content
    assert len(content) == whole.usage.completion_tokens
    assert bytes(byte for token in content for byte in token.bytes).decode() == answer("greek")
    assert all(token.logprob <= 0 and token.top_logprobs[0].token == token.token for token in content)
    streamed = [
        token
        for chunk in ask(client, "greek", logprobs=True, stream=True)
        for choice in chunk.choices
        for token in (choice.logprobs.content if choice.logprobs else [])
    ]
    assert [token.token for token in streamed] == [token.token for token in content]
    assert [token.top_logprobs for token in streamed] == [[]] * len(streamed)


def test_an_answer_follows_a_schema(client: openai.OpenAI) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA, "strict": True}}
    made = json.loads(ask(client, "json", response_format=wanted, max_tokens=200).choices[0].message.content)
    assert made["name"] == "Bob"
    assert {type(skill) for skill in made["skills"]} == {str}
    anything = ask(client, "json", response_format={"type": "json_object"}, max_tokens=200)
    assert json.loads(anything.choices[0].message.content) == json.loads(answer("json"))


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ({"guided_choice": ["seven", "eight"]}, ("seven", "eight")),
        ({"guided_regex": "[0-9]{3}x"}, None),
        ({"structured_outputs": {"choice": ["no.", "yes."]}}, ("no.", "yes.")),
        ({"structured_outputs": {"regex": "[0-9]{3}x"}}, None),
    ],
)
def test_an_answer_follows_other_constraints(
    client: openai.OpenAI, extra: dict[str, Any], expected: tuple[str, ...] | None
) -> None:
    text = ask(client, "capital", max_tokens=40, extra_body=extra).choices[0].message.content
    if expected is None:
        assert text[:3].isdigit()
        assert text[3:] == "x"
    else:
        assert text in expected


def test_thoughts_are_told_from_the_answer(client: openai.OpenAI) -> None:
    thinking = {"chat_template_kwargs": {"enable_thinking": True}}
    thoughts, _, content = answer("think_capital").removeprefix("<think>\n").partition("\n</think>\n\n")
    message = ask(client, "think_capital", extra_body=thinking).choices[0].message
    assert message.content == content
    assert message.reasoning_content == thoughts
    assert joined(ask(client, "think_capital", extra_body=thinking, stream=True)) == (content, thoughts, ["stop"])


def calls_in(chunks: Any) -> tuple[list[dict[str, str]], list[str]]:
    calls: list[dict[str, str]] = []
    reasons = []
    for chunk in chunks:
        choice = chunk.choices[0]
        reasons += [choice.finish_reason] if choice.finish_reason else []
        for delta in choice.delta.tool_calls or []:
            if delta.id:
                assert delta.index == len(calls)
                calls.append({"name": delta.function.name, "arguments": ""})
            calls[delta.index]["arguments"] += delta.function.arguments or ""
    return calls, reasons


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("tool", [("get_weather", "Paris")]),
        ("tool_of_two", [("get_time", "Paris")]),
        ("tools_at_once", [("get_weather", "Paris"), ("get_weather", "Athens")]),
    ],
)
def test_calls_of_tools_are_read_whole_and_in_a_stream(
    client: openai.OpenAI, name: str, expected: list[tuple[str, str]]
) -> None:
    known = tools(name)
    choice = ask(client, name, tools=known).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    told = [(call.function.name, json.loads(call.function.arguments)["city"]) for call in choice.message.tool_calls]
    assert told == expected
    assert len({call.id for call in choice.message.tool_calls}) == len(expected)
    calls, reasons = calls_in(ask(client, name, tools=known, stream=True))
    assert [(call["name"], json.loads(call["arguments"])["city"]) for call in calls] == expected
    assert reasons == ["tool_calls"]


def test_one_call_is_told_if_they_are_not_to_be_parallel(client: openai.OpenAI) -> None:
    choice = ask(client, "tools_at_once", tools=WEATHER, parallel_tool_calls=False).choices[0]
    assert [json.loads(call.function.arguments)["city"] for call in choice.message.tool_calls] == ["Paris"]


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
def test_a_call_of_a_tool_can_be_forced(client: openai.OpenAI, choice: Any) -> None:
    """Of a model that would not call any, and knows nothing of Rome. JSON may have space anywhere, which this model
    writes up to the bound, so that its answers may end there."""
    schema = {"type": "object", "properties": {"city": {"enum": ["Rome"]}}, "required": ["city"]}
    function = {"name": "get_weather", "parameters": {**schema, "additionalProperties": False}}
    asked = {"tools": [{"type": "function", "function": function}], "tool_choice": choice, "parallel_tool_calls": False}
    reply = ask(client, "tool_not_needed", **asked, max_tokens=400).choices[0]
    assert reply.finish_reason in ("tool_calls", "length")
    assert reply.message.content is None
    (call,) = reply.message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": "Rome"})
    calls, reasons = calls_in(ask(client, "tool_not_needed", **asked, max_tokens=400, stream=True))
    assert reasons == [reply.finish_reason]
    assert [(call["name"], json.loads(call["arguments"])) for call in calls] == [("get_weather", {"city": "Rome"})]


def test_tools_need_not_be_called(client: openai.OpenAI) -> None:
    assert ask(client, "tool_not_needed", tools=WEATHER).choices[0].message.content == answer("tool_not_needed")
    none = ask(client, "no_tool", tools=WEATHER, tool_choice="none").choices[0]
    assert none.message.content == answer("no_tool")
    assert none.message.tool_calls is None
    after = client.chat.completions.create(model=MODEL, messages=messages("tool_answer"), tools=WEATHER, temperature=0)
    assert after.choices[0].message.content == answer("tool_answer")


def test_the_last_message_can_be_continued(client: openai.OpenAI) -> None:
    begun = answer("capital")[:16]
    reply = client.chat.completions.create(
        model=MODEL,
        messages=[*messages("capital"), {"role": "assistant", "content": begun}],
        temperature=0,
        extra_body={"continue_final_message": True},
    )
    assert reply.choices[0].message.content


def test_the_asynchronous_client_has_many_answers_at_once(tiny_llm: RunningServer) -> None:
    async def one(client: openai.AsyncOpenAI, name: str, stream: bool) -> str:
        asked: Any = {"model": MODEL, "messages": messages(name), "temperature": 0}
        if not stream:
            reply = await client.chat.completions.create(**asked)
            return reply.choices[0].message.content or ""
        text = ""
        async for chunk in await client.chat.completions.create(**asked, stream=True):
            text += chunk.choices[0].delta.content or ""
        return text

    async def all_of_them() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"http://{tiny_llm.http}/openai/v1", api_key="none") as client:
            return await asyncio.gather(*(one(client, name, stream) for name in PLAIN for stream in (False, True)))

    assert asyncio.run(all_of_them()) == [answer(name) for name in PLAIN for _ in range(2)]


def test_models_are_listed_and_found_below_each_prefix(tiny_llm: RunningServer) -> None:
    for prefix in ("v1", "openai/v1", "v3"):
        with openai.OpenAI(base_url=f"http://{tiny_llm.http}/{prefix}", api_key="none", max_retries=0) as client:
            assert [model.id for model in client.models.list()] == [MODEL]
            assert client.models.retrieve(MODEL).id == MODEL
            with pytest.raises(openai.NotFoundError):
                client.models.retrieve("nobody")
            assert ask(client, "yes").choices[0].message.content == answer("yes")


@pytest.mark.parametrize(
    ("asked", "param", "code"),
    [
        ({"logit_bias": {"5": 1}}, "logit_bias", "unsupported_parameter"),
        ({"top_logprobs": 3, "logprobs": True}, "top_logprobs", "unsupported_parameter"),
        ({"top_logprobs": 1}, "top_logprobs", None),
        ({"temperature": 2.5}, "temperature", None),
        ({"top_p": 0}, "top_p", None),
        ({"n": 0}, "n", None),
        ({"max_tokens": 0}, "max_tokens", None),
        ({"max_tokens": 1, "max_completion_tokens": 2}, "max_completion_tokens", None),
        ({"stop": [""]}, "stop", None),
        ({"store": True}, "store", "unsupported_parameter"),
        ({"service_tier": "flex"}, "service_tier", "unsupported_parameter"),
        ({"stream_options": {"include_usage": True}}, "stream_options", None),
        ({"tool_choice": "auto"}, "tool_choice", None),
        ({"tools": WEATHER, "tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice", None),
        ({"tools": [{"type": "custom"}]}, "tools[0]", None),
        ({"response_format": {"type": "yaml"}}, "response_format", None),
        ({"tools": WEATHER, "response_format": {"type": "json_object"}}, "tools", "unsupported_parameter"),
        ({"max_tokens": 4000}, "messages", "context_length_exceeded"),
        ({"extra_body": {"guided_regex": "("}}, "guided_regex", None),
        ({"extra_body": {"temprature": 1}}, "temprature", None),
        ({"extra_body": {"stop_token_ids": [99999]}}, "stop_token_ids", None),
        ({"extra_body": {"chat_template": "x"}}, "chat_template", "unsupported_parameter"),
        ({"extra_body": {"skip_special_tokens": False}}, "skip_special_tokens", "unsupported_parameter"),
        ({"messages": []}, "messages", None),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages", None),
        ({"messages": [{"content": "x"}]}, "messages", None),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_done_is_refused_by_name(
    client: openai.OpenAI, asked: dict[str, Any], param: str, code: str | None, stream: bool
) -> None:
    if stream and "stream_options" in asked:
        asked = {"stream_options": {"include_everything": True}}
        param = "stream_options.include_everything"
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**{"model": MODEL, "messages": messages("yes"), "stream": stream, **asked})
    assert caught.value.param == param
    assert caught.value.code == code
    assert caught.value.type == "invalid_request_error"


@pytest.mark.parametrize("stream", [False, True])
def test_an_unknown_model_is_not_found(client: openai.OpenAI, stream: bool) -> None:
    for name in ("nobody", "tiny_llm:nobody"):
        with pytest.raises(openai.NotFoundError) as caught:
            client.chat.completions.create(model=name, messages=messages("yes"), stream=stream)
        assert (caught.value.param, caught.value.code) == ("model", "model_not_found")


def test_what_only_marks_a_request_is_accepted(client: openai.OpenAI) -> None:
    marks: Any = {"user": "ada", "metadata": {"a": "b"}, "store": False, "service_tier": "auto", "logit_bias": {}}
    assert ask(client, "yes", **marks).choices[0].message.content == answer("yes")
