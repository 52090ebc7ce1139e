"""The access log: one line for each request, over whichever protocol it came.

Knows neither gRPC nor HTTP. A front end makes a `Visit` of a request that came in, whoever learns something of it
notes it there, and when the request was answered the front end has it written.

What a client chose (ids, names, paths) is cut to a bounded length here, and escaped and quoted by `logs`. Invariant: a
visit is written once.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from vintner.errors import outcome_of
from vintner.logs import ACCESS
from vintner.timing import Timing
from vintner.types import Response

logger = logging.getLogger(ACCESS)

LONGEST: Final = 128
"""Characters of a text that a client chose."""

OUTCOMES: Final[Mapping[str, str]] = {"RESOURCE_EXHAUSTED": "too_large", "UNIMPLEMENTED": "unsupported"}
"""Where the outcome of what fails with a gRPC status is not the status's own name."""

Reply = Callable[[Response | Exception], None]


@dataclass(slots=True)
class Visit:
    """One request. `started` is of `time.monotonic`, `received` in bytes, None where it is not known.

    Threads: one after the other; who writes it is the last.
    """

    protocol: str
    method: str
    path: str
    peer: str
    started: float
    received: int | None = None
    request_id: str = ""
    model: str = ""
    version: str = ""
    """The one that served; of a request that none served, the one that was asked for."""
    outcome: str = ""
    timing: Timing | None = None

    def witness(self, reply: Reply) -> Reply:
        """The reply to an inference, having noted what it is."""

        def noting(result: Response | Exception) -> None:
            if isinstance(result, Response):
                self.version, self.outcome = result.model_version, "ok"
            else:
                self.outcome = outcome_of(result)
            reply(result)

        return noting


def write(visit: Visit, status: str | int, code: str, sent: int | None) -> None:
    """Logs a visit that is over, with its protocol's status, the gRPC status that this stands for, and the reply's
    bytes."""
    # Not by `logger.info`, which looks for its caller and so takes a fifth longer (measured).
    record = logging.LogRecord(ACCESS, logging.INFO, "", 0, "request", None, None)
    vars(record).update(fields(visit, status, code, sent, time.monotonic()))
    logger.handle(record)


def fields(visit: Visit, status: str | int, code: str, sent: int | None, now: float) -> Mapping[str, object]:
    """What the line says; what is empty or not known is left out."""
    outcome = visit.outcome
    # The answer to an inference may be one that cannot be sent, and a stream that began well may end otherwise.
    if not outcome or (outcome == "ok" and code != "OK"):
        outcome = OUTCOMES.get(code, code.lower())
    told: dict[str, object] = {
        "protocol": visit.protocol,
        "method": bounded(visit.method),
        "path": bounded(visit.path),
        "status": status,
        "outcome": outcome,
        "request_id": bounded(visit.request_id),
        "model": bounded(visit.model),
        "version": bounded(visit.version),
        "received": visit.received,
        "sent": sent,
        "seconds": round(now - visit.started, 6),
        "peer": bounded(visit.peer),
    }
    timing = visit.timing
    if timing is not None and timing.requests:
        told["queue_seconds"] = round(timing.queue, 6)
        told["compute_seconds"] = round(timing.stages[1], 6)
        if timing.prompt_tokens:
            told["prompt_tokens"], told["generated_tokens"] = timing.prompt_tokens, timing.generated_tokens
    return {name: value for name, value in told.items() if value not in ("", None)}


def bounded(text: str) -> str:
    """A text that a client chose, cut to what a line may hold of it."""
    return text if len(text) <= LONGEST else text[:LONGEST] + "…"
