"""The process in which ONNX Runtime GenAI runs one model; the server's `onnxruntime_genai_process` starts it.

It is a process of its own because the runtime holds the interpreter's lock while it loads a model, and so that a crash
of it takes no server down. It imports nothing of the server. Messages are dealt with one after the other:

    load(directory, overlay, cores)    is answered by loaded(sequences), or failed(reason)
    add(key, tokens, session, options, ends, least)
                                       by added(), refused(reason), or unable(reason)
    cancel(key)                        by nothing
    run(steps)                         by one made([(key, tokens, end)]) for each step, or failed(reason) and no more
    reset()                            by reset(), or unable(reason)

Steps are made between messages, as many as the last `run` allows, until no sequence is left; then none are allowed any
more. So the server reads what was made while the next steps are under way, and sequences that are added one after the
other begin together.

Invariant: it ends as soon as the server has closed its end of the connection, or is no more; if it is loading a model
then, after that.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
from array import array
from threading import Thread
from typing import Any, Final

from vintner_backends.process_channel import Channel

EVENTS: Final = 256
"""That one call of the runtime gives at most."""

ENDS: Final = {"EOS": "stop", "MAX_GENERATED_TOKENS": "length", "MAX_SESSION_TOKENS": "length"}
Answer = tuple[Any, ...]

NO_ROOM: Final = ("EXECUTION_CAPACITY_EXCEEDED", "REQUEST_UNSERVICEABLE")
"""Errors of one request that does not fit into a paged cache; the others go on."""


class Turn:
    """One sequence: `ends` are token ids at which it ends once it has `least` tokens."""

    __slots__ = ("ends", "key", "least", "made", "number", "request")

    def __init__(self, key: int, request: Any, number: int, ends: frozenset[int], least: int) -> None:
        self.key = key
        self.request = request
        self.number = number
        self.ends = ends
        self.least = least
        self.made = 0


class Runner:
    """A loaded model, and the sequences that it generates."""

    def __init__(self, directory: str, overlay: str, cores: list[int]) -> None:
        import onnxruntime_genai as runtime  # here, where it is told if it cannot be imported

        self._runtime = runtime
        if cores:
            os.sched_setaffinity(0, cores)  # threads that are started later inherit it
        config = runtime.Config(directory)
        config.clear_providers()  # leaves the processor
        config.overlay(overlay)
        self._model = runtime.Model(config)
        self.reset()

    @property
    def max_sequences(self) -> int:
        return int(self._engine.get_capabilities().configured_max_batch_size)

    @property
    def busy(self) -> bool:
        return bool(self._turns)

    def reset(self) -> None:
        """A new engine, which costs nothing. One in whose batch something failed cannot be used any more."""
        self._turns: dict[Any, Turn] = {}
        self._by_key: dict[int, Turn] = {}
        self._engine = self._runtime.Engine(self._model)
        self._events = self._engine.create_event_buffer(EVENTS)

    def request(self, session: int) -> Any:
        options = self._runtime.RequestOptions()
        options.set_max_session_tokens(session)
        return self._engine.create_request(options=options)

    def add(self, key: int, request: Any, tokens: bytes, options: dict[str, Any], ends: list[int], least: int) -> None:
        """`options` are those of the runtime by name, each with its arguments."""
        chosen = self._runtime.TurnOptions(request)
        for name, arguments in options.items():
            getattr(chosen, f"set_{name}")(*arguments)
        turn = Turn(key, request, request.begin_turn(array("i", tokens), chosen), frozenset(ends), least)
        self._turns[request] = self._by_key[key] = turn

    def cancel(self, key: int) -> None:
        turn = self._by_key.get(key)
        if turn is not None:
            turn.request.cancel_turn(turn.number)
            self._leave(turn)

    def _leave(self, turn: Turn) -> None:
        del self._turns[turn.request], self._by_key[turn.key]
        turn.request.close()

    def step(self) -> list[tuple[int, list[int], str]]:
        """What came of each sequence. Raises RuntimeError if it failed for all of them."""
        made: dict[int, list[int]] = {}
        ended: dict[int, str] = {}
        for event in self._engine.run(self._events):
            turn = self._turns.get(event.request)
            if turn is None:
                continue
            end = self._end(event)
            if event.token is not None:
                turn.made += 1
                if event.token in turn.ends and turn.made >= turn.least:
                    end = "stop"
                    turn.request.cancel_turn(turn.number)
                else:
                    made.setdefault(turn.key, []).append(event.token)
            if end:
                ended[turn.key] = end
                self._leave(turn)
        return [(key, made.get(key, []), ended.get(key, "")) for key in {**made, **ended}]

    def _end(self, event: Any) -> str:
        reason = event.finish_reason.name
        if reason in ("NONE", "CANCELLED"):
            return ""
        if reason != "FAILED":
            return ENDS[reason]
        if event.error_code.name in NO_ROOM:
            return "no_room"
        self._engine.create_request()  # raises the reason, if the engine is the worse for it
        raise RuntimeError(event.error_code.name)


class Server:
    """Answers the messages of one connection."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._allowed = 0  # steps

    def serve(self) -> None:
        """Until the connection ends, or the model cannot be loaded."""
        name, *arguments = self._channel.receive()
        assert name == "load", name
        try:
            self._runner = Runner(*arguments)
        except Exception as exc:
            self._channel.send("failed", str(exc))
            return
        self._channel.send("loaded", self._runner.max_sequences)
        while True:
            answer = self._next()
            if answer:
                self._channel.send(*answer)

    def _next(self) -> Answer:
        """Makes a step or deals with a message."""
        if self._allowed and self._channel.is_quiet():
            answer = self._step()
        else:
            name, *arguments = self._channel.receive()
            answer = getattr(self, f"_{name}")(*arguments)
        if not self._runner.busy:
            self._allowed = 0
        return answer

    def _step(self) -> Answer:
        self._allowed -= 1
        try:
            return "made", self._runner.step()
        except RuntimeError as exc:
            self._allowed = 0
            return "failed", str(exc)

    def _run(self, steps: int) -> Answer:
        self._allowed = steps
        return ()

    def _add(self, key: int, tokens: bytes, session: int, *rest: Any) -> Answer:
        """What fails because of the request is told apart from what fails because of the engine."""
        try:
            request = self._runner.request(session)
        except RuntimeError as exc:
            return "unable", str(exc)
        try:
            self._runner.add(key, request, tokens, *rest)
        except (RuntimeError, TypeError, ValueError) as exc:
            request.close()
            return "refused", str(exc)
        return ("added",)

    def _cancel(self, key: int) -> Answer:
        self._runner.cancel(key)
        return ()

    def _reset(self) -> Answer:
        try:
            self._runner.reset()
        except RuntimeError as exc:
            return "unable", str(exc)
        return ("reset",)


def end_with(connection: socket.socket) -> None:
    """Ends this process with the connection, whatever it does at the time."""
    poll = select.poll()
    poll.register(connection, select.POLLRDHUP)
    poll.poll()
    os._exit(0)


def main() -> None:
    # Signals for the server's group of processes, such as a service manager's, are the server's to obey: it has
    # sequences to finish.
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signal_number, signal.SIG_IGN)
    connection = socket.socket(fileno=int(sys.argv[1]))
    Thread(target=end_with, args=(connection,), daemon=True).start()
    with contextlib.suppress(EOFError, OSError):  # the server is gone
        Server(Channel(connection)).serve()


if __name__ == "__main__":
    main()
