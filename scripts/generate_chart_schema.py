"""Writes helm/vintner/values.schema.json; with --check, only tells whether it is current.

The types come from chart_schema.yaml, the descriptions from the comments of values.yaml, the options of the server
from their declarations, Kubernetes' own structures from the newest schemas that kubernetes-validate ships.
Invariant: the schema has exactly the keys that values.yaml has, or nothing is written.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml
from chart_values import CHART, Value, read_values
from generated_file import run
from kubernetes_validate.utils import latest_version, schema_contents
from vintner.config import describe_options
from vintner.options import Option

Schema = dict[str, Any]

SOURCE: Final = Path(__file__).with_name("chart_schema.yaml")
DOCUMENT: Final = CHART / "values.schema.json"
REFERENCE: Final = "#/definitions/"
KUBERNETES: Final = "io.k8s."
ANNOTATIONS: Final = ("description", "format", "default", "x-kubernetes-")
"""Keywords, by how they begin, that refuse nothing."""
OPEN_TYPES: Final[Mapping[str, Schema]] = {
    "io.k8s.apimachinery.pkg.api.resource.Quantity": {"$ref": f"{REFERENCE}quantity"},
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": {"type": ["integer", "string"]},
}
"""Definitions that Kubernetes describes more widely than it reads them."""
NEEDS_A_VALUE: Final = frozenset({"type", "minLength", "minItems", "minProperties"})


def main(arguments: Sequence[str] | None = None) -> int:
    return run(DOCUMENT, render, __file__, arguments)


def render() -> str:
    return json.dumps(build(yaml.safe_load(SOURCE.read_text(encoding="utf-8")), read_values()), indent=1) + "\n"


def build(source: Schema, values: Sequence[Value]) -> Schema:
    properties = _tree(source["values"], values)
    # Helm gives a chart that is part of another the values that both share.
    properties["properties"]["global"] = {"type": "object"}
    # And the value that its condition for taking this one names, by custom.
    properties["properties"]["enabled"] = {"type": "boolean"}
    schema = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Values of the chart vintner",
        **properties,
        "allOf": [_conflict(conflict) for conflict in source["conflicts"]],
        "definitions": source["definitions"],
    }
    library = _kubernetes_definitions()
    schema = _resolved(schema, library)
    schema["definitions"] |= _reached(schema, library)
    return schema


def _tree(types: Mapping[str, Schema], values: Sequence[Value]) -> Schema:
    """One schema for all values. Raises SystemExit if a value has no type, or a type no value."""
    root: Schema = {"type": "object", "additionalProperties": False, "properties": {}}
    covered: set[str] = set()
    for value in values:
        if any(value.name.startswith(f"{name}.") for name in covered):
            continue
        parent = root
        for part in value.path[:-1]:
            parent = parent["properties"][part]
        parent["properties"][value.path[-1]] = found = _described(value, types)
        if _is_needed(value, found, types):
            parent.setdefault("required", []).append(value.path[-1])
        covered |= {value.name} & types.keys()
    if missing := types.keys() - covered:
        raise SystemExit(f"{SOURCE.name}: no such values in values.yaml: {', '.join(sorted(missing))}")
    return root


def _is_needed(value: Value, schema: Schema, types: Mapping[str, Schema]) -> bool:
    """Whether templates need it. Helm looks with the defaults in place, so only what is set to null is missing."""
    if value.name not in types:
        return True
    return (
        value.default not in (None, "")
        and not isinstance(value.default, dict | list)
        and "null" not in schema.get("type", ())
    )


def _described(value: Value, types: Mapping[str, Schema]) -> Schema:
    if value.name in types:
        # Beside a $ref, draft 7 ignores all else but what it finds in allOf.
        found = types[value.name]
        found = {"allOf": [found]} if "$ref" in found and value.comment else found
    elif value.is_group:
        found = {"type": "object", "additionalProperties": False, "properties": {}}
    else:
        raise SystemExit(f"{SOURCE.name}: expected a type for {value.name}, which values.yaml has")
    return {"description": value.comment, **found} if value.comment else dict(found)


def _conflict(rule: Mapping[str, Mapping[str, Schema]]) -> Schema:
    """`if` holds where all its values are as said; one of type null may also be missing, for Helm drops nulls."""
    condition = [_at(name, schema, schema.get("type") != "null") for name, schema in rule["if"].items()]
    consequence = [_at(name, schema, bool(NEEDS_A_VALUE & schema.keys())) for name, schema in rule["then"].items()]
    return {"if": _all(condition), "then": _all(consequence)}


def _all(schemas: Sequence[Schema]) -> Schema:
    return schemas[0] if len(schemas) == 1 else {"allOf": list(schemas)}


def _at(name: str, schema: Schema, required: bool) -> Schema:
    """What holds of a value, as a schema of the root."""
    first, dot, rest = name.partition(".")
    inner = _at(rest, schema, required) if dot else schema
    return {"properties": {first: inner}} | ({"required": [first]} if required else {})


def _resolved(schema: Any, library: Mapping[str, Schema]) -> Any:
    """With JSON Schema's words in place of the source's own."""
    if isinstance(schema, list):
        return [_resolved(each, library) for each in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {key: _resolved(each, library) for key, each in schema.items() if key not in {"kubernetes", "without"}}
    if plain.pop("options_of", None):
        return plain | _options_schema()
    if "kubernetes" not in schema:
        return plain
    name = schema["kubernetes"]
    if "without" not in schema and plain.keys() <= {"description"}:
        return plain | ({"allOf": [_reference(name)]} if plain else _reference(name))
    return _changed(library[name], schema.get("without", "")) | plain


def _reference(name: str) -> Schema:
    return {"$ref": REFERENCE + name}


def _changed(schema: Schema, without: str) -> Schema:
    properties = {key: each for key, each in schema["properties"].items() if key != without}
    required = [key for key in schema.get("required", []) if key != without]
    return {**schema, "properties": properties, "required": required}


def _options_schema() -> Schema:
    owners = _owners()
    properties = {option.name: _option(option) for option in describe_options() if option.name not in owners}
    owned = {name: {"not": {}, "enum": [f"not here: {owner} says it"]} for name, owner in owners.items()}
    return {"type": "object", "additionalProperties": False, "properties": properties | owned}


def _option(option: Option) -> Schema:
    schema = dict(option.kind.schema)
    if option.repeatable:
        schema = {**schema, "type": ["array", "string"], "items": dict(option.kind.schema)}
    default = f" Default: {option.default_text}." if option.default_text else ""
    return {"description": f"{option.help_text}{default}", **schema}


def _owners() -> Mapping[str, str]:
    """The options that the chart sets itself, and which value says them, as the templates know it."""
    text = (CHART / "templates" / "_options.tpl").read_text(encoding="utf-8")
    block = re.search(r'define "vintner.setByChart" -}}(.*?){{- end', text, re.DOTALL)
    if block is None:
        raise SystemExit('_options.tpl: expected a definition of "vintner.setByChart"')
    owners: Mapping[str, str] = yaml.safe_load(block[1])
    return owners


def _kubernetes_definitions() -> Mapping[str, Schema]:
    folder = f"kubernetes-json-schema/v{latest_version()}-local-strict"
    definitions = schema_contents(f"{folder}/_definitions.json", latest_version())["$defs"]
    return {_short(name): _pruned(OPEN_TYPES.get(name, schema)) for name, schema in definitions.items()}


def _short(name: str) -> str:
    return name.removeprefix(KUBERNETES).removeprefix("api.")


def _pruned(schema: Any) -> Any:
    """Draft 7, without texts, and without nulls, which mean nothing in a list and cannot be elsewhere."""
    if isinstance(schema, list):
        return [_pruned(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    pruned: Schema = {}
    for key, each in schema.items():
        if key == "properties":
            pruned[key] = {name: _pruned(inner) for name, inner in each.items()}
        elif key == "$ref":
            pruned[key] = each if each.startswith(REFERENCE) else REFERENCE + _short(each.rpartition("/")[2])
        elif not key.startswith(ANNOTATIONS):
            pruned[key] = _without_null(each) if key == "type" else _pruned(each)
    return pruned


def _without_null(types: Any) -> Any:
    some = [each for each in types if each != "null"] if isinstance(types, list) else [types]
    return some[0] if len(some) == 1 else some


def _reached(schema: Schema, library: Mapping[str, Schema]) -> dict[str, Schema]:
    """The definitions of Kubernetes that a schema refers to, those that these refer to, and so on."""
    found: dict[str, Schema] = {}
    waiting = sorted(set(_references(schema)))
    while waiting:
        name = waiting.pop()
        if name in library and name not in found:
            found[name] = library[name]
            waiting += _references(library[name])
    return dict(sorted(found.items()))


def _references(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        for key, each in schema.items():
            if key == "$ref":
                yield each.removeprefix(REFERENCE)
            else:
                yield from _references(each)
    elif isinstance(schema, list):
        for each in schema:
            yield from _references(each)


if __name__ == "__main__":
    sys.exit(main())
