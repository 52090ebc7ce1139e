"""What files a directory holds, to see whether they change: names, sizes and times, never contents.

Knows nothing of models. Invariant: every directory is read once, however many links lead to it, so reading ends.
"""

from __future__ import annotations

import os
import re
from collections.abc import Container
from dataclasses import dataclass, field
from typing import Final

from vintner.links import Links

File = tuple[str, int, int, int]
"""Path below the directory, size, time of modification in ns, inode: of what a link leads to, if it is one."""

MARKER: Final = ".ready"
UPLOADING: Final = re.compile(
    r".*\.(tmp|part|partial|filepart|crdownload)"
    r"|\..+\.(?![a-z]{6})[A-Za-z0-9]{6}",  # as rsync calls a file meanwhile; a word, as in .x.backup, is none of those
    re.DOTALL,
)
"""The file will have its right name when all of it is there, so until then the directory is not complete."""
EDITED: Final = re.compile(r".*(\.swp|~)", re.DOTALL)
"""Editors' copies, and hidden files too, say nothing of what is beside them and may stay for ever: passed over."""


@dataclass(slots=True, eq=False)
class Tree:
    """What is in a directory; times are in ns. Filled by `read_tree`, and not changed after that.

    `changed` and `modified` are the newest ctime and mtime below it, `own_changed` and `own_modified` its own. `marker`
    has the ctime and mtime of its marker. `hollow` says that a directory in it holds nothing, `partial` names a file
    that is being uploaded, `objection` says why a link in it cannot be followed.
    """

    own_changed: int
    own_modified: int
    changed: int = 0
    modified: int = 0
    files: list[File] = field(default_factory=list)
    marker: tuple[int, int] | None = None
    hollow: bool = False
    partial: str = ""
    objection: str = ""

    @property
    def newest(self) -> int:
        return max(self.changed, self.modified, self.own_changed, self.own_modified)

    def resembles(self, other: Tree) -> bool:
        """Whether nothing has happened from the one to the other: no change escapes the times of the directories and
        the ctimes of the files."""
        return (
            self.files == other.files
            and self.changed == other.changed
            and self.own_changed == other.own_changed
            and (self.marker, self.partial, self.objection) == (other.marker, other.partial, other.objection)
        )


def read_tree(directory: str, links: Links, omitted: Container[str] = ()) -> Tree:
    """Reads a directory and all below it, without the names `omitted` in the directory itself. Raises OSError."""
    own = os.stat(directory)
    tree = Tree(own.st_ctime_ns, own.st_mtime_ns)
    _Walk(tree, links).read(directory, "", own, omitted)
    tree.files.sort()
    return tree


class _Walk:
    def __init__(self, tree: Tree, links: Links) -> None:
        self.tree = tree
        self.links = links
        self.seen: set[tuple[int, int]] = set()

    def read(self, path: str, prefix: str, status: os.stat_result, omitted: Container[str] = ()) -> None:
        self.seen.add((status.st_dev, status.st_ino))
        empty = True
        with os.scandir(path) as entries:
            for entry in entries:
                name = entry.name
                if name in omitted or (name[0] == "." and not self._tells(entry, prefix)) or EDITED.fullmatch(name):
                    continue
                if UPLOADING.fullmatch(name):
                    self.tree.partial = max(self.tree.partial, prefix + name)
                    continue
                empty = False
                try:
                    self._take(entry, prefix + name)
                except FileNotFoundError:
                    continue  # it went between the listing and now, which the next look will tell
        self.tree.hollow = self.tree.hollow or empty

    def _tells(self, entry: os.DirEntry[str], prefix: str) -> bool:
        """Whether a hidden file is one that an upload uses. Takes note of the marker."""
        if not prefix and entry.name == MARKER:
            status = entry.stat(follow_symlinks=False)
            self.tree.marker = (status.st_ctime_ns, status.st_mtime_ns)
        return UPLOADING.fullmatch(entry.name) is not None

    def _take(self, entry: os.DirEntry[str], relative: str) -> None:
        status = entry.stat(follow_symlinks=False)
        self._date(status)
        if entry.is_symlink():
            objection = self.links.objection(entry.path)
            self.tree.objection = max(self.tree.objection, objection)
            if objection:
                return
            try:
                status = entry.stat()
            except OSError:  # it leads nowhere, or in a circle: the link itself stands for what is not there
                self.tree.files.append((relative, -1, status.st_mtime_ns, status.st_ino))
                return
            self._date(status)
        if not entry.is_dir():
            self.tree.files.append((relative, status.st_size, status.st_mtime_ns, status.st_ino))
        elif (status.st_dev, status.st_ino) not in self.seen:
            self.read(entry.path, relative + "/", status)

    def _date(self, status: os.stat_result) -> None:
        tree = self.tree
        if status.st_ctime_ns > tree.changed:
            tree.changed = status.st_ctime_ns
        if status.st_mtime_ns > tree.modified:
            tree.modified = status.st_mtime_ns
