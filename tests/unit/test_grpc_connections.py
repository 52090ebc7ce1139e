"""What a server does with its connections is what its settings say, seen by a client that speaks frames."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from http2_peer import ENHANCE_YOUR_CALM, NO_ERROR, Event, Http2Peer
from vintner.executor import LeanExecutor
from vintner.grpc_connections import LARGEST, ConnectionSettings, channel_arguments

WAIT = 10.0
TOO_MANY_PINGS = Event("goaway", ENHANCE_YOUR_CALM, "too_many_pings")
METHOD = "/test/Wait"

Serve = Callable[[ConnectionSettings], str]


@pytest.fixture
def released() -> threading.Event:
    """What the method waits for."""
    return threading.Event()


@pytest.fixture
def serve(released: threading.Event) -> Iterator[Serve]:
    """Starts a server with these settings, in this process; returns its address."""
    executor = LeanExecutor(2, "test")
    servers = []

    def wait(message: bytes, context: Any) -> bytes:
        released.wait(WAIT)
        return message

    def begin(settings: ConnectionSettings) -> str:
        server = grpc.server(executor, options=channel_arguments(settings, LARGEST))
        method = grpc.unary_unary_rpc_method_handler(wait)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test", {"Wait": method}),))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        servers.append(server)
        return f"127.0.0.1:{port}"

    yield begin
    released.set()
    for server in servers:
        server.stop(0).wait(WAIT)
    executor.shutdown()


def first(peer: Http2Peer, kind: str) -> Event:
    for event in peer.events():
        if event.kind == kind:
            return event
    raise AssertionError(f"no {kind} came")


def after_pings(peer: Http2Peer, number: int) -> list[Event]:
    """What comes of so many pings, each sent when the one before was answered, until the connection ends."""
    seen = []
    peer.ping()
    for event in peer.events():
        seen.append(event)
        if event.kind == "end" or seen.count(Event("pong")) == number:
            return seen
        if event.kind == "pong":
            peer.ping()
    raise AssertionError(f"only {seen} came")


def test_what_is_not_set_is_left_to_the_core() -> None:
    assert dict(channel_arguments(ConnectionSettings(), 7)) == {
        "grpc.so_reuseport": 0,
        "grpc.max_receive_message_length": 7,
        "grpc.max_send_message_length": -1,
    }


def test_times_are_whole_milliseconds_and_never_beyond_the_largest() -> None:
    arguments = dict(channel_arguments(ConnectionSettings(keepalive=0.1004, max_age=1e12, max_age_grace=0.0), 1))
    assert arguments["grpc.keepalive_time_ms"] == 100
    assert arguments["grpc.max_connection_age_ms"] == LARGEST
    assert arguments["grpc.max_connection_age_grace_ms"] == 0
    grpc.server(LeanExecutor(1, "test"), options=list(arguments.items()))  # which takes 32 bits at most


def test_a_silent_client_is_asked_for_a_sign_of_life(serve: Serve) -> None:
    address = serve(ConnectionSettings(keepalive=0.1, keepalive_without_calls=True))
    with Http2Peer(address) as peer:
        assert first(peer, "ping")
        assert first(peer, "ping")


def test_a_client_without_a_call_is_left_alone_unless_that_is_allowed(serve: Serve) -> None:
    with Http2Peer(serve(ConnectionSettings(keepalive=0.1))) as peer:
        assert list(peer.events(0.5)) == []


def test_a_client_that_gives_no_sign_of_life_loses_its_connection(serve: Serve) -> None:
    settings = ConnectionSettings(keepalive=0.1, keepalive_timeout=0.1, keepalive_without_calls=True)
    with Http2Peer(serve(settings), answers=False) as peer:
        assert [event.kind for event in peer.events()] == ["ping", "goaway", "end"]

    def is_let_be() -> bool:
        with Http2Peer(serve(settings)) as alive:
            return {event.kind for event in alive.events(0.5)} == {"ping"}

    assert any(is_let_be() for _ in range(10)), "a machine that stalls may keep an answer back, but not each time"


@pytest.mark.parametrize("strikes", [None, 1, 6])
def test_a_client_that_pings_too_often_is_told_to_calm_down(serve: Serve, strikes: int | None) -> None:
    """The first ping is never early, and the one after the last strike may be answered before the connection ends."""
    with Http2Peer(serve(ConnectionSettings(max_ping_strikes=strikes))) as peer:
        events = after_pings(peer, 20)
        forgiven = 2 if strikes is None else strikes
        assert events[: forgiven + 3] == [Event("pong")] * (forgiven + 2) + [TOO_MANY_PINGS]
        assert events[-1] == Event("end")


@pytest.mark.parametrize(
    "settings",
    [ConnectionSettings(max_ping_strikes=0), ConnectionSettings(min_ping_interval=0.0, keepalive_without_calls=True)],
    ids=["any number of strikes", "no interval to leave"],
)
def test_pings_may_be_allowed(serve: Serve, settings: ConnectionSettings) -> None:
    with Http2Peer(serve(settings)) as peer:
        assert after_pings(peer, 20) == [Event("pong")] * 20


def test_an_old_connection_is_closed(serve: Serve) -> None:
    with Http2Peer(serve(ConnectionSettings(max_age=0.2))) as peer:
        events = [event for event in peer.events() if event.kind != "ping"]
        assert events == [Event("goaway", NO_ERROR, "max_age")] * 2 + [Event("end")]


def test_calls_under_way_on_an_old_connection_have_the_grace_time(serve: Serve, released: threading.Event) -> None:
    for grace, code in ((0.2, "UNAVAILABLE"), (None, "OK")):
        with grpc.insecure_channel(serve(ConnectionSettings(max_age=0.2, max_age_grace=grace))) as channel:
            call = channel.unary_unary(METHOD).future(b"x", timeout=WAIT)
            if code == "OK":
                with pytest.raises(grpc.FutureTimeoutError):
                    call.result(timeout=0.8)  # longer than it lived with a grace time
                released.set()
            assert call.code().name == code
