"""What was measured, as a table for people and as JSON for everything else."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from bench.measure import Comparison, Sample

_HEADINGS = (
    *("row", "what", "median", "busy", "against", "median", "busy"),
    *("unit", "ratio", "(spread)", "per CPU", "wanted", ""),
)


def table(comparisons: Sequence[Comparison]) -> str:
    """One line for each comparison, in columns."""
    lines = [_HEADINGS, *map(_cells, comparisons)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def write_json(file: Path, comparisons: Sequence[Comparison], failures: Mapping[str, str]) -> None:
    """All samples, so that nothing has to be read off the table; `failures` are rows that could not be measured."""
    rows = [_document(one) for one in comparisons]
    machine = {"system": platform.platform(), "python": platform.python_version(), "cores": os.cpu_count()}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"machine": machine, "rows": rows, "failures": failures}, indent=2) + "\n")


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
        f"{one.target.limit} {one.target.ratio:g}",
        "" if one.met else "MISSED",
    )


def _median(samples: Sequence[Sample]) -> tuple[str, str]:
    value = statistics.median(sample.value for sample in samples)
    busy = [sample.busy for sample in samples if sample.busy is not None]
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}", f"{statistics.median(busy):.0%}" if busy else ""
