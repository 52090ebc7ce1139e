"""Writes server/vintner/pb/*_pb2.py and their stubs from proto/; with --check, only tells whether they are current.

The stubs are protoc's. The modules are not: protoc's would put their descriptors into protobuf's default pool, and
`vintner.pb` says why ours must not be there.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

ROOT: Final = Path(__file__).parents[1]
SOURCES: Final = ROOT / "proto"
PACKAGE: Final = ROOT / "server" / "vintner" / "pb"

BYTES_PER_LINE: Final = 24  # no more than 120 columns, even if each byte is escaped

HEADER: Final = "# Written by scripts/generate_pb.py from proto/{source}; do not edit.\n"
MODULE: Final = '''\
"""The messages of {source}, in the descriptor pool of `vintner.pb.pool`."""

{imports}
globals().update(
    define(
        __name__,
{literals}
    )
)
'''


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if a file is stale")
    check = parser.parse_args(arguments).check
    generated, committed = dict(generate()), dict(read_committed())
    stale = sorted(name for name in generated | committed if generated.get(name) != committed.get(name))
    if not check:
        for name in stale:
            replace(PACKAGE / name, generated.get(name))
        return 0
    for name in stale:
        print(f"{name} is stale: run scripts/generate_pb.py", file=sys.stderr)
    return 1 if stale else 0


def read_committed() -> Iterator[tuple[str, str]]:
    for path in PACKAGE.glob("*_pb2.py*"):
        yield path.name, path.read_text(encoding="utf-8")


def replace(path: Path, text: str | None) -> None:
    """None is for a file whose source is gone."""
    if text is None:
        path.unlink()
    else:
        path.write_text(text, encoding="utf-8")


def generate() -> Iterator[tuple[str, str]]:
    """File names and contents."""
    with TemporaryDirectory() as folder:
        for file in compile_sources(Path(folder)):
            name = module_name(file.name)
            header = HEADER.format(source=file.name)
            yield f"{name}.py", header + module(file)
            yield f"{name}.pyi", header + stub((Path(folder) / f"{name}.pyi").read_text(encoding="utf-8"))


def compile_sources(folder: Path) -> Sequence[FileDescriptorProto]:
    """Leaves protoc's stubs in the folder. Raises CalledProcessError once protoc has printed what is wrong."""
    descriptors = folder / "descriptors"
    options = [f"--proto_path={SOURCES}", f"--pyi_out={folder}", f"--descriptor_set_out={descriptors}"]
    sources = sorted(path.name for path in SOURCES.glob("*.proto"))
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *options, *sources], check=True)
    return FileDescriptorSet.FromString(descriptors.read_bytes()).file


def module(file: FileDescriptorProto) -> str:
    """Imports what the file imports, because the pool takes a file only after those that it depends on."""
    imports = [f"from vintner.pb import {module_name(source)} as _\n" for source in file.dependency]
    imports.append("from vintner.pb.pool import define\n")
    serialized = file.SerializeToString(deterministic=True)
    chunks = (serialized[start : start + BYTES_PER_LINE] for start in range(0, len(serialized), BYTES_PER_LINE))
    literals = "\n".join(f"        {chunk!r}" for chunk in chunks)
    return MODULE.format(source=file.name, imports="".join(imports), literals=literals)


def stub(text: str) -> str:
    """protoc knows nothing of packages, and does not annotate all that mypy's strict mode wants annotated.

    Its `**kwargs` stands for fields with the name of a Python keyword.
    """
    text = re.sub(r"^import (\w+_pb2) as", r"from vintner.pb import \1 as", text, flags=re.MULTILINE)
    return text.replace("_Mapping]", "_Mapping[str, object]]").replace("**kwargs)", "**kwargs: object)")


def module_name(source: str) -> str:
    """Raises ValueError for a file that is not in proto/: nobody would put it into our pool."""
    if not (SOURCES / source).is_file():
        raise ValueError(f"{source} is not in {SOURCES.name}/")
    return source.removesuffix(".proto") + "_pb2"


if __name__ == "__main__":
    sys.exit(main())
