"""The command that runs a program in a directory as its root, as a container's engine would: `unshare` and `mount`.

The program is process 1 of its own PID namespace, has its own mounts, and what user and environment it is told; the
network is this machine's. Knows nothing of images. Needs root and util-linux. Invariant: mounts are those of the new
namespace, which end with it; nothing here mounts anything for others.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

STAGE: Final = "/mnt"
"""Where the root is mounted: there on every Linux. What it holds is hidden in the new namespace, and only there."""


@dataclass(frozen=True, slots=True)
class Confinement:
    """`user` is `UID:GID`. `volumes` are writable, `lent` is read only; both map paths within the root to paths of
    this machine. Their mount points have to be there, except below `temporary`, which are empty at first."""

    root: Path
    user: str = "0:0"
    environment: Mapping[str, str] = field(default_factory=dict)
    writable: bool = False
    directory: str = "/"
    volumes: Mapping[str, Path] = field(default_factory=dict)
    lent: Mapping[str, Path] = field(default_factory=dict)
    temporary: Sequence[str] = ("/tmp",)


def command(confinement: Confinement, program: Sequence[str]) -> list[str]:
    """Its own process ends with the program's exit code, and ends the program when it is killed itself."""
    script = " && ".join([*_mounts(confinement), "exec " + shlex.join(_program(confinement, program))])
    return ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", script]


def _mounts(confinement: Confinement) -> list[str]:
    steps = [["mount", "--bind", str(confinement.root), STAGE]]
    if not confinement.writable:
        steps.append(_read_only(STAGE))
    steps += [["mount", "-t", "proc", "proc", f"{STAGE}/proc"], ["mount", "--rbind", "/dev", f"{STAGE}/dev"]]
    steps += [["mount", "--bind", "/sys", f"{STAGE}/sys"], _read_only(f"{STAGE}/sys")]
    steps += [["mount", "-t", "tmpfs", "-o", "mode=1777", "tmpfs", f"{STAGE}{path}"] for path in confinement.temporary]
    for path, source in (confinement.lent | confinement.volumes).items():
        if any(path.startswith(f"{each}/") for each in confinement.temporary):
            steps.append(["mkdir", "-p", f"{STAGE}{path}"])
        steps.append(["mount", "--rbind", str(source), f"{STAGE}{path}"])
        if path not in confinement.volumes:
            steps.append(_read_only(f"{STAGE}{path}"))
    return [shlex.join(step) for step in steps]


def _read_only(path: str) -> list[str]:
    return ["mount", "-o", "remount,bind,ro", path]


def _program(confinement: Confinement, program: Sequence[str]) -> list[str]:
    user, _, group = confinement.user.partition(":")
    variables = [f"{name}={value}" for name, value in confinement.environment.items()]
    rights = [] if user == "0" else ["--clear-groups", "--no-new-privs", "--bounding-set=-all"]
    identity = ["setpriv", f"--reuid={user}", f"--regid={group or user}", *(rights or ["--clear-groups"])]
    enter = ["chroot", STAGE, *identity]
    return [*enter, "env", "-i", f"--chdir={confinement.directory}", *variables, *program]
