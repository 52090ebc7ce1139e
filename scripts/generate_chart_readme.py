"""Writes helm/vintner/README.md from the comments of values.yaml; with --check, only tells whether it is current.

Knows nothing of templates. Invariant: each key of values.yaml is a row of the table, but groups without a comment,
which have nothing to say.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any, Final

import yaml
from chart_values import CHART, Value, read_values
from generated_file import run

DOCUMENT: Final = CHART / "README.md"
TYPES: Final = {bool: "bool", int: "int", float: "float", str: "string", list: "list", dict: "object"}

INTRODUCTION: Final = """\
# Vintner on Kubernetes

<!-- Written by scripts/generate_chart_readme.py from values.yaml; do not edit. -->

{description}. Version {version} of the chart, for Kubernetes {kubernetes}.

```
helm install cellar helm/vintner --namespace models --create-namespace
helm test cellar --namespace models
```

Without any values, the examples of the image are served. `modelRepository` says where your models are instead:

```yaml
modelRepository:
  type: existingClaim
  existingClaim:
    name: models
server:
  config:
    max_concurrent_requests: 64
resources:
  limits:
    cpu: "4"
    memory: 8Gi
```

An unknown key, or an option of `server.config` that `vintner serve` does not know, is an error with its name. Keys of
Kubernetes' own structures, such as `affinity`, are those of the newest Kubernetes that the tests know; for newer ones,
say `--skip-schema-validation` (Helm 3.16 or newer).

What the tests show: Helm 3 and Helm 4 render the same objects, Kubernetes' schemas for 1.29, 1.33 and the newest
known version admit them, and a real server starts with the configuration. An installation in a cluster has not been
tried.

## Values

| Key | Type | Default | Description |
|---|---|---|---|
"""


def main(arguments: Sequence[str] | None = None) -> int:
    return run(DOCUMENT, render, __file__, arguments)


def render() -> str:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    kubernetes = chart["kubeVersion"].removeprefix(">=").removesuffix(".0-0") + " or newer"
    introduction = INTRODUCTION.format(
        description=chart["description"], version=chart["version"], kubernetes=kubernetes
    )
    return introduction + "".join(row(value) for value in read_values() if not value.is_group or value.comment)


def row(value: Value) -> str:
    default = "" if value.is_group else code(json.dumps(value.default, ensure_ascii=False))
    return f"| `{value.name}` | {kind(value)} | {default} | {cell(value.comment)} |\n"


def kind(value: Value) -> str:
    """Of the default; where that is null, what the schema admits beside it."""
    if value.default is not None:
        return TYPES[type(value.default)]
    schema: Any = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    for part in value.path:
        schema = schema["properties"][part]
    return " or ".join({"integer": "int"}.get(name, name) for name in schema["type"] if name != "null")


def code(text: str) -> str:
    return f"`{text.replace('|', chr(92) + '|')}`"


def cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(main())
