"""deploy/envoy/envoy.yaml while servers are killed, told to stop, and started again; and streams through it."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import openai
import pytest
from balanced_calls import ENDLESS, Stream, chat_calls, grpc_calls, openai_client, rest_calls, stream_calls
from front_proxy import Envoy, envoy
from held_backend import held
from infer_calls import Background
from running_server import RunningServer
from server_pool import DOUBLE, LANGUAGE, ROWS, ServerPool, server_pool
from steady_load import steady_load
from tritonclient.utils import InferenceServerException
from waiting import wait_until

DRAIN = 5
"""Seconds: Envoy asks once a second, and believes the second answer."""
ENDS = 40.0


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerPool]:
    """Both servers are there at the beginning of each test."""
    with server_pool(tmp_path_factory.mktemp("pool"), 2, f"--drain-seconds={DRAIN}", language=True) as pool:
        yield pool


@pytest.fixture(params=[True, False], ids=["retries", "no-retries"])
def proxy(request: pytest.FixtureRequest, pool: ServerPool, tmp_path: Path) -> Iterator[Envoy]:
    yield from in_front(pool, tmp_path, retries=request.param)


@pytest.fixture
def without_retries(pool: ServerPool, tmp_path: Path) -> Iterator[Envoy]:
    yield from in_front(pool, tmp_path, retries=False)


@pytest.fixture
def as_shipped(pool: ServerPool, tmp_path: Path) -> Iterator[Envoy]:
    yield from in_front(pool, tmp_path, retries=True)


def in_front(pool: ServerPool, directory: Path, *, retries: bool) -> Iterator[Envoy]:
    for number, server in enumerate(pool.servers):
        if server.process.poll() is not None:
            pool.start_again(number)
    with envoy(pool.servers, directory, retries=retries) as proxy:
        wait_until(lambda: proxy.healthy() == (2, 2))
        yield proxy


def kill(server: RunningServer) -> None:
    server.process.kill()
    server.process.wait(ENDS)


def test_a_killed_server_costs_no_call_and_comes_back(pool: ServerPool, proxy: Envoy) -> None:
    """With retries none fails at all. Without, none that begins once the health check has noticed."""
    calls = [*(grpc_calls(proxy.grpc) for _ in range(3)), *(rest_calls(proxy.http) for _ in range(3))]
    with steady_load(calls) as load:
        load.wait_for_more()
        kill(pool.servers[0])
        wait_until(lambda: proxy.healthy() == (1, 1))
        load.wait_for_more(20)  # by which all of Envoy's threads have heard of it
        noticed = 0 if proxy.retries else load.begun
        load.wait_for_more()
        pool.start_again(0)
        wait_until(lambda: pool.answered()[0] > 20)
    assert load.errors(after=noticed) == []


def test_a_server_that_is_told_to_stop_costs_no_call(pool: ServerPool, without_retries: Envoy) -> None:
    """Even where no call is tried again: it is not ready first, and ends when nothing comes any more."""
    calls = [
        *(grpc_calls(without_retries.grpc) for _ in range(2)),
        *(rest_calls(without_retries.http) for _ in range(2)),
        stream_calls(without_retries.grpc),
        chat_calls(without_retries.http),
    ]
    with steady_load(calls) as load:
        load.wait_for_more()
        pool.servers[0].process.terminate()
        assert pool.servers[0].process.wait(ENDS) == 0
        load.wait_for_more()
    assert load.errors() == []


def sse(address: str, values: list[int]) -> list[int]:
    """What the generate extension streams of `rows`."""
    body = json.dumps({"input": values}).encode()
    request = urllib.request.Request(f"http://{address}/v2/models/{ROWS}/generate_stream", data=body)
    with urllib.request.urlopen(request, timeout=ENDS) as reply:
        return [json.loads(line[6:])["output"] for line in reply.read().splitlines() if line.startswith(b"data: ")]


def test_what_is_under_way_at_a_server_that_is_told_to_stop_is_finished(pool: ServerPool, as_shipped: Envoy) -> None:
    """Both servers are held up, so that one call and one stream of each protocol may be at any of them."""
    with ExitStack() as stack:
        locks = ExitStack()
        stack.push(locks)
        stream = stack.enter_context(Stream(as_shipped.grpc))
        stream.ask(5)
        assert stream.next() == 10
        for number in range(2):
            locks.enter_context(held(pool.models(number) / ROWS / "1"))
            locks.enter_context(held(pool.models(number) / DOUBLE / "1"))
        stream.ask(7, 8)
        unary = [Background(grpc_calls(as_shipped.grpc)), Background(rest_calls(as_shipped.http))]
        events = Background(sse, as_shipped.http, [1, 2])
        wait_until(lambda: sum(pool.under_way(ROWS)) == 2 and sum(pool.under_way(DOUBLE)) == 2)
        for server in pool.servers:
            server.process.terminate()
        wait_until(lambda: as_shipped.healthy() == (0, 0))
        locks.close()
        assert [stream.next(), stream.next()] == [14, 16]
        assert events.outcome == [2, 4]
        assert [call.outcome for call in unary] == [None, None]
        assert [server.process.wait(ENDS) for server in pool.servers] == [0, 0]


def test_a_stream_of_which_something_came_is_not_begun_anew(pool: ServerPool, as_shipped: Envoy) -> None:
    """Its client is told that it broke off: the beginning would come twice."""
    client = openai_client(as_shipped.http)
    with ExitStack() as stack, Stream(as_shipped.grpc) as stream:
        stream.ask(5)
        assert stream.next() == 10
        for number in range(2):
            stack.enter_context(held(pool.models(number) / ROWS / "1"))
        stream.ask(7)
        wait_until(lambda: sum(pool.under_way(ROWS)) == 1)
        ends = pool.under_way(ROWS).index(1)
        while pool.under_way(LANGUAGE)[ends] == 0:
            chat = stack.enter_context(client.chat.completions.create(**ENDLESS))
            assert next(iter(chat)).choices
        stays = pool.servers[1 - ends]
        before = stays.counter("vintner_requests_in_flight")
        kill(pool.servers[ends])
        with pytest.raises(InferenceServerException):
            stream.next()
        with pytest.raises((openai.APIError, httpx.RemoteProtocolError)):
            list(chat)
        assert stays.counter("vintner_requests_in_flight") == before


def test_a_streamed_chat_comes_in_pieces_and_can_be_given_up(pool: ServerPool, as_shipped: Envoy) -> None:
    cancelled = sum(pool.answered(LANGUAGE, "cancelled"))
    with openai_client(as_shipped.http).chat.completions.create(**ENDLESS) as chat:
        assert next(iter(chat)).choices
        assert sum(pool.under_way(LANGUAGE)) == 1
    wait_until(lambda: sum(pool.answered(LANGUAGE, "cancelled")) == cancelled + 1)
