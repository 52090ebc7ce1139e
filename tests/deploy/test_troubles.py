"""What the alerts about models and readiness say of a real server that something is wrong with."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from observability import alerts
from running_prometheus import RunningPrometheus, start_prometheus
from running_server import ROOT, RunningServer, start_server
from waiting import wait_until


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that cannot be loaded, one that is well, and one that is well at first."""
    root = tmp_path_factory.mktemp("troubled") / "models"
    for name in ("torn", "well", "changed"):
        shutil.copytree(ROOT / "model_repository" / "digits_onnx", root / name)
    for file in (root / "torn" / "1").iterdir():
        file.write_bytes(b"torn")
    return root


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[RunningServer]:
    running = start_server(models, models.parent / "log", "--repository-settle-seconds=0.1")
    yield running
    running.kill()


@pytest.fixture(scope="module")
def prometheus(server: RunningServer, models: Path) -> Iterator[RunningPrometheus]:
    config = models.parent / "prometheus.yml"
    scrape = {"job_name": "vintner", "static_configs": [{"targets": [server.metrics]}]}
    config.write_text(yaml.safe_dump({"global": {"scrape_interval": "500ms"}, "scrape_configs": [scrape]}))
    running = start_prometheus(config, models.parent)
    yield running
    running.kill()


def found(prometheus: RunningPrometheus, alert: str) -> list[tuple[str | None, str | None]]:
    """Model and version of what the alert's expression has at this moment: nothing, and a server that is down, after a
    scrape for which this machine was too busy."""
    (expression,) = (rule["expr"] for rule in alerts() if rule["alert"] == alert)
    return [(labels.get("model"), labels.get("version")) for labels, _ in prometheus.query(expression)]


def test_a_model_that_failed_is_named_and_the_server_is_not_ready(
    server: RunningServer, prometheus: RunningPrometheus
) -> None:
    assert not server.ready
    wait_until(lambda: found(prometheus, "VintnerModelFailed") == [("torn", "1")])
    wait_until(lambda: found(prometheus, "VintnerNotReady") == [(None, None)])
    assert server.counter("vintner_model_faults") == 1
    assert server.counter("vintner_ready") == 0


def test_a_change_that_is_not_used_is_named_until_it_is_taken_back(
    server: RunningServer, prometheus: RunningPrometheus, models: Path
) -> None:
    wait_until(lambda: prometheus.query('vintner_model_bytes{model="changed"}'))
    assert found(prometheus, "VintnerReloadFailed") == []
    config = models / "changed" / "config.yaml"
    former = config.read_text()
    config.write_text("instnces: 2\n")
    wait_until(lambda: [model for model, _ in found(prometheus, "VintnerReloadFailed")] == ["changed"])
    wait_until(lambda: found(prometheus, "VintnerModelFailed") == [("torn", "1")])
    config.write_text(former)
    wait_until(lambda: found(prometheus, "VintnerReloadFailed") == [])


def test_a_server_that_is_mended_is_ready_and_one_that_has_ended_is_down(
    server: RunningServer, prometheus: RunningPrometheus, models: Path
) -> None:
    shutil.rmtree(models / "torn")
    wait_until(lambda: found(prometheus, "VintnerNotReady") == [])
    wait_until(lambda: found(prometheus, "VintnerModelFailed") == [])
    wait_until(lambda: found(prometheus, "VintnerDown") == [])
    assert server.terminate() == 0
    wait_until(lambda: len(found(prometheus, "VintnerDown")) == 1)
