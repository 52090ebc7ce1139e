"""Files of labels: how they are read, and that a change of one is a change of the model."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from fake_backend import FakeBackend, fake_model, write_model
from vintner.backend import Backends
from vintner.errors import LoadError
from vintner.labels import read_labels
from vintner.model_config import parse_model_config
from vintner.repository import scan

CONFIG = parse_model_config({"outputs": {"output": {"labels": "animals.txt", "name": "animal"}, "other": {}}}, "test")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"cat\ndog\n", [b"cat", b"dog"]),
        (b"cat\ndog", [b"cat", b"dog"]),
        (b"cat\r\ndog\r\n", [b"cat", b"dog"]),
        (b"cat\n\ndog\n", [b"cat", b"", b"dog"]),
        (b"\xef\xbb\xbfcat: big\n\xc3\xa4 b \n", [b"cat: big", "ä b ".encode()]),
        (b"", []),
        ("a\u2028b\x0bc\n".encode(), ["a\u2028b\x0bc".encode()]),
    ],
)
def test_there_is_one_label_on_a_line(tmp_path: Path, content: bytes, expected: list[bytes]) -> None:
    (tmp_path / "animals.txt").write_bytes(content)
    assert read_labels(CONFIG, tmp_path) == {"animal": expected}


def test_labels_that_cannot_be_read_are_an_error_that_says_where_they_should_be(tmp_path: Path) -> None:
    with pytest.raises(
        LoadError, match=r"labels of output 'output' .* animals.txt: No such file .* beside its versions"
    ):
        read_labels(CONFIG, tmp_path)
    (tmp_path / "animals.txt").write_bytes(b"\xff")
    with pytest.raises(LoadError, match=r"labels of output 'output' are not UTF-8: animals.txt"):
        read_labels(CONFIG, tmp_path)


def signature(root: Path, model: str = "m") -> object:
    found = scan([root], Backends({"fake": FakeBackend()}))
    assert not found.faults, found.faults
    return found.models[model].signatures[1]


def test_a_changed_file_of_labels_is_a_change_of_each_version(tmp_path: Path) -> None:
    write_model(tmp_path / "m" / "1", fake_model())
    before = signature(tmp_path)
    (tmp_path / "m" / "README.md").write_text("of no concern")
    (tmp_path / "m" / ".animals.txt").write_text("unfinished")
    assert signature(tmp_path) == before
    labels = tmp_path / "m" / "animals.txt"
    labels.write_text("cat\n")
    first = signature(tmp_path)
    labels.write_text("cat\ndog\n")
    second = signature(tmp_path)
    assert len({before, first, second}) == 3
    write_model(tmp_path / "m" / "warmup", {"inputs": []}, "sample")
    assert signature(tmp_path) != second


def test_labels_outside_of_the_repository_are_refused(tmp_path: Path) -> None:
    write_model(tmp_path / "models" / "m" / "1", fake_model())
    (tmp_path / "secret").write_text("root:x:0:0")
    os.symlink("../../secret", tmp_path / "models" / "m" / "animals.txt")
    found = scan([tmp_path / "models"], Backends({"fake": FakeBackend()}))
    assert "animals.txt links to ../../secret, which is outside the model repository" in found.faults["m"]
