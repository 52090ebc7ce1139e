"""What a model's directory holds, as far as names and times tell: its configuration, its versions, and if they rest.

Opens no file and knows no backend. Invariant: a version's signature changes with every file that it is loaded from,
and not with the model's configuration, which has a signature of its own.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from vintner.links import Links
from vintner.model_config import LABEL_FILE
from vintner.settling import Sight
from vintner.trees import MARKER, File, Tree, read_tree

CONFIG_FILES: Final = ("config.yaml", "config.pbtxt", "config.yml")
"""The last one is not read, but that has to be said of it."""
WARMUP: Final = "warmup"
VERSION: Final = re.compile(r"[1-9][0-9]*", re.ASCII)
"""A leading zero makes no version, or 1 and 01 would be the same one."""
READ: Final = frozenset({*CONFIG_FILES, WARMUP, MARKER})
"""What is looked at beside the versions of a model."""
NANOSECOND: Final = 1e-9
NOTHING: Final = Tree(0, 0)


class Signature(NamedTuple):
    """What a version is loaded from: its own files, and those that all versions share."""

    files: tuple[File, ...]
    shared: tuple[File, ...]

    @property
    def size(self) -> int:
        """Bytes of its own files."""
        return sum(max(0, size) for _, size, *_ in self.files)  # -1 stands for a link that leads nowhere


@dataclass(frozen=True, slots=True)
class Contents:
    """`versions` are directories by number; that of a model without any is version 1 itself. `sights` are of the same,
    `config` is of the configuration."""

    config: Sight
    versions: Mapping[int, Path]
    sights: Mapping[int, Sight]


@dataclass(slots=True, eq=False)
class Listing:
    """What a model's directory holds, as it was read. `trees` are by version; without version directories (`flat`) the
    model's own is version 1. `marker` has the ctime and mtime of one for all versions, `device` is the number of the
    file system, `objection` says why a link cannot be followed."""

    directory: Path
    own_changed: int
    own_modified: int
    device: int
    config: Files
    trees: Mapping[int, Tree]
    flat: bool
    shared: Tree | None
    marker: tuple[int, int] | None
    objection: str

    def resembles(self, other: Listing) -> bool:
        """Whether nothing has happened from the one to the other."""
        return (
            self.own_changed == other.own_changed
            and self.config == other.config
            and self.marker == other.marker
            and self.objection == other.objection
            and self.trees.keys() == other.trees.keys()
            and all(tree.resembles(other.trees[number]) for number, tree in self.trees.items())
            and (self.shared or NOTHING).resembles(other.shared or NOTHING)
        )


@dataclass(frozen=True, slots=True)
class Files:
    """Some of the files of one directory, of the configuration or with labels; times are in ns."""

    files: tuple[File, ...]
    changed: int
    modified: int


def read_listing(directory: Path, links: Links) -> Listing:
    """Raises OSError."""
    path = str(directory)
    own = os.lstat(path)
    objection = ""
    if stat.S_ISLNK(own.st_mode):
        own, objection = os.stat(path), links.objection(path)
    entries, objection = _relevant(path, links, objection)
    config = _read_files([entries[name] for name in CONFIG_FILES if name in entries])
    marker = _read_marker(entries[MARKER]) if MARKER in entries else None
    numbers = sorted(
        int(name) for name, entry in entries.items() if VERSION.fullmatch(name) and is_directory(entry, links)
    )
    shared = None
    if objection:
        trees: Mapping[int, Tree] = {}
    elif numbers:
        trees = {number: read_tree(f"{path}/{number}", links) for number in numbers}
        shared = _read_shared(path, entries, links)
    else:
        trees = {1: read_tree(path, links, (*CONFIG_FILES, "configs"))}
    objection = max([objection, *(tree.objection for tree in trees.values()), (shared or NOTHING).objection])
    return Listing(
        directory, own.st_ctime_ns, own.st_mtime_ns, own.st_dev, config, trees, not numbers, shared, marker, objection
    )


def _relevant(path: str, links: Links, objection: str) -> tuple[dict[str, os.DirEntry[str]], str]:
    """The entries of a model's directory that may be something to it, and why one of them cannot be followed,
    unless there is an objection already."""
    with os.scandir(path) as listing:
        entries = {entry.name: entry for entry in listing if _is_relevant(entry.name)}
    for entry in entries.values():
        if entry.is_symlink():
            objection = max(objection, links.objection(entry.path))
    return entries, objection


def _is_relevant(name: str) -> bool:
    return name in READ or VERSION.fullmatch(name) is not None or LABEL_FILE.fullmatch(name) is not None


def _read_shared(path: str, entries: Mapping[str, os.DirEntry[str]], links: Links) -> Tree | None:
    """What all versions share: the files of the warm-up, and what may hold labels."""
    shared = None
    if WARMUP in entries and is_directory(entries[WARMUP], links):
        shared = read_tree(f"{path}/{WARMUP}", links)
    labels = _read_files([entries[name] for name in sorted(entries) if LABEL_FILE.fullmatch(name)])
    if labels.files:
        shared = shared or Tree(0, 0)
        shared.files += [(f"../{name}", size, modified, inode) for name, size, modified, inode in labels.files]
        shared.changed, shared.modified = max(shared.changed, labels.changed), max(shared.modified, labels.modified)
    return shared


def judge(listing: Listing) -> Contents:
    """What a listing tells; one with an objection tells nothing."""
    every = [*listing.trees.values(), *([listing.shared] if listing.shared else [])]
    newest_below = [tree.changed if listing.flat else max(tree.changed, tree.own_changed) for tree in every]
    config = listing.config
    inside = max([config.changed, *newest_below])
    hollow = any(tree.hollow or not tree.files for tree in listing.trees.values())
    placed = _in_place(listing.own_changed, listing.own_modified, inside) and not hollow
    sights = {number: _sight(tree, listing.shared, listing.marker, placed) for number, tree in listing.trees.items()}
    # Where there is no configuration, the directory's own time tells since when, and whether one is likely to come.
    newest = max(config.changed, config.modified) if config.files else listing.own_modified
    marked = listing.marker is not None and bool(config.files) and listing.marker[0] >= config.changed
    own = listing.directory
    versions = {number: own if listing.flat else own / str(number) for number in listing.trees}
    return Contents(Sight(config.files, newest * NANOSECOND, placed or marked), versions, sights)


def is_directory(entry: os.DirEntry[str], links: Links) -> bool:
    """Whether it is one to look for a model in; says so if it is a link that leads nowhere."""
    name = entry.name
    if name.startswith(".") or name.endswith(".tmp") or name == "lost+found":
        return False  # hidden, unfinished, or the file system's own
    try:
        directory = entry.is_dir()
    except OSError:  # a circle
        directory = False
    if not directory and entry.is_symlink() and not os.path.exists(entry.path):
        links.report_broken(entry.path)
    return directory


def _read_files(entries: list[os.DirEntry[str]]) -> Files:
    files: list[File] = []
    changed = modified = 0
    for entry in entries:
        try:
            status = entry.stat()
        except FileNotFoundError:
            continue  # it went since it was listed, or is a link to nowhere
        files.append((entry.name, status.st_size, status.st_mtime_ns, status.st_ino))
        changed, modified = max(changed, status.st_ctime_ns), max(modified, status.st_mtime_ns)
    return Files(tuple(files), changed, modified)


def _read_marker(entry: os.DirEntry[str]) -> tuple[int, int] | None:
    try:
        status = entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return None
    return status.st_ctime_ns, status.st_mtime_ns


def _sight(tree: Tree, shared_files: Tree | None, above: tuple[int, int] | None, placed: bool) -> Sight:
    """A version with what all versions of the model share: files, and perhaps a marker."""
    shared = shared_files or NOTHING
    changed, modified = max(tree.changed, shared.changed), max(tree.modified, shared.modified)
    markers = [marker for marker in (tree.marker, above) if marker is not None and tree.files]
    ready = any(marker[0] >= changed for marker in markers)  # written here after all else, whatever copied it
    renamed = _in_place(tree.own_changed, tree.own_modified, changed) and not tree.hollow and bool(tree.files)
    return Sight(
        signature=Signature(tuple(tree.files), tuple(shared.files)),
        newest=max(tree.newest, shared.newest) * NANOSECOND,
        complete=ready or placed or renamed,
        marked=ready or any(marker[1] >= modified for marker in markers),
        partial="" if ready else tree.partial or shared.partial,
    )


def _in_place(changed: int, modified: int, inside: int) -> bool:
    """Whether a directory was renamed to where it is, or given its old time by whoever had filled it, as `cp -a`,
    `tar` and `rsync -a` do: its inode changed after its list of names, and after everything in it."""
    return changed > modified and changed >= inside
