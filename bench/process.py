"""A server process on the server's core, with its output in a file, stopped together with its children.

Knows nothing of what runs in it. Each process leads a process group of its own, so that the memory and the CPU time
of worker processes are counted, and so that they are stopped by the group that was started here and nothing else is.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

GRACE_SECONDS = 15.0
_POLL_SECONDS = 0.02
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class ProcessError(RuntimeError):
    """A process ended, or did not say in time what was waited for; the message has the end of its output."""


class Process:
    """Started on entering, stopped on leaving. `cores` is a list as taskset takes it."""

    def __init__(
        self,
        command: Sequence[str],
        cores: str,
        log: Path,
        environment: Mapping[str, str] | None = None,
        directory: Path | None = None,
    ):
        self.log = log
        self._command = ["taskset", "--cpu-list", cores, *command]
        self._environment = {**os.environ, **(environment or {})}
        self._directory = directory
        self._seen = 0

    def __enter__(self) -> Self:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as output:
            self._child = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self._environment,
                cwd=self._directory,
                start_new_session=True,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._signal(signal.SIGTERM)
        try:
            self._child.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self._signal(signal.SIGKILL)  # what is left of the group, if anything
            self._child.wait()
            if self._child.stdin:
                self._child.stdin.close()

    def say(self, line: str) -> None:
        """Writes a line to the process's standard input."""
        assert self._child.stdin is not None
        self._child.stdin.write(f"{line}\n".encode())
        self._child.stdin.flush()

    def wait_for(self, pattern: str, timeout: float = 60.0) -> re.Match[str]:
        """The next match in the output, after the last one that was returned. Raises ProcessError."""
        end = time.monotonic() + timeout
        while True:
            running = self.running
            output = self.log.read_text(errors="replace")
            if match := re.compile(pattern).search(output, self._seen):
                self._seen = match.end()
                return match
            if not running or time.monotonic() > end:
                raise ProcessError(f"{'no' if running else 'ended without'} {pattern!r} from {self}:\n{output[-2000:]}")
            time.sleep(_POLL_SECONDS)

    @property
    def running(self) -> bool:
        return self._child.poll() is None

    def cpu_seconds(self) -> float:
        """Time on the CPU so far, of all processes of the group."""
        return sum(int(fields[11]) + int(fields[12]) for _, fields in self._group()) / _TICKS

    def resident_bytes(self) -> int:
        """Resident set of all processes of the group; pages that they share are counted in each."""
        return sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid, _ in self._group()) * _PAGE

    def __str__(self) -> str:
        return f"{self.log.stem} (see {self.log})"

    def _group(self) -> Iterator[tuple[int, list[str]]]:
        """Process ids of the group, with the fields of /proc/PID/stat from the state (the third one) on."""
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it ended meanwhile
            if int(fields[2]) == self._child.pid:
                yield int(entry.name), fields

    def _signal(self, number: signal.Signals) -> None:
        try:
            os.killpg(self._child.pid, number)
        except ProcessLookupError:
            return
