"""Uploaded files: which paths are taken, where they end up, and for how long they stay."""

from __future__ import annotations

import errno
import os
import string
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from vintner.errors import ConfigError, InvalidArgument, TooLarge, Unavailable
from vintner.uploads import DEEPEST, LONGEST_NAME, MOST_FILES, Uploads, path_parts


@pytest.fixture
def uploads(tmp_path: Path) -> Uploads:
    return Uploads(tmp_path, max_bytes=100)


def files_below(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_files_are_laid_out_as_versions(uploads: Uploads) -> None:
    sent = {"1/model.xml": b"net", "1/model.bin": b"", "20/saved/variables/v.index": b"index"}
    upload = uploads.keep(sent)
    assert files_below(upload.directory) == sent
    assert upload.versions == {1: upload.directory / "1", 20: upload.directory / "20"}
    assert upload.directory.stat().st_mode & 0o077 == 0


def test_the_files_go_with_the_last_who_holds_them(uploads: Uploads, tmp_path: Path) -> None:
    first, second = uploads.keep({"1/a": b"1"}), uploads.keep({"1/a": b"2"})
    held, directory = first, first.directory
    del first
    assert directory.exists()
    del held
    assert not directory.exists()
    assert second.directory.exists()
    uploads.close()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("model.onnx", "the path does not begin with a version"),
        ("", "the path does not begin with a version"),
        ("1", "the path does not begin with a version"),
        ("/1/m", "the path does not begin with a version"),
        ("0/m", "the path does not begin with a version"),
        ("01/m", "the path does not begin with a version"),
        ("-1/m", "the path does not begin with a version"),
        ("١/m", "the path does not begin with a version"),
        ("../1/m", "the path does not begin with a version"),
        ("1" * 5000 + "/m", "the path does not begin with a version"),
        ("1/", "'' cannot be the name of a file here"),
        ("1//m", "'' cannot be the name of a file here"),
        ("1/./m", "'.' cannot be the name of a file here"),
        ("1/../../m", "'..' cannot be the name of a file here"),
        ("1/a\\..\\m", "'a\\\\..\\\\m' cannot be the name of a file here"),
        ("1/m\0", "'m\\x00' cannot be the name of a file here"),
        ("1/m\n", "'m\\n' cannot be the name of a file here"),
        ("1/" + "ö" * 128, f"a name in the path is longer than {LONGEST_NAME} bytes"),
        ("1/" + "a/" * (DEEPEST - 1) + "m", f"the path has more than {DEEPEST} names"),
    ],
)
def test_a_path_that_could_lead_elsewhere_is_refused(path: str, expected: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        path_parts(path)
    assert expected in str(caught.value)
    assert "expected file:<version>/<file>, such as file:1/model.onnx" in str(caught.value)


@example("1/..")
@example("1/a/../../..")
@given(st.text(st.sampled_from(["/", ".", "\\", "\0", "~", "1", "ü", *string.ascii_letters[:4]]), max_size=30))
def test_whatever_path_is_taken_stays_below_its_version(path: str) -> None:
    try:
        names = path_parts(path)
    except InvalidArgument:
        return
    root = Path("/root")
    assert os.path.normpath(root.joinpath(*names)) == str(root.joinpath(*names))
    assert root / names[0] in root.joinpath(*names).parents


def test_files_that_are_directories_too_are_refused_and_leave_nothing(uploads: Uploads, tmp_path: Path) -> None:
    for sent in ({"1/a": b"", "1/a/b": b""}, {"1/a/b": b"", "1/a": b""}):
        with pytest.raises(InvalidArgument, match="it does not fit with the other files"):
            uploads.keep(sent)
    assert not files_below(tmp_path)


@pytest.mark.parametrize("size", [100, 101])
def test_all_files_together_are_limited(uploads: Uploads, size: int) -> None:
    sent = {"1/a": bytes(60), "1/b": bytes(size - 60)}
    if size <= 100:
        assert files_below(uploads.keep(sent).directory) == sent
        return
    with pytest.raises(TooLarge, match=r"101 bytes were uploaded, at most 100 are allowed \(--max-upload-bytes\)"):
        uploads.keep(sent)


def test_the_number_of_files_is_limited(uploads: Uploads) -> None:
    sent = {f"1/{number}": b"" for number in range(MOST_FILES)}
    assert files_below(uploads.keep(sent).directory) == sent
    with pytest.raises(InvalidArgument, match=f"{MOST_FILES + 1} files were uploaded, at most {MOST_FILES}"):
        uploads.keep({**sent, "1/more": b""})


def test_a_place_where_nothing_can_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot keep uploads in .*--upload-dir.*No such file"):
        Uploads(tmp_path / "nowhere", 100)


def test_a_full_disk_is_no_fault_of_the_clients(uploads: Uploads, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(Unavailable, match="the upload cannot be kept: No space left"):
        uploads.keep({"1/a": b""})
