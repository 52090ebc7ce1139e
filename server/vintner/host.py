"""How busy the machine's processors are, and what of its memory is used: of the whole host, not of this process.

Knows only Linux's `/proc`; what is not there is None. In a container these are the host's figures, too.
Invariant: what is reported covers at least a second, however often it is asked for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Lock
from typing import Final

SHORTEST: Final = 1.0
"""Seconds. The kernel counts hundredths of them, so a shorter while says little."""

IDLE: Final = slice(3, 5)
"""Of the times of a processor those at which it had nothing to do, and waited for disks with nothing to do."""


class Host:
    """Threads: any."""

    def __init__(self, proc: Path = Path("/proc"), clock: Callable[[], float] = time.monotonic) -> None:
        self._proc = proc
        self._clock = clock
        self._lock = Lock()
        self._utilisation = 0.0
        self._at = clock()
        self._times = self._read_times()

    def utilisation(self) -> float | None:
        """The share of the processors' time that was used, 0 to 1, since this was asked last, or since the start."""
        with self._lock:
            now = self._clock()
            if now - self._at >= SHORTEST:
                times = self._read_times()
                if times is None or self._times is None:
                    return None
                (busy, total), (former_busy, former_total) = times, self._times
                if total > former_total:
                    self._utilisation = min(1.0, max(0.0, (busy - former_busy) / (total - former_total)))
                self._times, self._at = times, now
            return self._utilisation if self._times is not None else None

    def memory(self) -> tuple[int, int] | None:
        """Bytes in total, and of those the ones that could not be had without swapping."""
        try:
            sizes = meminfo((self._proc / "meminfo").read_text())
            return sizes["MemTotal"], sizes["MemTotal"] - sizes["MemAvailable"]
        except (OSError, ValueError, KeyError):
            return None

    def _read_times(self) -> tuple[int, int] | None:
        try:
            with (self._proc / "stat").open() as file:
                return processor_times(file.readline())
        except (OSError, ValueError):
            return None


def processor_times(line: str) -> tuple[int, int]:
    """Busy time and all time, in the kernel's ticks, of the first line of `/proc/stat`. Raises ValueError."""
    name, *figures = line.split()
    if name != "cpu" or len(figures) < 5:
        raise ValueError(f"not the times of all processors: {line!r}")
    times = [int(figure) for figure in figures[:8]]  # what follows, guests' time, is in the first two already
    total = sum(times)
    return total - sum(times[IDLE]), total


def meminfo(text: str) -> Mapping[str, int]:
    """Bytes, by their names in `/proc/meminfo`. Raises ValueError."""
    sizes = {}
    for line in text.splitlines():
        name, _, size = line.partition(":")
        if size.endswith(" kB"):
            sizes[name] = int(size.removesuffix(" kB")) * 1024
    return sizes
