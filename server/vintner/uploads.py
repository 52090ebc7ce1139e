"""Files that clients have uploaded: checked, and laid out as the versions of a model in private directories.

Knows nothing of models or of who serves them. Invariant: nothing is written outside of a directory that this process
has made, and such a directory is there for as long as anything holds its `Upload`, and no longer.
"""

from __future__ import annotations

import errno
import re
import shutil
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from vintner.control_parameters import FILE
from vintner.errors import ConfigError, InvalidArgument, TooLarge, Unavailable

MOST_FILES: Final = 256
DEEPEST: Final = 16
"""Names in the path of a file, its version included."""
LONGEST_NAME: Final = 255
VERSION: Final = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)
UNFIT_PATHS: Final = frozenset({errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EINVAL})
"""What the system says of names that the check lets through and that do not fit together, or not there."""


class Upload:
    """The files of one upload, on disk: the `versions` are directories below `directory`.

    Whoever may still read the files has to hold on to this: they are removed when nothing does.
    """

    def __init__(self, directory: Path, versions: Mapping[int, Path]) -> None:
        self.directory = directory
        self.versions = versions
        weakref.finalize(self, shutil.rmtree, directory, ignore_errors=True)


class Uploads:
    """Where uploads are kept: in a directory of this process's own, readable by nobody else. Threads: any."""

    def __init__(self, parent: Path | None, max_bytes: int) -> None:
        """`parent` None: the system's place for temporary files. Raises ConfigError if nothing can be written there."""
        self.max_bytes = max_bytes
        try:
            self._directory = Path(tempfile.mkdtemp(prefix="vintner-uploads-", dir=parent)).resolve()
        except OSError as exc:
            raise ConfigError(f"cannot keep uploads in {exc.filename} (--upload-dir): {exc.strerror}") from exc
        self._removal = weakref.finalize(self, shutil.rmtree, self._directory, ignore_errors=True)

    def keep(self, files: Mapping[str, bytes]) -> Upload:
        """Writes the files of a model. Raises InvalidArgument for paths, and TooLarge for sizes, that may not be."""
        check_size(files, self.max_bytes)
        parts = {path: path_parts(path) for path in files}
        root = Path(tempfile.mkdtemp(dir=self._directory))
        upload = Upload(root, {int(names[0]): root / names[0] for names in parts.values()})
        for path, names in parts.items():
            _write(root.joinpath(*names), files[path], path)
        return upload

    def close(self) -> None:
        """Removes whatever is left."""
        self._removal()


def check_size(files: Mapping[str, bytes], max_bytes: int) -> None:
    """Raises InvalidArgument for too many files, TooLarge for too much in them."""
    if len(files) > MOST_FILES:
        raise InvalidArgument(f"{len(files)} files were uploaded, at most {MOST_FILES} are allowed")
    size = sum(map(len, files.values()))
    if size > max_bytes:
        raise TooLarge(f"{size} bytes were uploaded, at most {max_bytes} are allowed (--max-upload-bytes)")


def path_parts(path: str) -> Sequence[str]:
    """The names in a file's path, its version first. Raises InvalidArgument for one that could lead elsewhere."""
    names = path.split("/")
    if len(names) < 2 or not VERSION.fullmatch(names[0]):
        raise _unfit(path, "the path does not begin with a version")
    if len(names) > DEEPEST:
        raise _unfit(path, f"the path has more than {DEEPEST} names")
    for name in names:
        if name in ("", ".", "..") or not name.isprintable() or "\\" in name:
            raise _unfit(path, f"{name!r} cannot be the name of a file here")
        if len(name.encode()) > LONGEST_NAME:
            raise _unfit(path[:LONGEST_NAME], f"a name in the path is longer than {LONGEST_NAME} bytes")
    return names


def _write(target: Path, content: bytes, path: str) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as file:
            file.write(content)
    except OSError as exc:
        if exc.errno in UNFIT_PATHS:
            raise _unfit(path, f"it does not fit with the other files: {exc.strerror}") from exc
        raise Unavailable(f"the upload cannot be kept: {exc.strerror}") from exc


def _unfit(path: str, reason: str) -> InvalidArgument:
    return InvalidArgument(
        f"parameter {FILE + path!r}: {reason}; expected {FILE}<version>/<file>, such as {FILE}1/model.onnx"
    )
