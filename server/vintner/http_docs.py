"""REST routes that describe REST: the OpenAPI document, and a page that shows it.

Knows nothing of the service: the document is a file of the package, written by hand, and so is the page, which is
Swagger UI. They are read when somebody asks for them first. Invariant: the page asks no other host for anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any, Final

import orjson
import yaml

from vintner import __version__
from vintner.errors import NotFound
from vintner.http_server import JSON, Route, route
from vintner.http_transport import Answer, Environ

TYPES: Final[Mapping[str, str]] = {
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "start.js": "text/javascript; charset=utf-8",
    "swagger-ui.css": "text/css; charset=utf-8",
}
"""The files of the page, and what they are."""

HTML: Final = ("Content-Type", "text/html; charset=utf-8")
FRESH: Final = ("Cache-Control", "no-cache")
KEPT: Final = ("Cache-Control", "max-age=86400")
POLICY: Final = (
    "Content-Security-Policy",
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'",
)


class Documentation:
    """One method for each operation."""

    @property
    def routes(self) -> Sequence[Route]:
        return [
            route("/openapi[.]json", GET=self.document),
            route("/docs", GET=self.page),
            route("/docs/(?P<file>[^/]+)", GET=self.file),
        ]

    def document(self, environ: Environ) -> Answer:
        return 200, (JSON, FRESH), _document()

    def page(self, environ: Environ) -> Answer:
        root = b"../" if environ["PATH_INFO"].endswith("/") else b""
        return 200, (HTML, FRESH, POLICY), _file("page.html").replace(b"ROOT", root)

    def file(self, environ: Environ, file: str) -> Answer:
        if file not in TYPES:
            raise NotFound("Not Found")
        return 200, (("Content-Type", TYPES[file]), KEPT), _file(file)


def describe() -> dict[str, Any]:
    """The OpenAPI document of this version."""
    source = resources.files("vintner").joinpath("openapi.yaml").read_text("utf-8")
    document = {key: value for key, value in yaml.safe_load(source).items() if not key.startswith("x-")}
    document["info"]["version"] = __version__
    return document


@cache
def _document() -> bytes:
    return orjson.dumps(describe())


@cache
def _file(name: str) -> bytes:
    return resources.files("vintner").joinpath("swagger_ui", name).read_bytes()
