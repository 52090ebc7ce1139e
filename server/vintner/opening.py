"""Opens one version of a model: in all of its pools, with the shapes that are served, and warm.

Knows no other model and no state of a version. Invariant: what fails halfway leaves nothing open.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from vintner.backend import Backend, Backends, LanguageBackend, LoadedModel, LoadSpec, close_anyway
from vintner.decoupled import is_decoupled, loader
from vintner.errors import LoadError
from vintner.labels import read_labels
from vintner.language_opening import open_language_model
from vintner.load_specs import find_model, load_specs
from vintner.manifest import check_manifest
from vintner.model_config import GenerationConfig
from vintner.model_shapes import open_model
from vintner.model_source import ModelSource
from vintner.ovms_mapping import with_names
from vintner.pools import Pool
from vintner.rate_limiter import Claim
from vintner.response_cache import ResponseCache
from vintner.servable import Servable
from vintner.tensor_servable import TensorServable
from vintner.turns import Threads
from vintner.warmup import DIRECTORY, warm_up


def open_servable(
    source: ModelSource,
    version: int,
    backends: Backends,
    cores: int,
    cache_dir: Path | None,
    threads: Threads | None = None,
    cache: ResponseCache | None = None,
    claim: Claim | None = None,
) -> Servable:
    """Loads one version in all of its pools and warms it up.

    Raises OperatorError with the reason if it cannot be loaded, contradicts its configuration, or fails to warm up.
    """
    backend, path = find_model(source, version, backends)
    check_manifest(source.versions[version])
    source = replace(source, config=with_names(source.config, source.versions[version]))
    labels = read_labels(source.config, source.root)
    adapter = backends.get(backend)
    if isinstance(adapter, LanguageBackend) and adapter.generates(path):
        return open_language_model(source, version, adapter, path, backend, cores, cache_dir, threads)
    if source.config.generation != GenerationConfig():
        raise LoadError("generation: the model is not a language model")
    models: list[LoadedModel] = []
    try:
        pools: list[Pool] = []
        misfits: set[str] = set()
        for spec in load_specs(source, version, path, cores, cache_dir):
            load = partial(_open, adapter, spec, source, misfits.add)
            model = load()
            models.append(model)
            _check_alike(models[0], model, spec.device)
            pools.append(Pool(model.instances, spec.device, model.close, load, lasting=is_decoupled(model)))
        servable = TensorServable(
            source.name, version, models[0], source.config, threads, backend, pools, cache, claim, labels
        )
        for misfit in sorted(misfits):
            servable.serve_unbatched(misfit)
        return servable
    except BaseException:
        for model in models:
            close_anyway(model.close, f"model '{source.name}' version {version}")
        raise


def _open(backend: Backend, spec: LoadSpec, source: ModelSource, misfit: Callable[[str], object]) -> LoadedModel:
    """Loads a model on one device and warms it up there. `misfit` is told why it cannot be batched, if so."""
    model = open_model(loader(backend.load, source.config), spec, source.config, source.root / DIRECTORY)
    try:
        reason = warm_up(model, source.config.warmup, source.root / DIRECTORY)
    except BaseException:
        close_anyway(model.close, f"model '{source.name}'")
        raise
    if reason:
        misfit(reason)
    return model


def _check_alike(first: LoadedModel, other: LoadedModel, device: str) -> None:
    for kind in ("inputs", "outputs"):
        if list(getattr(first, kind)) != list(getattr(other, kind)):
            raise LoadError(f"on {device} the model has other {kind} than in its first pool")
