"""Renders, lints and packages the chart, by Helm 3's command line and by Helm 4 in a process of its own.

Knows nothing of what the objects mean. Helm 4 takes 2 ms and always says Kubernetes 1.36 to the templates; Helm 3 takes
100 ms, and the version and the further API versions can be chosen.
Invariant: all objects that a Helm would install are returned (those of hooks too), or the call raises.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from deploy import helm4_process

CHART: Final = Path(__file__).parents[2] / "helm" / "vintner"
RELEASE: Final = "cellar"
NAMESPACE: Final = "models"
KUBERNETES: Final = "1.33.0"
TIME_LIMIT: Final = 60.0
WARNING: Final = 2
"""Of Helm 4's severities, the least that makes a strict lint fail."""

ENVIRONMENT: Final = {**os.environ, "GOGC": "off"}
"""Helm 3's: it ends sooner than collecting would pay, which takes it a quarter longer. Copied once, for pytest changes
its own with each test, and other threads render too."""

Values = Mapping[str, Any]
Object = dict[str, Any]


class ChartRefused(Exception):
    """Helm would not render: the values are not the schema's, or a template called `fail`. The text is Helm's."""


class StrictLoader(yaml.CSafeLoader):
    """Refuses a key that is given twice, of which Kubernetes would keep the last."""


def _mapping(loader: StrictLoader, node: yaml.MappingNode) -> dict[Hashable, Any]:
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]  # type: ignore[no-untyped-call]
    twice = {key for key in keys if keys.count(key) > 1}
    if twice:
        raise yaml.constructor.ConstructorError(None, None, f"given twice: {sorted(twice)}", node.start_mark)
    return loader.construct_mapping(node, deep=True)


StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def parse_objects(text: str) -> list[Object]:
    """The objects of a YAML stream, in its order; empty documents count as nothing."""
    return [document for document in yaml.load_all(text, StrictLoader) if document is not None]


def render_helm4(
    values: Values | None = None, *, release: str = RELEASE, namespace: str = NAMESPACE, chart: Path = CHART
) -> list[Object]:
    """The objects of a release, in no particular order."""
    try:
        files = _files(chart, json.dumps(values or {}), release, namespace)
    except helm4_process.Refused as exc:
        raise ChartRefused(str(exc)) from exc
    manifests = {name: text for name, text in files.items() if not name.endswith("NOTES.txt")}
    return [document for name in sorted(manifests) for document in parse_objects(manifests[name])]


def notes_helm4(
    values: Values | None = None, *, release: str = RELEASE, namespace: str = NAMESPACE, chart: Path = CHART
) -> str:
    """What Helm prints after an install: the rendered NOTES.txt."""
    files = _files(chart, json.dumps(values or {}), release, namespace)
    return next(text for name, text in files.items() if name.endswith("NOTES.txt"))


@functools.cache
def templates_alone() -> Path:
    """A copy of the chart without its schema, with which rendering takes a tenth of the time."""
    copy = Path(tempfile.mkdtemp(prefix="chart-")) / CHART.name
    atexit.register(shutil.rmtree, copy.parent, ignore_errors=True)
    return Path(shutil.copytree(CHART, copy, ignore=shutil.ignore_patterns("values.schema.json")))


@functools.lru_cache(maxsize=1024)
def _files(chart: Path, values: str, release: str, namespace: str) -> Mapping[str, str]:
    """What Helm 4 makes of each template. Many tests ask for the same; objects are parsed anew, and may be changed."""
    files: Mapping[str, str] = helm4_process.ask("render", str(chart), json.loads(values), release, namespace)
    return files


def render_helm3(
    values: Values | None = None,
    *,
    release: str = RELEASE,
    namespace: str = NAMESPACE,
    kubernetes: str = KUBERNETES,
    api_versions: Sequence[str] = (),
    chart: Path = CHART,
) -> list[Object]:
    """The objects of a release, in the order of their installation.

    `api_versions` are those that the cluster has beside Kubernetes' own, such as monitoring.coreos.com/v1.
    """
    known = [argument for version in api_versions for argument in ("--api-versions", version)]
    command = ["template", release, str(chart), "--namespace", namespace, "--kube-version", kubernetes, *known]
    return parse_objects(_helm3(*command, "--values", "-", values=values))


def lint_helm3(values: Values | None = None, *, chart: Path = CHART) -> list[str]:
    """What the strict lint complains about."""
    try:
        _helm3("lint", "--strict", str(chart), "--values", "-", values=values)
    except ChartRefused as exc:
        return str(exc).splitlines()
    return []


def lint_helm4(values: Values | None = None, *, chart: Path = CHART) -> list[str]:
    """What the strict lint complains about."""
    messages = helm4_process.ask("lint", str(chart), dict(values or {}), NAMESPACE)
    return [message["error"] for message in messages if message["severity"] >= WARNING]


def package_helm3(destination: Path, chart: Path = CHART) -> Path:
    """The archive, which is written into `destination`."""
    _helm3("package", str(chart), "--destination", str(destination))
    return next(destination.glob("*.tgz"))


def package_helm4(destination: Path, chart: Path = CHART) -> Path:
    """The archive, which is written into `destination`."""
    return Path(helm4_process.ask("package", str(chart), str(destination)))


def _helm3(*arguments: str, values: Values | None = None) -> str:
    done = subprocess.run(
        [_helm3_program(), *arguments],
        input=json.dumps(values or {}),  # which is YAML, too
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        timeout=TIME_LIMIT,
        check=False,
    )
    if done.returncode:
        raise ChartRefused(done.stdout + done.stderr)
    return done.stdout


@functools.cache
def _helm3_program() -> str:
    """Beside the interpreter, where the Makefile puts it."""
    program = shutil.which("helm", path=str(Path(sys.executable).parent))
    if program is None:
        raise FileNotFoundError("the tests of the chart need Helm 3 in .venv/bin, where `make test` puts it")
    return program
