"""Messages between two processes: whole, in order, or an error."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from threading import Thread
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vintner_backends.process_channel import LENGTH, Channel

scalars = st.none() | st.booleans() | st.integers() | st.text() | st.binary()
values = scalars | st.lists(scalars) | st.dictionaries(st.text(), scalars)
Ends = tuple[Channel, Channel]


@pytest.fixture
def ends() -> Iterator[Ends]:
    first, second = (Channel(end) for end in socket.socketpair())
    yield first, second
    first.close()
    second.close()


@given(st.lists(st.lists(values), max_size=5))
def test_messages_arrive_as_they_were_sent(messages: list[list[Any]]) -> None:
    first, second = (Channel(end) for end in socket.socketpair())
    for message in messages:
        first.send(*message)
    assert [list(second.receive(5)) for _ in messages] == messages
    assert second.is_quiet()
    first.close()
    second.close()


def test_a_message_larger_than_the_sockets_buffer_arrives(ends: Ends) -> None:
    sender = Thread(target=ends[0].send, args=(b"x" * 5_000_000,))
    sender.start()
    assert ends[1].receive(20) == (b"x" * 5_000_000,)
    sender.join()


def test_what_came_together_is_known_without_a_look(ends: Ends) -> None:
    ends[0].send(1)
    ends[0].send(2)
    assert not ends[1].is_quiet()
    assert not ends[1].has_message()
    assert ends[1].receive(5) == (1,)
    assert ends[1].has_message()
    assert ends[1].receive(5) == (2,)
    assert not ends[1].has_message()


def test_the_end_of_the_other_is_an_error(ends: Ends) -> None:
    ends[0].close()
    with pytest.raises(EOFError):
        ends[1].receive(5)
    with pytest.raises(OSError):
        ends[1].send("anybody?")


def test_a_message_that_was_cut_off_is_none() -> None:
    raw, end = socket.socketpair()
    channel = Channel(end)
    raw.sendall(LENGTH.pack(100) + b"half")
    raw.close()
    with pytest.raises(EOFError):
        channel.receive(5)
    channel.close()


def test_silence_is_told(ends: Ends) -> None:
    with pytest.raises(TimeoutError):
        ends[1].receive(0.01)
