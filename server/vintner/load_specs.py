"""What to ask of which backend to have a version loaded.

Opens no model: it finds the file, and puts the configuration of each pool into the seam's terms. Invariant: pools that
share the processor are given no more cores together than there are, but for one each.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vintner import compiled_models
from vintner.backend import Backends, LoadSpec
from vintner.core_shares import uses_cpu
from vintner.cores import parse_cores
from vintner.errors import ConfigError
from vintner.generation import EngineSpec
from vintner.model_config import ModelConfig
from vintner.model_source import ModelSource

MOST_SEQUENCES = 256
"""That a language model generates at the same time, where the configuration does not say."""


def find_model(source: ModelSource, version: int, backends: Backends) -> tuple[str, Path]:
    """The backend for a version and the path that it loads. Raises ConfigError if there is none, or no telling which.

    A configured `filename` decides what is loaded; it may be one that no backend would have looked for, but then the
    backend has to be configured too.
    """
    directory = source.versions[version]
    try:
        if source.config.filename is None:
            return backends.find(directory, source.config.backend)
        return _find_named(directory, source.config.filename, source.config.backend, backends)
    except OSError as exc:
        raise ConfigError(f"cannot read {directory.name}/: {exc.strerror}") from exc


def _find_named(directory: Path, filename: str, backend: str | None, backends: Backends) -> tuple[str, Path]:
    path = directory / filename
    if not path.exists():
        raise ConfigError(f"the configured file '{filename}' is not in {directory.name}/")
    backend = backend or recogniser(directory, backends)
    if backend is None:
        raise ConfigError(f"no backend recognises '{filename}' in {directory.name}/; set `backend`")
    return backend, path


def load_specs(source: ModelSource, version: int, path: Path, cores: int, cache_dir: Path | None) -> Sequence[LoadSpec]:
    """What to ask of the backend, for each pool of a version whose `path` was found.

    Pools on the processor have the cores that they chose, and share what is left evenly. Each version has a directory
    of its own below `cache_dir`, if it may. Raises ConfigError for cores that are not there.
    """
    configs = source.config.in_pools()
    chosen = [_chosen_cores(config) for config in configs]
    sharing = sum(not own and uses_cpu(config.device) for config, own in zip(configs, chosen, strict=True))
    share = max(1, (cores - len(frozenset().union(*chosen))) // max(1, sharing))
    cache = compiled_models.place(cache_dir, source.name, version) if cache_dir is not None else None
    return [
        _load_spec(config, path, min(cores, len(own)) or (share if uses_cpu(config.device) else cores), own, cache)
        for config, own in zip(configs, chosen, strict=True)
    ]


def _chosen_cores(config: ModelConfig) -> frozenset[int]:
    try:
        return parse_cores(config.cores) if config.cores else frozenset()
    except ConfigError as exc:
        raise ConfigError(f"cores: {exc}") from exc


def _load_spec(
    config: ModelConfig, path: Path, cores: int, affinity: frozenset[int], cache_dir: Path | None
) -> LoadSpec:
    return LoadSpec(
        path=path,
        device=config.device,
        performance_hint=config.performance_hint,
        precision=config.precision,
        instances=config.instances,
        streams=config.streams,
        threads=config.threads,
        cores=cores,
        affinity=affinity,
        shapes={name: tensor.shape for name, tensor in config.inputs.items() if tensor.shape is not None},
        cache_dir=cache_dir,
        options=config.backend_options,
        engine=_engine_spec(config, path.parent if path.is_file() else path),
    )


def _engine_spec(config: ModelConfig, directory: Path) -> EngineSpec:
    given = config.generation
    return EngineSpec(
        max_sequences=given.max_num_seqs or MOST_SEQUENCES,
        max_batched_tokens=given.max_num_batched_tokens,
        cache_bytes=given.kv_cache_size,
        prefix_caching=given.prefix_caching,
        draft_model=directory / given.draft_model if given.draft_model else None,
        draft_device=given.draft_device or config.device,
        assistant_tokens=given.num_assistant_tokens or (5 if given.draft_model or given.max_ngram_size else 0),
        ngram=given.max_ngram_size or 0,
        adapters={name: directory / file for name, file in given.adapters.items()},
    )


def recogniser(directory: Path, backends: Backends) -> str | None:
    """The first backend that finds a model there, or part of one, or several."""
    for name in backends.names:
        try:
            backend = backends.get(name)
        except ConfigError:
            continue  # it cannot be imported, which is the trouble of those models that ask for it
        try:
            if backend.find(directory) is not None:
                return name
        except ConfigError:
            return name
    return None
