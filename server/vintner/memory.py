"""What glibc's allocator keeps, and when it gives back: settings for a server, and what to do after an unload.

By default glibc maps each buffer over 128 KiB anew and gives it back when freed, so a server of large tensors spends
its time in page faults: an echo of 600 KB took 1,600 microseconds so, and 66 with these settings. The price is that
up to `TRIM_THRESHOLD` of freed memory stays with the process until `give_back` is called.

And by default it has up to eight arenas for each core, and of all but the first cannot give back what is free at the
top: of a closed model of 84 MB up to 80 MB stayed, in the arenas of the threads that had compiled it. So there is one.
Threads then wait for each other where they allocate more than the 1 KiB that each keeps for itself; on two cores eight
threads that did nothing else got 8 million buffers of 4 KB in a second, instead of 11, and no fewer of 100 KB or more.
"""

from __future__ import annotations

import ctypes
import gc
import os
from pathlib import Path

MMAP_THRESHOLD = 32 * 2**20  # glibc's own maximum
TRIM_THRESHOLD = 256 * 2**20
ARENAS = 1
YOUNG = 10_000
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8

STATM = Path("/proc/self/statm")
"""Pages: of the address space, resident, …"""


def keep_freed_buffers() -> bool:
    """Sets all this for the process; arenas that other threads have already stay. False without glibc's mallopt."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = ((_M_MMAP_THRESHOLD, MMAP_THRESHOLD), (_M_TRIM_THRESHOLD, TRIM_THRESHOLD), (_M_ARENA_MAX, ARENAS))
    return sum(bool(mallopt(name, value)) for name, value in settings) == len(settings)


def collect_rarely() -> None:
    """Has Python look for garbage in circles when there are `YOUNG` new objects, instead of 700.

    A request is some twenty objects while it is under way, and leaves none. With the default, a few dozen requests at
    once had all their objects looked at again and again, for nothing: up to a fifth of a small model's request.
    """
    gc.set_threshold(YOUNG, *gc.get_threshold()[1:])


def resident() -> int:
    """Bytes of this process that are in memory now; 0 where the system does not tell."""
    try:
        return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
    except OSError:
        return 0


def give_back() -> bool:
    """Returns freed memory to the system, as after a model was unloaded. False if there was none, or no glibc.

    It collects garbage first, for what was closed may be held by references in a circle. Meanwhile all threads stand
    still: 0.1 s with 1,000 models, most of it for the collection. To be called once in a while, not for each request.
    """
    gc.collect()
    return trim()


def trim() -> bool:
    """Returns freed memory to the system, as `give_back`, but collects no garbage: 4 to 12 ms with 1,000 models."""
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return malloc_trim is not None and bool(malloc_trim(0))
