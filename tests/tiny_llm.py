"""What the tiny language model in model_repository was taught, and so must say with greedy decoding.

Texts only: it knows neither tokens nor runtimes. Invariant: no two chats put the same to the model.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

DATA: Final = Path(__file__).parent / "data"
FILE: Final = DATA / "tiny_llm.json"
ADAPTER: Final = DATA / "tiny_lora.safetensors"
"""A LoRA adapter in PEFT's names, for OpenVINO GenAI with alpha 1."""


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation and the whole text of its answer: `<think>` and `<tool_call>` marks too, the end token not."""

    name: str
    messages: tuple[dict[str, Any], ...]
    answer: str
    tools: tuple[dict[str, Any], ...] = ()
    thinking: bool = False
    """Whether the template is told `enable_thinking`."""


@dataclass(frozen=True, slots=True)
class Completion:
    """Raw text, without a template, and how it goes on until the end token."""

    name: str
    prompt: str
    answer: str


@dataclass(frozen=True, slots=True)
class Draw:
    """A conversation to which each of the answers is about equally likely, so that only sampling is of use."""

    name: str
    messages: tuple[dict[str, Any], ...]
    answers: tuple[str, ...]


def chats() -> dict[str, Chat]:
    """By name."""
    return {each["name"]: Chat(**with_tuples(each)) for each in lessons()["chats"]}


def adapted_chats() -> dict[str, Chat]:
    """Chats of the same names whose answers the adapter changes; it changes no other."""
    return {each["name"]: Chat(**with_tuples(each)) for each in lessons()["adapted"]}


def completions() -> dict[str, Completion]:
    """By name."""
    return {each["name"]: Completion(**each) for each in lessons()["completions"]}


def draws() -> dict[str, Draw]:
    """By name."""
    return {each["name"]: Draw(**with_tuples(each)) for each in lessons()["draws"]}


def lessons() -> dict[str, list[dict[str, Any]]]:
    content: dict[str, list[dict[str, Any]]] = json.loads(FILE.read_text())
    return content


def with_tuples(fields: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
