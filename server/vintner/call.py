"""One request on its way through the scheduler, from the queue to its answer.

Pure but for `answer`. Invariant: a call is queued, running or done, and its owner is told once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Literal, TypeVar

from vintner.batching import Pending
from vintner.errors import DeadlineExceeded, QueueTimeout
from vintner.rests import Rests
from vintner.timing import Timing
from vintner.types import Array, Cancellation, Parameter

logger = logging.getLogger(__name__)

Arrays = Mapping[str, Array]
Result = Arrays | Exception
Value = TypeVar("Value")


class Parametrized(dict[str, Value]):
    """What there is for each input of a run to which the parameters of its request matter."""

    def __init__(self, values: Mapping[str, Value], parameters: Mapping[str, Parameter]) -> None:
        super().__init__(values)
        self.parameters = parameters


class Call(Pending):
    """One request on its way through the scheduler.

    `deadline` is the client's; `timeout` is the time until which it may wait, after which it is refused, or, with
    `postpones`, only goes behind the others. Both in seconds of `time.monotonic`. `done` is called once, by whichever
    thread ends the call, with the outputs, rows `rows` of the batch that it went with, or with the error. It must be
    quick.
    """

    __slots__ = (
        "_client_deadline",
        "cancellation",
        "done",
        "inputs",
        "postpones",
        "rests",
        "result",
        "state",
        "timing",
        "watched",
    )

    def __init__(
        self,
        inputs: Arrays,
        rows: int,
        size: int = 0,
        signature: Hashable = None,
        deadline: float | None = None,
        cancellation: Cancellation | None = None,
        *,
        done: Callable[[Result], None],
        level: int = 1,
        timeout: float | None = None,
        postpones: bool = False,
    ) -> None:
        super().__init__(rows, size, signature, deadline, level)
        self._client_deadline = deadline
        self.postpones = False
        if timeout is not None and (deadline is None or timeout < deadline):
            self.deadline = timeout
            self.postpones = postpones
        self.inputs = inputs
        self.cancellation = cancellation
        self.done = done
        self.result: Result = {}
        self.state: Literal["queued", "running", "done"] = "queued"
        self.timing: Timing | None = None  # for a call that asks where its time goes
        self.rests: Rests | None = None  # of a run that may wait for its client
        self.watched = False  # the cancellation has been told whom to call

    def postponed(self) -> None:
        """From now on only the client's own deadline counts."""
        self.postpones = False
        self.deadline = self._client_deadline

    def lateness(self) -> Exception:
        """What a call is told whose deadline has passed."""
        if self.state == "queued" and self.deadline != self._client_deadline:
            return QueueTimeout("Request timeout expired")
        return DeadlineExceeded("the deadline passed while the request waited or ran")


def answer(ended: Sequence[Call]) -> None:
    """Tells the owners of calls that have ended. Not to be called under the lock."""
    for call in ended:
        if call.watched and call.cancellation is not None:
            call.cancellation.on_cancel(None)
        try:
            call.done(call.result)
        except Exception:
            logger.exception("an answer could not be given")
