"""Exports models of transformers for OpenVINO (GenAI) and for ONNX Runtime GenAI.

It knows no particular model. Invariant: what it writes names no path and no time of the machine that wrote it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

Weights: TypeAlias = Literal["int4", "int8", "fp32"]

TOKENIZER: Final = ("openvino_tokenizer.xml", "openvino_tokenizer.bin")
MODEL: Final = ("openvino_model.xml", "openvino_model.bin", "config.json", "tokenizer_config.json")
DETOKENIZER: Final = ("openvino_detokenizer.xml", "openvino_detokenizer.bin")
OPENVINO_ENCODER: Final = (*MODEL, *TOKENIZER)
OPENVINO_LLM: Final = (*MODEL, *TOKENIZER, *DETOKENIZER, "generation_config.json", "chat_template.jinja")
ONNX_LLM: Final = (
    "model.onnx",
    "model.onnx.data",
    "genai_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)
UNREADABLE: Final = ("extra_special_tokens", "backend", "is_local", "local_files_only")
"""Keys that transformers 5 writes into tokenizer_config.json and that version 4 and others cannot read."""


def export_openvino(source: Path, target: Path, task: str, weights: Weights, files: Sequence[str]) -> None:
    """Of what optimum writes, `files` replace the folder `target`."""
    with tempfile.TemporaryDirectory() as scratch:
        command = [str(Path(sys.executable).with_name("optimum-cli")), "export", "openvino", "-m", str(source)]
        run([*command, "--task", task, "--weight-format", weights, scratch])
        take(Path(scratch), target, files)


def export_onnx_llm(source: Path, target: Path, weights: Weights) -> None:
    """Of what the model builder of onnxruntime-genai writes, `ONNX_LLM` replaces the folder `target`."""
    with tempfile.TemporaryDirectory() as scratch:
        written, cache = Path(scratch, "written"), Path(scratch, "cache")
        command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", str(source), "-o", str(written)]
        run([*command, "-p", weights, "-e", "cpu", "-c", str(cache)])
        take(written, target, ONNX_LLM)


def run(command: Sequence[str]) -> None:
    """Without the network, and without output unless it fails."""
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout}\n{done.stderr}")


def take(source: Path, target: Path, files: Sequence[str]) -> None:
    """Exporters write more than a runtime reads, and JSON in their own ways."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for name in files:
        shutil.copyfile(source / name, target / name)
    make_portable(target / "tokenizer_config.json")
    for path in target.glob("*.json"):
        write_json(path, json.loads(path.read_text()))


def make_portable(tokenizer_config: Path) -> None:
    """As transformers 4, 5 and onnxruntime-genai can all read it."""
    config = json.loads(tokenizer_config.read_text())
    kept = {key: value for key, value in config.items() if key not in UNREADABLE and value is not None}
    if kept["tokenizer_class"] == "TokenizersBackend":
        kept["tokenizer_class"] = "PreTrainedTokenizerFast"
    write_json(tokenizer_config, kept)


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
