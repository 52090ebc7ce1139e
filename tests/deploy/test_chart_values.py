"""The chart's values: which it admits and which it refuses, that each is used, and that all Helms agree."""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jsonschema_rs
import pytest
import yaml
from deploy.chart_value_sets import ADMITTED, REFUSED, by_helm3, helm3_objects_of, objects_of
from deploy.helm_render import (
    CHART,
    ChartRefused,
    Object,
    Values,
    lint_helm3,
    lint_helm4,
    render_helm3,
    render_helm4,
    templates_alone,
)
from deploy.kubernetes_schemas import VERSIONS, problems

IMAGE_VOLUMES_SINCE = "1.33"
MISSING = object()

Path_ = tuple[str, ...]


def by_identity(objects: Sequence[Object]) -> Mapping[tuple[str, ...], Object]:
    """Fails if two objects are the same one for Kubernetes."""
    found = {(each["apiVersion"], each["kind"], each["metadata"]["name"]): each for each in objects}
    assert len(found) == len(objects), sorted((each["kind"], each["metadata"]["name"]) for each in objects)
    return found


@pytest.mark.parametrize("name", ADMITTED)
def test_helm_3_and_helm_4_render_the_same_objects(name: str) -> None:
    assert by_identity(objects_of(name)) == by_identity(helm3_objects_of(name))


@pytest.mark.parametrize("name", ADMITTED)
def test_kubernetes_admits_the_objects(name: str) -> None:
    for version in VERSIONS:
        found = [problem for each in objects_of(name) for problem in problems(each, version)]
        if has_image_volume(name) and version < IMAGE_VOLUMES_SINCE:
            assert [problem for problem in found if "'image' was unexpected" in problem] == found != []
        else:
            assert found == []


@pytest.mark.parametrize("name", ADMITTED)
def test_the_strict_lint_of_both_helms_finds_nothing(name: str) -> None:
    assert lint_helm4(ADMITTED[name]) == []
    found = " ".join(by_helm3(lint_helm3, name))
    if has_image_volume(name):  # this Helm lints for Kubernetes 1.20, and cannot be told another
        assert "modelRepository.type" in found
    else:
        assert found == ""


def has_image_volume(name: str) -> bool:
    return bool(ADMITTED[name].get("modelRepository", {}).get("type") == "image")


@pytest.mark.parametrize(("values", "version"), [({}, "1.28.9"), (ADMITTED["an image of models"], "1.30.9")])
def test_a_kubernetes_that_is_too_old_is_refused(values: Values, version: str) -> None:
    with pytest.raises(ChartRefused, match=f"v?{version}"):
        render_helm3(values, kubernetes=version)


@pytest.mark.parametrize("name", REFUSED)
def test_values_that_cannot_be_are_refused_by_their_names(name: str) -> None:
    refused = REFUSED[name]
    for render in (lambda: render_helm4(refused.values), lambda: by_helm3(render_helm3, name)):
        with pytest.raises(ChartRefused) as caught:
            render()
        assert [word for word in refused.says if word not in str(caught.value)] == [], str(caught.value)


def leaves(values: Mapping[str, Any], above: Path_ = ()) -> Iterator[Path_]:
    """The keys of values.yaml; an empty mapping is a value, too."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, (*above, key))
        else:
            yield (*above, key)


@functools.cache
def defaults() -> Mapping[str, Any]:
    content: Mapping[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    return content


def at(values: Any, path: Path_) -> Any:
    for part in path:
        if not isinstance(values, Mapping) or part not in values:
            return MISSING
        values = values[part]
    return values


def changed(values: Values, path: Path_, value: Any) -> Values:
    copied = inner = copy.deepcopy(dict(values))
    for part in path[:-1]:
        inner = inner.setdefault(part, {})
    inner[path[-1]] = value
    return copied


def changes(path: Path_) -> Iterator[tuple[Values, Values]]:
    """Values that differ in one place: as a set has it or by default, against the default, nothing, or another."""
    for values in (*(each for each in ADMITTED.values() if at(each, path) is not MISSING), {}):
        given = at(values, path)
        yield values, changed(values, path, at(defaults(), path))
        yield values, changed(values, path, None)
        if given is not MISSING:
            yield values, changed(values, path, altered(given))


def altered(value: Any) -> Any:
    """With another text in one place."""
    if isinstance(value, dict) and value:
        key = next(iter(value))
        return {**value, key: altered(value[key])}
    if isinstance(value, list) and value:
        return [altered(value[0]), *value[1:]]
    return f"{value}x"


def differ(one: Values, other: Values) -> bool:
    """Whether both render, to different objects; without the schema, whose refusals would hide what templates do."""
    chart = templates_alone()
    try:
        return render_helm4(one, chart=chart) != render_helm4(other, chart=chart)
    except (ChartRefused, yaml.YAMLError):
        return False


KEYS = list(leaves(defaults()))


@pytest.mark.parametrize("path", KEYS, ids=".".join)
def test_every_value_changes_an_object(path: Path_) -> None:
    assert any(differ(one, other) for one, other in changes(path))


HARDENING = [("podSecurityContext", "runAsNonRoot"), ("securityContext", "capabilities", "drop")] + [
    ("securityContext", name) for name in ("allowPrivilegeEscalation", "readOnlyRootFilesystem")
]


@pytest.mark.parametrize("path", sorted(set(KEYS) - set(HARDENING)), ids=".".join)
def test_some_set_has_another_value_than_the_default(path: Path_) -> None:
    assert any(at(each, path) not in (MISSING, at(defaults(), path)) for each in ADMITTED.values())


def schema_keys(schema: Mapping[str, Any], above: Path_ = ()) -> Iterator[Path_]:
    for key, inner in schema["properties"].items():
        if "properties" in inner and at(defaults(), (*above, key)) != {}:
            yield from schema_keys(inner, (*above, key))
        else:
            yield (*above, key)


def test_the_schema_has_exactly_the_keys_of_the_values() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    described = set(schema_keys(schema)) - {("global",), ("enabled",)}
    assert {path for path in described if at(defaults(), path) is MISSING} == set()
    assert {path for path in KEYS if not any(path[: len(each)] == each for each in described)} == set()


def test_the_schema_is_one_and_admits_the_defaults() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    jsonschema_rs.meta.validate(schema)
    assert list(jsonschema_rs.Draft7Validator(schema).iter_errors(defaults())) == []
