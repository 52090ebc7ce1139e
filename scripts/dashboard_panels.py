"""Panels of a Grafana dashboard as Grafana's JSON has them, and how they are laid out in rows of 24 columns.

Knows no metric. Invariant: ids are unique, no two panels overlap, and each query asks the chosen data source.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

COLUMNS: Final = 24
SCHEMA_VERSION: Final = 39
"""Of Grafana 11. Newer ones migrate it when they load it."""
DATASOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}

Panel = dict[str, Any]
"""Without its id and its place, which `laid_out` gives; of its place only width and height are there."""
Steps = Sequence[tuple[float | None, str]]
"""Lower bounds, None for the first, and the colours above them."""

PLAIN: Final[Steps] = ((None, "green"),)


@dataclass(frozen=True, slots=True)
class Query:
    """`legend` has labels in double braces. An instant one is the newest value alone."""

    expression: str
    legend: str = ""
    instant: bool = False
    format: str = "time_series"


@dataclass(frozen=True, slots=True)
class Row:
    title: str
    panels: Sequence[Panel]


def time_series(
    title: str,
    description: str,
    unit: str,
    queries: Sequence[Query],
    *,
    width: int = 8,
    stacked: bool = False,
    most: float | None = None,
    runbook: str = "",
) -> Panel:
    """Lines over time from 0 on; `runbook` is the heading there that tells what to do."""
    custom = {
        "drawStyle": "line", "lineWidth": 1, "fillOpacity": 25 if stacked else 8, "showPoints": "never",
        "spanNulls": False, "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
    }  # fmt: skip
    defaults: dict[str, Any] = {"unit": unit, "min": 0, "color": {"mode": "palette-classic"}, "custom": custom}
    if most is not None:
        defaults["max"] = most
    options = {
        "legend": {"displayMode": "table", "placement": "bottom", "showLegend": True, "calcs": ["mean", "lastNotNull"]},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    return _panel("timeseries", title, description, queries, defaults, options, (width, 8), runbook)


def stat(
    title: str, description: str, unit: str, query: Query, *, steps: Steps = PLAIN, width: int = 4, runbook: str = ""
) -> Panel:
    """One figure, in the colour of the step that it has reached."""
    defaults = {"unit": unit, "color": {"mode": "thresholds"}, "thresholds": _thresholds(steps)}
    options = {
        "colorMode": "background", "graphMode": "area", "justifyMode": "auto", "textMode": "auto",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
    }  # fmt: skip
    return _panel("stat", title, description, [query], defaults, options, (width, 4), runbook)


def heatmap(title: str, description: str, unit: str, expression: str, *, width: int = 8, runbook: str = "") -> Panel:
    """Of a histogram's buckets; the expression keeps their `le`."""
    options = {
        "calculate": False, "cellGap": 1, "color": {"mode": "scheme", "scheme": "Oranges", "steps": 64},
        "yAxis": {"unit": unit, "axisPlacement": "left"}, "tooltip": {"mode": "single", "yHistogram": True},
        "legend": {"show": True}, "rowsFrame": {"layout": "auto"},
    }  # fmt: skip
    query = Query(expression, "{{le}}", format="heatmap")
    return _panel("heatmap", title, description, [query], {}, options, (width, 8), runbook)


def table(
    title: str,
    description: str,
    columns: Sequence[tuple[str, str, str]],
    *,
    width: int = 24,
    runbook: str = "",
) -> Panel:
    """One line for each combination of labels. `columns` are heading, unit and expression; of labels all are
    shown, so that no two lines look alike."""
    queries = [Query(expression, instant=True, format="table") for _, _, expression in columns]
    values = ["Value"] if len(columns) == 1 else [f"Value #{_reference(index)}" for index in range(len(columns))]
    headings = [heading for heading, _, _ in columns]
    panel = _panel("table", title, description, queries, {}, {"cellHeight": "sm"}, (width, 8), runbook)
    panel["fieldConfig"]["overrides"] = [
        {"matcher": {"id": "byName", "options": heading}, "properties": [{"id": "unit", "value": unit}]}
        for heading, unit, _ in columns
    ]
    panel["transformations"] = [
        {"id": "merge", "options": {}},
        {
            "id": "organize",
            "options": {
                "excludeByName": dict.fromkeys(["Time", "__name__"], True),
                "renameByName": dict(zip(values, headings, strict=True)),
            },
        },
    ]
    return panel


def variable(name: str, label: str, values_of: str) -> dict[str, Any]:
    """A choice of several values of a label, all at first. All is any value, and none: not every scrape has it."""
    query = {"query": values_of, "refId": name}
    everything = {"selected": True, "text": ["All"], "value": ["$__all"]}
    return {
        "type": "query", "name": name, "label": label, "datasource": DATASOURCE, "definition": values_of,
        "query": query, "refresh": 2, "sort": 1, "multi": True, "includeAll": True, "allValue": ".*",
        "current": everything, "options": [], "hide": 0, "regex": "",
    }  # fmt: skip


def laid_out(rows: Sequence[Row]) -> list[Panel]:
    """All panels in one list, as Grafana has them, with ids and places; a row's title comes before its panels."""
    placed: list[Panel] = []
    top = 0
    for row in rows:
        place = {"x": 0, "y": top, "w": COLUMNS, "h": 1}
        placed.append({"type": "row", "title": row.title, "collapsed": False, "panels": [], "gridPos": place})
        top += 1
        for line in _lines(row.panels):
            left = 0
            for panel in line:
                size = panel["gridPos"]
                placed.append({**panel, "gridPos": {"x": left, "y": top, **size}})
                left += size["w"]
            top += max(panel["gridPos"]["h"] for panel in line)
    return [{"id": number, **panel} for number, panel in enumerate(placed, start=1)]


def _lines(panels: Sequence[Panel]) -> list[list[Panel]]:
    """Those that fit beside each other."""
    lines: list[list[Panel]] = []
    room = 0
    for panel in panels:
        if panel["gridPos"]["w"] > room:
            lines.append([])
            room = COLUMNS
        lines[-1].append(panel)
        room -= panel["gridPos"]["w"]
    return lines


def _panel(
    kind: str,
    title: str,
    description: str,
    queries: Sequence[Query],
    defaults: Mapping[str, Any],
    options: Mapping[str, Any],
    size: tuple[int, int],
    runbook: str,
) -> Panel:
    link = {"title": f"Runbook: {runbook}", "url": f"${{runbook}}#{runbook.lower()}", "targetBlank": True}
    return {
        "type": kind,
        "title": title,
        "description": description,
        "datasource": DATASOURCE,
        "gridPos": {"w": size[0], "h": size[1]},
        "links": [link] if runbook else [],
        "targets": [_target(index, query) for index, query in enumerate(queries)],
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
    }


def _target(index: int, query: Query) -> dict[str, Any]:
    return {
        "refId": _reference(index), "datasource": DATASOURCE, "editorMode": "code", "expr": query.expression,
        "legendFormat": query.legend or "__auto", "format": query.format, "instant": query.instant,
        "range": not query.instant,
    }  # fmt: skip


def _thresholds(steps: Steps) -> dict[str, Any]:
    return {"mode": "absolute", "steps": [{"value": value, "color": color} for value, color in steps]}


def _reference(index: int) -> str:
    return chr(ord("A") + index)
