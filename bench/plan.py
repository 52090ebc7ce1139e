"""How long and how often to measure, and where models and messages go."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import models
from bench.messages import Message
from bench.servers import Site


@dataclass(frozen=True, slots=True)
class Plan:
    site: Site
    seconds: float
    """Of one sample, about."""

    repeats: int
    memory_requests: int
    curve_repeats: int
    """For the rows with a curve, where one repeat is 32 samples."""

    overload_seconds: float

    def repository(self, *names: str) -> Path:
        return models.make_repository(self.site.directory / "repository", *names)

    def configured(self, kind: str, name: str, config: str) -> Path:
        """A repository of its own for each `kind`, so that several can be served at once."""
        return models.make_repository(self.site.directory / f"repository-{kind}", name, config=config)

    def message(self, make: Callable[..., Message], *arguments: Any) -> Message:
        return make(self.site.directory, *arguments)
