"""One request of a client's that is run as several inferences, and answered when all are done.

So many rows are neither one run that holds up everybody else's, nor kept to one instance of the model. Knows nothing of
what is asked. Invariant: `done` is called once, with one response for each part, all of the same version of the model,
or with the first error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from threading import Lock
from typing import Final
from uuid import uuid4

from vintner.errors import ModelNotReady
from vintner.service import Service
from vintner.turns import Turn, run_here
from vintner.types import Cancellation, Request, Response

AT_ONCE: Final = 4
"""Parts that wait or run at the same time, so that what others ask meanwhile gets in between."""

ATTEMPTS: Final = 3
"""Times that all is run, if the model was replaced meanwhile."""

Done = Callable[[Sequence[Response] | Exception], None]


class Spread:
    """The parts of one request. Threads: any."""

    def __init__(self, service: Service, make: Sequence[Callable[[], Request]], done: Done) -> None:
        """Each of `make` makes a part's request. `done` is called in any thread, must be quick and not raise."""
        self._service = service
        self._make = make
        self._done = done
        self._lock = Lock()
        self._attempts = 0
        self._submitting = False
        self._begin()

    def _begin(self) -> None:
        self._id = uuid4().hex  # by which versions are chosen, where a share of the requests gets another
        self._attempts += 1
        self._next = 0
        self._running: dict[int, Cancellation] = {}
        self._responses: dict[int, Response] = {}
        self._over = False

    def run(self) -> None:
        """Submits what may be, and runs it in this thread as far as it is this one's turn."""
        turns = self._submit()
        for turn in turns[1:]:
            turn.pass_on()
        run_here(turns[0] if turns else None)

    def _submit(self) -> list[Turn]:
        """One thread submits at a time: an answer that comes at once would nest one call in the other."""
        turns: list[Turn] = []
        with self._lock:
            if self._submitting:
                return turns
            self._submitting = True
        while (part := self._take()) is not None:
            index, request = part
            turn = self._service.submit(request, "rest", partial(self._settle, index))
            if turn is not None:
                turns.append(turn)
        return turns

    def _take(self) -> tuple[int, Request] | None:
        """The next part, if there is one and it may run now; else this thread does not submit any more."""
        with self._lock:
            index = self._next
            if self._over or index == len(self._make) or len(self._running) >= AT_ONCE:
                self._submitting = False
                return None
            self._next += 1
            cancellation = self._running[index] = Cancellation()
            request = self._make[index]()
            request.id, request.cancellation = self._id, cancellation
            return index, request

    def _settle(self, index: int, result: Response | Exception) -> None:
        with self._lock:
            self._running.pop(index, None)
            if self._over:
                return
            outcome = self._outcome(index, result)
            self._over = outcome is not None
            left = list(self._running.values()) if self._over else []
        for cancellation in left:
            cancellation.cancel()
        if outcome is not None:
            self._done(outcome)
            return
        for turn in self._submit():
            turn.pass_on()

    def _outcome(self, index: int, result: Response | Exception) -> Sequence[Response] | Exception | None:
        """What has come of the whole, if that is known now. Needs the lock."""
        if isinstance(result, Exception):
            return result
        self._responses[index] = result
        if len(self._responses) < len(self._make):
            return None
        responses = [self._responses[place] for place in range(len(self._make))]
        if len({response.model_version for response in responses}) == 1:
            return responses
        if self._attempts == ATTEMPTS:
            return ModelNotReady(f"model '{result.model_name}' was replaced while the request ran")
        self._begin()
        return None
