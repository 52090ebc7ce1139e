"""Loads a language model with OpenVINO GenAI.

Invariant: an engine with a bound on its cache knows of how many blocks that is.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
import openvino as ov
import openvino_genai as genai
from vintner.backend import LoadSpec
from vintner.errors import LoadError
from vintner.json_files import read_object

from vintner_backends.cpu_budget import cpu_budget
from vintner_backends.openvino_config import SETTINGS, check_device, is_cpu
from vintner_backends.openvino_genai_engine import SUPPORTED, OpenVINOEngine, short
from vintner_backends.openvino_genai_tokenizer import OpenVINOTokenizer

CONTEXT: Final = ("max_position_embeddings", "n_positions", "seq_length", "max_seq_len", "max_sequence_length")
"""Keys of a model's config.json that give its context length, by family."""
BATCHED_TOKENS: Final = {"latency": 256, "throughput": 1024}
"""In one step, by hint: with more, long prompts are through sooner, and hold up the answers of others for longer."""
DEFAULTS: Final = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


class OpenVINOLanguageModel:
    """A pipeline with what belongs to it."""

    platform = "openvino_genai"
    supported = SUPPORTED

    def __init__(self, directory: Path, engine: OpenVINOEngine, tokenizer: OpenVINOTokenizer) -> None:
        """Raises OperatorError if what is beside the model is broken, or does not give the length of its context."""
        self.directory = directory
        self.engine = engine
        self.tokenizer = tokenizer
        self.context_length = _context_length(directory)
        self.vocabulary_size = tokenizer.size
        generation = read_object(directory / "generation_config.json")
        sampled = generation.get("do_sample", False)
        self.defaults = {name: float(generation[name]) for name in DEFAULTS if generation.get(name) is not None}
        if not sampled:
            self.defaults = {name: self.defaults[name] for name in self.defaults if name == "repetition_penalty"}

    def close(self) -> None:
        del self.engine
        del self.tokenizer


def load_model(spec: LoadSpec) -> OpenVINOLanguageModel:
    """Raises OperatorError with the reason if it cannot be loaded as it is wanted."""
    core = ov.Core()
    check_device(core, spec.device)
    if spec.affinity:
        raise LoadError("cores cannot be chosen for a language model of OpenVINO's: remove them, and set threads")
    draft = spec.engine.draft_model
    if draft is not None and not draft.is_dir():
        raise LoadError(f"draft_model: there is no directory '{draft.name}' in the version's directory")
    properties = _properties(spec)
    _fix_tokenizers_path()
    try:
        adapters = {name: _adapter(name, path) for name, path in spec.engine.adapters.items()}
        if adapters:
            properties["adapters"] = genai.AdapterConfig(list(adapters.values()))
        pipeline, blocks = _pipeline(spec, properties)
        tokenizer = OpenVINOTokenizer(pipeline.get_tokenizer())
    except (RuntimeError, ValueError, TypeError) as exc:
        raise LoadError(short(exc).replace(f"{spec.path}/", "")) from exc
    engine = OpenVINOEngine(pipeline, spec.engine, _end_tokens(spec.path, tokenizer, pipeline), adapters, blocks)
    return OpenVINOLanguageModel(spec.path, engine, tokenizer)


TOKENIZERS_PATH: Final = "OPENVINO_TOKENIZERS_PATH_GENAI"


def _fix_tokenizers_path() -> None:
    """Says once for all where the library with the tokenizers is. Where nobody has, the library sets this variable for
    as long as it opens a pipeline, and takes it away from whoever opens another at that moment."""
    package = find_spec("openvino_tokenizers")
    if package is None or package.origin is None:
        return
    libraries = sorted((Path(package.origin).parent / "lib").glob("*openvino_tokenizers.*"))
    if libraries:
        os.environ.setdefault(TOKENIZERS_PATH, str(libraries[0]))


