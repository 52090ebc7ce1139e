"""The description of REST as it is served: the document, and the page that shows it without asking another host."""

from __future__ import annotations

import gzip
import json
import re

import pytest
from infer_calls import rest_refusal
from running_server import RunningServer
from vintner import __version__

URL = re.compile(rb"https?://[^\"'\s<>)]+")
REFERENCE = re.compile(r'(?:src|href|data-document)="([^"]+)"')
FILES = {
    "page.html": "text/html; charset=utf-8",
    "swagger-ui.css": "text/css; charset=utf-8",
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "start.js": "text/javascript; charset=utf-8",
}


def test_the_document_is_json_of_this_version(doubling: RunningServer) -> None:
    status, headers, body = doubling.request("GET", "/openapi.json")
    assert (status, headers["Content-Type"], headers["Cache-Control"]) == (200, "application/json", "no-cache")
    document = json.loads(body)
    assert (document["openapi"], document["info"]["version"]) == ("3.1.0", __version__)


@pytest.mark.parametrize("page", ["/docs", "/docs/"])
def test_all_that_the_page_consists_of_is_served(doubling: RunningServer, page: str) -> None:
    status, headers, body = doubling.request("GET", page)
    assert (status, headers["Content-Type"]) == (200, FILES["page.html"])
    assert "default-src 'self'" in headers["Content-Security-Policy"]
    named = [reference for reference in REFERENCE.findall(body.decode()) if not reference.startswith("data:")]
    assert len(named) == 4
    for reference in named:
        root = "/docs/" if page.endswith("/") else "/"
        path = f"{root}{reference}".replace("/docs/../", "/")
        status, headers, body = doubling.request("GET", path)
        assert (status, headers["Content-Type"]) == (200, FILES.get(path.rpartition("/")[2], "application/json"))
        assert body


@pytest.mark.parametrize("path", ["/docs", "/docs/start.js", "/docs/swagger-ui.css"])
def test_the_page_names_no_other_host(doubling: RunningServer, path: str) -> None:
    """The library's script has addresses in its comments and messages; the page's policy lets it ask none."""
    body = doubling.request("GET", path)[2]
    assert {url for url in URL.findall(body) if not url.startswith(b"http://www.w3.org/")} == set()
    assert b"url(//" not in body


def test_the_files_are_kept_by_clients_and_compressed_for_them(doubling: RunningServer) -> None:
    for file in FILES.keys() - {"page.html"}:
        plain = doubling.request("GET", f"/docs/{file}")[2]
        status, headers, body = doubling.request("GET", f"/docs/{file}", headers={"Accept-Encoding": "gzip"})
        assert (status, headers["Cache-Control"], headers["Vary"]) == (200, "max-age=86400", "Accept-Encoding")
        assert (headers["Content-Encoding"], gzip.decompress(body)) == ("gzip", plain)


@pytest.mark.parametrize("file", ["page.html", "LICENSE", "..%2Fapp.py", "..", "%00", "swagger-ui.css%00"])
def test_nothing_else_is_served(doubling: RunningServer, file: str) -> None:
    assert rest_refusal(doubling, "GET", f"/docs/{file}").code == "404"
