"""Generates with a model that runs in a process of its own: the server's end of it.

That process makes some steps ahead of what the server has read, so neither waits for the other while both have work,
and a server that is slow reads several steps at once.

Invariant: what the process has made and the server not read is bounded.
"""

from __future__ import annotations

import logging
from array import array
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from vintner.errors import BackendError, InvalidArgument, LoadError, Unsupported
from vintner.generation import CacheUse, End, Progress, Sampling

from vintner_backends.lark_grammar import lark_grammar
from vintner_backends.onnxruntime_genai_config import GenAiConfig
from vintner_backends.onnxruntime_genai_process import Worker, one_line

logger = logging.getLogger(__name__)

AHEAD: Final = 32
"""Steps that are made before the first of them is read."""

RESET_PATIENCE: Final = 10.0
"""Seconds in which a process that is well has a new engine; one that takes longer is replaced."""

LEAST_PATIENCE: Final = 60.0
"""Seconds that a process that replaces another may take to load the model, or three times what the first one took."""

GUIDANCE: Final = {"json_schema": "json_schema", "regex": "regex", "grammar": "lark_grammar"}

STEPS: Final = ("made", "failed")
"""What a step is answered by."""

NEUTRAL: Final[Mapping[str, float | bool]] = {
    "min_p": 0.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "logprobs": False,
}
"""What this runtime does not have, with the values that ask for nothing."""

Load = Callable[[float | None], Worker]
"""Starts a process that loads the model, within so many seconds."""


class RemoteEngine:
    """One model. Threads: one at a time."""

    def __init__(self, load: Load, config: GenAiConfig, max_sequences: int) -> None:
        """Raises LoadError."""
        self._load = load
        self._worker = load(None)
        self._config = config
        self._patience = max(LEAST_PATIENCE, 3 * self._worker.load_time)
        self._running: set[int] = set()
        self._unread: deque[tuple[Any, ...]] = deque()  # what steps made
        self._allowed = 0  # steps, of which the answers were not read
        self.max_sequences = min(max_sequences, self._worker.max_sequences)
        self.in_waves = config.in_waves
        self.mixes_adapters = True  # for want of adapters
        self.cache = CacheUse()

    @property
    def pid(self) -> int:
        """Of the process in which the model runs."""
        return self._worker.pid

    def add(self, key: int, tokens: Sequence[int], sampling: Sampling) -> None:
        options = turn_options(sampling, self._config.vocabulary_size)
        check_tokens(tokens, self._config.vocabulary_size)
        session = len(tokens) + sampling.max_new_tokens
        if session > self._config.context_length:
            raise InvalidArgument(f"expected at most {self._config.context_length} tokens in all, got {session}")
        if not self._running and not self._worker.alive:
            self._replace()
        ends, least = sorted(sampling.stop_token_ids), sampling.min_new_tokens
        message = ("add", key, array("i", tokens).tobytes(), session, options, ends, least)
        try:
            answer = self._asked(message)
        except BackendError:
            if self._running or self._worker.alive:
                raise
            self._replace()  # it was dying when it was asked whether it was alive
            answer = self._asked(message)
        if answer[0] == "refused":
            raise InvalidArgument(one_line(answer[1]))
        if answer[0] != "added":
            raise BackendError(one_line(answer[1]))
        self._running.add(key)
        self._allowed = 0  # the process may have thought that nothing was left to do

    def _asked(self, message: tuple[Any, ...]) -> tuple[Any, ...]:
        """The answer, which comes behind those of steps."""
        self._worker.tell(*message)
        while (answer := self._worker.hear())[0] in STEPS:
            self._unread.append(answer)
        return answer

    def cancel(self, key: int) -> None:
        if key in self._running:
            self._left(key)
            try:
                self._worker.tell("cancel", key)
            except BackendError as exc:  # the next step says it to those who are still there
                logger.warning("a sequence could not be taken out: %s", exc)

    def step(self) -> Sequence[Progress]:
        self._allow()
        if not self._unread:
            self._unread.extend(self._worker.hear_all())
        made: dict[int, Progress] = {}
        while self._unread and (self._unread[0][0] == "made" or not made):
            name, result = self._unread.popleft()
            if name != "made":
                raise BackendError(one_line(result))
            self._allowed -= 1
            self._collect(result, made)
        return list(made.values())

    def _allow(self) -> None:
        """Keeps the process going."""
        if self._allowed <= AHEAD // 2:
            self._worker.tell("run", AHEAD)
            self._allowed = AHEAD

    def _collect(self, result: Sequence[tuple[int, list[int], End]], made: dict[int, Progress]) -> None:
        for key, tokens, end in result:
            if key not in self._running:
                continue
            if end:
                self._left(key)
            earlier = made.get(key)
            made[key] = Progress(key, [*earlier.tokens, *tokens] if earlier else tokens, end=end)

    def _left(self, key: int) -> None:
        self._running.discard(key)
        if not self._running:
            self._allowed = 0  # as it is in the process, when it has no sequence

    def reset(self) -> None:
        self._running.clear()
        if not (self._worker.alive and self._renewed()):
            self._replace()

    def _renewed(self) -> bool:
        """Whether the process could make a new engine."""
        try:
            self._worker.tell("reset")
            while (answer := self._worker.hear(RESET_PATIENCE))[0] in STEPS:
                pass
        except BackendError as exc:
            logger.warning("%s", exc)
            return False
        self._forget()
        return bool(answer[0] == "reset")

    def _replace(self) -> None:
        """Raises BackendError if the model cannot be loaded again."""
        logger.warning("the process %d, which ran a language model, is replaced", self._worker.pid)
        self._worker.close(0)
        self._forget()
        try:
            self._worker = self._load(self._patience)
        except LoadError as exc:
            raise BackendError(f"the model could not be loaded again: {exc}") from exc

    def _forget(self) -> None:
        self._unread.clear()
        self._allowed = 0

    def close(self) -> None:
        self._worker.close()


