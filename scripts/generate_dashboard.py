"""Writes helm/vintner/files/dashboard.json, a dashboard for Grafana; with --check, only tells whether it is current.

Knows nothing of what the panels show, nor of how Grafana is given them. Invariant: what is written depends on nothing
but the scripts.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from dashboard_panels import SCHEMA_VERSION, laid_out, variable
from dashboard_rows import ROWS, SERVER

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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if the file is stale")
    text = json.dumps(dashboard(), indent=1, ensure_ascii=False) + "\n"
    if not parser.parse_args(arguments).check:
        DOCUMENT.write_text(text)
        return 0
    if not DOCUMENT.exists() or DOCUMENT.read_text() != text:
        print(f"{DOCUMENT.name} is stale: run python scripts/generate_dashboard.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
