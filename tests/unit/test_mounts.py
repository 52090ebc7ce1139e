"""File systems that do not tell of changes."""

from __future__ import annotations

from pathlib import Path

import pytest
from vintner.mounts import parse_mounts, read_mounts, silent

TABLE = r"""
22 1 0:21 / / rw,relatime - overlay overlay rw,lowerdir=/l
23 22 0:22 / /proc rw - proc proc rw
24 22 254:1 / /models rw,relatime shared:7 - ext4 /dev/vda1 rw
25 24 0:40 / /models/shared rw - nfs4 server:/export rw,vers=4.2
26 22 0:41 / /with\040space rw - fuse.s3fs s3fs rw
27 22 0:42 / /fixed ro,relatime - ext4 /dev/vdb ro
28 22 0:43 / /super rw,relatime - ext4 /dev/vdc ro
29 22 0:44 / /host rw - 9p host rw
30 22 0:45 / /vm rw - virtiofs vm rw
31 22 0:46 / /twice rw - nfs server:/x rw
32 31 254:2 / /twice rw - xfs /dev/vdd rw
33 22 0:47 / /ram rw - tmpfs tmpfs rw
"""


@pytest.mark.parametrize(
    ("root", "reason"),
    [
        ("/", "/models/shared is a file system of type nfs4"),
        ("/else", ""),
        ("/models", "/models/shared is a file system of type nfs4"),
        ("/models/mine", ""),
        ("/models/shared/deep", "/models/shared is a file system of type nfs4"),
        ("/models/sharedness", ""),
        ("/with space/x", "/with space is a file system of type fuse.s3fs"),
        ("/fixed", "/fixed is mounted read-only"),
        ("/super/a", "/super is mounted read-only"),
        ("/host", "/host is a file system of type 9p"),
        ("/vm", "/vm is a file system of type virtiofs"),
        ("/twice/a", ""),
        ("/ram/m", ""),
    ],
)
def test_where_changes_are_not_told(root: str, reason: str) -> None:
    mounts = [mount for mount in parse_mounts(TABLE) if root != "/" or mount.point in ("/", "/models/shared")]
    assert silent(Path(root), mounts) == reason


def test_the_clock_of_a_remote_file_system_is_not_ours() -> None:
    assert {mount.point for mount in parse_mounts(TABLE) if mount.remote} == {
        "/models/shared", "/with space", "/host", "/vm", "/twice",
    }  # fmt: skip


def test_the_mounts_of_this_process_are_read(tmp_path: Path) -> None:
    devices = {mount.device for mount in read_mounts()}
    assert Path("/").stat().st_dev in devices
    assert silent(tmp_path, read_mounts()) == ""
