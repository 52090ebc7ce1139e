"""OpenVINO GenAI: loads language models as optimum-intel exports them, with their tokenizers; also embedding models and
rerankers, which `openvino_text` runs.

Knows nothing of requests. The library is imported when the first model is loaded: it is in the extra `genai`.
Invariant: nothing is written beside a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

import openvino as ov
from vintner.backend import Device, GeneratingModel, LoadedModel, LoadSpec
from vintner.errors import ConfigError

from vintner_backends.genai_extra import missing
from vintner_backends.openvino import devices_of
from vintner_backends.openvino_text import TextModels, text_task

if TYPE_CHECKING:
    from vintner_backends.openvino_genai_model import OpenVINOLanguageModel

MODEL: Final = "openvino_model.xml"
TOKENIZER: Final = "openvino_tokenizer.xml"
DETOKENIZER: Final = "openvino_detokenizer.xml"


class OpenVINOGenAIBackend:
    """Makes one pipeline for each language model."""

    def __init__(self) -> None:
        self._texts = TextModels()

    def find(self, directory: Path) -> Path | None:
        """The directory, if it has a model that generates text; the file of an embedding model or a reranker."""
        if text_task(directory) is not None:
            return directory / MODEL
        if not (directory / MODEL).is_file() or not (directory / TOKENIZER).is_file():
            return None
        if not (directory / DETOKENIZER).is_file():
            return None
        for name in (MODEL, TOKENIZER, DETOKENIZER):
            weights = (directory / name).with_suffix(".bin")
            if not weights.is_file():
                raise ConfigError(f"{name} is there, but not {weights.name}")
        return directory

    def generates(self, path: Path) -> bool:
        return path.is_dir()

    def load(self, spec: LoadSpec) -> LoadedModel | GeneratingModel:
        return self._texts.load(spec)

    def load_language_model(self, spec: LoadSpec) -> OpenVINOLanguageModel:
        try:
            import openvino_genai  # noqa: F401
        except ImportError as exc:
            raise missing("openvino-genai", exc) from exc
        from vintner_backends.openvino_genai_model import load_model

        return load_model(spec)

    def devices(self) -> Sequence[Device]:
        """Those of OpenVINO, which runs the models; none without the library."""
        return devices_of(ov.Core()) if find_spec("openvino_genai") is not None else []
