"""Fetches the page that shows the OpenAPI document, Swagger UI, into the package. Needs npm and the network.

To take another version, change VERSION, run this, look at /docs, and run the tests.
"""

from __future__ import annotations

import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Final

VERSION: Final = "5.35.0"
TARGET: Final = Path(__file__).parents[1] / "server" / "vintner" / "swagger_ui"
FILES: Final = ("swagger-ui-bundle.js", "swagger-ui-bundle.js.LICENSE.txt", "swagger-ui.css", "LICENSE", "NOTICE")


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        subprocess.run(["npm", "pack", f"swagger-ui-dist@{VERSION}"], cwd=directory, check=True)
        (packed,) = Path(directory).glob("*.tgz")
        with tarfile.open(packed) as archive:
            for name in FILES:
                member = archive.extractfile(f"package/{name}")
                assert member is not None
                text = member.read()
                if name.endswith((".js", ".css")):  # the maps are not shipped
                    text = b"".join(line for line in text.splitlines(True) if b"sourceMappingURL=" not in line[:40])
                (TARGET / name).write_bytes(text)


if __name__ == "__main__":
    main()
