"""What KServe makes of a runtime and an InferenceService: the container, and here the server that it would run.

Knows KServe's rules for arguments: templates are filled from the service's metadata, and the user's arguments come
after the runtime's. Invariant: what is started is the command of the manifest, with more arguments at its end.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from running_server import ROOT, STOP, RunningServer

DEPLOY = ROOT / "deploy" / "kserve"
ANY_UID = 12345
LOCAL = ("--host=127.0.0.1", "--http_port=0", "--grpc_port=0", "--metrics-port=0")


def documents(path: Path) -> list[Any]:
    """The objects in a file."""
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def runtime(name: str) -> Any:
    """A runtime that ships, by its name."""
    files = sorted(DEPLOY.glob("runtime*.yaml"))
    return next(each for path in files for each in documents(path) if each["metadata"]["name"] == name)


def filled(text: str, metadata: Mapping[str, Any], missing: str = "<no value>") -> str:
    """A template as Go fills it: of a key that is not there, it makes `<no value>` or nothing."""

    def value(match: re.Match[str]) -> str:
        found: Any = metadata
        for part in match[1].lower().split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
        return missing if found is None else str(found)

    text = re.sub(r"\{\{ *\.([A-Za-z0-9_.]+) *\}\}", value, text)
    assert "{{" not in text, text
    return text


def rendered(container: Mapping[str, Any], metadata: Mapping[str, Any], user: Sequence[str] = ()) -> list[str]:
    """The arguments of the container, after its command."""
    return [*(filled(each, metadata) for each in container["args"]), *user]


def start_container(
    arguments: Sequence[str], log: Path, env: Mapping[str, str] | None = None, uid: int | None = None
) -> RunningServer:
    """Starts `vintner serve` with these arguments and returns when it has printed its ready line."""
    server = begin_container(arguments, log, env, uid)
    assert server.stdout is not None
    line = server.stdout.readline()
    if not line:
        server.stdout.close()
        raise AssertionError(f"the server ended with {server.wait(STOP)}: {log.read_text()}")
    return RunningServer(server, log, line)


def begin_container(
    arguments: Sequence[str], log: Path, env: Mapping[str, str] | None = None, uid: int | None = None
) -> subprocess.Popen[str]:
    """As `start_container`, without waiting. With a `uid`, nothing of this process's environment is left: no HOME, and
    no user of that number."""
    prefix: list[str] = []
    environment = {**os.environ, **(env or {})}
    if uid is not None:
        prefix = ["setpriv", f"--reuid={uid}", "--regid=0", "--clear-groups", "--inh-caps=-all", "--"]
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.environ.get("PYTHONPATH", ""), **(env or {})}
    with log.open("w") as stderr:
        return subprocess.Popen(
            [*prefix, sys.executable, "-m", "vintner", "serve", *arguments],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env=environment,
            cwd="/",
        )
