"""`vintner validate`: tries everything that a repository asks for, and serves nothing.

Each version is really loaded, one after the other, with all cores and one instance, and closed again. Invariant: every
model and every selected version is in exactly one finding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vintner.backend import Backends
from vintner.cores import available_cores
from vintner.errors import OperatorError
from vintner.model_config import ModelConfig
from vintner.model_source import ModelSource
from vintner.opening import open_servable
from vintner.repository import scan
from vintner.types import TensorSpec


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of one version, or of a whole model (`version` None). A good one has no problem, and its detail is
    `platform  inputs -> outputs`, in the names that clients use."""

    model: str
    version: int | None
    problem: str | None
    detail: str


def validate(root: Path, model_name: str | None, backends: Backends | None = None) -> list[Finding]:
    """By model and version; the installed backends are used unless others are given. Raises ConfigError as `scan`."""
    backends = backends or Backends()
    found = scan([root], backends, model_name)
    faults = [Finding(name, None, reason, "") for name, reason in found.faults.items()]
    tried = [finding for source in found.models.values() for finding in _try_versions(source, backends)]
    return sorted(faults + tried, key=lambda finding: (finding.model, finding.version or 0))


def _try_versions(source: ModelSource, backends: Backends) -> Iterator[Finding]:
    for version in source.versions:
        try:
            yield Finding(source.name, version, None, _try(source, version, backends))
        except OperatorError as exc:
            yield Finding(source.name, version, str(exc), "")


def _try(source: ModelSource, version: int, backends: Backends) -> str:
    servable = open_servable(
        replace(source, config=_reduced(source.config)), version, backends, cores=available_cores(), cache_dir=None
    )
    try:
        return f"{servable.platform}  {_described(servable.inputs)} -> {_described(servable.outputs)}"
    finally:
        servable.close()


def _reduced(config: ModelConfig) -> ModelConfig:
    """With one instance in each pool, but where cores are chosen: there a backend may need one for each of them."""
    if any(pool.cores for pool in config.in_pools()):
        return config
    pools = config.pools and tuple(pool.model_copy(update={"instances": 1}) for pool in config.pools)
    return config.model_copy(update={"instances": 1, "pools": pools})


def _described(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(f"{spec.name} {spec.datatype}[{','.join(map(str, spec.shape))}]" for spec in specs)
