"""The OpenAPI document says what the table of routes says, and is a valid one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
import schemathesis
from fake_backend import FakeBackend
from vintner import __version__
from vintner.backend import Backends
from vintner.http_docs import describe
from vintner.http_routes import routes
from vintner.http_server import STATUS, Route
from vintner.manager import Manager
from vintner.service import Service

DOCUMENT = describe()
METHODS = {"get", "put", "post", "delete", "options", "head", "patch", "trace"}


def service() -> Service:
    return Service(Manager(Backends({"fake": FakeBackend()}), cores=1))


def served() -> list[Route]:
    """The routes but those that answer only that they are not there, which their methods' names say."""
    table = routes(service(), 1, 1)
    return [route for route in table if not all(m.__name__.startswith("refuse") for m in route.methods.values())]


def paths(pattern: str) -> set[str]:
    """The templates, with `{}` for what varies, of the paths that a route's pattern matches."""
    pattern = re.sub(r"\[\^/\]\+", "{}", pattern).replace("[.]", ".").removesuffix("/?")
    pattern = re.sub(r"\?P<\w+>", "?:", pattern)
    while group := re.search(r"\(\?:([^()]*)\)(\?)?", pattern):
        choices = [*group[1].split("|"), *([""] if group[2] else [])]
        found = (pattern[: group.start()] + choice + pattern[group.end() :] for choice in choices)
        return {each for one in found for each in paths(one)}
    assert not set(pattern) & set("()[]|*+?^$\\"), f"what does {pattern} match?"
    return {pattern}


def documented() -> Iterator[tuple[str, str]]:
    for path, item in DOCUMENT["paths"].items():
        yield from ((re.sub(r"{\w+}", "{}", path), method.upper()) for method in METHODS & item.keys())


def test_the_document_has_the_paths_and_methods_of_the_table_and_no_others() -> None:
    """HEAD goes with GET, and is not listed."""
    table = {
        each for route in served() for each in product(paths(route.pattern.pattern), route.methods.keys() - {"HEAD"})
    }
    assert set(documented()) == table


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("/v2", {"/v2"}),
        ("(?:/v2)/?", {"/v2"}),
        (r"/a/(?P<m>[^/]+)(?:/b/(?P<v>[^/]+))?/c", {"/a/{}/c", "/a/{}/b/{}/c"}),
        ("/(?:x|y)/z", {"/x/z", "/y/z"}),
    ],
)
def test_patterns_are_told_as_paths(pattern: str, expected: set[str]) -> None:
    assert paths(pattern) == expected


def test_the_document_is_valid_and_of_this_version() -> None:
    assert DOCUMENT["info"]["version"] == __version__
    assert not [key for key in DOCUMENT if key.startswith("x-")]
    schemathesis.openapi.from_dict(DOCUMENT).validate()


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in DOCUMENT["paths"].items():
        for method in METHODS & item.keys():
            yield path, method, item[method] | {"of_path": item.get("parameters", [])}


@pytest.mark.parametrize(("path", "method", "operation"), list(operations()), ids=str)
def test_every_operation_is_described(path: str, method: str, operation: dict[str, Any]) -> None:
    assert operation["summary"]
    assert set(operation["tags"]) <= {tag["name"] for tag in DOCUMENT["tags"]}
    assert {int(status) for status in operation["responses"]} - {200, 201, 408, 415} <= {*STATUS.values()}
    names = {resolve(each)["name"] for each in operation["of_path"] if resolve(each)["in"] == "path"}
    assert names == set(re.findall(r"{(\w+)}", path))


def resolve(node: dict[str, Any]) -> dict[str, Any]:
    target: Any = DOCUMENT
    if "$ref" not in node:
        return node
    for key in node["$ref"].removeprefix("#/").split("/"):
        target = target[key]
    return target  # type: ignore[no-any-return]


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        yield from ([node["$ref"]] if isinstance(node.get("$ref"), str) else [])
        for child in node.values():
            yield from references(child)
    elif isinstance(node, list):
        for child in node:
            yield from references(child)


def test_nothing_that_is_referred_to_is_missing_and_nothing_is_left_over() -> None:
    used = set(references(DOCUMENT))
    for reference in used:
        assert resolve({"$ref": reference})
    there = {f"#/components/{kind}/{name}" for kind, named in DOCUMENT["components"].items() for name in named}
    assert used == there
