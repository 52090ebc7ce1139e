"""Where symbolic links lead: whether one stays below the root that it is met in.

Knows paths only. It walks links itself, part by part and from the root as it was given, because `os.path.realpath` goes
wrong where a root leads through `/proc/<pid>/root`. Invariant: a path that is said to stay has no part outside.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from pathlib import Path
from typing import Final

logger = logging.getLogger(__name__)

MOST_LINKS: Final = 40
"""As many as the kernel follows in one path."""


class Links:
    """The links below one root. Threads: one at a time."""

    def __init__(self, root: Path, follow_external: bool = False) -> None:
        self._root = os.path.abspath(root)
        self._follow_external = follow_external
        self._broken: set[str] = set()
        self.external = False
        """Whether a link that leaves the root has been followed: what it leads to may change unnoticed there."""

    def objection(self, path: str) -> str:
        """Why the link at `path`, below the root, is not followed; "" if it may be."""
        relative = os.path.relpath(path, self._root)
        if not leaves(self._root, relative):
            return ""
        self.external = self.external or self._follow_external
        if self._follow_external:
            return ""
        return (
            f"{relative} links to {os.readlink(path)}, which is outside the model repository;"
            " --follow-external-links allows it"
        )

    def report_broken(self, path: str) -> None:
        """Warns, once for each link, that it leads nowhere."""
        if path not in self._broken:
            self._broken.add(path)
            logger.warning("%s is passed over: it links to %s, which is not there", path, os.readlink(path))


def leaves(root: str, relative: str) -> bool:
    """Whether the path `relative` to a root leads out of it. Links in a circle and to nowhere do not."""
    inside: list[str] = []
    pending = deque(relative.split("/"))
    links = 0
    while pending:
        part = pending.popleft()
        if part == "..":
            if not inside:
                return True
            inside.pop()
        elif part not in ("", "."):
            target = _target(os.path.join(root, *inside, part))
            links += target is not None
            if target is None or links > MOST_LINKS:
                inside.append(part)
                continue
            if os.path.isabs(target):
                inside.clear()
                base = _base(root, target)
                if base is None:
                    return True
                target = target[len(base) :]
            pending.extendleft(reversed(target.split("/")))
    return False


def _target(path: str) -> str | None:
    try:
        return os.readlink(path)
    except OSError:
        return None  # no link, or not there


def _base(root: str, target: str) -> str | None:
    """The root, in whatever way the absolute `target` names it."""
    for base in (root, os.path.realpath(root)):
        below = target == base or target.startswith(base.rstrip("/") + "/")
        if below and os.path.exists(base) and os.path.samefile(base, root):
            return base
    return None
