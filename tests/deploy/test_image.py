"""The Dockerfile against the project: what it copies, installs and starts is what is there, and what others expect."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import dockerfile
import image_tree
import pytest
import yaml
from dockerfile import Instruction, context
from packaging.requirements import Requirement
from running_server import ROOT, vintner
from vintner import __version__
from vintner.config import load_config

INSTRUCTIONS = list(dockerfile.read(ROOT / "Dockerfile"))
HADOLINT = Path(sys.executable).parent / "hadolint"
PAGE = (ROOT / "docs" / "image.md").read_text()
VALUES = yaml.safe_load((ROOT / "helm" / "vintner" / "values.yaml").read_text())


def all_of(name: str) -> list[Instruction]:
    return [each for each in INSTRUCTIONS if each.name == name]


def only(name: str) -> Instruction:
    (found,) = all_of(name)
    return found


def run_with(word: str) -> Instruction:
    """The RUN step that has this in it."""
    (found,) = (each for each in all_of("RUN") if word in each.text)
    return found


def default_of(argument: str) -> str:
    (value,) = (
        text for each in all_of("ARG") for name, eq, text in [each.text.partition("=")] if name == argument and eq
    )
    return value.strip('"')


def lint(text: str) -> str:
    run = subprocess.run([HADOLINT, "--no-color", "-"], input=text, capture_output=True, text=True, check=False)
    return run.stdout + run.stderr


def test_hadolint_finds_nothing() -> None:
    assert lint((ROOT / "Dockerfile").read_text()) == ""
    assert "DL3002" in lint("FROM debian:12\nUSER root\n"), "hadolint finds nothing in what is wrong"


def test_environments_builds_history_and_caches_are_not_sent_to_the_builder(tmp_path: Path) -> None:
    shutil.copy(ROOT / ".dockerignore", tmp_path)
    kept = ["pyproject.toml", "server/vintner/cli.py", "model_repository/digits/1/model.bin"]
    left_out = [
        ".venv/bin/python", "build/models/bin/python", ".git/config", "tests/conftest.py", "docs/image.md", ".env",
        "server/vintner/__pycache__/cli.cpython-312.pyc", "server/vintner/old.pyc", "server/vintner.egg-info/PKG-INFO",
    ]  # fmt: skip
    for path in [*kept, *left_out]:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    assert sorted(context(tmp_path)) == sorted(kept)


def test_what_is_sent_to_the_builder_is_what_is_in_git() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True
    )
    assert set(context(ROOT)) <= set(listed.stdout.decode().splitlines())


def test_everything_that_is_copied_is_there_and_everything_sent_is_copied() -> None:
    sources = [word for each in all_of("COPY") if "--from" not in each.text for word in each.text.split()[:-1]]
    files = context(ROOT)
    for source in sources:
        assert any(path == source or path.startswith(f"{source}/") for path in files), source
    assert [path for path in files if path.split("/")[0] not in sources] == []


def test_ports_and_paths_are_the_servers_and_the_charts() -> None:
    ports = [int(word) for word in only("EXPOSE").text.split()]
    server = load_config([], {})
    assert ports == [server.http_port, server.grpc_port, server.metrics_port]
    assert ports == list(VALUES["server"]["ports"].values())
    assert only("ENTRYPOINT").words() == ["vintner"]
    command, *arguments = only("CMD").words()
    (repository,) = load_config(arguments, {}).model_repository
    assert command == "serve"
    assert any(each.text.endswith(f"/models {repository}") for each in all_of("COPY"))
    assert run_with("/cache").text.endswith(f" {VALUES['cache']['mountPath']}")


def test_the_user_is_the_charts_and_any_user_of_its_group_can_write_the_cache() -> None:
    user, group = only("USER").text.split(":")
    assert int(user) == VALUES["securityContext"]["runAsUser"]
    assert group == "0"
    made = shlex.split(run_with("/cache").text.rpartition("; ")[2])
    assert made[0] == "install"
    mode = next(int(word.partition("=")[2], 8) for word in made if word.startswith("--mode="))
    assert mode & stat.S_IWGRP
    assert "--group=0" in made


def test_the_version_is_that_of_the_server_and_the_chart() -> None:
    chart = yaml.safe_load((ROOT / "helm" / "vintner" / "Chart.yaml").read_text())
    assert default_of("VERSION") == __version__ == chart["appVersion"]


FAKE_PYTHON = """#!/bin/sh
echo "$*" >> "$CALLS"
[ "$1" != -c ] || exec {python} "$@"
"""


def install_step(tmp_path: Path, **arguments: str) -> tuple[subprocess.CompletedProcess[str], str]:
    """Runs the step that installs, with a `python` that notes what it is told and installs nothing."""
    step = run_with("requirements.txt").text
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text(FAKE_PYTHON.format(python=sys.executable))
    python.chmod(0o755)
    calls = tmp_path / "calls"
    calls.touch()
    environment = {"PATH": f"{python.parent}:/usr/bin:/bin", "CALLS": str(calls), **arguments}
    run = subprocess.run(
        ["/bin/sh", "-c", step], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    return run, calls.read_text()


def names(lines: list[str]) -> set[str]:
    return {Requirement(line).name for line in lines}


def declared() -> tuple[list[str], dict[str, list[str]]]:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return project["dependencies"], project["optional-dependencies"]


@pytest.mark.parametrize(
    ("genai", "extras", "expected"),
    [("1", "", ["genai"]), ("0", "", []), ("1", "bench", ["genai", "bench"]), ("0", "bench", ["bench"])],
)
def test_what_is_installed_is_what_the_project_declares(
    tmp_path: Path, genai: str, extras: str, expected: list[str]
) -> None:
    run, calls = install_step(tmp_path, GENAI=genai, EXTRAS=extras)
    assert run.returncode == 0, run.stderr
    dependencies, optional = declared()
    wanted = [*dependencies, *(each for name in expected for each in optional[name])]
    assert (tmp_path / "requirements.txt").read_text().splitlines() == wanted
    (install,) = (line for line in calls.splitlines() if " install " in line)
    assert "--constraint constraints.txt --requirement requirements.txt" in install
    assert "--only-binary=:all:" in install


def test_a_build_argument_that_says_nothing_known_is_refused(tmp_path: Path) -> None:
    run, calls = install_step(tmp_path, GENAI="yes", EXTRAS="")
    assert (run.returncode, run.stderr, calls) == (1, "GENAI: expected 0 or 1, got 'yes'\n", "")


def test_an_extra_that_is_not_there_fails_the_build(tmp_path: Path) -> None:
    run, calls = install_step(tmp_path, GENAI="0", EXTRAS="gneai")
    assert run.returncode != 0
    assert "KeyError: 'gneai'" in run.stderr
    assert " install " not in calls


def runtime_packages() -> set[str]:
    """What is installed with Vintner and `genai`, by the packages' own word, with what they need in turn."""
    found: set[str] = set()
    dependencies, optional = declared()
    waiting = [Requirement(line) for line in [*dependencies, *optional["genai"]]]
    while waiting:
        each = waiting.pop()
        name = re.sub(r"[-_.]+", "-", each.name).lower()
        if name not in found and (each.marker is None or each.marker.evaluate({"extra": ""})):
            found.add(name)
            waiting += [Requirement(line) for line in requires(name) or []]
    return found


