"""Validates objects: Kubernetes' own by the schemas that kubernetes-validate ships, others by those in crd_schemas/.

Knows nothing of Helm, or of what a cluster would do with an object. The package's own `validate` reads megabytes for
each object and does not look at the domain of an apiVersion, so only its schemas are used.
Invariant: an object whose kind or apiVersion has no schema for a version of Kubernetes is an error there.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import jsonschema_rs
from kubernetes_validate.utils import all_versions, latest_version, major_minor, schema_contents

CRD_SCHEMAS: Final = Path(__file__).parent / "crd_schemas"
VERSIONS: Final = ("1.29", "1.33", major_minor(latest_version()))
"""The oldest that the chart admits, that with image volumes, and the newest known here."""
DEFINITIONS: Final = "https://kubernetes.io/api/_definitions.json"


def problems(manifest: Mapping[str, Any], version: str) -> list[str]:
    """What Kubernetes `version`, such as 1.33, would refuse in an object; unknown fields too."""
    api_version, kind = manifest.get("apiVersion"), manifest.get("kind")
    if not isinstance(api_version, str) or not isinstance(kind, str):
        return [f"expected an object with apiVersion and kind, got {dict(manifest)}"]
    try:
        validator = _validator(api_version, kind, version)
    except LookupError as exc:
        return [str(exc)]
    name = manifest.get("metadata", {}).get("name")
    return [f"{kind} {name} on {version}: {place}: {text}" for place, text in _errors(validator, manifest)]


def _errors(validator: jsonschema_rs.Validator, manifest: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for error in validator.iter_errors(dict(manifest)):
        yield ".".join(map(str, error.instance_path)) or "(root)", error.message


@functools.cache
def _validator(api_version: str, kind: str, version: str) -> jsonschema_rs.Validator:
    """Raises LookupError if there is no such kind."""
    own = CRD_SCHEMAS / f"{kind.lower()}-{api_version.replace('/', '-')}.json"
    if own.exists():
        return jsonschema_rs.Draft7Validator(json.loads(own.read_text(encoding="utf-8")))
    schema = _built_in(api_version, kind, version)
    return jsonschema_rs.Draft202012Validator(schema, registry=_registry(version))


def _built_in(api_version: str, kind: str, version: str) -> dict[str, Any]:
    group, _, number = api_version.rpartition("/")
    file = "-".join(filter(None, [kind.lower(), group.partition(".")[0], number]))
    try:
        schema: dict[str, Any] = schema_contents(f"{_folder(version)}/{file}.json", version)
    except FileNotFoundError:
        raise LookupError(f"Kubernetes {version} has no {kind} of {api_version}, nor has {CRD_SCHEMAS.name}/") from None
    names = schema.get("x-kubernetes-group-version-kind", [])
    if {"group": group, "version": number, "kind": kind} not in names:
        raise LookupError(f"Kubernetes {version} has no {kind} of {api_version}, only {names}")
    return schema


@functools.cache
def _registry(version: str) -> jsonschema_rs.Registry:
    return jsonschema_rs.Registry([(DEFINITIONS, schema_contents(f"{_folder(version)}/_definitions.json", version))])


def _folder(version: str) -> str:
    full = next(known for known in all_versions() if major_minor(known) == version)
    return f"kubernetes-json-schema/v{full}-local-strict"
