"""Many clients at once over every variant of tritonclient: each gets its own rows, and every request is counted."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.grpc.aio as triton_grpc_aio
import tritonclient.http as triton_http
import tritonclient.http.aio as triton_http_aio
from fake_backend import fake_model, write_model
from held_backend import held
from infer_calls import Background, wait_until
from running_server import RunningServer, start_server

CLIENTS_OF_A_KIND = 8
REQUESTS = 10
COLUMNS = 6


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("concurrency")
    write_model(root / "rows" / "1", fake_model(shape=(-1, COLUMNS)))
    write_model(root / "rows_of_two_instances" / "1", fake_model(shape=(-1, COLUMNS)))
    (root / "rows_of_two_instances" / "config.yaml").write_text("instances: 2\nbatching: {max_batch_size: 8}\n")
    write_model(root / "any_shape" / "1", fake_model(shape=(-1, -1)))
    write_model(root / "unbatched" / "1", fake_model(shape=(-1, COLUMNS)))
    (root / "unbatched" / "config.yaml").write_text("batching: false\n")
    return root


@pytest.fixture(scope="module")
def crowded(models: Path, third_party: dict[str, str]) -> Iterator[RunningServer]:
    server = start_server(models, models.parent / f"{models.name}.log", env=third_party)
    yield server
    server.kill()


# -- what each client sends ------------------------------------------------------------------------------------


def shapes_of_rows(client: int, request: int) -> tuple[int, int]:
    return 1 + (client + request) % 4, COLUMNS


def mixed_shapes(client: int, request: int) -> tuple[int, int]:
    return 1 + (client + request) % 4, 1 + client % 3


Shapes = Callable[[int, int], tuple[int, int]]


def values(client: int, request: int, shape: tuple[int, int]) -> Any:
    """Rows that no other request has, exact in FP32 also when doubled."""
    first = (client * REQUESTS + request) * 64
    return np.arange(first, first + shape[0] * shape[1], dtype=np.float32).reshape(shape)


def call_of(module: Any, client: int, request: int, shapes: Shapes) -> tuple[list[Any], dict[str, Any], Any]:
    """Inputs, further arguments, and the answer that they have to get."""
    sent = values(client, request, shapes(client, request))
    given = module.InferInput("input", sent.shape, "FP32")
    given.set_data_from_numpy(sent)
    return [given], {"request_id": f"{client}.{request}"}, sent * 2


def check(result: Any, client: int, request: int, expected: Any) -> None:
    response = result.get_response()
    assert (response["id"] if isinstance(response, dict) else response.id) == f"{client}.{request}"
    np.testing.assert_array_equal(result.as_numpy("output"), expected)


def run_client(module: Any, address: str, model: str, client: int, shapes: Shapes) -> None:
    with module.InferenceServerClient(address) as connection:
        for request in range(REQUESTS):
            inputs, more, expected = call_of(module, client, request, shapes)
            check(connection.infer(model, inputs, **more), client, request, expected)


async def run_aio_client(module: Any, address: str, model: str, client: int, shapes: Shapes) -> None:
    async with module.InferenceServerClient(address) as connection:
        for request in range(REQUESTS):
            inputs, more, expected = call_of(module, client, request, shapes)
            check(await connection.infer(model, inputs, **more), client, request, expected)


async def all_of(clients: Sequence[Awaitable[None]]) -> None:
    await asyncio.gather(*clients)


def run_all_clients(server: RunningServer, model: str, shapes: Shapes) -> None:
    """All clients of the four kinds at once; raises what the first of them raised."""
    numbers = [range(start, start + CLIENTS_OF_A_KIND) for start in range(0, 4 * CLIENTS_OF_A_KIND, CLIENTS_OF_A_KIND)]
    blocking = [(triton_grpc, server.grpc, number) for number in numbers[0]]
    blocking += [(triton_http, server.http, number) for number in numbers[1]]
    aio = [(triton_grpc_aio, server.grpc, number) for number in numbers[2]]
    aio += [(triton_http_aio, server.http, number) for number in numbers[3]]
    with ThreadPoolExecutor(len(blocking)) as pool:
        futures = [pool.submit(run_client, module, at, model, number, shapes) for module, at, number in blocking]
        asyncio.run(all_of([run_aio_client(module, at, model, number, shapes) for module, at, number in aio]))
        for future in futures:
            future.result()


# -- the tests -------------------------------------------------------------------------------------------------


def counted(server: RunningServer, model: str) -> dict[str, float]:
    requests = {
        protocol: server.counter("vintner_requests_total", model=model, protocol=protocol)
        for protocol in ("grpc", "rest")
    }
    ok = server.counter("vintner_requests_total", model=model, outcome="ok")
    durations = server.counter("vintner_request_duration_seconds_count", model=model)
    waits = server.counter("vintner_queue_duration_seconds_count", model=model)
    rows = server.counter("vintner_inferences_total", model=model)
    return requests | {"ok": ok, "durations": durations, "waits": waits, "rows": rows}


def expected_counts(shapes: Shapes) -> dict[str, float]:
    requests = 4 * CLIENTS_OF_A_KIND * REQUESTS
    rows = sum(shapes(c, r)[0] for c in range(4 * CLIENTS_OF_A_KIND) for r in range(REQUESTS))
    totals = dict.fromkeys(("ok", "durations", "waits"), requests)
    return {"grpc": requests / 2, "rest": requests / 2, "rows": rows} | totals


@pytest.mark.parametrize(
    ("model", "shapes", "batched"),
    [
        ("rows", shapes_of_rows, True),
        ("rows_of_two_instances", shapes_of_rows, True),
        ("any_shape", mixed_shapes, True),
        ("unbatched", shapes_of_rows, False),
    ],
)
def test_every_client_gets_its_own_rows_and_every_request_is_counted(
    crowded: RunningServer, models: Path, model: str, shapes: Shapes, batched: bool
) -> None:
    """The first requests are held up until all clients wait, so that there is something to batch."""
    clients = 4 * CLIENTS_OF_A_KIND
    with held(models / model / "1"):
        running = Background(run_all_clients, crowded, model, shapes)
        wait_until(lambda: crowded.counter("vintner_requests_in_flight", model=model) == clients)
    assert running.outcome is None
    assert counted(crowded, model) == expected_counts(shapes)
    executions = crowded.counter("vintner_executions_total", model=model)
    assert (executions < clients * REQUESTS) == batched
    assert crowded.counter("vintner_rejected_requests_total") == 0
    assert crowded.counter("vintner_queue_requests") == crowded.counter("vintner_instances_busy") == 0


def test_requests_that_fail_do_not_disturb_the_others(crowded: RunningServer, models: Path) -> None:
    """Good and bad requests come side by side; the good ones are answered, the bad ones refused."""

    def send(number: int) -> Any:
        shape = (1, COLUMNS) if number % 2 else (1, COLUMNS + 1)
        sent = values(number, 0, shape)
        given = triton_grpc.InferInput("input", shape, "FP32")
        given.set_data_from_numpy(sent)
        with triton_grpc.InferenceServerClient(crowded.grpc) as client:
            return client.infer("rows", [given]).as_numpy("output") / 2 - sent

    with held(models / "rows" / "1"):
        calls = [Background(send, number) for number in range(12)]
        wait_until(lambda: crowded.counter("vintner_requests_in_flight", model="rows") == 6)
    outcomes = [call.outcome for call in calls]
    for number, outcome in enumerate(outcomes):
        if number % 2:
            assert not outcome.any()
        else:
            assert "unexpected shape" in str(outcome)