def test_every_package_of_the_image_has_its_version_in_the_constraints() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {re.sub(r"[-_.]+", "-", line.partition("==")[0]).lower() for line in lines if "==" in line}
    assert runtime_packages() - pinned == set()
    assert {"openvino", "grpcio", "pydantic-core", "numpy", "onnxruntime-genai"} <= runtime_packages()


def test_without_genai_the_models_that_need_it_are_left_out(tmp_path: Path) -> None:
    found = vintner("validate", str(ROOT / "model_repository")).stdout
    platforms = dict(re.findall(r"^ok +(\w+)/\d+ +(\w+)", found, re.MULTILINE))
    for genai in "01":
        for model in platforms:
            (tmp_path / genai / "models" / model).mkdir(parents=True)
        step = run_with("rm -r models").text
        subprocess.run(["/bin/sh", "-c", step], cwd=tmp_path / genai, env={**os.environ, "GENAI": genai}, check=True)
    assert sorted(os.listdir(tmp_path / "1" / "models")) == sorted(platforms)
    left = sorted(model for model, platform in platforms.items() if not platform.endswith("_genai"))
    assert sorted(os.listdir(tmp_path / "0" / "models")) == left


def test_a_dockerfile_that_is_not_understood_is_refused(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM debian\n\nADD a b\n")
    with pytest.raises(ValueError, match=r"line 3: expected one of ARG, .*, got 'ADD'"):
        list(dockerfile.read(tmp_path / "Dockerfile"))


def test_a_build_argument_that_the_dockerfile_does_not_have_is_refused(tmp_path: Path) -> None:
    build = image_tree.Build(tmp_path, tmp_path, {"GENIA": "0"}, [])
    with pytest.raises(ValueError, match="has no ARG GENIA"):
        build.run([Instruction(1, "ARG", "GENAI=1")])


def shown(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def engine_lines() -> list[list[str]]:
    """The words of each `docker` line that the page shows."""
    lines = "\n".join(shown("sh")).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.startswith("docker ")]


def test_every_build_that_the_page_shows_gives_arguments_that_there_are() -> None:
    builds = [words for words in engine_lines() if "build" in words[:3]]
    arguments = {words[i + 1].partition("=")[0] for words in builds for i, w in enumerate(words) if w == "--build-arg"}
    known = {each.text.partition("=")[0] for each in all_of("ARG")}
    assert arguments <= known
    assert known == set(re.findall(r"^\| `([A-Z]+)` \|", PAGE, re.MULTILINE)), "the page's table of build arguments"
    assert arguments


def test_every_run_that_the_page_shows_is_a_command_line_that_vintner_takes() -> None:
    commands = [words[words.index("vintner") + 1 :] for words in engine_lines() if words[1] == "run"]
    served = [load_config(words[1:], {}) for words in commands if words and words[0] == "serve"]
    assert served
    assert all(config.model_repository and config.cache_dir for config in served)
    others = [words for words in commands if words and words[0] != "serve"]
    assert all(words in (["devices"], ["validate", "/opt/vintner/model_repository"]) for words in others)
    assert [] in commands


def test_the_derived_image_that_the_page_shows_is_clean() -> None:
    (text,) = shown("dockerfile")
    # Which Debian versions there are is not this project's to pin, and the image is one's own.
    assert [line for line in lint(text).splitlines() if not re.search("DL3006|DL3008", line)] == []


def test_the_health_check_is_a_command_of_vintners() -> None:
    words = json.loads(only("HEALTHCHECK").text.partition(" CMD ")[2])
    assert words == ["vintner", "health"]
    run = vintner("health", env={"VINTNER_HTTP_PORT": "1"})
    assert (run.returncode, run.stderr) == (
        1, "vintner: error: http://127.0.0.1:1/v2/health/live: no answer: Connection refused\n",
    )  # fmt: skip
