"""Clients that ask one thing after the other and check each answer, while a test changes what they ask.

They know a model `m` that multiplies by a factor, so an answer tells what gave it; half of them speak gRPC, half REST.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from random import Random
from threading import Event, Thread
from typing import Any

import numpy as np
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from infer_calls import wait_until
from running_server import RunningServer


class Client(Thread):
    """Asks one thing after the other until it is stopped, and keeps what was wrong."""

    def __init__(self, server: RunningServer, number: int, right: Callable[[str, float], bool]) -> None:
        super().__init__()
        self._module: Any = triton_grpc if number % 2 else triton_http
        self._client = self._module.InferenceServerClient(server.grpc if number % 2 else server.http)
        self._random = Random(number)
        self._right = right
        self.stop = Event()
        self.wrong: list[str] = []
        self.answers = 0

    def run(self) -> None:
        while not self.stop.is_set():
            try:
                self._ask()
            except Exception as exc:
                self.wrong.append(f"{time.time() % 1000:.3f} {exc}")
        self._client.close()

    def _ask(self) -> None:
        given = np.full((self._random.randint(1, 5), 4), self._random.randint(1, 1000), np.float32)
        tensor = self._module.InferInput("input", given.shape, "FP32")
        tensor.set_data_from_numpy(given)
        result = self._client.infer("m", [tensor])
        response = result.get_response()
        version = response["model_version"] if isinstance(response, dict) else response.model_version
        factors = np.unique(result.as_numpy("output") / given)
        self.answers += 1
        if len(factors) != 1 or not self._right(version, float(factors[0])):
            self.wrong.append(f"version {version} multiplied by {factors}")


def stop(clients: Sequence[Client]) -> None:
    for client in clients:
        client.stop.set()
    for client in clients:
        client.join()


@contextmanager
def in_a_closed_loop(server: RunningServer, *right: tuple[str, float], number: int = 4) -> Iterator[Callable[[], None]]:
    """Clients that ask until the end of the block, where the test fails if one was answered an error, or other than by
    these versions with these factors. What is given waits until each of them has been answered anew."""
    clients = [Client(server, n, lambda *answer: answer in right) for n in range(number)]

    def all_answered() -> None:
        before = [client.answers for client in clients]
        wait_until(lambda: all(client.answers > asked + 1 for client, asked in zip(clients, before, strict=True)))

    for client in clients:
        client.start()
    try:
        all_answered()
        yield all_answered
        all_answered()
    finally:
        stop(clients)
    wrong = [each for client in clients for each in client.wrong]
    assert not wrong, f"{len(wrong)}: {sorted(wrong)[:5]} ... {sorted(wrong)[-3:]}"
