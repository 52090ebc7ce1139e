"""The figures of a run as Markdown, and the place on a page where they belong. Pure: text in, text out."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from bench.report import STREAM_HEADINGS, number, stream_cells
from bench.streaming import StreamPoint

BEGIN, END = "<!-- begin: figures of a run -->", "<!-- end: figures of a run -->"


class PageError(ValueError):
    """The page does not have the two marks, once each and in order."""


def filled(page: str, figures: str) -> str:
    """The page with these figures in place of those between its marks. Raises PageError."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in after:
        raise PageError(f"expected {BEGIN} and then {END}, once each")
    return f"{before}{BEGIN}\n\n{figures}\n{END}{after}"


def figures(run: Mapping[str, Any]) -> str:
    """What `report.write_json` wrote, as tables."""
    parts = [_about(run)]
    if run["rows"]:
        parts += ["### Ratios", _table(_ROW_HEADINGS, map(_row_cells, run["rows"]))]
    for row in dict.fromkeys(point["row"] for point in run["points"]):
        points = [point for point in run["points"] if point["row"] == row]
        parts += [f"### `{row}`", _table(_POINT_HEADINGS, map(_point_cells, points))]
    if streams := run.get("streams"):
        parts += [
            "### Streams of tokens",
            _table(STREAM_HEADINGS, (stream_cells(StreamPoint(**one)) for one in streams)),
        ]
    for name, reason in run["failures"].items():
        parts.append(f"`{name}` was not measured: {reason}")
    return "\n\n".join(parts) + "\n"


def _about(run: Mapping[str, Any]) -> str:
    machine = run["machine"]
    length = "with `--quick`, so single figures mean little" if run["quick"] else "at full length"
    return (
        f"Measured on {run['date']}, {length}: {machine['processor']}, {machine['cores']} cores, Python"
        f" {machine['python']}, OpenVINO {machine['openvino']}."
    )


_ROW_HEADINGS = ("row", "what", "Vintner", "against", "it has", "unit", "ratio", "spread", "per CPU", "wanted", "met")
_POINT_HEADINGS = ("load", "server", "sent/s", "served/s", "mean", "p50", "p95", "p99", "rows a batch", "refused")


def _row_cells(row: Mapping[str, Any]) -> Sequence[str]:
    target, each = row["target"], row["ratio_per_cpu"]
    return (
        f"`{row['row']}`",
        row["measured_name"],
        number(_median(row["measured"])),
        row["reference_name"],
        number(_median(row["reference"])),
        row["unit"],
        f"{row['ratio']:.2f}",
        f"{min(row['ratios']):.2f}-{max(row['ratios']):.2f}",
        "" if each is None else f"{each:.2f}",
        f"{target['limit']} {target['ratio']:g}" if target else "",
        {None: "", True: "yes", False: "**no**"}[row["met"]],
    )


def _median(samples: Sequence[Mapping[str, float]]) -> float:
    return statistics.median(sample["value"] for sample in samples)


def _point_cells(point: Mapping[str, Any]) -> Sequence[str]:
    closed = point["loop"] == "closed"
    return (
        f"{point['load']:g} in flight" if closed else f"{point['load']:.0%} of capacity",
        point["server"],
        "" if point["offered"] is None else number(point["offered"]),
        number(point["throughput"]),
        *(number(point[name]) for name in ("mean", "p50", "p95", "p99")),
        f"{point['mean_batch']:.1f}",
        f"{point['refused']:.1%}" if point["refused"] else "",
    )


def _table(headings: Sequence[str], lines: Any) -> str:
    rows = [headings, ["---"] * len(headings), *lines]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)
