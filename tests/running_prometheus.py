"""Starts a real Prometheus in a process of its own, and asks it as Grafana does."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from waiting import wait_until

STOP = 40.0
LISTENING = re.compile(r'msg="Listening on" address=(\S+)')
READY = "Server is ready to receive web requests."


def tool(name: str) -> str:
    """The path of a program of Prometheus's, beside this interpreter or anywhere."""
    beside = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    found = shutil.which(name, path=beside)
    assert found, f"{name} is not there: `make test` installs it"
    return found


@dataclass
class RunningPrometheus:
    """One that listens at `address`."""

    process: subprocess.Popen[bytes]
    address: str

    def get(self, path: str, **parameters: str) -> Any:
        """The data of an answer of the API; an error is raised with Prometheus's own words."""
        url = f"http://{self.address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=30) as reply:
                return json.load(reply)["data"]
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(f"{parameters}: {error.read().decode()}") from error

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Labels and values at this moment."""
        found = self.get("query", query=expression)["result"]
        return [(each["metric"], float(each["value"][1])) for each in found]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(STOP)


def start_prometheus(config: Path, directory: Path) -> RunningPrometheus:
    """On a free port of the loopback interface; `directory` takes its data and its log."""
    log = directory / "prometheus.log"
    storage, port = f"--storage.tsdb.path={directory / 'data'}", "--web.listen-address=127.0.0.1:0"
    with log.open("wb") as stderr:
        command = [tool("prometheus"), f"--config.file={config}", storage, port]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stderr)
    try:
        wait_until(lambda: process.poll() is not None or READY in log.read_text())
        found = LISTENING.search(log.read_text())
        assert found, log.read_text()
    except BaseException:
        process.kill()
        process.wait(STOP)
        raise
    return RunningPrometheus(process, found[1])
