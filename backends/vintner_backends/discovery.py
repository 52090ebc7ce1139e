"""Which of the files in a version's directory is the model. Knows file names only, and opens nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vintner.errors import ConfigError


def choose(candidates: Sequence[Path], preferred: Sequence[str]) -> Path | None:
    """The only candidate, or else the one whose name comes first in `preferred`; None if there is no candidate.

    Raises ConfigError if there are several and none of them has a preferred name.
    """
    by_name = {candidate.name: candidate for candidate in candidates}
    for name in preferred:
        if name in by_name:
            return by_name[name]
    if len(by_name) > 1:
        found = ", ".join(sorted(by_name))
        raise ConfigError(f"several models in one directory: {found}; `filename` in config.yaml says which one to load")
    return next(iter(by_name.values()), None)


def require_companion(model: Path, suffix: str) -> None:
    """Raises ConfigError if the file that a model's weights are in, named like the model, is not beside it."""
    weights = model.with_suffix(suffix)
    if not weights.is_file():
        raise ConfigError(f"{model.name} lacks its weights: there is no {weights.name} beside it")
