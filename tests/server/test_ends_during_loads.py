"""The end of a server, whether it is asked to or killed, while it loads models and while requests wait for them."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_backend import fake_model, write_model
from held_backend import HOLD, held, held_loads
from infer_calls import PROTOCOLS, Background, Inference, answer, refuse, wait_until
from model_builders import openvino_mlp, openvino_scaling
from repository_calls import answering, index, loads, wait_for
from running_server import RunningServer

Start = Callable[..., RunningServer]

WAIT = 30.0
M = Inference(model="m")
MODEL = fake_model(shape=(-1, 2))
DRAIN = "--drain-seconds=0.7"
"""Nothing shows how many requests wait for a load; those that come late are let in so."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "repository"


def files_of(root: Path) -> dict[Path, tuple[int, int]]:
    """Sizes and times of all that is in a repository."""
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in root.rglob("*")}


def end(server: RunningServer) -> None:
    """Asks the server to end, and returns when it has begun to."""
    server.process.send_signal(signal.SIGTERM)
    wait_until(lambda: "stopping" in server.log.read_text())


# -- killed ----------------------------------------------------------------------------------------------------


def test_a_server_that_was_killed_while_it_loaded_serves_after_a_restart(
    tmp_path: Path, root: Path, start: Start
) -> None:
    write_model(root / "m" / "1", MODEL)
    late = write_model(tmp_path / "late" / "1", MODEL).parent
    (late / HOLD).touch()  # the test's own file, which the first run would make
    with held_loads(late):
        server = start(root)
        (tmp_path / "late").rename(root / "late")
        wait_for(server, "late/1", "LOADING", "loading for")
        before = files_of(root)
        server.kill()
    assert files_of(root) == before
    again = start(root)
    assert index(again) == {"late/1": ("READY", ""), "m/1": ("READY", "")}
    assert answer(again, "grpc", Inference(model="late"))["outputs"][0]["data"] == [2, 4]
    assert again.terminate() == 0
    assert files_of(root) == before


def test_what_is_kept_of_compiled_models_survives_kills_at_any_moment(tmp_path: Path, root: Path, start: Start) -> None:
    cache = tmp_path / "cache"
    openvino_scaling(root / "m" / "1", 2)
    openvino_mlp(root / "m" / "2", 4, 1024, 1024, 1024, 4)
    (root / "m" / "config.yaml").write_text("load: on_demand\n")
    before = files_of(root)
    for pause in (0.0, 0.05):
        server = start(root, f"--cache-dir={cache}")
        asked = Background(answering, server)
        wait_for(server, "m/2", "LOADING", "loading for")
        time.sleep(pause)  # which is where it is killed
        server.kill()
        asked.join()
    first = answer_of(start(root, f"--cache-dir={cache}"))
    blobs = [path for path in cache.rglob("*") if path.is_file()]
    assert blobs
    for blob in blobs:  # as if it had been killed while it wrote it
        blob.write_bytes(blob.read_bytes()[: blob.stat().st_size // 2])
    assert answer_of(start(root, f"--cache-dir={cache}")) == first
    assert files_of(root) == before


def answer_of(server: RunningServer) -> tuple[int, str, float]:
    found = answering(server)
    assert found[:2] == (200, "2")
    assert loads(server) == (1, 0)
    assert server.terminate() == 0
    return found


# -- asked to --------------------------------------------------------------------------------------------------


def test_a_server_that_is_asked_to_end_while_it_loads_ends_with_zero(root: Path, tmp_path: Path, start: Start) -> None:
    write_model(root / "m" / "1", MODEL)
    late = write_model(tmp_path / "late" / "1", MODEL).parent
    with held_loads(late):
        server = start(root)
        (tmp_path / "late").rename(root / "late")
        wait_for(server, "late/1", "LOADING", "loading for")
        end(server)
    assert server.process.wait(WAIT) == 0
    assert "Traceback" not in server.log.read_text()


@pytest.mark.parametrize("fails", [False, True])
def test_requests_that_wait_for_a_load_are_answered_before_the_end(root: Path, start: Start, fails: bool) -> None:
    version = write_model(root / "m" / "1", MODEL | ({"fail": "the weights are missing"} if fails else {})).parent
    (root / "m" / "config.yaml").write_text("load: on_demand\n")
    server = start(root, DRAIN)
    with held_loads(version):
        calls = [Background(answer, server, protocol, M) for protocol in PROTOCOLS * 4]
        wait_for(server, "m/1", "LOADING", "loading for")
        described = Background(server.request, "GET", "/v2/models/m")
        assert all(call.is_alive() for call in calls)
        end(server)
    assert described.outcome[0] == (503 if fails else 200)
    if fails:
        assert all("the weights are missing" in str(call.outcome) for call in calls)
        calls.clear()
    check_end(server, calls)


def test_requests_that_wait_for_a_load_that_hangs_are_refused_before_the_end(root: Path, start: Start) -> None:
    version = write_model(root / "m" / "1", MODEL).parent
    (root / "m" / "config.yaml").write_text("load: on_demand\n")
    server = start(root, "--exit-timeout-seconds=1", DRAIN)
    with held_loads(version):
        calls = [Background(refuse, server, protocol, M, "UNAVAILABLE") for protocol in PROTOCOLS * 2]
        wait_for(server, "m/1", "LOADING", "loading for")
        end(server)
        assert {call.outcome.message for call in calls} == {"the server is stopping, and model 'm' is not loaded"}
        assert server.process.wait(WAIT) == 1, "the load was given up"


def test_requests_on_a_model_that_is_being_reloaded_are_answered_before_the_end(root: Path, start: Start) -> None:
    version = write_model(root / "m" / "1", MODEL).parent
    server = start(root, "--repository-settle-seconds=0.05")
    with held_loads(version), held(version):
        calls = [Background(answer, server, protocol, M) for protocol in PROTOCOLS]
        wait_until(lambda: server.counter("vintner_requests_in_flight", model="m") == 2)
        write_model(version, MODEL | {"changed": True})
        wait_for(server, "m/1", "READY", "a change of it is loading for")
        end(server)
    check_end(server, calls)


def test_requests_that_wait_for_a_reload_are_answered_before_the_end(root: Path, start: Start) -> None:
    version = write_model(root / "m" / "1", MODEL).parent
    (root / "m" / "config.yaml").write_text("resource_preserving: true\n")
    server = start(root, "--repository-settle-seconds=0.05", DRAIN)
    with held_loads(version):
        write_model(version, MODEL | {"changed": True})
        wait_for(server, "m/1", "LOADING", "loading for")
        calls = [Background(answer, server, protocol, M) for protocol in PROTOCOLS]
        calls.append(Background(server.request, "GET", "/v2/models/m"))
        assert all(call.is_alive() for call in calls)
        end(server)
    assert calls.pop().outcome[0] == 200
    check_end(server, calls)


def check_end(server: RunningServer, calls: list[Background]) -> None:
    """That all were answered, and the server ended well."""
    assert [call.outcome["outputs"][0]["data"] for call in calls] == [[2, 4]] * len(calls)
    assert server.process.wait(WAIT) == 0
    assert "Traceback" not in server.log.read_text()
