"""ModelStreamInfer: any number of requests and responses on one call, as Triton has it.

Knows the stream, not the transport: messages come from an iterator and go out through one. Requests of ordinary models
are answered in their order, those of decoupled ones whenever a response is there. An error is a message, with the id of
its request, and ends nothing but this request; unless the client asked for a status instead, which ends the stream.

Invariant: each message that was read is answered, unless the stream ends before; then its request is cancelled.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock, Semaphore, Thread
from typing import Final

from vintner import grpc_codec as codec
from vintner.cores import without_preempting
from vintner.errors import Cancelled, InvalidArgument, QueueFull, Stopping
from vintner.outbox import PATIENCE, Outbox
from vintner.service import MOST_STREAMS, Service
from vintner.shared_memory import Part
from vintner.types import Cancellation, Request, Response

logger = logging.getLogger(__name__)

MOST_ASKED: Final = 64
"""Requests of one stream that are not answered yet, or whose answer was not sent; more are not read."""

OVERWRITTEN: Final = (
    "a decoupled model's outputs cannot go into shared memory: each response would overwrite the one before"
)


@dataclass(frozen=True, slots=True)
class _Message:
    data: bytes
    error: Exception | None = None
    last: bool = False
    """Nothing more comes of its request."""


@dataclass(eq=False, slots=True)
class _Asked:
    """A request of the stream. `ordered`: it is answered after those before it."""

    id: str
    ordered: bool
    wants_empty_final: bool
    places: Mapping[str, Part] = field(default_factory=dict)
    """Outputs that go into shared memory."""
    cancellation: Cancellation = field(default_factory=Cancellation)
    last: _Message | None = None


@dataclass(frozen=True, slots=True)
class _Direct:
    """The way of responses that does not wait."""

    has_room: Callable[[], bool]
    put: Callable[[Response], None]


class InferStream:
    """One call. Threads: one that reads, one that iterates `messages`, and the models', which answer."""

    def __init__(
        self,
        service: Service,
        decode: Callable[[bytes], tuple[Request, Mapping[str, Part]]],
        deadline: float | None,
        error_text: Callable[[Exception], str],
        errors_end_it: bool = False,
    ) -> None:
        """`decode` returns a request and where in shared memory its outputs go, or raises what is wrong with a message;
        `error_text` says how a client is told of that; `deadline` is that of the call, in seconds of
        `time.monotonic`."""
        self._service = service
        self._decode = decode
        self._deadline = deadline
        self._error_text = error_text
        self._errors_end_it = errors_end_it
        self._outbox: Outbox[_Message] = Outbox()
        self._places = Semaphore(MOST_ASKED)
        self._lock = Lock()
        self._asked: set[_Asked] = set()
        self._order: deque[_Asked] = deque()
        self._read_all = False
        self._stopping = False
        self._error: Exception | None = None

    # -- the thread of the call --------------------------------------------------------------------------------

    def messages(self, received: Iterator[bytes]) -> Iterator[bytes]:
        """What is to be sent. Raises the error that the stream is to end with."""
        Thread(target=self._read, args=(received,), name="vintner-grpc-stream", daemon=True).start()
        try:
            with without_preempting():
                yield from self._sent()
            if self._error is not None:
                raise self._error
        finally:
            self.cancel()

    def _sent(self) -> Iterator[bytes]:
        while (message := self._outbox.take()) is not None:
            if message.error is not None and self._errors_end_it:
                raise message.error
            if message.data:
                yield message.data
            if message.last:
                self._places.release()

    def cancel(self) -> None:
        """The call is over: nobody takes anything any more."""
        self._outbox.close()
        self._places.release()  # a reader that waits for one
        with self._lock:
            asked = list(self._asked)
        for each in asked:
            each.cancellation.cancel()

    def stop(self) -> None:
        """The server ends: what was read is answered, then the stream ends."""
        with self._lock:
            self._stopping = True
        self._end_if_done()

    # -- the thread that reads -------------------------------------------------------------------------------

    def _read(self, received: Iterator[bytes]) -> None:
        try:
            for data in received:
                self._places.acquire()
                if self._outbox.closed:
                    return
                self._ask(data)
                del data  # or a stream would keep its last request while it waits for the next
        except Exception as exc:  # grpcio's, when the call is over
            logger.debug("a stream ended: %r", exc)
            self.cancel()
        with self._lock:
            self._read_all = True
        self._end_if_done()

    def _ask(self, data: bytes) -> None:
        try:
            request, places = self._decode(data)
        except Exception as exc:
            asked = self._expect(_Asked(codec.identity(data), True, False))
            self._end(asked, exc)
            return
        wanted = bool(request.parameters.get(codec.EMPTY_FINAL, False))
        request.parameters = {key: value for key, value in request.parameters.items() if key != codec.EMPTY_FINAL}
        ordered = not self._service.is_decoupled(request.model_name, request.model_version)
        asked = self._expect(_Asked(request.id, ordered, wanted, places))
        if self._outbox.closed:  # since it was read: `cancel` may not have seen it
            asked.cancellation.cancel()
        if self._stopping:
            self._end(asked, Stopping("the server is stopping"))
            return
        if places and not ordered:
            self._end(asked, InvalidArgument(OVERWRITTEN))
            return
        request.deadline = self._deadline
        request.cancellation = asked.cancellation
        request.on_response = lambda response: self._respond(asked, response)
        request.stream = _Direct(self._outbox.has_room, lambda response: self._put(asked, response))
        turn = self._service.submit(request, "grpc", lambda result: self._end(asked, result))
        if turn is None:
            return
        if turn.brief:
            turn.run()
        else:
            turn.pass_on()

    def _expect(self, asked: _Asked) -> _Asked:
        with self._lock:
            self._asked.add(asked)
            if asked.ordered:
                self._order.append(asked)
        return asked

    # -- the models' threads ---------------------------------------------------------------------------------

    def _respond(self, asked: _Asked, response: Response) -> None:
        """Of a decoupled model. Blocks while the client is slow."""
        if asked.ordered:  # the model was loaded for it, so its kind was not known before
            self._let_pass(asked)
        if asked.places:
            self._end(asked, InvalidArgument(OVERWRITTEN))
            asked.cancellation.cancel()
            return
        if not self._outbox.wait_for_room():
            self._end(asked, Cancelled(f"no response was taken for {PATIENCE:g} s"))
            asked.cancellation.cancel()
            return
        self._put(asked, response)

    def _put(self, asked: _Asked, response: Response) -> None:
        message = _Message(codec.encode_stream_response(response, final=False))
        with self._lock:
            if asked in self._asked:
                self._outbox.put(message)

    def _let_pass(self, asked: _Asked) -> None:
        with self._lock:
            asked.ordered = False
            if asked not in self._order:
                return
            self._order.remove(asked)
            if asked.last is not None:  # it was ended meanwhile, and waited for those before it
                self._send(asked)
            self._send_in_order()

    def _end(self, asked: _Asked, result: Response | Exception) -> None:
        last = self._last(asked, result)
        with self._lock:
            if asked not in self._asked or asked.last is not None:
                return
            asked.last = last
            if asked.ordered:
                self._send_in_order()
            else:
                self._send(asked)
        self._end_if_done()

    def _send_in_order(self) -> None:
        """Sends the answers of ordinary models that have none before them that is missing. Needs the lock."""
        while self._order and self._order[0].last is not None:
            self._send(self._order.popleft())

    def _send(self, asked: _Asked) -> None:
        """Needs the lock, which keeps the order."""
        assert asked.last is not None
        self._asked.discard(asked)
        self._outbox.put(asked.last)

    def _last(self, asked: _Asked, result: Response | Exception) -> _Message:
        """What ends a request: nothing is said of the end of a decoupled one unless it was asked for."""
        if isinstance(result, Response):
            if not result.outputs and not asked.wants_empty_final:
                return _Message(b"", last=True)
            try:
                return _Message(codec.encode_stream_response(result, final=True, places=asked.places), last=True)
            except Exception as exc:
                result = exc
        return _Message(codec.encode_stream_error(self._error_text(result), asked.id), result, last=True)

    def _end_if_done(self) -> None:
        with self._lock:
            if self._asked or not (self._read_all or self._stopping):
                return
            if not self._read_all and self._error is None:
                self._error = Stopping("the server is stopping")
        self._outbox.close()


class Streams:
    """The streams that are open: at most so many, for each occupies threads."""

    def __init__(self, most: int = MOST_STREAMS) -> None:
        self._most = most
        self._lock = Lock()
        self._open: set[InferStream] = set()
        self._stopping = False

    @contextmanager
    def opened(self, stream: InferStream) -> Iterator[None]:
        """Around a stream's life. Raises QueueFull, and Stopping after `stop`."""
        with self._lock:
            if self._stopping:
                raise Stopping("the server is stopping")
            if len(self._open) >= self._most:
                raise QueueFull(f"Exceeds maximum number of streams: {self._most} are open already")
            self._open.add(stream)
        try:
            yield
        finally:
            with self._lock:
                self._open.discard(stream)

    def stop(self) -> None:
        """Lets none in any more, and ends each once it has answered what it has read."""
        with self._lock:
            self._stopping = True
            streams = list(self._open)
        for stream in streams:
            stream.stop()
