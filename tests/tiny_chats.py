"""Chats with the language model that ships, as requests to the OpenAI API have them."""

from __future__ import annotations

from typing import Any

from tiny_llm import chats, completions

CHATS = chats()
COMPLETIONS = completions()


def messages(name: str) -> list[dict[str, Any]]:
    return list(CHATS[name].messages)


def tools(name: str) -> list[dict[str, Any]]:
    return list(CHATS[name].tools)


def answer(name: str) -> str:
    """The text that greedy decoding gives."""
    return CHATS[name].answer
