"""The alerts and recording rules: by Prometheus's own tests of rules, and held against the runbook and the docs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from observability import RULES, RUNBOOK, alerts, metric_names, promtool, recorded, rules
from running_server import ROOT
from vintner.canary import FAILURES

TESTS = Path(__file__).parent / "rules_test.yaml"
SECTION = re.compile(r"^## (Vintner\w+)\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
PARTS = ("It means", "Look at", "Do")


def cases() -> list[Mapping[str, Any]]:
    return list(yaml.safe_load(TESTS.read_text())["tests"])


def sections() -> dict[str, str]:
    """Of the runbook, by alert."""
    return dict(SECTION.findall(RUNBOOK.read_text()))


def test_prometheus_reads_the_rules() -> None:
    assert promtool("check", "rules", str(RULES)) == ""


def test_alerts_fire_when_they_must_and_are_silent_when_they_must() -> None:
    assert promtool("test", "rules", str(TESTS)) == ""


def test_the_tests_of_rules_notice_an_alert_that_is_broken(tmp_path: Path) -> None:
    """Else they could pass without having looked."""
    broken = RULES.read_text().replace("vintner_ready == 0", "vintner_ready == 1")
    assert broken != RULES.read_text()
    (tmp_path / "rules.yaml").write_text(broken)
    tests = TESTS.read_text().replace("../../helm/vintner/files/rules.yaml", "rules.yaml")
    (tmp_path / "rules_test.yaml").write_text(tests)
    said = promtool("test", "rules", str(tmp_path / "rules_test.yaml"))
    assert set(re.findall(r"alertname: (\w+), time", said)) == {"VintnerNotReady"}


def test_every_alert_is_tested_to_fire_and_to_be_silent() -> None:
    """By severity, too, where an alert has two."""
    fires, silent = set(), set()
    for test in cases():
        for check in test.get("alert_rule_test", ()):
            for expected in check.get("exp_alerts", ()):
                fires.add((check["alertname"], expected["exp_labels"]["severity"]))
            if not check.get("exp_alerts"):
                silent.add(check["alertname"])
    assert fires == {(rule["alert"], rule["labels"]["severity"]) for rule in alerts()}
    assert silent == {rule["alert"] for rule in alerts()}


def test_every_recording_rule_is_tested() -> None:
    asked = {name for test in cases() for check in test.get("promql_expr_test", ()) for name in recorded()
             if name in check["expr"]}  # fmt: skip
    assert asked == recorded().keys()


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: f"{rule['alert']}-{rule['labels']['severity']}")
def test_an_alert_says_what_it_is_about(rule: Mapping[str, Any]) -> None:
    notes = rule["annotations"]
    assert rule["labels"].keys() == {"severity"}
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert notes.keys() == {"summary", "description", "runbook_url"}
    assert notes["runbook_url"] == f"docs/runbook.md#{rule['alert'].lower()}"
    if "model" in rule["expr"] or "generation" in rule["expr"] or "instances" in rule["expr"]:
        of_server = rule["alert"] == "VintnerLoadsFailing"
        assert ("{{ $labels.model }}" in notes["summary"]) != of_server
    for used in re.findall(r"\$labels\.(\w+)", notes["summary"] + notes["description"]):
        assert used in {"namespace", "pod", "container", "job", "instance", "model", "version", "device", "reason"}


def test_what_is_held_against_a_canary_is_what_counts_as_an_error() -> None:
    lists = [each for rule in rules() for each in re.findall(r'outcome=~"([^"]*internal[^"]*)"', rule["expr"])]
    assert len(lists) == 3
    assert [set(outcomes.split("|")) for outcomes in lists] == [FAILURES] * 3


def test_rules_use_only_what_was_recorded_before_them() -> None:
    seen: set[str] = set()
    for rule in rules():
        assert {name for name in metric_names(rule["expr"]) if ":" in name} <= seen, rule
        seen |= {rule["record"]} if "record" in rule else set()


def test_names_are_found_in_any_query() -> None:
    query = (
        'sum by (le, model) (rate(a_total{b=~"c{d}",e!="f"}[5m] offset 1h)) / on (g) h:i > 0.5 unless absent(j) or k'
    )
    assert metric_names(query) == {"a_total", "h:i", "j", "k"}


# -- docs ----------------------------------------------------------------------------------------------------


def test_the_runbook_has_a_section_for_every_alert_and_no_other() -> None:
    assert sections().keys() == {rule["alert"] for rule in alerts()}


@pytest.mark.parametrize("alert", sorted({rule["alert"] for rule in alerts()}))
def test_a_section_says_what_it_means_where_to_look_and_what_to_do(alert: str) -> None:
    assert re.findall(r"^\*\*([A-Z][a-z ]+):\*\*", sections()[alert], re.MULTILINE) == list(PARTS)


def test_the_table_in_the_runbook_is_that_of_the_rules() -> None:
    rows = re.findall(r"^\| \[(\w+)\]\(#(\w+)\) \| ([\w, ]+) \| ([^|]+) \|", RUNBOOK.read_text(), re.MULTILINE)
    found = {(name, severity) for name, _, severities, _ in rows for severity in severities.split(", ")}
    assert found == {(rule["alert"], rule["labels"]["severity"]) for rule in alerts()}
    assert all(anchor == name.lower() for name, anchor, _, _ in rows)
    waits = {name: wait.strip() for name, _, _, wait in rows}
    assert waits == {rule["alert"]: rule.get("for", "at once") for rule in alerts()}


def test_the_runbook_names_only_options_that_there_are() -> None:
    named = set(re.findall(r"`(--[a-z-]+)`", RUNBOOK.read_text()))
    assert len(named) > 4
    assert named <= set(re.findall(r"`(--[a-z-]+)`", (ROOT / "docs" / "options.md").read_text()))


def test_the_docs_have_every_recorded_name_and_no_other() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text()
    assert set(re.findall(r"^\| `(vintner:\w+:\w+)` \|", page, re.MULTILINE)) == recorded().keys()