def check_tokens(tokens: Sequence[int], vocabulary_size: int) -> None:
    """Raises InvalidArgument for tokens that there are not, which would take down all sequences of the batch."""
    if not tokens:
        raise InvalidArgument("the prompt is empty: expected at least one token")
    if min(tokens) < 0 or max(tokens) >= vocabulary_size:
        raise InvalidArgument(f"expected token ids from 0 to {vocabulary_size - 1}, got {min(tokens)} to {max(tokens)}")


def turn_options(sampling: Sampling, vocabulary_size: int) -> dict[str, tuple[Any, ...]]:
    """The runtime's options of one sequence: by name, their arguments. Raises Unsupported.

    The model's end tokens are masked as long as fewer tokens than wanted are there, and so they are to the end where
    they are to be ignored.
    """
    for name, neutral in NEUTRAL.items():
        if getattr(sampling, name) != neutral:
            raise Unsupported(f"ONNX Runtime GenAI does not support '{name}'", name)
    if sampling.adapters:
        raise Unsupported("ONNX Runtime GenAI does not support 'adapters'")
    least = sampling.max_new_tokens if sampling.ignore_eos else sampling.min_new_tokens
    options: dict[str, tuple[Any, ...]] = {
        "max_generated_tokens": (sampling.max_new_tokens,),
        "min_generated_tokens": (least,),
        "repetition_penalty": (sampling.repetition_penalty,),
        **_choice(sampling, vocabulary_size),
    }
    if sampling.constraint is not None:
        kind, value = sampling.constraint.kind, sampling.constraint.value
        options["guidance"] = (GUIDANCE[kind], lark_grammar(value) if kind == "grammar" else value)
    return options


def _choice(sampling: Sampling, vocabulary_size: int) -> dict[str, tuple[Any, ...]]:
    """How a token is chosen. One of one is the likeliest, and then there is nothing to be drawn."""
    if sampling.greedy or sampling.top_k == 1:
        return {"do_sample": (False,)}
    if sampling.seed is not None:
        message = "ONNX Runtime GenAI does not support 'seed' on the CPU, but with a temperature of 0"
        raise Unsupported(message, "seed")
    return {
        "do_sample": (True,),
        "temperature": (sampling.temperature,),
        "top_p": (sampling.top_p,),
        "top_k": (min(sampling.top_k, vocabulary_size),),
    }
