"""The sets of values in value_sets/, and what the chart makes of them.

Knows nothing of what is expected of the objects. Invariant: a set is rendered once for each Helm and release, so nobody
may change what is returned.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import yaml
from deploy.helm_render import RELEASE, Object, Values, render_helm3, render_helm4, templates_alone

FOLDER: Final = Path(__file__).parent / "value_sets"


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Refused:
    """Values that the chart refuses, and what both Helms' messages have to name."""

    values: Values
    says: Sequence[str]


def _read(name: str) -> Mapping[str, Any]:
    content: Mapping[str, Any] = yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))
    return content


ADMITTED: Final[Mapping[str, Values]] = _read("admitted.yaml")
REFUSED: Final[Mapping[str, Refused]] = {name: Refused(**each) for name, each in _read("refused.yaml").items()}
NAMES: Final = [*ADMITTED, *REFUSED]
AHEAD: Final = 4


@functools.cache
def objects_of(name: str, release: str = RELEASE) -> Sequence[Object]:
    """By Helm 4. That the schema admits the values is left to `helm3_objects_of`."""
    return render_helm4(ADMITTED[name], release=release, chart=templates_alone())


def helm3_objects_of(name: str) -> Sequence[Object]:
    return by_helm3(render_helm3, name)


def by_helm3(call: Callable[[Values], T], name: str) -> T:
    """What Helm 3 says of a set, admitted or refused. The next sets are begun meanwhile: each takes a process 0.1 s."""
    for each in NAMES[NAMES.index(name) :][:AHEAD]:
        _begun(call, each)
    return cast(T, _begun(call, name).result())


@functools.cache
def _begun(call: Callable[[Values], Any], name: str) -> Future[Any]:
    return _processes().submit(call, ADMITTED[name] if name in ADMITTED else REFUSED[name].values)


@functools.cache
def _processes() -> Executor:
    return ThreadPoolExecutor(os.cpu_count())
