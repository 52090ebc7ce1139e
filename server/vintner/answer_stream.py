"""The responses to one request, for a front end that sends them one by one as they come.

Knows neither the model nor the transport. Invariant: a request of which nobody takes the responses any more is
cancelled.
"""

from __future__ import annotations

from vintner.errors import Cancelled
from vintner.outbox import PATIENCE, Item, Outbox
from vintner.service import Service
from vintner.types import Cancellation, Request, Response


class Ended(Exception):
    """No response will come any more."""


def answered(item: Item | Exception) -> Item:
    """What was taken out of an outbox, unless it is an error, which is raised."""
    if not isinstance(item, Exception):
        return item
    try:
        raise item
    finally:
        del item  # its traceback has this frame, which would keep it until Python looks for such circles


class AnswerStream:
    """One request's. Threads: the model's, which respond and end; the front end's, which takes."""

    def __init__(self) -> None:
        self._outbox: Outbox[Response | Exception] = Outbox()
        self._cancellation = Cancellation()

    def submit(self, service: Service, request: Request, protocol: str) -> None:
        """Begins. No model is run in this thread, which has to send what comes."""
        request.cancellation = self._cancellation
        request.on_response, request.stream = self._respond, self
        turn = service.submit(request, protocol, self._end)
        if turn is not None:
            turn.pass_on()

    def _respond(self, response: Response) -> None:
        if self._outbox.wait_for_room():
            self._outbox.put(response)
        else:
            self._outbox.put(Cancelled(f"no response was taken for {PATIENCE:g} s"))
            self._cancellation.cancel()

    def has_room(self) -> bool:
        return self._outbox.has_room()

    def put(self, response: Response) -> None:
        """As `_respond`, without waiting."""
        self._outbox.put(response)

    def _end(self, result: Response | Exception) -> None:
        if isinstance(result, Exception):
            self._outbox.put(result)
            return
        if result.outputs:
            self._outbox.put(result)
        self._outbox.put(Ended())

    def take(self, timeout: float | None = None) -> Response | None:
        """The next response, or None if there was none in so many seconds. Raises what ended the request, or Ended."""
        return answered(self._outbox.take(timeout))

    def close(self) -> None:
        """Nobody wants more."""
        self._outbox.close()
        self._cancellation.cancel()
