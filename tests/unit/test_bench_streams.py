"""The load of token streams that the bench makes: what it reads off the wire, and what is made of it."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import report
from bench.prompts import Prompt, prompt
from bench.stream_wires import (
    ACK,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    OK,
    SETTINGS,
    BadAnswer,
    Event,
    GrpcWire,
    SseRoute,
    SseWire,
    Wire,
    frame,
    generate_body,
)
from bench.streaming import Taken, points
from bench.token_streams import Streamed

ASKED = Prompt("hello", 3)
ROUTE = SseRoute("model", "/v2/models/model/generate_stream", generate_body)
HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def message(data: bytes) -> bytes:
    return struct.pack(">BI", 0, len(data)) + data


def fed(wire: Wire, parts: Sequence[bytes]) -> list[Event]:
    return [event for part in parts for event in wire.feed(part)]


def test_lengths_are_spread_around_their_mean_and_no_prompt_comes_twice() -> None:
    made = [prompt(number, 64) for number in range(6500)]
    assert len({one.text for one in made}) == len(made)
    assert {one.tokens for one in made} == set(range(32, 97))
    assert sum(one.tokens for one in made) == 64 * len(made)


def test_events_are_pieces_until_the_last_chunk() -> None:
    wire = SseWire(ROUTE)
    assert b'"max_tokens": 3' in wire.request(7, ASKED)
    parts = [HEAD, chunk(b'data: {"text_output":"a"}\n\n'), chunk(b'data: {"text_output":"b"}\n\n'), b"0\r\n\r\n"]
    assert fed(wire, parts) == [(7, "piece"), (7, "piece"), (7, "end")]


@given(st.integers(1, 200))
def test_an_answer_ends_once_wherever_it_is_cut(place: int) -> None:
    wire = SseWire(ROUTE)
    wire.request(7, ASKED)
    whole = HEAD + chunk(b'data: {"text_output":"a"}\n\n') + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"
    events = fed(wire, [whole[:place], whole[place:]])
    assert events[-1] == (7, "end")
    assert events.count((7, "end")) == 1
    assert (7, "piece") in events


@pytest.mark.parametrize(
    "answer",
    [
        b'HTTP/1.1 503 Service Unavailable\r\n\r\n{"error":"no"}',
        HEAD + chunk(b'data: {"error":"it failed"}\n\n'),
    ],
)
def test_an_error_of_events_is_no_answer(answer: bytes) -> None:
    wire = SseWire(ROUTE)
    wire.request(7, ASKED)
    with pytest.raises(BadAnswer):
        fed(wire, [answer])


@given(st.integers(1, 120))
def test_calls_of_one_connection_are_told_apart_wherever_the_bytes_are_cut(place: int) -> None:
    wire = GrpcWire("model")
    wire.request(1, ASKED)
    wire.request(2, ASKED)
    piece = message(b"\x12\x00")
    whole = b"".join(
        (
            frame(SETTINGS, 0, 0),
            frame(HEADERS, END_HEADERS, 3, b"\x88"),
            frame(DATA, 0, 3, piece),
            frame(DATA, 0, 1, piece),
            frame(HEADERS, END_HEADERS | END_STREAM, 3, b"\x40\x0b" + OK),
            frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\xbf\xbe"),
        )
    )
    events = fed(wire, [whole[:place], whole[place:]])
    assert events == [(2, "piece"), (1, "piece"), (2, "end"), (1, "end")]
    assert wire.reply() == frame(SETTINGS, ACK, 0)
    assert wire.reply() == b""


@pytest.mark.parametrize(
    "answer",
    [
        frame(DATA, 0, 1, message(b"\x0a\x02no")),
        frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\x40\x0bgrpc-status\x0213"),
    ],
)
def test_an_error_of_grpc_is_no_answer(answer: bytes) -> None:
    wire = GrpcWire("model")
    wire.request(1, ASKED)
    with pytest.raises(BadAnswer):
        fed(wire, [answer])


def test_first_tokens_are_held_against_those_of_the_first_way() -> None:
    bare = Taken(Streamed(2.0, 128, [0.010, 0.020, 0.030], [0.001]), 1.0)
    served = Taken(Streamed(4.0, 128, [0.030, 0.040, 0.050], [0.002], 64), 1.0)
    first, second = points("tokens", 8, {"bare": [bare], "served": [served]})
    assert (first.tokens, first.first_p50, first.later, first.tokens_a_piece) == (64.0, 20.0, 0.0, 0.0)
    assert (second.tokens, second.per_token_p50, second.later, second.tokens_a_piece) == (32.0, 2.0, 20.0, 2.0)
    table = report.streams_table([first, second]).splitlines()
    assert not table[1].endswith("MISSED")
    assert table[2].endswith("MISSED")
