"""Answers of the OpenAI API, whole and in chunks, of whatever pieces were generated."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from vintner.openai_answers import ChatWriter, Head, TextWriter
from vintner.output_parsers import parser_for
from vintner.prompts import Piece, TokenLogprob

HEAD = Head("chatcmpl-1", 7, "m", "f")
CALL = '<think>\nhm\n</think>\n\nSo: <tool_call>\n{"name": "look", "arguments": {"at": "Ω"}}\n</tool_call>'


def chat(n: int = 1, **more: Any) -> ChatWriter:
    parsers = [parser_for(tool="hermes", reasoning="think", new_id=lambda: "call_1") for _ in range(n)]
    return ChatWriter(HEAD, 5, parsers, **more)


def pieces(text: str, cuts: Sequence[int], index: int = 0, finish: Any = "stop") -> list[Piece]:
    """The text in pieces of a token each."""
    places = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    parts = [text[begin:end] for begin, end in pairwise(places)]
    return [Piece(index, part, 1) for part in parts[:-1]] + [Piece(index, parts[-1], 1, finish=finish)]


def told(writer: ChatWriter | TextWriter, given: Sequence[Piece]) -> list[dict[str, Any]]:
    return [json.loads(chunk) for piece in given for chunk in writer.chunks(piece)]


@given(st.lists(st.integers(0, 200), max_size=12))
def test_the_chunks_of_a_chat_say_what_the_whole_answer_says(cuts: list[int]) -> None:
    given = pieces(CALL, cuts)
    (choice,) = json.loads(chat().document(given))["choices"]
    message: dict[str, Any] = {"content": "", "reasoning_content": ""}
    arguments, calls, reasons = "", [], []
    for chunk in told(chat(), given):
        delta = chunk["choices"][0]["delta"]
        for key in message:
            message[key] += delta.get(key) or ""
        for call in delta.get("tool_calls", []):
            calls += [call] if "id" in call else []
            arguments += call["function"]["arguments"]
        reasons.append(chunk["choices"][0]["finish_reason"])
    assert message == {key: choice["message"][key] for key in message}
    (whole,) = choice["message"]["tool_calls"]
    assert [(call["id"], call["type"], call["function"]["name"]) for call in calls] == [("call_1", "function", "look")]
    assert arguments == whole["function"]["arguments"]
    assert json.loads(arguments) == {"at": "Ω"}
    assert reasons == [None] * (len(reasons) - 1) + ["tool_calls"]
    assert choice["finish_reason"] == "tool_calls"


def test_the_first_chunk_of_each_choice_has_the_role() -> None:
    writer = chat(2)
    chunks = told(writer, [Piece(1, "b", 1), Piece(0, "a", 1), Piece(1, "", 0, finish="stop")])
    roles = [(chunk["choices"][0]["index"], chunk["choices"][0]["delta"].get("role")) for chunk in chunks]
    assert roles == [(1, "assistant"), (1, None), (0, "assistant"), (0, None), (1, None)]


def test_an_answer_that_was_cut_off_in_a_call_has_length_as_its_reason() -> None:
    (choice,) = json.loads(chat().document(pieces(CALL[:-20], [3], finish="length")))["choices"]
    assert choice["finish_reason"] == "length"


def test_one_call_is_told_where_they_are_not_parallel_and_nothing_else_where_it_was_forced() -> None:
    two = CALL + CALL[CALL.index("<tool_call>") :]
    message = json.loads(chat(parallel=False, calls_only=True).document(pieces(two, [])))["choices"][0]["message"]
    assert len(message["tool_calls"]) == 1
    assert message["content"] is None
    assert "reasoning_content" not in message
    assert len(json.loads(chat().document(pieces(two, [])))["choices"][0]["message"]["tool_calls"]) == 2


def test_usage_counts_all_choices_and_comes_last_in_a_stream() -> None:
    given = [*pieces("ab", [1], 0), *pieces("cde", [1, 2], 1)]
    usage = {"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 10}
    assert json.loads(chat(2).document(given))["usage"] == usage
    writer = chat(2, with_usage=True)
    assert {chunk["usage"] for chunk in told(writer, given)} == {None}
    last = writer.last_chunk()
    assert last is not None
    assert (json.loads(last)["choices"], json.loads(last)["usage"]) == ([], usage)
    assert chat().last_chunk() is None


def test_logprobs_come_with_text_that_is_held_back() -> None:
    """Of the begin of a mark, which is no text yet."""
    writer = chat(token_bytes=lambda token: bytes([token]), likeliest=1)
    begin = Piece(0, "<", 1, [TokenLogprob(60, -0.5)])
    entry = {"token": "<", "logprob": -0.5, "bytes": [60]}
    chunk = told(writer, [begin])[1]["choices"][0]
    assert chunk["logprobs"]["content"] == [{**entry, "top_logprobs": [entry]}]
    assert chunk["delta"] == {"content": ""}


def test_a_token_that_is_a_part_of_a_character_is_told_by_its_bytes() -> None:
    writer = chat(token_bytes=lambda token: b"\xce")
    (choice,) = json.loads(writer.document([Piece(0, "Ω", 1, [TokenLogprob(1, -1.0)], "stop")]))["choices"]
    assert choice["logprobs"]["content"][0] == {"token": "\ufffd", "logprob": -1.0, "bytes": [206], "top_logprobs": []}


@given(st.lists(st.integers(0, 60), max_size=6), st.lists(st.integers(0, 60), max_size=6))
def test_the_chunks_of_a_completion_say_what_the_whole_says(first: list[int], second: list[int]) -> None:
    given = [*pieces("a glass of red", first, 0), *pieces("or two", second, 1, "length")]
    writer = lambda: TextWriter(HEAD, 5, ["echoed ", ""])  # noqa: E731
    choices = json.loads(writer().document(given))["choices"]
    assert [(one["text"], one["finish_reason"]) for one in choices] == [
        ("echoed a glass of red", "stop"),
        ("or two", "length"),
    ]
    texts, reasons = ["", ""], [[], []]  # type: ignore[var-annotated]
    for chunk in told(writer(), given):
        (choice,) = chunk["choices"]
        texts[choice["index"]] += choice["text"]
        reasons[choice["index"]] += [choice["finish_reason"]] if choice["finish_reason"] else []
    assert texts == [one["text"] for one in choices]
    assert reasons == [["stop"], ["length"]]


def test_the_places_of_tokens_go_on_from_piece_to_piece() -> None:
    writer = TextWriter(HEAD, 1, ["ab"], token_bytes=lambda token: b"x" * token, likeliest=1)
    made = [Piece(0, "xxx", 2, [TokenLogprob(1, -1.0), TokenLogprob(2, -2.0)]), Piece(0, "x", 1, [TokenLogprob(1, 0)])]
    logprobs = [chunk["choices"][0]["logprobs"] for chunk in told(writer, made)]
    assert [each["text_offset"] for each in logprobs] == [[2, 3], [5]]
    assert logprobs[0]["top_logprobs"] == [{"x": -1.0}, {"xx": -2.0}]
    assert logprobs[0]["token_logprobs"] == [-1.0, -2.0]


def test_all_tokens_of_a_character_have_its_place() -> None:
    spelled = [b"a", "Ω".encode()[:1], "Ω".encode()[1:], b"b"]
    writer = TextWriter(HEAD, 1, ["", ""], token_bytes=spelled.__getitem__)
    made = [Piece(0, "a", 2, [TokenLogprob(0, 0), TokenLogprob(1, 0)]), Piece(1, "a", 1, [TokenLogprob(0, 0)])]
    made += [Piece(0, "Ωb", 2, [TokenLogprob(2, 0), TokenLogprob(3, 0)], finish="stop")]
    logprobs = [chunk["choices"][0]["logprobs"] for chunk in told(writer, made)]
    assert [each["text_offset"] for each in logprobs] == [[0, 1], [0], [1, 2]]
