"""`vintner health`: asks a running server whether it is alive, for health checks of containers that have no curl.

Knows where a server with the same options listens, and nothing of its models: readiness is for balancers. Loads no
runtime, because it runs every few seconds beside the server. In a container that server is process 1, whose command
line is then as good as its own: an engine's health check is the image's, and does not know it. Invariant: it returns
only if the server answered 200.
"""

from __future__ import annotations

import http.client
import os
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final

from vintner.config import ServerConfig
from vintner.errors import ConfigError, OperatorError

PATH: Final = "/v2/health/live"
PATIENCE: Final = 3.0
"""Seconds for the connection, and for each piece of the answer."""

EVERYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}
"""Addresses to listen on that are none to connect to, and where such a server is found on its own machine."""


FIRST_PROCESS: Final = Path("/proc/1/cmdline")


def servers_arguments() -> Sequence[str]:
    """Those that process 1 serves with, by itself or below an init; none if it is something else."""
    try:
        words = FIRST_PROCESS.read_bytes().decode(errors="surrogateescape").split("\0")[:-1]
    except OSError:
        return []
    for place, (word, following) in enumerate(pairwise(words), 2):
        if (os.path.basename(word), following) == ("vintner", "serve"):
            return words[place:]
    return []


def check(config: ServerConfig) -> str:
    """The address that answered. Raises OperatorError for any other answer, or none."""
    if not config.http_port:
        raise ConfigError("--http-port: is 0, which does not say where the server listens; expected its port")
    host = EVERYWHERE.get(config.host, config.host)
    address = f"http://{f'[{host}]' if ':' in host else host}:{config.http_port}{PATH}"
    connection = http.client.HTTPConnection(host, config.http_port, timeout=PATIENCE)
    try:
        connection.request("GET", PATH)
        answer = connection.getresponse()
    except (OSError, http.client.HTTPException) as exc:
        reason = getattr(exc, "strerror", None) or str(exc) or type(exc).__name__
        raise OperatorError(f"{address}: no answer: {reason}") from exc
    finally:
        connection.close()
    if answer.status != 200:
        raise OperatorError(f"{address}: answered {answer.status} {answer.reason}")
    return address
