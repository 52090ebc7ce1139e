"""Writes helm/vintner/files/dashboard.json, a dashboard for Grafana; with --check, only tells whether it is current.

Knows nothing of what the panels show, nor of how Grafana is given them. Invariant: what is written depends on nothing
but the scripts.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from dashboard_panels import SCHEMA_VERSION, laid_out, variable
from dashboard_rows import ROWS, SERVER
from generated_file import run

DOCUMENT: Final = Path(__file__).parents[1] / "helm" / "vintner" / "files" / "dashboard.json"
RUNBOOK: Final = "docs/runbook.md"


def variables() -> list[dict[str, Any]]:
    versions = f'label_values(vintner_model_bytes{{{SERVER},model=~"$model"}}, version)'
    return [
        {"type": "datasource", "name": "datasource", "label": "Data source", "query": "prometheus", "hide": 0},
        variable("namespace", "Namespace", "label_values(vintner_build_info, namespace)"),
        variable("job", "Job", 'label_values(vintner_build_info{namespace=~"$namespace"}, job)'),
        variable("model", "Model", f"label_values(vintner_model_bytes{{{SERVER}}}, model)"),
        variable("version", "Version", versions),
        {
            "type": "textbox", "name": "runbook", "label": "Address of the runbook", "query": RUNBOOK, "hide": 0,
            "current": {"text": RUNBOOK, "value": RUNBOOK}, "options": [],
        },
    ]  # fmt: skip


def dashboard() -> dict[str, Any]:
    """As Grafana imports it."""
    return {
        "uid": "vintner",
        "title": "Vintner",
        "description": "Is it up, is it slow, and why. Needs the recording rules that come with it.",
        "tags": ["vintner", "inference"],
        "schemaVersion": SCHEMA_VERSION,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": variables()},
        "annotations": {"list": []},
        "links": [{"type": "link", "title": "Runbook", "url": "${runbook}", "icon": "doc", "targetBlank": True}],
        "panels": laid_out([row() for row in ROWS]),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    return run(DOCUMENT, render, __file__, arguments)


def render() -> str:
    return json.dumps(dashboard(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.exit(main())
