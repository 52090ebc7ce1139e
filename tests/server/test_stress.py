"""Many clients that want different things at once: what each is told is right, adds up, and leaves nothing behind.

The clients are tritonclient's over both protocols, bare gRPC calls that are cancelled, and HTTP connections that are
closed without waiting for the answer. What a request is comes from its client's number and the round's alone.
"""

from __future__ import annotations

import json
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from fake_backend import fake_model, write_model
from held_backend import held
from infer_calls import WAIT, Background, Given, Inference, wait_until
from model_builders import openvino_doubling
from running_server import RunningServer
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException
from vintner.model_metrics import OUTCOMES
from vintner.service import CONTROL_THREADS

ROUNDS = 3
REQUESTS = 24
"""That a client sends in a round, one after the other but for those that are cancelled."""

BURST = 3
"""Bare gRPC calls that a client has under way at the same time."""

MOST_ROWS = 16
COLUMNS = (1, 3, 8, 32)
PRIORITIES = 3

SLOW, BRIEF, REAL = "slow", "brief", "real"
CONFIGS = {
    SLOW: f"""
instances: 2
batching: {{max_batch_size: 24}}
queue: {{max_requests: 20, priority_levels: {PRIORITIES}}}
""",
    BRIEF: f"queue: {{priority_levels: {PRIORITIES}}}\n",
    REAL: f"precision: f32\nqueue: {{priority_levels: {PRIORITIES}}}\n",
}

ANSWERS = {
    "Exceeds maximum queue size": ("queue_full", "UNAVAILABLE", "503"),
    "Request timeout expired": ("queue_timeout", "UNAVAILABLE", "503"),
    "the deadline passed while the request waited or ran": ("deadline_exceeded", "DEADLINE_EXCEEDED", "504"),
    "unexpected shape": ("invalid_argument", "INVALID_ARGUMENT", "400"),
}
"""What the server says -> how it counts that, its gRPC status, and REST's."""

UNHEARD = "unheard"
"""The client's own deadline came first, or it cancelled or hung up: what the server counted, if anything, is open."""

OPEN = {"ok", "queue_full", "queue_timeout", "deadline_exceeded", "cancelled"}
"""What it can have been."""


@dataclass(frozen=True, slots=True)
class Demand:
    """A request, and its sender's patience: `timeout` as in v2, in microseconds, or 0; the others in seconds."""

    model: str
    rows: Any
    priority: int
    timeout: int
    deadline: float | None
    leaves_after: float | None


def demands(round_: int, client: int) -> Iterator[Demand]:
    """Each row is another one than those of all other requests of the test, and exact in FP32 also when doubled."""
    random = Random(f"{round_}/{client}")
    for request in range(REQUESTS):
        shape = (random.randint(1, MOST_ROWS), random.choice(COLUMNS))
        first = ((round_ * sum(KINDS.values()) + client) * REQUESTS + request) * MOST_ROWS * COLUMNS[-1]
        assert first + MOST_ROWS * COLUMNS[-1] < 2**23
        yield Demand(
            model=random.choice((SLOW, SLOW, SLOW, BRIEF, REAL)),
            rows=np.arange(first, first + shape[0] * shape[1], dtype=np.float32).reshape(shape),
            priority=random.randint(0, PRIORITIES),
            timeout=random.choice((0, 0, 500, 5_000, 40_000, 10_000_000)),
            deadline=random.choice((None, None, 0.001, 0.01, 0.05, WAIT)),
            leaves_after=random.choice((None, 0.0, 0.001, 0.01, 0.1)),
        )


# -- the clients -----------------------------------------------------------------------------------------------


def outcome_of(code: str, message: str) -> str:
    """The outcome that the server must have counted, by what it said, which has to agree with the status."""
    if (code, message) in (
        ("DEADLINE_EXCEEDED", "Deadline Exceeded"),
        ("CANCELLED", "Locally cancelled by application!"),
    ):
        return UNHEARD
    told = [answer for text, answer in ANSWERS.items() if text in message]
    assert told, f"{code}: {message}"
    assert code in told[0][1:], f"{code}: {message}"
    return told[0][0]


def check(answer: Any, demand: Demand) -> str:
    np.testing.assert_array_equal(answer, demand.rows * 2)
    return "ok"


