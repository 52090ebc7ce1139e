"""The requests to language models that are measured: the same ones for the server and for the bare runtime. Pure.

Invariant: no two numbers below `DIFFERENT` have the same prompt, or even the same begin, so what was cached of one is
of no use to another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

DIFFERENT: Final = 1_000_003
WORDS: Final = ("river", "market", "winter", "engine", "letter", "garden", "signal", "harbour", "theory", "copper")


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is asked: so many tokens to follow a text, whatever they are."""

    text: str
    tokens: int


def prompt(number: int, tokens: int) -> Prompt:
    """Lengths are spread evenly from half to one and a half times `tokens`, so that streams do not end together."""
    code = number * 654_321 % DIFFERENT
    words = " ".join(WORDS[code // 10**place % 10] for place in range(6))
    return Prompt(f"{code}: tell me about {words}, please.", tokens // 2 + number * 37 % (tokens + 1))
