"""How the models of a repository divide the cores by weight, so that together they never use more than there are.

Pure. Without a `core_weight` anywhere, every model may use all cores, and the operating system lets each have what
the others leave idle. With one, a model's threads are no more than its share; nothing is pinned.

Invariant: either the shares add up to the cores, or each is one core, and then the models take turns at the resource
`cores`, of which there are as many as there are cores.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeVar

from vintner.model_config import ModelConfig
from vintner.rate_limiter import Claim

CORES: Final = "cores"
"""The resource that models compete for by turns where there are more of them than cores."""

Key = TypeVar("Key", bound=Hashable)
Version = tuple[str, int]


@dataclass(frozen=True, slots=True)
class CoreShares:
    """Cores by model and version; empty where no weights are set."""

    cores: Mapping[Version, int] = field(default_factory=dict)
    weights: Mapping[Version, float] = field(default_factory=dict)
    in_turns: bool = False
    """Whether there are too few cores for one each."""

    def claim(self, name: str, version: int, config: ModelConfig) -> Claim | None:
        """What a run of the version needs of the resources that models share, or None."""
        resources = dict(config.rate_limiter.resources) if config.rate_limiter else {}
        weight = 1.0
        if self.in_turns and (name, version) in self.weights:
            resources.setdefault(CORES, 1)
            weight = self.weights[name, version]
        if config.rate_limiter:
            weight /= config.rate_limiter.priority
        return Claim(resources, weight) if resources else None


def divide_cores(cores: int, models: Mapping[str, tuple[ModelConfig, tuple[int, ...]]]) -> CoreShares:
    """The shares of all versions that are to be loaded, each model by its configuration and versions.

    A model that sets no weight has 1; its versions share alike. One that computes on other devices alone has no share.
    """
    if not any(config.core_weight for config, _ in models.values()):
        return CoreShares()
    weights = {
        (name, version): (config.core_weight or 1.0) / len(versions)
        for name, (config, versions) in models.items()
        if any(uses_cpu(pool.device) for pool in config.in_pools())
        for version in versions
    }
    return CoreShares(share_cores(cores, weights), weights, in_turns=len(weights) > cores)


def uses_cpu(device: str) -> bool:
    """Whether a device computes on the processor, or may."""
    return "CPU" in device or device.startswith("AUTO")


def share_cores(cores: int, weights: Mapping[Key, float]) -> dict[Key, int]:
    """Whole cores in proportion to the weights, by largest remainder, and at least 1 for each."""
    if len(weights) >= cores:
        return dict.fromkeys(weights, 1)
    shares: dict[Key, int] = {}
    rest = dict(weights)
    while small := [key for key in rest if _quota(cores, shares, rest, key) < 1]:
        shares |= dict.fromkeys(small, 1)
        rest = {key: weight for key, weight in rest.items() if key not in shares}
    quotas = {key: _quota(cores, shares, rest, key) for key in rest}
    left = cores - sum(shares.values()) - sum(map(int, quotas.values()))
    favoured = sorted(quotas, key=lambda key: int(quotas[key]) - quotas[key])[:left]
    return {key: shares.get(key) or int(quotas[key]) + (key in favoured) for key in weights}


def _quota(cores: int, settled: Mapping[Key, int], rest: Mapping[Key, float], key: Key) -> float:
    return (cores - sum(settled.values())) * rest[key] / sum(rest.values())
