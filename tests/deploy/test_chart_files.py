"""What the chart is made of: that its generated files are current, and that its package has all of it and no more."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from deploy.helm_render import CHART, package_helm3, package_helm4, parse_objects, render_helm4

SCRIPTS = CHART.parents[1] / "scripts"
LEFTOVERS = ("values.yaml.orig", "templates/.pod.yaml.swp", "files/__pycache__/a.pyc", "vintner-0.0.1.tgz", "a.tmp")
PACKAGERS = pytest.mark.parametrize("package", [package_helm3, package_helm4], ids=["Helm 3", "Helm 4"])

Packager = Callable[[Path, Path], Path]


@pytest.mark.parametrize("name", ["generate_chart_schema.py", "generate_chart_readme.py"])
def test_generated_files_are_current(name: str) -> None:
    done = subprocess.run([sys.executable, str(SCRIPTS / name), "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def files_below(folder: Path) -> set[str]:
    return {str(each.relative_to(folder)) for each in folder.rglob("*") if each.is_file()}


@PACKAGERS
def test_the_package_is_the_chart_without_leftovers(package: Packager, tmp_path: Path) -> None:
    chart = Path(shutil.copytree(CHART, tmp_path / "vintner", ignore=shutil.ignore_patterns("__pycache__")))
    expected = {f"vintner/{name}" for name in files_below(chart)}
    for leftover in LEFTOVERS:
        (chart / leftover).parent.mkdir(exist_ok=True)
        (chart / leftover).write_text('{{ fail "this is no part of the chart" }}')
    archive = package(tmp_path, chart)
    version = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))["version"]
    assert archive.name == f"vintner-{version}.tgz"
    with tarfile.open(archive) as content:
        assert set(content.getnames()) == expected


@PACKAGERS
def test_the_package_renders_what_the_directory_does(package: Packager, tmp_path: Path) -> None:
    assert render_helm4(chart=package(tmp_path, CHART)) == render_helm4()


def test_a_key_that_a_manifest_has_twice_is_seen() -> None:
    with pytest.raises(yaml.YAMLError, match="given twice"):
        parse_objects("a: 1\nb: {c: 1, c: 2}")
