"""What is to be served, as values: a model with its versions and configuration, and all that one look found.

Knows neither where it was found nor what becomes of it. Invariant: the versions that are wanted are among those that
are there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from vintner.contents import Signature
from vintner.errors import NotFound
from vintner.model_config import ModelConfig


def _always(version: int) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model that ought to be served: `root` is its directory, `versions` those that its policy selects, `available`
    all that are there.

    `signatures` are of the versions that are there: equal as long as nothing changes of what one is loaded from.
    `kept` is held for the sake of the files, which may go when nothing holds it any more.
    """

    name: str
    root: Path
    config: ModelConfig
    versions: Mapping[int, Path]
    available: Mapping[int, Path] = field(default_factory=dict)
    signatures: Mapping[int, Hashable] = field(default_factory=dict)
    unchanged: Callable[[int], bool] = field(default=_always, compare=False)
    """Whether a version still has its signature; looks at the files."""
    kept: object = None

    def path(self, version: int) -> Path:
        """Of a version that is there."""
        return self.available[version] if version in self.available else self.versions[version]

    def size(self, version: int) -> int:
        """Bytes that a version is expected to take: `memory_bytes`, or its files for each pool."""
        if self.config.memory_bytes is not None:
            return self.config.memory_bytes
        signature = self.signatures.get(version)
        # Asked for every model at once, and under a lock: files are looked at only where nobody has done so before.
        size = signature.size if isinstance(signature, Signature) else bytes_of(self.path(version))
        return size * len(self.config.in_pools())


@dataclass(frozen=True, slots=True)
class Scan:
    """What there is, by name; `faults` says why a model cannot even be tried, `unsettled` why one that was not known
    before is not tried yet."""

    models: Mapping[str, ModelSource]
    faults: Mapping[str, str]
    unsettled: Mapping[str, str] = field(default_factory=dict)


def not_in_repository(name: str) -> NotFound:
    """What a load of a model that no repository has is answered, in Triton's words."""
    return NotFound(f"failed to load '{name}', failed to poll from model repository")


def bytes_of(directory: Path) -> int:
    """What the files in a directory take together; what cannot be read counts nothing."""
    total = 0
    for parent, _, names in os.walk(directory):
        for name in names:
            with suppress(OSError):
                total += os.stat(os.path.join(parent, name)).st_size
    return total
