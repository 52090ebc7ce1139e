"""Asks promtool: whether rules can be read, and what rules and queries make of given series.

Knows nothing of the chart. Invariant: an answer that promtool does not confirm raises, with promtool's words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from observability import promtool

Groups = Sequence[Mapping[str, Any]]


class Refused(AssertionError):
    """Promtool's complaint."""


def check_rules(groups: Groups, folder: Path) -> None:
    _confirmed("check", "rules", str(_written({"groups": list(groups)}, folder, "rules.yaml")))


def check_query(expression: str, folder: Path) -> None:
    """Whether an expression can be read."""
    check_rules([{"name": "query", "rules": [{"record": "asked", "expr": expression}]}], folder)


def check_samples(
    folder: Path,
    series: Mapping[str, str],
    expected: Mapping[str, Mapping[str, float]],
    groups: Groups = (),
    at: str = "10m",
) -> None:
    """Whether each expression gives just these samples, by their labels, after `at` of the given series.

    Series are written as promtool wants them, such as 0+6x40, with a value for every 15 seconds.
    """
    _written({"groups": list(groups)}, folder, "rules.yaml")
    wanted = [
        {
            "expr": expression,
            "eval_time": at,
            "exp_samples": [{"labels": labels, "value": value} for labels, value in samples.items()],
        }
        for expression, samples in expected.items()
    ]
    given = [{"series": name, "values": values} for name, values in series.items()]
    tests = [{"interval": "15s", "input_series": given, "promql_expr_test": wanted}]
    document = {"rule_files": ["rules.yaml"], "evaluation_interval": "15s", "tests": tests}
    _confirmed("test", "rules", str(_written(document, folder, "test.yaml")))


def _written(document: object, folder: Path, name: str) -> Path:
    path = folder / name
    path.write_text(yaml.safe_dump(document))
    return path


def _confirmed(*arguments: str) -> None:
    complaint = promtool(*arguments)
    if complaint:
        raise Refused(complaint)
