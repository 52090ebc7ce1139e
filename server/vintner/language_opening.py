"""Opens one version of a language model: its runtime, its chat template, and what reads its text.

Invariant: what fails halfway leaves nothing open.
"""

from __future__ import annotations

from pathlib import Path

from vintner.backend import LanguageBackend, close_anyway
from vintner.errors import LoadError, VintnerError
from vintner.generation import LanguageModel, Sampling
from vintner.language_servable import LanguageServable
from vintner.load_specs import load_specs
from vintner.model_source import ModelSource
from vintner.turns import Threads


def open_language_model(
    source: ModelSource,
    version: int,
    backend: LanguageBackend,
    path: Path,
    backend_name: str,
    cores: int,
    cache_dir: Path | None,
    threads: Threads | None,
) -> LanguageServable:
    """Raises OperatorError with the reason if it cannot be loaded, or contradicts its configuration."""
    config = source.config
    if len(config.in_pools()) > 1:
        raise LoadError("a language model cannot have several pools: its requests share one engine")
    model = backend.load_language_model(load_specs(source, version, path, cores, cache_dir)[0])
    try:
        _warm_up(model)
        return LanguageServable(source.name, version, model, config, threads, backend_name)
    except BaseException:
        close_anyway(model.close, f"model '{source.name}' version {version}")
        raise


def _warm_up(model: LanguageModel) -> None:
    """Generates a token: no client pays for what a runtime puts off to the first one, and what cannot run is not
    served."""
    prompt = model.tokenizer.encode("a") or [0]
    try:
        model.engine.add(0, prompt, Sampling(max_new_tokens=1))
        while not any(progress.end for progress in model.engine.step()):
            pass
    except VintnerError as exc:
        raise LoadError(f"the model cannot generate: {exc}") from exc
