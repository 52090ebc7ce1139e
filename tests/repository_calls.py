"""What a server says of its repository, and what is done to one, for tests of how the one follows the other."""

from __future__ import annotations

import json
from pathlib import Path

from infer_calls import wait_until
from running_server import RunningServer


def index(server: RunningServer) -> dict[str, tuple[str, str]]:
    """State and reason of each version, as `model/1`; `model/` is a model of which there is no version to tell of."""
    entries = json.loads(server.request("POST", "/v2/repository/index", b"")[2])
    return {f"{e['name']}/{e.get('version', '')}": (e.get("state", ""), e.get("reason", "")) for e in entries}


def wait_for(server: RunningServer, entry: str, state: str, reason: str = "") -> None:
    """Until the index has an entry in this state, for a reason that has this in it; "" is for none at all."""

    def found() -> bool:
        actual_state, actual = index(server).get(entry, ("", ""))
        return actual_state == state and (reason in actual if reason else not actual)

    try:
        wait_until(found)
    except AssertionError:
        raise AssertionError(f"{entry} is not {state} for {reason!r}: {index(server)}") from None


def loads(server: RunningServer) -> tuple[int, int]:
    """How many loads succeeded, and how many failed."""
    return int(server.counter("vintner_model_loads_total")), int(server.counter("vintner_model_load_failures_total"))


def answering(server: RunningServer, model: str = "m") -> tuple[int, str, float]:
    """The status of an inference; where it was answered, the version and what it multiplies by."""
    body = {"inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 4], "data": [1, 1, 1, 1]}]}
    status, _, reply = server.request("POST", f"/v2/models/{model}/infer", json.dumps(body).encode())
    if status != 200:
        return status, "", 0.0
    document = json.loads(reply)
    return status, document["model_version"], document["outputs"][0]["data"][0]


def switch(link: Path, target: str | Path) -> None:
    """Has a link lead elsewhere, atomically, as Kubernetes does."""
    other = link.with_name(f"{link.name}_tmp")
    other.symlink_to(target)
    other.rename(link)
