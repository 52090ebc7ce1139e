"""Calls by the published clients to an address that may be a server's, a proxy's, or a list of servers'.

Each maker returns a function that makes one call and checks its answer, by a client of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import openai
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from held_backend import held
from infer_calls import Background
from server_pool import DOUBLE, LANGUAGE, ROWS, ServerPool
from tiny_chats import answer, messages
from waiting import wait_until

WAIT = 60.0
CHAT = "capital"
ENDLESS: dict[str, Any] = {
    "model": LANGUAGE, "messages": messages(CHAT), "stream": True, "temperature": 0,
    "n": 64, "max_tokens": 2000, "extra_body": {"ignore_eos": True},
}  # fmt: skip
"""Takes a quarter of a minute at least."""


def pair(module: Any, rows: int = 1) -> list[Any]:
    """The input of `double`; the module is the client library that is to send it."""
    given = module.InferInput("input", [rows, 2], "FP32")
    given.set_data_from_numpy(np.ones((rows, 2), np.float32))
    return [given]


def numbers(*values: int) -> list[Any]:
    """The input of `rows`."""
    given = triton_grpc.InferInput("input", [len(values), 1], "INT32")
    given.set_data_from_numpy(np.array([[value] for value in values], np.int32))
    return [given]


def fill(stack: ExitStack, pool: ServerPool, number: int, places: int) -> None:
    """A server with a request on each of its places, which stay there for as long as the stack is open."""
    calls: list[Background] = []
    stack.callback(lambda: [call.outcome for call in calls])
    stack.enter_context(held(pool.models(number) / DOUBLE / "1"))
    calls += [Background(grpc_calls(pool.servers[number].grpc)) for _ in range(places)]
    wait_until(lambda: pool.under_way(DOUBLE)[number] == places)


def grpc_calls(address: str, rows: int = 1, options: Sequence[tuple[str, Any]] = ()) -> Callable[[], None]:
    """On one channel, which no other client shares."""
    own = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
    client = triton_grpc.InferenceServerClient(address, channel_args=[*own, *options])

    def call() -> None:
        result = client.infer(DOUBLE, pair(triton_grpc, rows), client_timeout=WAIT)
        assert (result.as_numpy("output") == 2).all()

    return call


def rest_calls(address: str, rows: int = 1, model: str = DOUBLE) -> Callable[[], None]:
    """On one connection for each thread, as long as it is kept."""
    of_thread = threading.local()

    def call() -> None:
        if not hasattr(of_thread, "client"):
            of_thread.client = triton_http.InferenceServerClient(address, network_timeout=WAIT)
        result = of_thread.client.infer(model, pair(triton_http, rows))
        assert (result.as_numpy("output") == 2).all()

    return call


def stream_calls(address: str) -> Callable[[], None]:
    """Each a stream of its own with two requests, whose answers it waits for."""

    def call() -> None:
        with Stream(address) as stream:
            stream.ask(1, 2)
            stream.ask(3)
            assert sorted(stream.next() for _ in range(3)) == [2, 4, 6]

    return call


def chat_calls(address: str) -> Callable[[], None]:
    """Each a streamed chat, the whole of which has to come."""
    client = openai_client(address)

    def call() -> None:
        with client.chat.completions.create(
            model=LANGUAGE, messages=messages(CHAT), temperature=0, stream=True
        ) as parts:
            assert "".join(part.choices[0].delta.content or "" for part in parts) == answer(CHAT)

    return call


def openai_client(address: str) -> Any:
    """Which does not try again by itself."""
    return openai.OpenAI(base_url=f"http://{address}/v1", api_key="none", max_retries=0, timeout=WAIT)


class Stream:
    """ModelStreamInfer by tritonclient, asking `rows`. Answers come from a queue."""

    def __init__(self, address: str) -> None:
        self.client = triton_grpc.InferenceServerClient(address)
        self._answers: list[Any] = []
        self._arrived = threading.Semaphore(0)

    def __enter__(self) -> Stream:
        self.client.start_stream(self._take)
        return self

    def __exit__(self, *_: object) -> None:
        self.client.stop_stream(cancel_requests=True)
        self.client.close()

    def _take(self, result: Any, error: Exception | None) -> None:
        self._answers.append(error or int(result.as_numpy("output").item()))
        self._arrived.release()

    def ask(self, *values: int) -> None:
        self.client.async_stream_infer(ROWS, numbers(*values))

    def next(self) -> int:
        """The next response. Raises the error that came in its place."""
        assert self._arrived.acquire(timeout=WAIT), "no answer"
        found = self._answers.pop(0)
        if isinstance(found, Exception):
            raise found
        return found
