"""ONNX Runtime GenAI: loads directories that its model builder, or Olive, made: language models with a tokenizer.

Each model runs in a process of its own; in the server's there is only the tokenizer. Knows nothing of requests.
Invariant: the runtime is imported when a model of it is loaded, so a server without such models does without it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from vintner.backend import Device, GeneratingModel, LoadedModel, LoadSpec
from vintner.errors import LoadError
from vintner.generation import Engine, Tokenizer

from vintner_backends.genai_extra import missing
from vintner_backends.onnxruntime_genai_config import NAME, GenAiConfig, check_supported, overlay, read_config
from vintner_backends.onnxruntime_genai_engine import RemoteEngine
from vintner_backends.onnxruntime_genai_process import Worker

PACKAGE: Final = "onnxruntime_genai"


class OnnxRuntimeGenAIBackend:
    """Holds no state: every model stands alone."""

    def find(self, directory: Path) -> Path | None:
        return directory if (directory / NAME).is_file() else None

    def generates(self, path: Path) -> bool:
        return path.is_dir()

    def load(self, spec: LoadSpec) -> LoadedModel | GeneratingModel:
        raise LoadError(f"{spec.path.name}: expected a language model")

    def load_language_model(self, spec: LoadSpec) -> OnnxRuntimeGenAIModel:
        if find_spec(PACKAGE) is None:
            raise missing("onnxruntime-genai")
        check_supported(spec)
        config = read_config(spec.path)
        # Imports the runtime, which the rest of this package is to do without.
        from vintner_backends.onnxruntime_genai_tokenizer import OnnxRuntimeTokenizer

        tokenizer = OnnxRuntimeTokenizer(spec.path)
        wanted, cores = overlay(spec, config), sorted(spec.affinity)
        engine = RemoteEngine(
            lambda patience: Worker(str(spec.path), wanted, cores, patience), config, spec.engine.max_sequences
        )
        return OnnxRuntimeGenAIModel(spec.path, config, tokenizer, engine)

    def devices(self) -> Sequence[Device]:
        return [Device("CPU", "ONNX Runtime GenAI on the processor")] if find_spec(PACKAGE) is not None else []


class OnnxRuntimeGenAIModel:
    """A model, its tokenizer, and the process that it runs in."""

    platform = "onnxruntime_genai"
    supported = frozenset({"constraints", "ignore_eos", "min_tokens"})

    def __init__(self, directory: Path, config: GenAiConfig, tokenizer: Tokenizer, engine: RemoteEngine) -> None:
        self.directory = directory
        self.context_length = config.context_length
        self.vocabulary_size = config.vocabulary_size
        self.defaults: Mapping[str, float] = config.defaults
        self.tokenizer = tokenizer
        self._engine = engine

    @property
    def engine(self) -> Engine:
        return self._engine

    @property
    def pid(self) -> int:
        """Of its process."""
        return self._engine.pid

    def close(self) -> None:
        self._engine.close()
