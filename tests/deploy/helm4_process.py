"""Helm 4, as a process that answers JSON, a line each: `python helm4_process.py`, and `ask` for those who started it.

Knows no chart. Helm 4 is a library in Go, which takes the signals of its process for itself: with it inside, a write to
a closed socket ended pytest with a segmentation fault, in tests that have nothing to do with charts.
Invariant: each line gets one answer, `{"result": ...}`, or `{"refused": TEXT}` where Helm raised an error of its own.
"""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Lock
from typing import Any


class Refused(Exception):
    """Helm would not. The text is Helm's."""


def ask(operation: str, *arguments: Any) -> Any:
    """Has Helm do something. Raises Refused, and RuntimeError if the process has ended."""
    with _lock:
        process = _started()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps([operation, *arguments]) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"Helm 4 ended with {process.wait()}, asked to {operation}")
    answer: Mapping[str, Any] = json.loads(line)
    if "refused" in answer:
        raise Refused(answer["refused"])
    return answer["result"]


_lock = Lock()


@functools.cache
def _started() -> subprocess.Popen[str]:
    """Ends by itself with its standard input, so with this process."""
    return subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def main() -> None:
    import helm_python

    @functools.cache
    def chart(path: str) -> helm_python.Chart:
        return helm_python.Chart.load(Path(path))

    def render(path: str, values: dict[str, Any], release: str, namespace: str) -> dict[str, str]:
        return dict(chart(path).render(values, name=release, namespace=namespace))

    def lint(path: str, values: dict[str, Any], namespace: str) -> list[dict[str, Any]]:
        report: Mapping[str, list[dict[str, Any]]] = helm_python.lint(
            Path(path), values, strict=True, namespace=namespace
        )
        return report["messages"]

    def package(path: str, destination: str) -> str:
        return str(helm_python.package(Path(path), destination=Path(destination)))

    operations: dict[str, Callable[..., Any]] = {"render": render, "lint": lint, "package": package}
    for line in sys.stdin:
        operation, *arguments = json.loads(line)
        answer: dict[str, Any]
        try:
            answer = {"result": operations[operation](*arguments)}
        except helm_python.HelmError as exc:
            answer = {"refused": str(exc)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
