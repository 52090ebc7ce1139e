"""Digests beside a version's files."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest
from fake_backend import FakeBackend, write_model
from vintner.backend import Backends
from vintner.errors import LoadError
from vintner.manifest import check_manifest
from vintner.opening import open_servable
from vintner.repository import scan

EMPTY = hashlib.sha256(b"").hexdigest()


@pytest.fixture
def version(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    for name in ("model.bin", "sub/weights", "with space\nand line"):
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


@pytest.mark.parametrize("flags", [["--text"], ["--binary"]])
def test_what_sha256sum_writes_is_read(version: Path, flags: list[str]) -> None:
    names = ["model.bin", "./sub/weights", "with space\nand line"]
    written = subprocess.run(["sha256sum", *flags, *names], cwd=version, capture_output=True, check=True).stdout
    (version / "SHA256SUMS").write_bytes(written)
    check_manifest(version)
    (version / "with space\nand line").write_bytes(b"else")
    with pytest.raises(LoadError, match="and line is not the file that SHA256SUMS lists"):
        check_manifest(version)


def test_a_version_without_a_manifest_passes(version: Path) -> None:
    check_manifest(version)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (f"{EMPTY}  model.bin", "model.bin is not the file that SHA256SUMS lists: its SHA-256 digest is another"),
        (f"{EMPTY} *gone.bin", "gone.bin, which SHA256SUMS lists, cannot be read: No such file or directory"),
        (f"{EMPTY}  sub", "sub, which SHA256SUMS lists, cannot be read: Is a directory"),
        (f"{EMPTY}  ../other", "lists '../other', which is not in the version's directory"),
        (f"{EMPTY}  sub/../../other", "which is not in the version's directory"),
        (f"{EMPTY}  /etc/hostname", "lists '/etc/hostname', which is not in the version's directory"),
        ("SHA256 (model.bin) = " + EMPTY, "line 1: expected '<SHA-256 in hexadecimal>  <name>'"),
        (f"\n{EMPTY[:-1]}  model.bin", "line 2: expected"),
    ],
)
def test_what_is_wrong_with_a_manifest_is_told(version: Path, line: str, reason: str) -> None:
    (version / "SHA256SUMS").write_text(line + "\n")
    with pytest.raises(LoadError) as caught:
        check_manifest(version)
    assert reason in str(caught.value)


def test_a_manifest_is_checked_before_a_version_is_loaded(tmp_path: Path) -> None:
    backend = FakeBackend()
    backends = Backends(made={"fake": backend})
    path = write_model(tmp_path / "m" / "1")
    manifest = path.with_name("SHA256SUMS")
    manifest.write_text(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n")
    source = scan([tmp_path], backends).models["m"]
    open_servable(source, 1, backends, 1, None).close()
    manifest.write_text(f"{EMPTY}  {path.name}\n")
    with pytest.raises(LoadError, match=r"model\.fake is not the file"):
        open_servable(source, 1, backends, 1, None)
    assert len(backend.loaded) == 1
