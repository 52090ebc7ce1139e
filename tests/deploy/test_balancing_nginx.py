"""deploy/nginx/nginx.conf in front of two servers: it balances each call, knows no health, and has no second try for a
gRPC call that a server has begun with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack

import grpc
import pytest
from balanced_calls import ENDLESS, WAIT, chat_calls, fill, grpc_calls, openai_client, rest_calls, stream_calls
from front_proxy import Proxy, nginx
from held_backend import held
from server_pool import LANGUAGE, SLOW, ServerPool, more, server_pool
from steady_load import steady_load
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException
from waiting import wait_until

ENDS = 40.0
PLACES = 16
"""More than the other tests take at the same time."""
LOST = ("StatusCode.UNAVAILABLE", "StatusCode.CANCELLED")
"""What a client hears of a call that was lost: the latter seldom, where nginx breaks it off itself."""
MOST_LOST = 12
"""Of three callers over gRPC, who make hundreds of calls; up to 6 were seen."""


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerPool]:
    with server_pool(
        tmp_path_factory.mktemp("pool"), 2, "--drain-seconds=1", f"--max-concurrent-requests={PLACES}", language=True
    ) as pool:
        yield pool


@pytest.fixture
def proxy(pool: ServerPool) -> Iterator[Proxy]:
    for number, server in enumerate(pool.servers):
        if server.process.poll() is not None:
            pool.start_again(number)
    with nginx(pool.servers) as proxy:
        yield proxy


@pytest.mark.parametrize("calls", [lambda proxy: grpc_calls(proxy.grpc), lambda proxy: rest_calls(proxy.http)])
def test_the_calls_of_one_connection_go_to_all_servers(
    pool: ServerPool, proxy: Proxy, calls: Callable[[Proxy], Callable[[], None]]
) -> None:
    call, before = calls(proxy), pool.answered()
    for _ in range(40):
        call()
    assert more(before, pool.answered()) == [20, 20]


def test_large_tensors_pass(proxy: Proxy) -> None:
    grpc_calls(proxy.grpc, rows=2_500_000)()
    rest_calls(proxy.http, rows=2_500_000)()


def test_streams_pass_in_pieces_and_can_be_given_up(pool: ServerPool, proxy: Proxy) -> None:
    stream_calls(proxy.grpc)()
    chat_calls(proxy.http)()
    cancelled = sum(pool.answered(LANGUAGE, "cancelled"))
    with openai_client(proxy.http).chat.completions.create(**ENDLESS) as chat:
        assert next(iter(chat)).choices
        assert sum(pool.under_way(LANGUAGE)) == 1
    wait_until(lambda: sum(pool.answered(LANGUAGE, "cancelled")) == cancelled + 1)


def test_a_cancellation_reaches_the_server(pool: ServerPool, proxy: Proxy) -> None:
    before = sum(pool.answered(SLOW, "cancelled"))
    message = service_pb2.ModelInferRequest(model_name=SLOW)
    message.inputs.add(name="input", datatype="FP32", shape=[1, 2]).contents.fp32_contents.extend([1, 1])
    with ExitStack() as stack, grpc.insecure_channel(proxy.grpc) as channel:
        for number in range(2):
            stack.enter_context(held(pool.models(number) / SLOW / "1"))
        call = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer.future(message, timeout=WAIT)
        wait_until(lambda: sum(pool.under_way(SLOW)) == 1)
        call.cancel()
        wait_until(lambda: sum(pool.answered(SLOW, "cancelled")) == before + 1)


def test_overload_is_told_to_those_whom_it_meets_and_costs_nobody_else_a_call(pool: ServerPool, proxy: Proxy) -> None:
    """A server that says that it is full is there: were it counted as gone, nothing would be left to ask."""
    call = rest_calls(proxy.http)
    with ExitStack() as stack:
        for number in range(2):
            fill(stack, pool, number, PLACES)
        for _ in range(5):
            with pytest.raises(InferenceServerException) as caught:
                call()
            assert caught.value.status() == "503", "the server's own answer"
            assert "Exceeds maximum" in caught.value.message()
    for _ in range(10):
        call()


def all_kinds(proxy: Proxy) -> list[Callable[[], None]]:
    return [*(grpc_calls(proxy.grpc) for _ in range(3)), *(rest_calls(proxy.http) for _ in range(3))]


def status(error: Exception) -> str:
    """As gRPC's client or Triton's for REST says it, or OpenAI's."""
    return str(error.status() if isinstance(error, InferenceServerException) else getattr(error, "status_code", ""))


def check_statuses(errors: Sequence[Exception], *expected: str) -> None:
    others = [(status(each), str(each)) for each in errors if status(each) not in expected]
    assert others == [], f"{len(others)} of {len(errors)} errors"


def check_lost(errors: Sequence[Exception]) -> None:
    """With a server that ends: what gRPC just had on its way, a few of which may have been sent before it showed."""
    check_statuses(errors, *LOST)
    assert len(errors) <= MOST_LOST, errors


def test_a_server_that_is_told_to_stop_costs_hardly_a_call_and_comes_back(pool: ServerPool, proxy: Proxy) -> None:
    with steady_load([*all_kinds(proxy), chat_calls(proxy.http)]) as load:
        load.wait_for_more()
        pool.servers[0].process.terminate()
        assert pool.servers[0].process.wait(ENDS) == 0
        load.wait_for_more()
        lost = load.errors()
        pool.start_again(0)
        wait_until(lambda: pool.answered()[0] > 20)
    check_lost(lost)
    # It gets calls as soon as its port is open, be its models loaded or not, and nginx passes its answers on.
    check_statuses([error for error in load.errors() if error not in lost], *LOST, "503")


def test_a_killed_server_costs_no_rest_call_and_those_grpc_calls_that_it_had(pool: ServerPool, proxy: Proxy) -> None:
    with steady_load(all_kinds(proxy)) as load:
        load.wait_for_more()
        pool.servers[0].process.kill()
        pool.servers[0].process.wait(ENDS)
        load.wait_for_more()
    check_lost(load.errors())
