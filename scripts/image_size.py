"""Estimates how large the image is, from a tree of files that `image_tree.py` made.

    python scripts/image_size.py DIR [--base ROOT] [--level 6]

Prints a table: for each package of the environment, Vintner's own among them, what is on disk and what gzip leaves of
it, which is about what is pulled. Knows nothing of layers. The base is the tree that `image_tree.py` was given, and no
more the published image than that is. Invariant: each file below /opt/vintner is counted in one row.
"""

from __future__ import annotations

import argparse
import sys
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Final

PREFIX: Final = Path("opt", "vintner")
MIB: Final = 1 << 20
CHUNK: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Row:
    """Bytes of some files: as they are, and compressed one after the other, as in a layer."""

    name: str
    files: int
    size: int
    compressed: int


def rows(root: Path, level: int) -> Iterator[Row]:
    """What Vintner brings, the largest first; then what the final stage adds to the base."""
    left = set(_files(root / PREFIX))
    found = []
    for name, files in _packages(root / PREFIX):
        mine = left & files
        left -= mine
        found.append(_row(name, mine, level))
    models = {path for path in left if path.is_relative_to(root / PREFIX / "model_repository")}
    found.append(_row("the example models", models, level))
    found.append(_row("the environment itself", left - models, level))
    yield from sorted(found, key=lambda row: -row.size)
    library = set((root / "usr" / "local" / "lib").glob("python3*/**/*.pyc"))
    yield _row("bytecode of Python's library", library, level)


def _packages(prefix: Path) -> Iterator[tuple[str, set[Path]]]:
    """The files that each distribution says are its own, with their bytecode."""
    places = [str(place) for place in prefix.glob("lib/python3*/site-packages")]
    for each in distributions(path=places):
        files = {Path(str(file.locate())).resolve() for file in each.files or ()}
        caches = {place for file in files if file.suffix == ".py" for place in _bytecode(file)}
        yield f"{each.name} {each.version}", {path for path in files if path.is_file()} | caches


def _bytecode(source: Path) -> Iterable[Path]:
    return source.parent.glob(f"__pycache__/{source.stem}.*.pyc")


def _files(root: Path) -> Iterator[Path]:
    return (path.resolve() for path in root.rglob("*") if path.is_file() and not path.is_symlink())


def _row(name: str, files: Iterable[Path], level: int) -> Row:
    size = compressed = count = 0
    squeeze = zlib.compressobj(level)
    for path in sorted(files):
        count += 1
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                size += len(chunk)
                compressed += len(squeeze.compress(chunk))
    return Row(name, count, size, compressed + len(squeeze.flush()))


def table(found: Sequence[Row]) -> str:
    """As Markdown, with a sum; rows of less than a tenth of a MiB are one."""
    small = [row for row in found if row.size < MIB / 10]
    shown = [row for row in found if row.size >= MIB / 10]
    if small:
        shown.append(_sum(f"{len(small)} more", small))
    lines = [_line(row) for row in [*shown, _sum("**together**", found)]]
    return "\n".join(["| | files | MiB | MiB compressed |", "|---|--:|--:|--:|", *lines])


def _sum(name: str, found: Sequence[Row]) -> Row:
    return Row(name, *(sum(getattr(row, field) for row in found) for field in ("files", "size", "compressed")))


def _line(row: Row) -> str:
    return f"| {row.name} | {row.files} | {row.size / MIB:.1f} | {row.compressed / MIB:.1f} |"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("image", type=Path, metavar="DIR", help="what image_tree.py made")
    parser.add_argument("--base", type=Path, metavar="ROOT", help="files of the base image, as image_tree.py got them")
    parser.add_argument("--level", type=int, default=6, choices=range(1, 10), help="of gzip; engines use 6 or so")
    given = parser.parse_args(arguments)
    root = (given.image / "root").resolve()
    if not (root / PREFIX).is_dir():
        parser.error(f"{given.image}: expected a directory with root/{PREFIX}, as image_tree.py makes it")
    found = list(rows(root, given.level))
    if given.base:
        found.append(_row("the base", set(_files(given.base.resolve())), given.level))
    print(table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
