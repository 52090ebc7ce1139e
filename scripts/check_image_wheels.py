"""Asks PyPI whether every package of the image is there as a wheel, for the platforms that images are built for.

    python scripts/check_image_wheels.py [--arch aarch64]

Needs the network, and a Python of the version that is asked about, because pip judges markers by its own. Prints the
wheels. Invariant: nothing is installed, and a package without a wheel fails it with pip's own words.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

PROJECT: Final = Path(__file__).parents[1]
GLIBC: Final = range(17, 37)
"""Minor versions of glibc 2 that Debian 12, with 2.36, runs wheels of."""


def wheels(architecture: str) -> list[str]:
    """Names of the files that pip would install. Raises CalledProcessError if there is one that is no wheel."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["genai"]]
    platforms = [f"manylinux_2_{minor}_{architecture}" for minor in GLIBC] + [f"manylinux2014_{architecture}"]
    command = [
        sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--target=none",
        "--only-binary=:all:", "--report=-", f"--constraint={PROJECT / 'constraints.txt'}",
        *(f"--platform={platform}" for platform in platforms), *wanted,
    ]  # fmt: skip
    report = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    return sorted(each["download_info"]["url"].rpartition("/")[2] for each in report["install"])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--arch", action="append", choices=("x86_64", "aarch64"), help="default: both")
    for architecture in parser.parse_args(arguments).arch or ("x86_64", "aarch64"):
        print(f"{architecture}, Python {sys.version_info.major}.{sys.version_info.minor}:")
        print(*(f"  {name}" for name in wheels(architecture)), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
