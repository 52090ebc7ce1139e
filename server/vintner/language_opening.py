"""Opens one version of a language model: its runtime, its chat template, and what reads its text.

Invariant: what fails halfway leaves nothing open.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from vintner.backend import LanguageBackend, close_anyway
from vintner.chat_templates import read_template
from vintner.errors import LoadError, VintnerError, nearest
from vintner.generation import LanguageModel, Sampling
from vintner.language_servable import LanguageServable, check_keys
from vintner.load_specs import load_specs
from vintner.model_source import ModelSource
from vintner.output_parsers import (
    REASONING_PARSERS,
    TOOL_PARSERS,
    choose_reasoning_parser,
    choose_tool_parser,
)
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
    check_keys(config)
    model = backend.load_language_model(load_specs(source, version, path, cores, cache_dir)[0])
    try:
        _warm_up(model)
        wanted = config.generation
        template = read_template(model.directory, wanted.chat_template)
        written = (template.source, template.source_with_tools) if template is not None else ("", "")
        return LanguageServable(
            source.name,
            version,
            model,
            config,
            threads,
            backend_name,
            template,
            _parser("tool_parser", wanted.tool_parser, TOOL_PARSERS, choose_tool_parser(written[1])),
            _parser(
                "reasoning_parser",
                wanted.reasoning_parser,
                REASONING_PARSERS,
                choose_reasoning_parser(written[0]),
            ),
        )
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


def _parser(key: str, wanted: str, known: Collection[str], chosen: str | None) -> str | None:
    """The name of what reads the model's text, or None. Raises LoadError for a name that there is not."""
    if wanted == "auto":
        return chosen
    if wanted == "none":
        return None
    if wanted not in known:
        raise LoadError(f"{key}: there is no '{wanted}'{nearest(wanted, ['auto', 'none', *known])}")
    return wanted
