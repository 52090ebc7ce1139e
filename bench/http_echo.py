"""A bare server on granian's WSGI interface: reads the body, answers with the reply that it was given, no more.

It is granian as it comes, through its public API, with one worker. `GET /served` is the number of replies.
Usage: `http_echo.py PORT FILE`, where the file holds the reply's body. Run by `servers.py`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from threading import Lock
from typing import Any

from granian import Granian
from granian.constants import Interfaces

REPLY_VARIABLE = "BENCH_ECHO_REPLY"
"""Granian's worker is a process of its own: the environment carries the file's name to it."""


class Echo:
    """The WSGI application. `_lock` guards the count."""

    def __init__(self, reply: bytes) -> None:
        self._reply = reply
        self._headers = [("content-type", "application/octet-stream"), ("content-length", str(len(reply)))]
        self._lock = Lock()
        self._served = 0

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/served":
            start_response("200 OK", [("content-type", "text/plain")])
            return [str(self._served).encode()]
        environ["wsgi.input"].read()
        start_response("200 OK", self._headers)
        with self._lock:
            self._served += 1
        return [self._reply]


def make_echo() -> Echo:
    return Echo(Path(os.environ[REPLY_VARIABLE]).read_bytes())


if __name__ == "__main__":
    os.environ[REPLY_VARIABLE] = sys.argv[2]
    Granian("bench.http_echo:make_echo", port=int(sys.argv[1]), interface=Interfaces.WSGI, factory=True).serve()
