"""The rules and the dashboard as they are in the chart's files, and what their queries ask for.

Knows no server. Invariant: a name that a query asks for is found however the query is written.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml
from running_prometheus import tool
from running_server import ROOT

FILES: Final = ROOT / "helm" / "vintner" / "files"
RULES: Final = FILES / "rules.yaml"
DASHBOARD: Final = FILES / "dashboard.json"
RUNBOOK: Final = ROOT / "docs" / "runbook.md"

QUOTED: Final = re.compile(r'"(?:[^"\\]|\\.)*"')
MATCHERS: Final = re.compile(r"\{[^{}]*\}")
LABELS: Final = re.compile(r"\b(?:by|on|without|ignoring|group_left|group_right)\s*\([^()]*\)")
RANGE: Final = re.compile(r"\[[^\]]*\]|\boffset\s+\w+")
NAME: Final = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*(?!\s*\()\b")
FUNCTION: Final = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*\s*\(")
KEYWORDS: Final = {"and", "or", "unless", "bool"}


def rules() -> Sequence[Mapping[str, Any]]:
    """Those of all groups."""
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def recorded() -> Mapping[str, str]:
    """Expressions by the names that they are recorded under."""
    return {rule["record"]: rule["expr"] for rule in rules() if "record" in rule}


def alerts() -> Sequence[Mapping[str, Any]]:
    return [rule for rule in rules() if "alert" in rule]


def dashboard() -> Mapping[str, Any]:
    return dict(json.loads(DASHBOARD.read_text()))


def panels() -> Iterator[Mapping[str, Any]]:
    """Without the titles of rows."""
    return (panel for panel in dashboard()["panels"] if panel["type"] != "row")


def substituted(query: str, variables: Mapping[str, str] | None = None) -> str:
    """As Grafana asks it: everything is chosen, but for what `variables` say."""
    values = {"namespace": ".*", "job": ".*", "model": ".*", "version": ".*", "__rate_interval": "1m"}
    for name, value in {**values, **(variables or {})}.items():
        query = query.replace(f"${name}", value)
    assert "$" not in query, f"a variable is not known: {query}"
    return query


def queries() -> Sequence[tuple[str, str]]:
    """Titles of panels, and what they ask, as it is written."""
    return [(panel["title"], target["expr"]) for panel in panels() for target in panel["targets"]]


def metric_names(query: str) -> set[str]:
    """The metrics in a query of PromQL."""
    query = QUOTED.sub('""', query)
    for pattern in (MATCHERS, RANGE, LABELS, FUNCTION):
        query = pattern.sub(" ", query)
    return set(NAME.findall(query)) - KEYWORDS


def promtool(*arguments: str, text: str | None = None) -> str:
    """What it has to say; empty if it only says that all is well."""
    run = subprocess.run([tool("promtool"), *arguments], input=text, capture_output=True, text=True, check=False)
    return run.stderr if run.returncode == 0 else f"{run.stdout}\n{run.stderr}"


def checked_as_rules(expressions: Sequence[str], directory: Path) -> str:
    """What promtool finds wrong with them; empty if nothing."""
    entries = [{"record": f"checked:{number}", "expr": query} for number, query in enumerate(expressions)]
    path = directory / "checked.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "checked", "rules": entries}]}))
    return promtool("check", "rules", str(path))
