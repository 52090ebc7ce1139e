"""deploy/envoy/envoy.yaml in front of two servers that stay: who gets what, what passes, and how overload is dealt
with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from balanced_calls import WAIT, fill, grpc_calls, pair, rest_calls
from fake_backend import fake_model, write_model
from front_proxy import Envoy, Proxy, envoy
from held_backend import held
from infer_calls import Background
from running_server import RunningServer, start_server
from server_pool import DOUBLE, SLOW, ServerPool, more, server_pool
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException
from waiting import wait_until

PLACES = 8
SOON = 0.3
"""Seconds."""
ROW = 8
"""Bytes."""


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerPool]:
    with server_pool(tmp_path_factory.mktemp("pool"), 2, f"--max-concurrent-requests={PLACES}") as pool:
        yield pool


@pytest.fixture(scope="module")
def proxy(pool: ServerPool, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Envoy]:
    with envoy(pool.servers, tmp_path_factory.mktemp("envoy")) as proxy:
        wait_until(lambda: proxy.healthy() == (2, 2))
        yield proxy


def by_grpc(proxy: Proxy) -> Callable[[], None]:
    return grpc_calls(proxy.grpc)


def by_rest(proxy: Proxy) -> Callable[[], None]:
    return rest_calls(proxy.http)


PROTOCOLS = pytest.mark.parametrize("calls", [by_grpc, by_rest])


@PROTOCOLS
def test_the_calls_of_one_connection_go_to_all_servers(
    pool: ServerPool, proxy: Envoy, calls: Callable[[Proxy], Callable[[], None]]
) -> None:
    """About half each: Envoy draws two servers for each call, and takes the one with less under way."""
    call, before = calls(proxy), pool.answered()
    for _ in range(100):
        call()
    counts = more(before, pool.answered())
    assert sum(counts) == 100
    assert min(counts) >= 25


def test_large_tensors_pass(proxy: Envoy) -> None:
    grpc_calls(proxy.grpc, (64 << 20) // ROW)()
    rest_calls(proxy.http, 20_000_000 // ROW)()


def test_deadlines_and_cancellations_reach_the_server(pool: ServerPool, proxy: Envoy) -> None:
    def given_up() -> float:
        """By either side: both know the deadline."""
        return sum(pool.answered(SLOW, "cancelled") + pool.answered(SLOW, "deadline_exceeded"))

    before = given_up()
    message = service_pb2.ModelInferRequest(model_name=SLOW)
    message.inputs.add(name="input", datatype="FP32", shape=[1, 2]).contents.fp32_contents.extend([1, 1])
    with ExitStack() as stack, grpc.insecure_channel(proxy.grpc) as channel:
        for number in range(2):
            stack.enter_context(held(pool.models(number) / SLOW / "1"))
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        dropped = stub.ModelInfer.future(message, timeout=WAIT)
        wait_until(lambda: sum(pool.under_way(SLOW)) == 1)
        dropped.cancel()
        wait_until(lambda: given_up() == before + 1)

        def too_late_at_the_server() -> bool:
            """On a busy machine it may be too late before that."""
            assert stub.ModelInfer.future(message, timeout=SOON).code() == grpc.StatusCode.DEADLINE_EXCEEDED
            return given_up() > before + 1

        wait_until(too_late_at_the_server)
    wait_until(lambda: sum(pool.under_way(SLOW)) == 0)


def refused(pool: ServerPool) -> list[float]:
    return [server.counter("vintner_rejected_requests_total", outcome="queue_full") for server in pool.servers]


@PROTOCOLS
def test_what_one_server_has_no_place_for_goes_to_another_one(
    pool: ServerPool, proxy: Envoy, calls: Callable[[Proxy], Callable[[], None]]
) -> None:
    call, before, refused_before = calls(proxy), pool.answered(), refused(pool)
    with ExitStack() as stack:
        fill(stack, pool, 0, PLACES)
        for _ in range(20):
            call()
        assert more(before, pool.answered()) == [0, 20]
    assert more(refused_before, refused(pool))[1] == 0
    assert proxy.healthy() == (2, 2)


@PROTOCOLS
def test_overload_of_all_is_told_after_one_more_try(
    pool: ServerPool, proxy: Envoy, calls: Callable[[Proxy], Callable[[], None]]
) -> None:
    """And takes no server out, which would leave less for all."""
    call, before = calls(proxy), refused(pool)
    with ExitStack() as stack:
        fill(stack, pool, 0, PLACES)
        fill(stack, pool, 1, PLACES)
        for _ in range(5):
            with pytest.raises(InferenceServerException) as caught:
                call()
            assert caught.value.status() in ("StatusCode.UNAVAILABLE", "503")
        assert more(before, refused(pool)) == [5, 5]
        for cluster in ("vintner_grpc", "vintner_rest"):
            assert proxy.statistics(cluster)["outlier_detection.ejections_enforced_total"] == 0
    assert proxy.healthy() == (2, 2)
    call()


def test_what_there_is_no_memory_for_is_refused_and_what_is_under_way_is_answered(
    pool: ServerPool, tmp_path: Path
) -> None:
    """Requests are kept for a second try, so memory is what bounds them."""
    with envoy(pool.servers, tmp_path, memory=64 << 20) as proxy, ExitStack() as stack:
        wait_until(lambda: proxy.healthy() == (2, 2))
        locks = stack.enter_context(ExitStack())
        for number in range(2):
            locks.enter_context(held(pool.models(number) / DOUBLE / "1"))
        large = [Background(rest_calls(proxy.http, (16 << 20) // ROW)) for _ in range(4)]
        small = rest_calls(proxy.http, model=SLOW)

        def refused() -> bool:
            try:
                small()
            except InferenceServerException as exc:
                if exc.status() != "503":
                    raise
                return True
            return False

        wait_until(refused)
        locks.close()
        assert [call.outcome for call in large] == [None] * 4
        wait_until(lambda: not refused())


@pytest.fixture
def without_a_model(pool: ServerPool, tmp_path: Path) -> Iterator[RunningServer]:
    """A server that has `double`, and one more model that cannot be loaded."""
    write_model(tmp_path / "models" / DOUBLE / "1", fake_model("FP32", (-1, 2)))
    write_model(tmp_path / "models" / "broken" / "1", {**fake_model(), "fail": "the weights are missing"})
    server = start_server(tmp_path / "models", tmp_path / "log", env=pool.environment)
    assert not server.ready
    yield server
    server.kill()


def test_a_server_that_is_not_ready_gets_nothing(
    pool: ServerPool, without_a_model: RunningServer, tmp_path: Path
) -> None:
    """Although it would answer, and is half of what there is."""
    with envoy([without_a_model, pool.servers[0]], tmp_path) as proxy:
        wait_until(lambda: proxy.healthy() == (1, 1))
        for call in (grpc_calls(proxy.grpc), rest_calls(proxy.http)):
            for _ in range(20):
                call()
    assert without_a_model.counter("vintner_requests_total") == 0


def test_nobody_is_better_than_a_server_that_is_not_ready(without_a_model: RunningServer, tmp_path: Path) -> None:
    with envoy([without_a_model], tmp_path) as proxy:
        wait_until(lambda: proxy.statistics("vintner_grpc")["health_check.failure"])
        with triton_grpc.InferenceServerClient(proxy.grpc) as client, pytest.raises(InferenceServerException) as caught:
            client.infer(DOUBLE, pair(triton_grpc))
        assert caught.value.status() == "StatusCode.UNAVAILABLE"
        with triton_http.InferenceServerClient(proxy.http) as client, pytest.raises(InferenceServerException) as caught:
            client.infer(DOUBLE, pair(triton_http))
        assert caught.value.status() == "503"
    assert without_a_model.counter("vintner_requests_total") == 0
