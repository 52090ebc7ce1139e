"""What docs/autoscaling.md and docs/exposing.md show is what the chart takes, and what its queries ask for exists."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from deploy.helm_render import Object, render_helm4
from deploy.kubernetes_schemas import VERSIONS, problems
from deploy.promtool_calls import check_query
from observability import metric_names, recorded
from running_server import ROOT

PAGES = ("docs/autoscaling.md", "docs/exposing.md")
BLOCK = re.compile(r"^```yaml\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def shown() -> Iterator[tuple[str, dict[str, Any]]]:
    """Each set of values, and what to call it."""
    for page in PAGES:
        for number, text in enumerate(BLOCK.findall((ROOT / page).read_text())):
            yield f"{page} {number}", yaml.safe_load(text)


def identities(objects: list[Object]) -> set[tuple[str, str]]:
    return {(each["kind"], each["metadata"]["name"]) for each in objects}


@pytest.mark.parametrize("values", [pytest.param(values, id=name) for name, values in shown()])
def test_the_values_that_are_shown_make_valid_objects(values: dict[str, Any]) -> None:
    objects = render_helm4(values)
    assert identities(objects) > identities(render_helm4()), "nothing more than by default"
    assert [problem for each in objects for problem in problems(each, VERSIONS[-1])] == []


def test_the_queries_that_are_shown_ask_for_what_there_is(tmp_path: Path) -> None:
    triggers = [trigger for _, values in shown() for trigger in values.get("keda", {}).get("triggers", [])]
    queries = [trigger["metadata"]["query"] for trigger in triggers if trigger["type"] == "prometheus"]
    assert queries
    documented = (ROOT / "docs/metrics.md").read_text()
    for query in queries:
        check_query(query, tmp_path)
        assert all(name in recorded() or f"`{name}`" in documented for name in metric_names(query)), query


@pytest.mark.parametrize("page", PAGES)
def test_the_values_that_are_spoken_of_are_the_charts(page: str) -> None:
    defaults = yaml.safe_load((ROOT / "helm/vintner/values.yaml").read_text())
    spoken = re.findall(r"`((?:\w+)(?:\.\w+)+)(?:: [^`]*)?`", (ROOT / page).read_text())
    paths = [name.split(".") for name in spoken if name.split(".")[0] in defaults]
    assert paths
    for path in paths:
        at = defaults
        for key in path:
            assert key in at, f"there is no value {'.'.join(path)}"
            at = at[key]
