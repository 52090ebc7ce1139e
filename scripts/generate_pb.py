"""Generates server/vintner/pb from proto/, or with --check says whether it is current.

protoc's output registers its files in the process-wide descriptor pool, where tritonclient registers files of the same
names and package; the second of them to be imported would fail. So the generated modules are pointed at a pool of our
own, `vintner.pb.pool.POOL`, and import each other within `vintner.pb`.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTO = ROOT / "proto"
PACKAGE = ROOT / "server" / "vintner" / "pb"
NAMES = ("model_config", "grpc_service")


def generate(target: Path) -> None:
    """Writes the module and the stub of each file in NAMES to `target`."""
    arguments = [
        "protoc",
        f"--proto_path={PROTO}",
        f"--proto_path={files('grpc_tools') / '_proto'}",
        f"--python_out={target}",
        f"--pyi_out={target}",
        *(str(PROTO / f"{name}.proto") for name in NAMES),
    ]
    if protoc.main(arguments) != 0:
        sys.exit("protoc failed")
    for path in sorted(target.glob("*_pb2.py*")):
        path.write_text(own_pool(path.read_text()))


def own_pool(source: str) -> str:
    """A generated module or stub, moved into our package and onto our pool."""
    source = re.sub(r"^import (\w+_pb2) as", r"from vintner.pb import \1 as", source, flags=re.MULTILINE)
    source = source.replace(
        "from google.protobuf import descriptor_pool as _descriptor_pool\n",
        "from vintner.pb.pool import POOL as _POOL\n" if "_descriptor_pool.Default()" in source else "",
    )
    return source.replace("_descriptor_pool.Default()", "_POOL")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if a file is not current")
    check = parser.parse_args().check
    with tempfile.TemporaryDirectory() as scratch:
        generate(Path(scratch))
        made = {path.name: path.read_text() for path in Path(scratch).iterdir()}
    stale = [name for name, text in sorted(made.items()) if not same(PACKAGE / name, text)]
    if check:
        for name in stale:
            print(f"server/vintner/pb/{name} is not what proto/ says; run make proto", file=sys.stderr)
        return 1 if stale else 0
    for name in stale:
        (PACKAGE / name).write_text(made[name])
    return 0


def same(path: Path, text: str) -> bool:
    return path.exists() and path.read_text() == text


if __name__ == "__main__":
    sys.exit(main())
