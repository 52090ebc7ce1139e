"""The fast path by itself: its self-check, the releases it is for, and what it leaves behind."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from vintner import grpc_fast_path
from vintner.executor import LeanExecutor
from vintner.grpc_fast_path import Call, FastPath, unusable
from waiting import wait_until

METHOD = "/test/Echo"
WAIT = 10.0


class Echo:
    """Answers with the message, or raises."""

    failing = False

    def __call__(self, message: bytes, call: Call) -> None:
        if self.failing:
            raise ValueError("a bug")
        call.answer(message)


@pytest.fixture(autouse=True)
def patient_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_fast_path, "CHECK_SECONDS", WAIT)


@pytest.fixture
def served() -> Iterator[tuple[Echo, grpc.Channel]]:
    """The handler and a channel to it."""
    executor = LeanExecutor(2, "test")
    server = grpc.server(executor)
    echo = Echo()
    path = FastPath(server, methods={METHOD: echo})
    port = server.add_insecure_port("127.0.0.1:0")
    path.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield echo, channel
    path.stop(WAIT)
    executor.shutdown()


def test_the_installed_grpcio_passes_the_check() -> None:
    assert unusable() is None


@pytest.mark.parametrize("version", ["1.80.9", "1.86.0", "2.0.0", "1.86.0.dev1"])
def test_another_release_is_refused_before_it_is_touched(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc, "__version__", version)
    monkeypatch.setattr(grpc_fast_path, "FastPath", None)
    assert version in (unusable() or "")


@pytest.mark.parametrize("name", ["CompletionQueue", "ReceiveMessageOperation", "SendStatusFromServerOperation"])
def test_a_private_name_that_is_gone_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Partial:
        def __getattr__(self, wanted: str) -> Any:
            if wanted == name:
                raise AttributeError(wanted)
            return getattr(cygrpc, wanted)

    cygrpc = grpc_fast_path.cygrpc
    monkeypatch.setattr(grpc_fast_path, "cygrpc", Partial())
    monkeypatch.setattr(grpc_fast_path, "CHECK_SECONDS", 0.2)
    assert unusable() is not None


def test_a_handler_that_raises_is_answered_and_logged(served: Any, caplog: pytest.LogCaptureFixture) -> None:
    echo, channel = served
    call = channel.unary_unary(METHOD)
    echo.failing = True
    with pytest.raises(grpc.RpcError) as caught:
        call(b"x", timeout=WAIT)
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert "a bug" not in caught.value.details()
    echo.failing = False
    assert call(b"y", timeout=WAIT) == b"y"
    assert "a bug" in caplog.text


def test_an_empty_message_is_a_message(served: Any) -> None:
    assert served[1].unary_unary(METHOD)(b"", timeout=WAIT) == b""


def test_a_call_without_a_message_is_refused(served: Any) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        served[1].stream_unary(METHOD)(iter(()), timeout=WAIT)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "exactly one request message" in caught.value.details()


def test_calls_are_gone_when_they_are_over(served: Any) -> None:
    call = served[1].unary_unary(METHOD)
    call(b"x", timeout=WAIT)
    gc.collect()
    before = len(gc.get_objects())
    for _ in range(300):
        call(b"x", timeout=WAIT)
    assert len(gc.get_objects()) - before < 150


def test_after_the_end_no_thread_is_left() -> None:
    before = set(threading.enumerate())
    assert unusable() is None
    wait_until(lambda: set(threading.enumerate()) <= before)


def test_a_path_that_was_never_started_can_be_stopped() -> None:
    path = FastPath(grpc.server(LeanExecutor(1, "test")), methods={METHOD: Echo()})
    path.stop(WAIT)
