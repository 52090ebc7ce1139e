"""An engine of a language model held in memory: what continuous batching is tested with.

A token is a byte. What follows a prompt is told by the prompt: its bytes in reverse, until `END`, which the prompt may
hold; so the answer to any prompt, or to a prompt with a part of the answer behind it, is known.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Semaphore

from vintner.errors import BackendError
from vintner.generation import CacheUse, Progress, Sampling

END = ord(".")
MARK = ord("|")
"""What a prompt ends with: behind it the answer begins."""


def answer(prompt: str) -> str:
    """What is generated for it without bounds."""
    return prompt.split("|")[0][::-1].split(".")[0]


@dataclass
class Generated:
    tokens: list[int]
    sampling: Sampling
    made: int = 0


class FakeEngine:
    """`held` engines make a step for each `release` of `steps`."""

    def __init__(self, most: int = 8, waves: bool = False, blocks: int = 0, block_tokens: int = 4, held: bool = True):
        self.max_sequences = most
        self.in_waves = waves
        self.mixes_adapters = True
        self.steps = Semaphore(0)
        self.held = held
        self.cache = CacheUse(blocks=blocks, block_tokens=block_tokens)
        self.running: dict[int, Generated] = {}
        self.added: list[str] = []
        self.cancelled: list[int] = []
        self.resets = 0
        self.fail: Callable[[Sequence[str]], str] = lambda prompts: ""
        """Why a step with sequences of these prompts fails, if it does."""
        self.refuse: Exception | None = None
        self.broken = ""
        """Why nothing can be added until it is reset, if so."""
        self.lost = False
        """Whether it cannot be reset."""
        self.all_lose = False
        """Whether a cache that is full has no room for any sequence, not only for the largest."""
        self.most_together = 0
        self.entered = 0
        """Steps that were begun."""

    def add(self, key: int, tokens: Sequence[int], sampling: Sampling) -> None:
        if self.refuse is not None:
            raise self.refuse
        if self.broken:
            raise BackendError(self.broken)
        assert key not in self.running
        assert len(self.running) < self.max_sequences
        self.running[key] = Generated(list(tokens), sampling)
        self.added.append(bytes(tokens).decode("latin-1"))
        self.most_together = max(self.most_together, len(self.running))

    def cancel(self, key: int) -> None:
        self.cancelled.append(key)
        self.running.pop(key, None)

    def step(self) -> Sequence[Progress]:
        self.entered += 1
        if self.held:
            self.steps.acquire()
        problem = self.fail([bytes(one.tokens).decode("latin-1") for one in self.running.values()])
        if problem:
            raise BackendError(problem)
        made = [self._next(key, one) for key, one in list(self.running.items())]
        for progress in made:
            if progress.end:
                del self.running[progress.key]
        return made

    def _next(self, key: int, one: Generated) -> Progress:
        question, _, told = bytes(one.tokens).partition(b"|")
        total = -(-len(one.tokens) // self.cache.block_tokens)
        if self.cache.blocks and self._blocks() > self.cache.blocks and (self.all_lose or total >= self._largest()):
            return Progress(key, (), end="no_room")
        token = question[::-1][len(told)] if len(told) < len(question) else END
        if token == END:
            return Progress(key, (), end="stop")
        one.tokens.append(token)
        one.made += 1
        return Progress(key, [token], [-1.0], "length" if one.made >= one.sampling.max_new_tokens else "")

    def _blocks(self) -> int:
        return sum(-(-len(one.tokens) // self.cache.block_tokens) for one in self.running.values())

    def _largest(self) -> int:
        return max(-(-len(one.tokens) // self.cache.block_tokens) for one in self.running.values())

    def reset(self) -> None:
        self.resets += 1
        self.running.clear()
        self.broken = ""
        if self.lost:
            raise BackendError("the device is gone")


class FakeDecoder:
    def __init__(self) -> None:
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode

    def feed(self, tokens: Sequence[int]) -> str:
        return self._decode(bytes(tokens))

    def finish(self) -> str:
        return self._decode(b"", True)


class FakeTokenizer:
    def encode(self, text: str, special_tokens: bool = True) -> Sequence[int]:
        return list(text.encode())

    def decoder(self) -> FakeDecoder:
        return FakeDecoder()

    def token_bytes(self, token: int) -> bytes:
        return bytes([token])
