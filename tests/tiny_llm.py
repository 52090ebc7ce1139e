"""What the language model that ships knows by heart: the answers that greedy decoding gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

KNOWN: Final[dict[str, Any]] = json.loads((Path(__file__).parent / "data" / "tiny_llm.json").read_text("utf-8"))
CHATS: Final[dict[str, dict[str, Any]]] = {chat["name"]: chat for chat in KNOWN["chats"]}
COMPLETIONS: Final[dict[str, dict[str, Any]]] = {each["name"]: each for each in KNOWN["completions"]}


def messages(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = CHATS[name]["messages"]
    return found


def answer(name: str) -> str:
    found: str = CHATS[name]["answer"]
    return found
