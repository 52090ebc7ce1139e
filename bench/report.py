"""What was measured, as a table for people and as JSON for everything else."""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from bench.curves import Point
from bench.measure import Comparison, Sample
from bench.streaming import StreamPoint

_HEADINGS = (
    *("row", "what", "median", "busy", "against", "median", "busy"),
    *("unit", "ratio", "(spread)", "per CPU", "wanted", ""),
)


_POINT_HEADINGS = ("row", "load", "server", "sent/s", "served/s", "mean", "p50", "p95", "p99", "rows", "refused")
STREAM_HEADINGS = (
    "row",
    "streams",
    "over",
    "tokens/s",
    "TTFT p50",
    "p99",
    "later",
    "TPOT p50",
    "p99",
    "tokens a piece",
)
LATEST = 10.0
"""Milliseconds by which a first token may come later than the bare runtime's, at p50."""


def table(comparisons: Sequence[Comparison]) -> str:
    """One line for each comparison, in columns."""
    return _columns([_HEADINGS, *map(_cells, comparisons)])


def points_table(points: Sequence[Point]) -> str:
    """One line for each point of a curve; times in ms, `rows` is those of a batch."""
    return _columns([_POINT_HEADINGS, *map(_point_cells, points)])


def streams_table(points: Sequence[StreamPoint]) -> str:
    """One line for each way to ask a language model; times in ms."""
    return _columns([(*STREAM_HEADINGS, ""), *((*stream_cells(one), _late(one)) for one in points)])


def stream_cells(point: StreamPoint) -> tuple[str, ...]:
    times = (point.first_p50, point.first_p99, point.later, point.per_token_p50, point.per_token_p99)
    return (
        point.row,
        str(point.streams),
        point.way,
        number(point.tokens),
        *(number(value) for value in times),
        f"{point.tokens_a_piece:.1f}" if point.tokens_a_piece else "",
    )


def _late(point: StreamPoint) -> str:
    return "MISSED" if point.later > LATEST else ""


def _columns(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def write_json(
    file: Path,
    comparisons: Sequence[Comparison],
    points: Sequence[Point],
    failures: Mapping[str, str],
    *,
    quick: bool,
    streams: Sequence[StreamPoint] = (),
) -> None:
    """All samples, so that nothing has to be read off the table; `failures` are rows that could not be measured."""
    document = {
        "date": time.strftime("%Y-%m-%d"),
        "quick": quick,
        "machine": {
            "system": platform.platform(),
            "processor": _processor(),
            "python": platform.python_version(),
            "openvino": version("openvino"),
            "cores": os.cpu_count(),
        },
        "rows": [_document(one) for one in comparisons],
        "points": [asdict(one) for one in points],
        "streams": [asdict(one) for one in streams],
        "failures": failures,
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(document, indent=2) + "\n")


def _processor() -> str:
    """As Linux names it, which `platform` does not know."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _document(one: Comparison) -> dict[str, object]:
    derived = {"ratio": one.ratio, "ratios": one.ratios, "ratio_per_cpu": one.ratio_per_cpu, "met": one.met}
    return {**asdict(one), **derived}


def _cells(one: Comparison) -> tuple[str, ...]:
    return (
        one.row,
        one.measured_name,
        *_median(one.measured),
        one.reference_name,
        *_median(one.reference),
        one.unit,
        f"{one.ratio:.2f}",
        f"({min(one.ratios):.2f}-{max(one.ratios):.2f})",
        "" if one.ratio_per_cpu is None else f"{one.ratio_per_cpu:.2f}",
        f"{one.target.limit} {one.target.ratio:g}" if one.target else "",
        "MISSED" if one.met is False else "",
    )


def _point_cells(point: Point) -> tuple[str, ...]:
    return (
        point.row,
        point.place,
        point.server,
        "" if point.offered is None else number(point.offered),
        number(point.throughput),
        *(number(value) for value in (point.mean, point.p50, point.p95, point.p99)),
        f"{point.mean_batch:.1f}",
        f"{point.refused:.1%}" if point.refused else "",
    )


def number(value: float) -> str:
    """With what people read of it; `-` for none."""
    if math.isnan(value):
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _median(samples: Sequence[Sample]) -> tuple[str, str]:
    value = statistics.median(sample.value for sample in samples)
    busy = [sample.busy for sample in samples if sample.busy is not None]
    return number(value), f"{statistics.median(busy):.0%}" if busy else ""
