"""Runs what `image_tree.py` made as an engine would: read-only root, any user, no capabilities, process 1.

    python scripts/image_run.py [--user 12345:0] [--volume PATH:HOSTPATH] [--env NAME=VALUE] DIR [ARGUMENT ...]

ARGUMENTs take the place of the image's CMD. Only /tmp and volumes can be written, and HOME is not set. Ports are this
machine's. Needs root. Invariant: the tree is as it was when the program has ended.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from confined import Confinement, command


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("image", type=Path, metavar="DIR", help="what image_tree.py made")
    parser.add_argument("--user", metavar="UID:GID", help="default: the image's")
    parser.add_argument("--volume", action="append", default=[], metavar="PATH:HOSTPATH", help="to be written")
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--entrypoint", help="in place of the image's")
    parser.add_argument("words", nargs=argparse.REMAINDER, metavar="ARGUMENT")
    given = parser.parse_args(arguments)
    config = json.loads((given.image / "config.json").read_text())
    inside = Confinement(
        given.image / "root",
        user=given.user or config["User"],
        environment=config["Env"] | dict(pair.split("=", 1) for pair in given.env),
        volumes={path: Path(host) for path, host in (pair.split(":", 1) for pair in given.volume)},
    )
    entry = [given.entrypoint] if given.entrypoint else config["Entrypoint"]
    words = command(inside, [*entry, *(given.words or config["Cmd"])])
    os.execvp(words[0], words)


if __name__ == "__main__":
    main()
