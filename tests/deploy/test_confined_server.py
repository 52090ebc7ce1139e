"""A server as a container's engine runs it: process 1, a user that nobody knows, no home, nothing to write but a cache.

The mounts and namespaces are those of `scripts/image_run.py`; the files are this machine's instead of an image's.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from confined import Confinement, command
from infer_calls import wait_until
from running_server import ROOT, STOP, RunningServer
from tiny_llm import chats

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make mounts and namespaces here")
USER = "12345:0"


@dataclass(frozen=True, slots=True)
class Confined:
    server: RunningServer
    first: int
    """Process 1 of the namespace, by the number that it has here."""
    inside: Confinement
    cache: Path
    given: frozenset[str]
    """What is in its /tmp from the start: mount points."""


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def zombies(pid: int) -> list[int]:
    return [
        child for child in children(pid) if Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    ]


def lendings() -> dict[str, Path]:
    """Where this interpreter, its packages and the project are: the same paths inside, read only."""
    paths = {Path(path).resolve() for path in (sys.prefix, sys.base_prefix, ROOT)}
    outer = {path for path in paths if not any(path != each and path.is_relative_to(each) for each in paths)}
    own = {path for path in outer if not path.is_relative_to("/usr")}
    return {str(path): path for path in [Path("/usr"), Path("/etc"), *sorted(own)]}


def make_root(root: Path) -> Confinement:
    """An empty root with mount points; what /bin and the like lead to is in /usr."""
    cache = root.parent / "cache"
    cache.mkdir()
    cache.chmod(0o775)
    for path in (*lendings(), "/proc", "/sys", "/dev", "/tmp", "/cache"):
        (root / path.lstrip("/")).mkdir(parents=True, exist_ok=True)
    for link in (path for path in Path("/").iterdir() if path.is_symlink() and str(path.readlink()).startswith("usr/")):
        (root / link.name).symlink_to(link.readlink())
    environment = {
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": f"{ROOT / 'server'}:{ROOT / 'backends'}",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    volumes = {"/cache": cache}
    return Confinement(root, USER, environment, volumes=volumes, lent=lendings())


@pytest.fixture
def confined(tmp_path: Path) -> Iterator[Confined]:
    inside = make_root(tmp_path / "root")
    words = [
        sys.executable, "-m", "vintner", "serve", "--model-repository", str(ROOT / "model_repository"),
        "--cache-dir=/cache", "--host=127.0.0.1", "--http-port=0", "--grpc-port=0", "--metrics-port=0",
    ]  # fmt: skip
    log = tmp_path / "log"
    with log.open("w") as stderr:
        process = subprocess.Popen(command(inside, words), stdout=subprocess.PIPE, stderr=stderr, text=True)
    assert process.stdout is not None
    server = RunningServer(process, log, process.stdout.readline())
    (first,) = children(process.pid)
    given = frozenset(Path(path).parts[2] for path in inside.lent if path.startswith("/tmp/"))
    yield Confined(server, first, inside, tmp_path / "cache", given)
    server.kill()


def say(server: RunningServer, model: str) -> str:
    body = {"model": model, "messages": chats()["name"].messages, "temperature": 0}
    status, _, answer = server.request("POST", "/v1/chat/completions", json.dumps(body).encode())
    return json.loads(answer)["choices"][0]["message"]["content"] if status == 200 else f"{status} {answer!r}"


def test_an_unknown_user_without_a_home_serves_as_process_1_from_a_read_only_root(confined: Confined) -> None:
    server, status = confined.server, Path(f"/proc/{confined.first}/status").read_text()
    assert server.ready
    assert re.search(r"^NSpid:.*\s1$", status, re.MULTILINE)
    assert "\nUid:\t12345\t" in status
    assert "\nGid:\t0\t" in status
    assert "\nCapEff:\t0000000000000000\n" in status
    assert b"HOME=" not in Path(f"/proc/{confined.first}/environ").read_bytes()

    lines = {"inputs": [{"name": "line", "datatype": "BYTES", "shape": [1], "data": ["a glass"]}]}
    reply = json.loads(server.request("POST", "/v2/models/text_lines/infer", json.dumps(lines).encode())[2])
    assert reply["outputs"][0]["data"] == ["A GLASS"]
    for model in ("tiny_llm", "tiny_llm_onnx"):
        assert say(server, model) == chats()["name"].answer

    port = server.http.rpartition(":")[2]
    asked = command(confined.inside, [sys.executable, "-m", "vintner", "health", f"--http-port={port}"])
    assert subprocess.run(asked, capture_output=True, text=True, check=False).stdout.startswith("alive: ")

    (worker,) = children(confined.first)
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: say(server, "tiny_llm_onnx") == chats()["name"].answer)
    assert worker not in children(confined.first)
    assert zombies(confined.first) == []

    # What it wrote: compiled models. And it was not refused anything that it tried to write elsewhere.
    assert list(confined.cache.rglob("*.blob"))
    assert frozenset(os.listdir(f"/proc/{confined.first}/root/tmp")) == confined.given
    assert "Read-only file system" not in server.log.read_text()
    assert "Permission denied" not in server.log.read_text()

    os.kill(confined.first, signal.SIGTERM)
    assert server.process.wait(STOP) == 0


def test_what_is_confined_can_write_nothing_but_volumes_and_tmp(tmp_path: Path) -> None:
    inside = make_root(tmp_path / "root")
    places = ["/", "/usr", "/etc", str(ROOT), "/tmp", "/cache"]
    script = (
        f'for place in {" ".join(places)}; do (: > "$place/written") 2>/dev/null && echo "$place"; done; id -u; id -g'
    )
    run = subprocess.run(command(inside, ["/bin/sh", "-c", script]), capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["/tmp", "/cache", "12345", "0"]
    assert (tmp_path / "cache" / "written").exists()
    assert not Path("/tmp/written").exists()
