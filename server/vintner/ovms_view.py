"""The states of all versions as OpenVINO Model Server's document of `/v1/config`.

Knows neither HTTP nor where a model came from. A version that failed to load is `LOADING` with the error `UNKNOWN`, as
there, where it is tried again and again; the reason is in the message. A model that has no version to speak of, for its
configuration or its directory is wrong, has the version 0 in that state.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from vintner.lifecycle import State
from vintner.managed_model import IndexEntry

STATES: Final[Mapping[State | None, str]] = {
    State.LOADING: "LOADING",
    State.READY: "AVAILABLE",
    State.UNLOADING: "UNLOADING",
}


def document(entries: Iterable[IndexEntry]) -> dict[str, Any]:
    """By model, in the order of the entries; empty where there is nothing."""
    models: dict[str, Any] = {}
    for entry in entries:
        models.setdefault(entry.name, {"model_version_status": []})["model_version_status"].append(_status(entry))
    return models


def failures(entries: Iterable[IndexEntry]) -> list[str]:
    """What could not be loaded, with the reason."""
    return [
        f"model '{entry.name}'{f' version {entry.version}' if entry.version else ''}: {entry.reason}"
        for entry in entries
        if entry.failed
    ]


def _status(entry: IndexEntry) -> dict[str, Any]:
    failed = entry.failed and entry.state is State.UNAVAILABLE
    return {
        "version": entry.version or "0",
        "state": "LOADING" if failed else STATES.get(entry.state, "END"),
        "status": {
            "error_code": "UNKNOWN" if failed else "OK",
            "error_message": entry.reason if failed else "OK",
        },
    }
