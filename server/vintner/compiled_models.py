"""Where compiled models are kept, as far as this process may: a directory for each version of each model.

Knows nothing of what is in them. A runtime fails where it cannot make such a directory, and keeps silent where it
cannot write into one, so both are seen to before. Invariant: nothing is written to find out, and no model is refused
for what is only there to save time.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

DEPTH: Final = 2
"""`<model>/<version>`."""

COST: Final = "models that are not compiled there already are compiled anew at each start"


def place(root: Path, model: str, version: int) -> Path | None:
    """For what is compiled of a version, whose files never meet those of another; None if it can be neither used nor
    made."""
    directory = root / model / str(version)
    if os.path.isdir(directory):  # which, unlike Path's, is False where one may not look
        return directory if os.access(directory, os.R_OK | os.X_OK) else None
    return directory if _writable(_above(directory)) else None


def objection(root: Path) -> str:
    """Which directories cannot be written, and what that costs; "" if all can be."""
    if not os.path.isdir(root):
        above = _above(root)
        return "" if _writable(above) else f"--cache-dir: cannot make {root} in {_whose(above)}; {COST}"
    locked = list(_locked(root, DEPTH))
    if not locked:
        return ""
    more = f", nor {len(locked) - 1} more in it" if len(locked) > 1 else ""
    return f"--cache-dir: in {root}, cannot write {_whose(locked[0])}{more}; {COST}"


def _above(directory: Path) -> Path:
    """The nearest that is there."""
    return next(path for path in directory.absolute().parents if os.path.exists(path))


def _locked(directory: Path, depth: int) -> Iterator[Path]:
    """It and those below that cannot be written."""
    if not _writable(directory):
        yield directory
    try:
        below = sorted(path for path in directory.iterdir() if path.is_dir()) if depth else []
    except OSError:
        return
    for path in below:
        yield from _locked(path, depth - 1)


def _writable(directory: Path) -> bool:
    return os.access(directory, os.W_OK | os.X_OK)


def _whose(directory: Path) -> str:
    found = directory.stat()
    whose = f"user {found.st_uid}, group {found.st_gid}, mode {found.st_mode & 0o7777:o}"
    return f"{directory} ({whose}) as user {os.getuid()}"
