"""Mounts that tests need, where they may make them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def read_only(directory: Path, point: Path) -> Iterator[None]:
    """The directory once more at `point`, where it can be read only. Skips the test where mounting is not allowed."""
    point.mkdir()
    bind = subprocess.run(["mount", "--bind", directory, point], capture_output=True, text=True, check=False)
    if bind.returncode:
        pytest.skip(f"a read-only mount cannot be made here: {bind.stderr.strip()}")
    try:
        remount = ["mount", "-o", "remount,ro,bind", point]
        done = subprocess.run(remount, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"a read-only mount cannot be made here: {done.stderr.strip()}")
        yield
    finally:
        subprocess.run(["umount", "--lazy", point], check=True)  # a server may still have it open
