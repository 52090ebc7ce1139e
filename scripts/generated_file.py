"""The command line of the scripts that write a file of the project: they write it, or with --check only tell whether it
is current.

Knows nothing of what is written. Invariant: with --check nothing is.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path


def run(document: Path, render: Callable[[], str], script: str, arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 1 if the file was only looked at, and is stale. `script` is the file that was started."""
    name = Path(script).name
    parser = argparse.ArgumentParser(prog=name, description=f"Writes {document.name}.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if the file is stale")
    check = parser.parse_args(arguments).check
    text = render()
    if not check:
        document.write_text(text, encoding="utf-8")
        return 0
    if document.exists() and document.read_text(encoding="utf-8") == text:
        return 0
    print(f"{document.parent.name}/{document.name} is stale: run scripts/{name}", file=sys.stderr)
    return 1
