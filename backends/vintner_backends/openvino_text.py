"""Embedding models and rerankers that optimum-intel exported, run by OpenVINO with their own tokenizers.

They are ordinary models, of texts instead of numbers: the core stacks the texts of different requests. Knows nothing of
language models, which `openvino_genai` has from elsewhere. Nothing is imported for tokenizers until one is loaded.
"""

from __future__ import annotations

from threading import Lock

import openvino as ov
from vintner.backend import LoadSpec

from vintner_backends.openvino import prepare_bindings
from vintner_backends.openvino_embeddings import load_embeddings
from vintner_backends.openvino_encoder import TextModel
from vintner_backends.openvino_reranking import load_reranker
from vintner_backends.openvino_tokenizer import core_with_tokenizers
from vintner_backends.text_settings import read_settings, text_task

__all__ = ["TextModels", "text_task"]


class TextModels:
    """Loads them, on one `ov.Core`. Threads: any."""

    def __init__(self) -> None:
        self._core: ov.Core | None = None
        self._lock = Lock()

    def load(self, spec: LoadSpec) -> TextModel:
        """Of an `openvino_model.xml`. Raises LoadError with a reason to act on."""
        settings = read_settings(spec.path.parent, spec.options)
        load = load_embeddings if settings.task == "embed" else load_reranker
        return load(self._tokenizing(), spec, settings)

    def _tokenizing(self) -> ov.Core:
        """Made when the first model is loaded, for it takes a package that only these models need."""
        with self._lock:
            if self._core is None:
                core = core_with_tokenizers()
                prepare_bindings(core)
                self._core = core
            return self._core
