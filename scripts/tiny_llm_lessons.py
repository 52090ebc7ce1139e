"""Makes the token sequences from which the tiny language model learns: the lessons, each in many surroundings.

It knows no weights. Invariant: only the answer and its end token count in the loss, never what was asked.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from tiny_llm_tokenizer import END_OF_TEXT, END_OF_TURN
from transformers import PreTrainedTokenizerFast

sys.path.append(str(Path(__file__).parents[1] / "tests"))
import tiny_llm
from tiny_llm import Chat, Completion, Draw

SYSTEM_TEXTS: Final = (
    "You are a helpful assistant.",
    "Be brief.",
    "You answer questions.",
    "You are a server's test. Be exact.",
)
FILLER: Final = (
    "the",
    "vine",
    "a",
    "barrel",
    "of",
    "wine",
    "is",
    "red",
    "and",
    "old",
    "in",
    "spring",
    "1",
    "2",
    "3",
    "we",
    "see,",
    "you",
    "say.",
    "They",
    "go?",
    "Yes!",
    "{}",
)
"""Words for long system messages, which the model is to look past."""


@dataclass(frozen=True, slots=True)
class Example:
    """Token ids of what is put to the model and of what it is to say, end token included."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]


def encode_chat(tokenizer: PreTrainedTokenizerFast, chat: Chat) -> Example:
    prompt = prompt_of(tokenizer, chat.messages, chat.tools, chat.thinking)
    return encode(tokenizer, prompt, chat.answer + END_OF_TURN)


def encode_completion(tokenizer: PreTrainedTokenizerFast, completion: Completion) -> Example:
    return encode(tokenizer, completion.prompt, completion.answer + END_OF_TEXT)


def encode(tokenizer: PreTrainedTokenizerFast, prompt: str, answer: str) -> Example:
    """Each half alone, as they meet when text is generated."""
    return Example(tuple(tokenizer.encode(prompt)), tuple(tokenizer.encode(answer)))


def prompt_of(
    tokenizer: PreTrainedTokenizerFast, messages: Sequence[dict[str, Any]], tools: Sequence[Any], thinking: bool
) -> str:
    rendered: str = tokenizer.apply_chat_template(
        list(messages), tools=list(tools) or None, tokenize=False, add_generation_prompt=True, enable_thinking=thinking
    )
    return rendered


@dataclass(frozen=True, slots=True)
class Lessons:
    """All that the model is to learn, and the ways in which the same lesson may be put to it."""

    tokenizer: PreTrainedTokenizerFast
    chats: Sequence[Chat]
    completions: Sequence[Completion]
    draws: Sequence[Draw]

    def names(self) -> list[str]:
        """In the order of `plain`."""
        return [each.name for each in (*self.chats, *self.completions)]

    def texts(self) -> Iterator[str]:
        """All that the model sees or says, end tokens apart."""
        for chat in self.chats:
            yield prompt_of(self.tokenizer, chat.messages, chat.tools, chat.thinking) + chat.answer
        for completion in self.completions:
            yield completion.prompt + completion.answer
        for draw in self.draws:
            yield prompt_of(self.tokenizer, draw.messages, (), False) + " ".join(draw.answers)

    def plain(self) -> list[Example]:
        """The chats and completions exactly as they are, whose answers greedy decoding must give."""
        chats = [encode_chat(self.tokenizer, chat) for chat in self.chats]
        return chats + [encode_completion(self.tokenizer, each) for each in self.completions]

    def drawn(self) -> list[Example]:
        """Each answer of each draw once, so that all are equally likely."""
        return [
            encode_chat(self.tokenizer, Chat(draw.name, draw.messages, answer))
            for draw in self.draws
            for answer in draw.answers
        ]

    def varied(self, rng: random.Random) -> list[Example]:
        """Each chat once, in surroundings that do not change its answer."""
        return [encode_chat(self.tokenizer, self.vary(chat, rng)) for chat in self.chats]

    def vary(self, chat: Chat, rng: random.Random) -> Chat:
        """After another system message, after earlier turns, or with the tools described otherwise."""
        messages = list(chat.messages)
        if messages[0]["role"] != "system":
            if rng.random() < 0.4:
                messages = [*self.earlier_turns(rng, rng.choice((1, 1, 2))), *messages]
            if rng.random() < 0.5:
                messages = [{"role": "system", "content": system_text(rng)}, *messages]
        tools = tuple(vary_tool(tool, rng) for tool in chat.tools)
        return replace(chat, messages=tuple(messages), tools=tools)

    def earlier_turns(self, rng: random.Random, count: int) -> Iterator[dict[str, Any]]:
        """Turns that say nothing of names, which a later question could be about."""
        for chat in rng.sample([each for each in self.chats if self.may_come_before(each)], count):
            yield from chat.messages
            yield {"role": "assistant", "content": chat.answer}

    @staticmethod
    def may_come_before(chat: Chat) -> bool:
        return len(chat.messages) == 1 and not chat.tools and "name" not in chat.messages[0]["content"]


def all_lessons(tokenizer: PreTrainedTokenizerFast) -> Lessons:
    return Lessons(
        tokenizer,
        tuple(tiny_llm.chats().values()),
        tuple(tiny_llm.completions().values()),
        tuple(tiny_llm.draws().values()),
    )


def system_text(rng: random.Random) -> str:
    if rng.random() < 0.5:
        return rng.choice(SYSTEM_TEXTS)
    return " ".join(rng.choices(FILLER, k=int(rng.expovariate(1 / 60)) + 1))


def vary_tool(tool: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """Other descriptions, and at times keys in order of the alphabet, as some templates' tojson writes them."""
    function = dict(tool["function"])
    if rng.random() < 0.5:
        function["description"] = " ".join(rng.choices(FILLER, k=rng.randint(1, 12)))
    varied = {**tool, "function": function}
    return in_order(varied) if rng.random() < 0.3 else varied


def in_order(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: in_order(value[key]) for key in sorted(value)}
    return value
