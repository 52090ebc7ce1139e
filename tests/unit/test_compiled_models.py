"""What of the directory of compiled models can be used, seen as a user who may not do everything."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from vintner import compiled_models
from vintner.compiled_models import COST, objection, place


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Directories there may be written by their modes, also by root, to whom the system lets everything."""

    def access(path: Path, wanted: int) -> bool:
        return (Path(path).stat().st_mode >> 6) & wanted == wanted

    monkeypatch.setattr(compiled_models.os, "access", access)
    return tmp_path / "cache"


def test_a_directory_that_can_be_written_or_made_is_no_trouble(root: Path) -> None:
    assert objection(root) == ""
    assert place(root, "m", 2) == root / "m" / "2"
    (root / "m" / "2").mkdir(parents=True)
    assert objection(root) == ""
    assert place(root, "m", 2) == root / "m" / "2"
    assert [path.name for path in root.iterdir()] == ["m"]


def test_what_another_user_made_is_read_and_told_of_once(root: Path) -> None:
    (root / "m" / "1").mkdir(parents=True)
    (root / "n" / "1").mkdir(parents=True)
    for path in (root / "m", root / "m" / "1", root / "n"):
        path.chmod(0o555)
    whose = f"(user {os.getuid()}, group {(root / 'm').stat().st_gid}, mode 555) as user {os.getuid()}"
    assert objection(root) == f"--cache-dir: in {root}, cannot write {root / 'm'} {whose}, nor 2 more in it; {COST}"
    assert place(root, "m", 1) == root / "m" / "1"
    assert place(root, "n", 1) == root / "n" / "1"


def test_what_can_be_neither_read_nor_made_is_not_used(root: Path) -> None:
    (root / "m" / "1").mkdir(parents=True)
    (root / "m").chmod(0o555)
    (root / "m" / "1").chmod(0o300)
    assert place(root, "m", 1) is None
    assert place(root, "m", 2) is None
    root.chmod(0o555)
    assert place(root, "n", 1) is None
    further = root / "further" / "below"
    assert objection(further).startswith(f"--cache-dir: cannot make {further} in {root} (")
