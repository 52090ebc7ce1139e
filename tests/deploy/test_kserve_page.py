"""docs/kserve.md against the files in deploy/kserve and a server that runs as it says."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from kserve_pods import DEPLOY, LOCAL, documents, rendered, runtime, start_container
from running_server import ROOT, RunningServer
from vintner.config import ServerConfig, load_config
from vintner.options import options_of

PAGE = (ROOT / "docs" / "kserve.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
RUNTIMES = {each["metadata"]["name"]: each for path in DEPLOY.glob("runtime*.yaml") for each in documents(path)}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """The first InferenceService of the page, with the model that ships."""
    place = tmp_path_factory.mktemp("page")
    (text,) = (text for language, text in BLOCKS if language == "yaml")
    container = runtime("vintner")["spec"]["containers"][0]
    here = [f"--model_dir={ROOT / 'model_repository' / 'digits' / '2'}", f"--cache-dir={place / 'cache'}", *LOCAL]
    running = start_container(rendered(container, yaml.safe_load(text)["metadata"], here), place / "log")
    yield running
    running.kill()


def test_the_commands_print_what_the_page_says(server: RunningServer) -> None:
    (shown,) = (text for language, text in BLOCKS if language == "console")
    for entry in shown.split("$ ")[1:]:
        command, _, output = entry.partition("\n")
        command = command.replace("localhost:8000", server.http)
        run = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
        assert run.stdout.rstrip("\n") == output.rstrip("\n"), run.stderr


def test_what_the_page_shows_is_a_file_that_ships() -> None:
    files = [path.read_text() for path in (DEPLOY / "examples").glob("*.yaml")]
    shown = [text for language, text in BLOCKS if language == "yaml"]
    assert shown
    assert all(text in files for text in shown)


def test_every_file_that_the_page_names_is_there_and_every_example_is_named() -> None:
    named = set(re.findall(r"\]\(\.\./(deploy/[^)]+)\)", PAGE))
    assert all((ROOT / path).exists() for path in named)
    shown = [text for language, text in BLOCKS if language == "yaml"]
    ours = {path.name for path in (DEPLOY / "examples").iterdir() if path.read_text() not in shown}
    assert ours == {Path(path).name for path in named if "examples" in path}


def test_the_table_has_every_runtime_with_its_ports() -> None:
    rows = dict(re.findall(r"^\| `([\w-]+)` \| (?:Standard|Knative) \| ([^|]+) \|", PAGE, re.MULTILINE))
    assert rows.keys() == RUNTIMES.keys()
    for name, ports in rows.items():
        if ports != "the same":
            of_container = RUNTIMES[name]["spec"]["containers"][0]["ports"]
            assert [str(port["containerPort"]) for port in of_container] == re.findall(r"\d+", ports)


def test_the_formats_and_priorities_are_those_of_the_runtimes() -> None:
    formats = [each for found in RUNTIMES.values() for each in found["spec"]["supportedModelFormats"]]
    assert all(f"`{each['name']}`" in PAGE for each in formats if each.get("autoSelect"))
    assert {each.get("priority", 10) for each in formats} == {10}
    assert "The priority is 10," in PAGE


def test_the_times_on_the_page_are_those_of_the_runtimes() -> None:
    config = load_config(rendered(RUNTIMES["vintner"]["spec"]["containers"][0], {"name": "s"}), {})
    assert f"serves on for {config.drain_seconds:g} seconds" in PAGE
    assert f"within another {config.exit_timeout_seconds:g}," in PAGE
    for name, minutes in (("vintner", "after 10 minutes"), ("vintner-genai", "(30 for language models)")):
        probe = RUNTIMES[name]["spec"]["containers"][0]["startupProbe"]
        assert minutes in PAGE
        assert str(probe["periodSeconds"] * probe["failureThreshold"] // 60) in minutes


def test_every_option_on_the_page_is_one() -> None:
    flags = {flag for option in options_of(ServerConfig) for flag in option.flags}
    assert {each.replace("_", "-") for each in re.findall(r"`(--[a-z_-]+)", PAGE)} <= flags
