"""Warm-up as an operator and a client see it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from fake_backend import fake_model, write_model
from held_backend import JOURNAL
from running_server import ROOT, vintner


def test_instances_are_warm_before_the_server_is_ready_and_a_failure_is_told(start: Any, tmp_path: Path) -> None:
    root = tmp_path / "models"
    for name in ("warm", "poisoned"):
        write_model(root / name / "1", fake_model(shape=(-1, 1)))
        (root / name / "config.yaml").write_text("instances: 2\nwarmup: [{name: usual, inputs: {input: {data: zero}}}]")
    (root / "warm" / "1" / JOURNAL).touch()
    (root / "poisoned" / "1" / ".poison").touch()
    server = start(root)
    assert (root / "warm" / "1" / JOURNAL).read_text().split() == ["0.0", "0.0"]
    assert server.counter("vintner_executions_total", model="warm") == 0
    assert not server.ready
    index = json.loads(server.request("POST", "/v2/repository/index")[2])
    states = {entry["name"]: (entry["state"], entry.get("reason", "")) for entry in index}
    assert states["warm"] == ("READY", "")
    assert states["poisoned"][0] == "UNAVAILABLE"
    assert "warm-up 'usual' failed on instance 0: a bug in the backend" in states["poisoned"][1]


def test_validate_finds_a_warm_up_that_fails(tmp_path: Path) -> None:
    """With a real runtime, which has the last word on what it can run."""
    model = tmp_path / "models" / "digits"
    (model / "1").mkdir(parents=True)
    for file in (ROOT / "model_repository" / "digits" / "1").iterdir():
        shutil.copy(file, model / "1")
    for text, code in (("warmup: true", 0), ("warmup: [{inputs: {image: {shape: [1, 1, 8, 9]}}}]", 1)):
        (model / "config.yaml").write_text(text)
        run = vintner("validate", str(tmp_path / "models"))
        assert (run.returncode, "has [1, 1, 8, 9]" in run.stdout + run.stderr) == (code, bool(code))
