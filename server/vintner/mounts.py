"""What file systems there are where: which of them tell of changes, and whose clock their times are of.

Knows /proc/self/mountinfo and the kinds of file systems. Pure but for reading that file, which the caller may pass in.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

REMOTE: Final = re.compile(
    r"nfs4?|cifs|smb3|smbfs|9p|virtiofs|ceph|lustre|afs|gfs2|ocfs2|gpfs|beegfs|orangefs|vboxsf|prl_fs|vmhgfs"
    r"|fuse(blk|ctl)?|fuse\..*|acfs|glusterfs|panfs"
)
"""Others may change what is on them, and then the kernel here does not know, and their clock may be another."""


@dataclass(frozen=True, slots=True)
class Mount:
    """`device` is the number that files there have; `kind` is the type of the file system."""

    device: int
    point: str
    kind: str
    read_only: bool

    @property
    def remote(self) -> bool:
        return REMOTE.fullmatch(self.kind) is not None


def read_mounts() -> Sequence[Mount]:
    """Those that this process sees; none where there is no /proc."""
    try:
        return parse_mounts(Path("/proc/self/mountinfo").read_text(errors="surrogateescape"))
    except OSError:
        return []


def parse_mounts(text: str) -> Sequence[Mount]:
    """From the lines of a mountinfo: `36 35 98:0 /root /point ro,noatime master:1 - ext3 /dev/root rw`."""
    return [_parse(line) for line in text.splitlines() if " - " in line]


def _parse(line: str) -> Mount:
    place, _, kind_of = line.partition(" - ")
    _, _, device, _, point, options, *_ = place.split(" ")
    kind, _, superblock = [*kind_of.split(" "), "", ""][:3]
    major, minor = map(int, device.split(":"))
    read_only = "ro" in (*options.split(","), *superblock.split(","))
    unescaped = re.sub(r"\\(\d{3})", lambda match: chr(int(match[1], 8)), point)
    return Mount(os.makedev(major, minor), unescaped, kind, read_only)


def silent(root: Path, mounts: Sequence[Mount]) -> str:
    """Why changes below a root are not told by the kernel, as far as its mounts say; "" if they are."""
    path = os.path.realpath(root)
    above = [mount for mount in mounts if _is_below(path, mount.point)]
    # The last one of those at the same point hides the others.
    own = max(reversed(above), key=lambda mount: len(mount.point), default=None)
    below = [mount for mount in mounts if mount is not own and _is_below(mount.point, path)]
    for mount in [own, *below] if own else below:
        if mount.remote:
            return f"{mount.point} is a file system of type {mount.kind}"
        if mount.read_only:
            return f"{mount.point} is mounted read-only"
    return ""


def _is_below(path: str, directory: str) -> bool:
    return path == directory or path.startswith(directory.rstrip("/") + "/")
