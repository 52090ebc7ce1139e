"""What KServe does to a server: its arguments and environment, its mounts, its agent's calls, and the end of a pod.

Each test is of a row of KServe's contract, with a real server in a process of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from kserve_pods import ANY_UID, LOCAL, begin_container, rendered, runtime, start_container
from mounting import read_only
from running_server import ROOT, STOP, RunningServer, vintner
from waiting import wait_until

MODELS = ROOT / "model_repository"
MODELCAR_UID = 1010
NO_DRAIN = ("--drain-seconds=0",)
IMAGE = json.dumps({"inputs": [{"name": "image", "datatype": "FP32", "shape": [1, 1, 8, 8], "data": [0.0] * 64}]})
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="needs root and setpriv")

Start = Callable[..., RunningServer]


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that every user may enter, unlike pytest's own."""
    path = Path(tempfile.mkdtemp(prefix="kserve-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with ExitStack() as stack:

        def begin(*arguments: str, **more: Any) -> RunningServer:
            server = start_container([*arguments, *LOCAL], tmp_path / "log", **more)
            stack.callback(server.kill)
            return server

        yield begin


def writable(directory: Path) -> Path:
    """The directory, for every user."""
    directory.mkdir()
    directory.chmod(0o777)
    return directory


def infer(server: RunningServer, model: str) -> int:
    """The status of an inference."""
    return server.request("POST", f"/v2/models/{model}/infer", IMAGE.encode())[0]


def versions(server: RunningServer, model: str) -> list[str]:
    reply = json.loads(server.request("GET", f"/v2/models/{model}")[2])
    return list(reply.get("versions", []))


def names(server: RunningServer) -> set[str]:
    """The models that are ready."""
    index = server.request("POST", "/v2/repository/index", b'{"ready": true}')[2]
    return {each["name"] for each in json.loads(index)}


# -- arguments and environment ---------------------------------------------------------------------------------


def test_the_users_arguments_come_last_and_win_in_any_spelling(tmp_path: Path) -> None:
    runtime_has = ["--model_name=first", "--model_dir=/mnt/models", "--http_port=1", "--grpc_port=1", "--workers=1"]
    user_has = ["--model_name", "second", "--model-dir", str(MODELS / "digits"), "--http_port", "0", "--grpc-port=0"]
    nothing = ["--model_name=<no value>", "--model_dir=", "--host=127.0.0.1", "--metrics_port=0"]
    server = start_container([*runtime_has, *user_has, *nothing], tmp_path / "log", {"INFERENCE_SERVICE_NAME": "third"})
    try:
        assert names(server) == {"second"}
        assert infer(server, "second") == 200
    finally:
        server.kill()


def test_a_further_repository_is_added_and_the_services_name_is_that_of_a_single_model_only(start: Start) -> None:
    roots = [f"--model_dir={MODELS / 'digits'}", f"--model-repository={MODELS / 'text_lines'}"]
    server = start(*roots, env={"INFERENCE_SERVICE_NAME": "service"})
    assert names(server) == {"digits", "text_lines"}


def test_more_workers_than_one_are_refused_with_what_to_do_instead() -> None:
    run = vintner("serve", f"--model_dir={MODELS / 'digits'}", "--workers=4", *LOCAL)
    assert (run.returncode, len(run.stderr.splitlines())) == (1, 1)
    assert "--workers: expected 1, got 4: one process uses all cores; for more, run more replicas" in run.stderr


# -- mounts ----------------------------------------------------------------------------------------------------


def lay_out(layout: str, root: Path) -> None:
    """The files of a model, as the storage initializer or a volume has them."""
    targets = {"flat": root, "versions": root / "3", "repository": root / "cellar" / "2"}
    shutil.copytree(MODELS / "digits" / "1", targets[layout])


def everything(root: Path) -> list[tuple[str, int]]:
    return sorted((str(path), path.stat().st_mtime_ns) for path in [root, *root.rglob("*")])


@AS_ROOT
@pytest.mark.parametrize(("layout", "version"), [("flat", "1"), ("versions", "3"), ("repository", "2")])
def test_a_read_only_mount_is_served_by_any_user_without_a_home(
    layout: str, version: str, place: Path, start: Start
) -> None:
    name = "cellar" if layout == "repository" else "my-service"
    root = place / "provisioned"
    lay_out(layout, root)
    before = everything(root)
    cache = writable(place / "cache")
    container = runtime("vintner")["spec"]["containers"][0]
    arguments = rendered(
        container, {"name": "my-service"}, [f"--cache-dir={cache}", f"--model_dir={place / 'models'}", *NO_DRAIN]
    )
    with read_only(root, place / "models"):
        server = start(*arguments, uid=ANY_UID)
        status = Path(f"/proc/{server.process.pid}/status").read_text()
        assert f"Uid:\t{ANY_UID}\t{ANY_UID}" in status
        assert versions(server, name) == [version]
        assert infer(server, name) == 200
        assert server.request("GET", "/v2/health/ready")[0] == 200
        server.terminate()
    assert everything(root) == before
    assert [path.name for path in cache.iterdir()] == [name]


@AS_ROOT
def test_a_cache_that_another_user_filled_is_read_and_the_rest_is_served_without(place: Path, start: Start) -> None:
    shutil.copytree(MODELS / "digits" / "1", place / "models" / "digits" / "1")
    arguments = [f"--model_dir={place / 'models'}", f"--cache-dir={writable(place / 'cache')}", "--log-format=text"]
    server = start(*arguments, *NO_DRAIN, uid=MODELCAR_UID)
    assert "--cache-dir" not in server.log.read_text()
    server.terminate()
    shutil.copytree(MODELS / "digits" / "2", place / "models" / "digits" / "2")
    before = everything(place / "cache")
    server = start(*arguments, *NO_DRAIN, uid=ANY_UID)
    assert versions(server, "digits") == ["2"]
    assert infer(server, "digits") == 200
    (warning,) = (line for line in server.log.read_text().splitlines() if "--cache-dir" in line)
    assert f"cannot write {place / 'cache' / 'digits'} (user {MODELCAR_UID}, group 0, mode 755)" in warning
    assert f"as user {ANY_UID}, nor 1 more in it; models that are not compiled there already are compiled" in warning
    assert everything(place / "cache") == before


@contextmanager
def modelcar(image: Path, link: Path) -> Iterator[None]:
    """A container that holds models below /models, and what KServe has it do: link to them by its own root."""
    program = (
        "import ctypes, os, sys; os.chroot(sys.argv[1]); os.chdir('/'); os.setgroups([]); os.setresgid(0, 0, 0);"
        f"os.setresuid(*[{MODELCAR_UID}] * 3); ctypes.CDLL(None).prctl(4, 1); print('up', flush=True); sys.stdin.read()"
    )  # 4 is PR_SET_DUMPABLE: as of a process that was started by that user, and did not become it
    process = subprocess.Popen(
        [sys.executable, "-c", program, image], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        subprocess.run(["ln", "-sf", f"/proc/{process.pid}/root/models", link], check=True)
        yield
    finally:
        process.kill()
        process.communicate(timeout=STOP)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def status_of(port: int, path: str) -> int:
    """0 as long as nobody listens."""
    connection = HTTPConnection("127.0.0.1", port, timeout=STOP)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except ConnectionRefusedError:
        return 0
    finally:
        connection.close()


@pytest.fixture
def waiting(place: Path, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a server whose models are not there, as modelcar has it, on a REST port of the test's own."""
    with ExitStack() as stack:

        def begin(port: int, *more: str) -> subprocess.Popen[str]:
            container = runtime("vintner")["spec"]["containers"][0]
            user = [f"--model_dir={place / 'mnt' / 'models'}", f"--cache-dir={writable(place / 'cache')}", *LOCAL]
            arguments = rendered(container, {"name": "s"}, [*user, f"--http_port={port}", *NO_DRAIN, *more])
            process = begin_container(arguments, tmp_path / "log", {"MODEL_INIT_MODE": "async"}, uid=MODELCAR_UID)
            stack.callback(process.stdout.close if process.stdout else process.poll)
            stack.callback(process.wait, STOP)
            stack.callback(process.kill)
            wait_until(lambda: status_of(port, "/v2/health/live") == 200)
            return process

        yield begin


@AS_ROOT
def test_a_modelcar_is_waited_for_and_followed_to_another_one(
    place: Path, tmp_path: Path, waiting: Callable[..., subprocess.Popen[str]]
) -> None:
    mount, log, port = writable(place / "mnt"), tmp_path / "log", free_port()
    shutil.copytree(MODELS / "digits" / "1", place / "image" / "models")
    shutil.copytree(MODELS / "digits", place / "next" / "models", ignore=shutil.ignore_patterns("config.yaml"))
    process = waiting(port, "--repository-poll-seconds=0.2", "--log-format=text")
    assert (status_of(port, "/v2/health/ready"), status_of(port, "/v2/models/s/ready")) == (503, 503)
    reason = f"waiting for models, not ready, since 0 s: {mount / 'models'}: No such file or directory"
    wait_until(lambda: reason in log.read_text())
    with modelcar(place / "image", mount / "models"):
        assert process.stdout is not None
        server = RunningServer(process, log, process.stdout.readline())
        assert server.ready
        assert "the models are there, after" in log.read_text()
        assert versions(server, "s") == ["1"]
        assert infer(server, "s") == 200
    assert infer(server, "s") == 200  # though its files are away
    with modelcar(place / "next", mount / "models"):
        wait_until(lambda: versions(server, "s") == ["2"])
        assert infer(server, "s") == 200
    assert server.terminate() == 0


@AS_ROOT
def test_a_server_that_waits_for_its_models_ends_when_it_is_told(
    place: Path, waiting: Callable[..., subprocess.Popen[str]]
) -> None:
    writable(place / "mnt")
    process = waiting(free_port())
    process.terminate()
    assert process.wait(STOP) == 0


@AS_ROOT
def test_a_modelcar_that_cannot_be_served_ends_the_server_with_one_line(
    place: Path, tmp_path: Path, waiting: Callable[..., subprocess.Popen[str]]
) -> None:
    mount = writable(place / "mnt")
    for name in ("one", "two"):
        shutil.copytree(MODELS / "digits" / "1", place / "image" / "models" / name)
    process = waiting(free_port(), "--model_name=s", "--repository-poll-seconds=0.2")
    with modelcar(place / "image", mount / "models"):
        assert process.wait(STOP) == 1
    assert "'s' can only name a single model; there are 2: one, two" in (tmp_path / "log").read_text()


# -- the agent of multi-model serving --------------------------------------------------------------------------


def test_the_agent_loads_and_unloads_what_it_fetched_and_deleted(tmp_path: Path, start: Start) -> None:
    mount = tmp_path / "models"
    mount.mkdir()
    container = runtime("vintner-multi-model")["spec"]["containers"][0]
    user = [f"--model_dir={mount}", f"--cache-dir={tmp_path / 'cache'}"]
    server = start(*rendered(container, {"name": "shelf"}, user), env={"INFERENCE_SERVICE_NAME": "shelf"})
    assert server.request("GET", "/v2/health/ready")[0] == 200
    json_body = {"Content-Type": "application/json"}
    for number, name in enumerate(["digits", "digits-too"]):
        shutil.copytree(MODELS / "digits" / str(number + 1), mount / name)
        (mount / name / f"SUCCESS.{'0' * 64}").write_text('{"storageUri": "s3://models/digits"}')
        reply = server.request("POST", f"/v2/repository/models/{name}/load", b"{}", json_body)
        assert (reply[0], reply[2]) == (200, b"{}")
        assert infer(server, name) == 200
    shutil.rmtree(mount / "digits")
    assert infer(server, "digits") == 200
    reply = server.request("POST", "/v2/repository/models/digits/unload", b"{}", json_body)
    assert (reply[0], reply[2]) == (200, b"{}")
    assert infer(server, "digits") != 200
    assert infer(server, "digits-too") == 200
    assert names(server) == {"digits-too"}
    assert server.request("POST", "/v2/repository/models/digits/load", b"{}", json_body)[0] == 404


def test_a_runtime_for_one_model_refuses_the_agents_calls_and_follows_the_files_by_itself(
    tmp_path: Path, start: Start
) -> None:
    mount = tmp_path / "models"
    shutil.copytree(MODELS / "digits" / "1", mount / "digits")
    server = start(f"--model_dir={mount}", "--repository-settle-seconds=0")
    status, _, body = server.request("POST", "/v2/repository/models/digits/load", b"{}")
    assert (status, "explicit" in body.decode()) == (503, True)
    shutil.copytree(MODELS / "digits" / "2", mount / "digits-too")
    wait_until(lambda: infer(server, "digits-too") == 200)


# -- the end ---------------------------------------------------------------------------------------------------


def test_a_pod_that_is_told_to_stop_is_not_ready_at_once_serves_on_and_ends(tmp_path: Path, start: Start) -> None:
    container = runtime("vintner")["spec"]["containers"][0]
    user = [f"--model_dir={MODELS / 'digits_onnx'}", f"--cache-dir={tmp_path / 'cache'}"]
    drains = start(*rendered(container, {"name": "s"}, [*user, "--drain-seconds=1000"]))
    assert (drains.request("GET", "/v2/health/ready")[0], infer(drains, "s")) == (200, 200)
    drains.process.terminate()
    wait_until(lambda: drains.request("GET", "/v2/health/ready")[0] != 200)
    assert infer(drains, "s") == 200
    assert drains.request("GET", "/v2/health/live")[0] == 200
    drains.kill()
    assert start(*rendered(container, {"name": "s"}, [*user, "--drain-seconds=0.5"])).terminate() == 0