def triton_client(module: Any, address: str, work: Iterator[Demand]) -> list[str]:
    """One request after the other; each twelfth has a shape that the model cannot have."""
    outcomes = []
    with module.InferenceServerClient(address) as connection:
        for number, demand in enumerate(work):
            rows = demand.rows[None] if number % 12 == 11 else demand.rows
            given = module.InferInput("input", rows.shape, "FP32")
            given.set_data_from_numpy(rows)
            more: dict[str, Any] = {"priority": demand.priority, "timeout": demand.timeout or None}
            if module is triton_grpc and rows is demand.rows:
                more["client_timeout"] = demand.deadline
            try:
                result = connection.infer(demand.model, [given], **more)
            except InferenceServerException as error:
                outcomes.append(outcome_of(error.status().removeprefix("StatusCode."), error.message()))
            else:
                outcomes.append(check(result.as_numpy("output"), demand))
    return outcomes


def message_of(demand: Demand) -> Any:
    message = service_pb2.ModelInferRequest(model_name=demand.model, raw_input_contents=[demand.rows.tobytes()])
    message.inputs.add(name="input", datatype="FP32", shape=demand.rows.shape)
    message.parameters["priority"].int64_param = demand.priority
    message.parameters["timeout"].int64_param = demand.timeout
    return message


def cancelling_client(address: str, work: Iterator[Demand]) -> list[str]:
    """Calls by threes on a connection of its own. Some are cancelled, before or while they wait, run or are sent."""
    outcomes = []
    with grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        for burst in zip(*[work] * BURST, strict=True):
            calls = [(stub.ModelInfer.future(message_of(one), timeout=one.deadline), one) for one in burst]
            for call, demand in calls:
                if demand.leaves_after is not None:
                    time.sleep(demand.leaves_after)
                    call.cancel()
            outcomes += [outcome_of_call(call, demand) for call, demand in calls]
    return outcomes


def outcome_of_call(call: Any, demand: Demand) -> str:
    try:
        answer = call.result(timeout=WAIT)
    except grpc.FutureCancelledError:
        return UNHEARD
    except grpc.RpcError as error:
        return outcome_of(error.code().name, error.details())
    return check(np.frombuffer(answer.raw_output_contents[0], np.float32).reshape(answer.outputs[0].shape), demand)


def rude_client(address: str, work: Iterator[Demand]) -> list[str]:
    """Sends a request, and does not wait for the end of the answer."""
    host, port = address.split(":")
    for demand in work:
        given = Given(shape=demand.rows.shape, data=demand.rows.ravel().tolist())
        parameters = {"priority": demand.priority, "timeout": demand.timeout}
        inference = Inference(demand.model, inputs=(given,), parameters=parameters)
        body = json.dumps(inference.document()).encode()
        with socket.create_connection((host, int(port)), WAIT) as connection:
            connection.sendall(
                f"POST {inference.path()} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
            )
            time.sleep(demand.leaves_after or 0.0)
    return [UNHEARD] * REQUESTS


KINDS = {"triton_grpc": 22, "triton_rest": 22, "cancelling_grpc": 16, "rude_rest": 4}
"""Clients of each kind."""

CALLS = {"auto": KINDS["triton_rest"] + KINDS["rude_rest"]}
CALLS["off"] = CALLS["auto"] + 256 + CONTROL_THREADS
"""That can have a thread at once: those over REST, and those in grpcio's pool, which may be full. For on a slow machine
clients of a short patience come again before the pool has seen that they went."""

FEW_THREADS = 32
FEW_DESCRIPTORS = 8
"""That may be there besides."""


def run_client(server: RunningServer, kind: str, work: Iterator[Demand]) -> list[str]:
    match kind:
        case "triton_grpc":
            return triton_client(triton_grpc, server.grpc, work)
        case "triton_rest":
            return triton_client(triton_http, server.http, work)
        case "cancelling_grpc":
            return cancelling_client(server.grpc, work)
        case _:
            return rude_client(server.http, work)


# -- what the server says --------------------------------------------------------------------------------------


def counted(server: RunningServer, outcome: str, **labels: str) -> int:
    return int(server.counter("vintner_requests_total", outcome=outcome, **labels))


