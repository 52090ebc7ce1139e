"""Checks a version's files against the digests in its manifest, in the format of `sha256sum`.

Knows nothing of models. A version without a manifest passes, and so do files that it does not list.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from vintner.errors import LoadError

MANIFEST: Final = "SHA256SUMS"
LINE: Final = re.compile(r"(\\?)([0-9a-fA-F]{64}) [ *](.+)")
"""Two spaces for a text and ` *` for a binary; a backslash in front says that the name has escapes."""
ESCAPES: Final = {"\\\\": "\\", "\\n": "\n", "\\r": "\r"}


def check_manifest(directory: Path) -> None:
    """Reads every file that the manifest lists. Raises LoadError for one that is not there or has another digest, for
    a name that leads out of the directory, and for a line of another format."""
    manifest = directory / MANIFEST
    if not manifest.is_file():
        return
    for name, digest in _entries(manifest):
        if _digest(directory, name) != digest:
            raise LoadError(f"{name} is not the file that {MANIFEST} lists: its SHA-256 digest is another")


def _entries(manifest: Path) -> Iterator[tuple[str, str]]:
    try:
        lines = manifest.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as exc:
        raise LoadError(f"{MANIFEST} cannot be read: {getattr(exc, 'strerror', None) or 'it is not UTF-8'}") from exc
    for number, line in enumerate(lines, 1):
        text = line.removesuffix("\r")
        if not text.strip():
            continue
        match = LINE.fullmatch(text)
        if match is None:
            raise LoadError(
                f"{MANIFEST}, line {number}: expected '<SHA-256 in hexadecimal>  <name>', got {text[:80]!r}"
            )
        name = re.sub(r"\\[\\nr]", lambda found: ESCAPES[found[0]], match[3]) if match[1] else match[3]
        yield name, match[2].lower()


def _digest(directory: Path, name: str) -> str:
    if name.startswith("/") or ".." in name.split("/") or "\0" in name:
        raise LoadError(f"{MANIFEST} lists {name!r}, which is not in the version's directory")
    try:
        with (directory / name).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as exc:
        raise LoadError(f"{name}, which {MANIFEST} lists, cannot be read: {exc.strerror}") from exc
