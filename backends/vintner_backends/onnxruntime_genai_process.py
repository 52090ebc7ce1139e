"""Starts, asks and ends the process in which ONNX Runtime GenAI runs one model.

Knows how that process is spoken to (`onnxruntime_genai_worker` lists the messages), and nothing of requests. The
process is started afresh, not forked off, with none of the server's sockets and little of its environment.

Invariant: a process that was started here is gone once `close` has returned, or the server has ended in any way.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from vintner.errors import BackendError, LoadError

from vintner_backends.process_channel import Channel

WORKER: Final = "vintner_backends.onnxruntime_genai_worker"

GRACE: Final = 5.0
"""Seconds in which it has to end by itself once it is told."""

ENVIRONMENT: Final = ("HOME", "LANG", "LD_LIBRARY_PATH", "LD_PRELOAD", "PATH", "PYTHONPATH", "TMPDIR", "TZ")
"""Variables that it is given. What else the server's environment holds, such as keys, is none of its business."""

PREFIXES: Final = ("LC_", "OMP_", "ORT_", "PYTHONMALLOC", "MALLOC_")
"""And those that begin so."""


class Worker:
    """A process with its model. Threads: one at a time, but for `pid`."""

    def __init__(self, directory: str, overlay: str, cores: Sequence[int], patience: float | None = None) -> None:
        """Loads the model. Raises LoadError with the runtime's reason, or if it takes so many seconds."""
        self._channel, self._process = _start()
        started = time.monotonic()
        try:
            self._channel.send("load", directory, overlay, list(cores))
            answer = self._channel.receive(patience)
        except TimeoutError:
            self.close(0)
            raise LoadError(f"the model did not load within {patience:.0f} s") from None
        except (EOFError, OSError):
            raise LoadError(f"the runtime's process ended while it loaded the model: {self._end()}") from None
        if answer[0] != "loaded":
            self.close()
            raise LoadError(one_line(answer[1]))
        self.max_sequences: int = answer[1]
        self.load_time = time.monotonic() - started
        """Seconds."""

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def tell(self, *message: Any) -> None:
        """Raises BackendError if the process has ended."""
        try:
            self._channel.send(*message)
        except OSError:
            raise self._failure() from None

    def hear(self, timeout: float | None = None) -> tuple[Any, ...]:
        """The next answer. Raises BackendError if the process has ended, or nothing comes for so many seconds."""
        try:
            return self._channel.receive(timeout)
        except TimeoutError:
            raise BackendError(f"the runtime's process did not answer within {timeout} s") from None
        except (EOFError, OSError):
            raise self._failure() from None

    def hear_all(self) -> list[tuple[Any, ...]]:
        """The next answer, and those that have come with it. Raises as `hear`."""
        answers = [self.hear()]
        while self._channel.has_message():
            answers.append(self.hear())
        return answers

    def _failure(self) -> BackendError:
        return BackendError(f"the runtime's process ended: {self._end()}")

    def _end(self) -> str:
        """Ends what is left of it, and says how it ended."""
        self.close()
        code = self._process.returncode
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"

    def close(self, grace: float = GRACE) -> None:
        """May be called again."""
        self._channel.close()
        try:
            self._process.wait(grace)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _start() -> tuple[Channel, subprocess.Popen[bytes]]:
    ours, theirs = socket.socketpair()
    with theirs, contextlib.ExitStack() as unless_started:
        unless_started.callback(ours.close)
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", WORKER, str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=2,  # the server's output is its own; what a library prints belongs with the log
            pass_fds=[theirs.fileno()],
            env=environment(os.environ),
            start_new_session=True,  # or a terminal's Ctrl-C would reach it
        )
        unless_started.pop_all()
    return Channel(ours), process


def environment(whole: Mapping[str, str]) -> Mapping[str, str]:
    """What of the server's environment a worker is given."""
    kept = {name: value for name, value in whole.items() if name in ENVIRONMENT or name.startswith(PREFIXES)}
    return {**kept, "ORT_DISABLE_TELEMETRY": "1"}


def one_line(text: str) -> str:
    """A runtime's reason, which may have several."""
    return " ".join(text.split())