class Books:
    """What the clients were told against what the server counted, by protocol, over all rounds."""

    def __init__(self, server: RunningServer) -> None:
        self._server = server
        self.told: dict[str, Counter[str]] = {"grpc": Counter(), "rest": Counter()}

    def add(self, kind: str, outcomes: Sequence[str]) -> None:
        self.told[kind.rpartition("_")[2]].update(outcomes)

    def balance(self) -> None:
        for protocol, told in self.told.items():
            more = {one: counted(self._server, one, protocol=protocol) - told[one] for one in OUTCOMES}
            unexplained = {one: number for one, number in more.items() if number < 0 or (number and one not in OPEN)}
            assert not unexplained, (protocol, told)
            assert sum(more.values()) <= told[UNHEARD], (protocol, told, more)
        wait_until(self._runs_add_up)  # what its client has left may still be under way
        assert self._server.counter("vintner_rejected_requests_total") == 0

    def _runs_add_up(self) -> bool:
        """What was answered was run once; what was refused, or waited in vain, was not run."""
        answered = counted(self._server, "ok")
        ran = self._server.counter("vintner_queue_duration_seconds_count")
        return answered <= ran <= sum(counted(self._server, one) for one in ("ok", "deadline_exceeded", "cancelled"))


def at_rest(server: RunningServer) -> bool:
    names = ("requests_in_flight", "queue_requests", "queue_bytes", "instances_busy")
    return all(server.counter(f"vintner_{name}") == 0 for name in names)


def entries(server: RunningServer, kind: str) -> int:
    """Threads (`task`) or descriptors (`fd`) of the server's process."""
    return len(list(Path(f"/proc/{server.process.pid}/{kind}").iterdir()))


# -- the test --------------------------------------------------------------------------------------------------

Start = Callable[..., RunningServer]


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Of a dynamic second dimension, so that there are several signatures: by OpenVINO, and in memory."""
    root = tmp_path / "models"
    write_model(root / SLOW / "1", fake_model(shape=(-1, -1)) | {"seconds": 0.008})
    write_model(root / BRIEF / "1", fake_model(shape=(-1, -1)))
    openvino_doubling(root / REAL / "1", shape=(-1, -1))
    for name, text in CONFIGS.items():
        (root / name / "config.yaml").write_text(text)
    return root


def run_round(server: RunningServer, round_: int, books: Books) -> None:
    """All clients at once, each in a thread of its own; raises what the first of them raised."""
    kinds = [kind for kind, number in KINDS.items() for _ in range(number)]
    with ThreadPoolExecutor(len(kinds)) as pool:
        clients = [pool.submit(run_client, server, kind, demands(round_, client)) for client, kind in enumerate(kinds)]
        for kind, client in zip(kinds, clients, strict=True):
            books.add(kind, client.result())


def wait_until_seen(server: RunningServer, crowd: Background, *outcomes: str) -> None:
    """Until the server has had each of these once more, or the crowd has come to grief."""
    before = [counted(server, outcome) for outcome in outcomes]
    wait_until(
        lambda: not crowd.is_alive() or all(counted(server, o) > n for o, n in zip(outcomes, before, strict=True))
    )


@pytest.mark.parametrize("fast_path", ["auto", "off"])
def test_a_crowd_is_served_rightly_accounted_for_and_leaves_nothing_behind(
    start: Start, models: Path, fast_path: str
) -> None:
    """Each round begins with the slow model held up, until its queue has overflown and requests have waited in vain."""
    server = start(models, f"--grpc-fast-path={fast_path}")
    books = Books(server)
    threads = entries(server, "task") + CALLS[fast_path]
    descriptors = entries(server, "fd")
    for round_ in range(ROUNDS):
        with held(models / SLOW / "1"):
            crowd = Background(run_round, server, round_, books)
            wait_until_seen(server, crowd, "queue_full", "queue_timeout")
        assert crowd.outcome is None
        wait_until(lambda: at_rest(server) and entries(server, "fd") <= descriptors + FEW_DESCRIPTORS)
        books.balance()
        assert entries(server, "task") <= threads + FEW_THREADS  # each round again, though they stay for the next
    assert all(counted(server, outcome) for outcome in (*OPEN, "invalid_argument"))
    assert server.counter("vintner_executions_total") < server.counter("vintner_queue_duration_seconds_count")
    assert server.terminate() == 0
    log = server.log.read_text()
    assert "ERROR" not in log, log
    assert "Traceback" not in log, log
