"""The dashboard: that it is what the script makes, that it is whole, and that Prometheus can read its queries."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from observability import (
    DASHBOARD,
    alerts,
    checked_as_rules,
    dashboard,
    metric_names,
    panels,
    queries,
    recorded,
    substituted,
)
from running_server import ROOT

GENERATOR = ROOT / "scripts" / "generate_dashboard.py"
QUESTIONS = [
    "Is it up?",
    "Is it slow?",
    "Why: queue, batch, compute",
    "Which model and version?",
    "How full are the devices?",
    "Language models",
]


def generate(*arguments: str, script: Path = GENERATOR) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(script), *arguments], capture_output=True, text=True, check=False)


def test_the_file_is_what_the_script_makes(tmp_path: Path) -> None:
    scripts, files = tmp_path / "scripts", tmp_path / "helm" / "vintner" / "files"
    scripts.mkdir()
    files.mkdir(parents=True)
    for name in ("generate_dashboard.py", "generated_file.py", "dashboard_panels.py", "dashboard_rows.py"):
        (scripts / name).write_text((ROOT / "scripts" / name).read_text())
    copy = scripts / GENERATOR.name
    stale = generate("--check", script=copy)
    assert (stale.returncode, "is stale" in stale.stderr) == (1, True)
    assert generate(script=copy).returncode == 0
    assert (files / "dashboard.json").read_text() == DASHBOARD.read_text(), "run python scripts/generate_dashboard.py"
    assert generate("--check", script=copy).returncode == 0


def test_grafana_is_told_the_version_of_the_schema_and_an_address_that_stays() -> None:
    document = dashboard()
    assert (document["schemaVersion"], document["uid"], document["title"]) == (39, "vintner", "Vintner")
    assert "id" not in document, "an id is of one Grafana"
    assert len(json.dumps(document)) < 500_000, "a ConfigMap holds 1 MiB"


def test_the_variables_are_those_that_are_used() -> None:
    document = dashboard()
    given = {each["name"]: each for each in document["templating"]["list"]}
    assert list(given) == ["datasource", "namespace", "job", "model", "version", "runbook"]
    used = {name for name in re.findall(r"\$\{?(\w+)", DASHBOARD.read_text()) if not name.startswith("__")}
    assert used == given.keys()
    for name in ("namespace", "job", "model", "version"):
        assert (given[name]["allValue"], given[name]["multi"]) == (".*", True), "a plain scrape has no namespace"


def test_rows_are_the_questions_in_their_order() -> None:
    assert [panel["title"] for panel in dashboard()["panels"] if panel["type"] == "row"] == QUESTIONS


def test_ids_and_titles_are_unique_and_no_panel_covers_another() -> None:
    shown = dashboard()["panels"]
    assert len({panel["id"] for panel in shown}) == len(shown)
    assert len({(panel["title"], panel["type"]) for panel in shown}) == len(shown)
    for panel in shown:
        place = panel["gridPos"]
        assert 0 <= place["x"] < place["x"] + place["w"] <= 24
    for one, other in itertools.combinations((panel["gridPos"] for panel in shown), 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        assert beside or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]


@pytest.mark.parametrize("panel", list(panels()), ids=lambda panel: panel["title"])
def test_a_panel_says_what_it_shows_in_which_unit_and_asks_the_chosen_source(panel: Mapping[str, Any]) -> None:
    assert panel["type"] in ("timeseries", "stat", "heatmap", "table")
    assert panel["description"].endswith(".")
    units = [panel["fieldConfig"]["defaults"].get("unit"), panel["options"].get("yAxis", {}).get("unit")]
    units += [each["value"] for over in panel["fieldConfig"]["overrides"] for each in over["properties"]]
    assert any(units)
    for asked in (panel, *panel["targets"]):
        assert asked["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"]) > 0
    for target in panel["targets"]:
        assert 'namespace=~"$namespace"' in target["expr"]
        assert 'job=~"$job"' in target["expr"]
        assert target["instant"] == (panel["type"] == "table")


def test_every_heading_of_a_table_is_that_of_a_query() -> None:
    for panel in panels():
        if panel["type"] == "table":
            (organized,) = (each["options"] for each in panel["transformations"] if each["id"] == "organize")
            assert len(organized["renameByName"]) == len(panel["targets"])
            (first, *_) = organized["renameByName"]
            assert first == ("Value" if len(panel["targets"]) == 1 else "Value #A")


def test_links_lead_to_sections_of_the_runbook() -> None:
    anchors = {rule["alert"].lower() for rule in alerts()}
    links = [link["url"] for panel in panels() for link in panel["links"]]
    assert len(links) > 20
    assert {url.removeprefix("${runbook}#") for url in links} <= anchors


def test_prometheus_reads_every_query(tmp_path: Path) -> None:
    written = [substituted(query) for _, query in queries()]
    assert checked_as_rules(written, tmp_path) == ""
    assert checked_as_rules([*written, "sum by (le ("], tmp_path) != ""


def test_what_the_dashboard_has_recorded_is_recorded() -> None:
    used = {name for _, query in queries() for name in metric_names(substituted(query)) if ":" in name}
    assert used <= recorded().keys()
    assert len(used) >= 9


def test_what_is_chosen_of_several_jobs_is_one_line_for_each_version() -> None:
    """What is asked for has no label that the legend has not, or lines could not be told apart."""
    told = {"model", "version", "outcome", "reason", "role", "device", "instance", "le"}
    by = re.compile(r"\bby \(([^)]*)\)")
    for panel in panels():
        for target in panel["targets"] if panel["type"] == "timeseries" else ():
            legend, query = set(re.findall(r"{{(\w+)}}", target["legendFormat"])), target["expr"]
            if "instance" in legend:
                continue
            assert by.search(query) or query.startswith("sum("), panel["title"]
            for labels in by.findall(query):
                assert set(labels.split(", ")) - {"le"} <= legend <= told, panel["title"]


def test_means_of_several_models_are_not_added_up() -> None:
    for panel in panels():
        if panel["type"] == "timeseries" and panel["fieldConfig"]["defaults"]["custom"]["stacking"]["mode"] == "normal":
            assert panel["fieldConfig"]["defaults"]["unit"] not in ("s", "percentunit"), panel["title"]


def test_no_server_at_all_is_none_and_not_no_data() -> None:
    (servers,) = (panel for panel in panels() if (panel["title"], panel["type"]) == ("Servers", "stat"))
    assert servers["targets"][0]["expr"].endswith("or vector(0)")