def _properties(spec: LoadSpec) -> dict[str, Any]:
    """One infer request runs at a time, with all the threads that the model may have."""
    for option in spec.options:
        if option in SETTINGS:
            raise LoadError(f"backend option '{option}' has a setting of its own: {SETTINGS[option]}")
    properties: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", **spec.options}
    if spec.precision is not None:
        properties["INFERENCE_PRECISION_HINT"] = spec.precision
    if spec.cache_dir is not None:
        properties["CACHE_DIR"] = str(spec.cache_dir)
    if is_cpu(spec.device):
        properties["INFERENCE_NUM_THREADS"] = cpu_budget(spec).threads
        properties["ENABLE_CPU_PINNING"] = spec.options.get("ENABLE_CPU_PINNING", False)
    return properties


def _pipeline(spec: LoadSpec, properties: dict[str, Any]) -> tuple[Any, int]:
    """The pipeline and the blocks of its cache, 0 if that grows."""
    engine = spec.engine
    if engine.cache_bytes is None:
        return _open(spec, properties, 0), 0
    blocks = engine.cache_bytes // sum(_block_size(alone, properties) for alone in _alone(spec))
    if not blocks:
        raise LoadError(f"kv_cache_size: {engine.cache_bytes} bytes are less than one block of the model's cache")
    return _open(spec, properties, blocks), blocks


def _alone(spec: LoadSpec) -> Iterator[LoadSpec]:
    """The model, and the one that guesses for it, which has as many blocks: each by itself, without guessing."""
    engine = replace(spec.engine, draft_model=None, ngram=0)
    yield replace(spec, engine=engine)
    if spec.engine.draft_model is not None:
        yield replace(spec, path=spec.engine.draft_model, device=spec.engine.draft_device, engine=engine)


def _open(spec: LoadSpec, properties: dict[str, Any], blocks: int) -> Any:
    given = dict(properties)
    if spec.engine.draft_model is not None:
        given["draft_model"] = genai.draft_model(spec.engine.draft_model, spec.engine.draft_device, **properties)
    if spec.engine.ngram:
        given["prompt_lookup"] = True
    return genai.ContinuousBatchingPipeline(spec.path, _scheduling(spec, blocks), spec.device, given)


def _scheduling(spec: LoadSpec, blocks: int) -> Any:
    engine, config = spec.engine, genai.SchedulerConfig()
    config.max_num_batched_tokens = engine.max_batched_tokens or BATCHED_TOKENS[spec.performance_hint]
    config.max_num_seqs = engine.max_sequences
    # What is cached does not tell with which adapters it was computed.
    config.enable_prefix_caching = engine.prefix_caching and not engine.adapters
    config.num_kv_blocks = blocks
    config.cache_size = 0
    return config


def _block_size(spec: LoadSpec, properties: dict[str, Any]) -> int:
    """Bytes of a block of the cache, which the library tells once it has one."""
    pipeline = _open(spec, properties, 1)
    config = genai.GenerationConfig()
    config.max_new_tokens = 1
    config.apply_chat_template = False
    pipeline.add_request(0, ov.Tensor(np.array([[0]], np.int64)), config)
    pipeline.step()
    size: int = pipeline.get_metrics().kv_cache_size_in_bytes
    return max(1, size)


def _adapter(name: str, path: Path) -> Any:
    if not path.is_file():
        raise LoadError(f"adapters.{name}: there is no file '{path.name}' in the version's directory")
    return genai.Adapter(path)


def _context_length(directory: Path) -> int:
    config: Mapping[str, Any] = read_object(directory / "config.json")
    for document in (config, config.get("text_config", {})):
        for key in CONTEXT:
            if isinstance(document.get(key), int):
                return int(document[key])
    raise LoadError(f"config.json: expected the length of the model's context as one of {', '.join(CONTEXT)}")


def _end_tokens(directory: Path, tokenizer: OpenVINOTokenizer, pipeline: Any) -> frozenset[int]:
    """Those of generation_config.json, and the tokenizer's."""
    found: set[int] = set()
    for name in ("generation_config.json", "config.json"):
        given = read_object(directory / name).get("eos_token_id")
        found.update(given if isinstance(given, list) else [given] if isinstance(given, int) else [])
    token = pipeline.get_tokenizer().get_eos_token_id()
    return frozenset({*found, token}) if token >= 0 else frozenset(found)
