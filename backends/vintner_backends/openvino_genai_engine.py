"""OpenVINO GenAI's continuous batching as the seam's engine.

What the library does not tell: after `cancel` a handle can be read for ever, and gives nothing, and its blocks of the
cache are free after the next step only, so that a request which is added before finds none; end tokens are among
what it gives; a request for which the cache has no room ends as IGNORED, perhaps after some tokens; what one request
did wrong, such as a schema that cannot be followed, is raised by `step` for all of them, and again by every step until
all of them are cancelled. Prompts and token ids are not checked at all.

Invariant: `_handles` has exactly the requests that the pipeline has not finished.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import openvino as ov
import openvino_genai as genai
from vintner.errors import BackendError, InvalidArgument
from vintner.generation import CacheUse, Constraint, EngineSpec, Progress, Sampling

FIELDS: Final = (
    "min_new_tokens",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "ignore_eos",
)
"""Of `Sampling`, with the library's names."""

RANDOM: Final = ("temperature", "top_p", "min_p")
"""The same, of what only sampling has."""

SUPPORTED: Final = frozenset(
    {
        "adapters",
        "constraints",
        "frequency_penalty",
        "ignore_eos",
        "logprobs",
        "min_p",
        "min_tokens",
        "presence_penalty",
        "seed",
    }
)

BLOCK_TOKENS: Final = 32
"""Tokens of a block of the key-value cache, on the processor."""


class OpenVINOEngine:
    """One pipeline."""

    in_waves = False
    mixes_adapters = False

    def __init__(
        self,
        pipeline: Any,
        spec: EngineSpec,
        end_tokens: frozenset[int],
        adapters: Mapping[str, Any],
        blocks: int = 0,
    ) -> None:
        """`blocks` is the size of the cache, if it has one."""
        self._pipeline = pipeline
        self._spec = spec
        self._end_tokens = end_tokens
        self._adapters = adapters
        self._blocks = blocks
        self._handles: dict[int, Any] = {}
        self._switched: Mapping[str, float] | None = None  # the adapters that are in effect
        self._wants_logprobs: set[int] = set()
        self._cancelled = False  # since the last step
        self.max_sequences = spec.max_sequences

    @property
    def cache(self) -> CacheUse:
        metrics = self._pipeline.get_metrics()
        return CacheUse(metrics.cache_usage / 100, metrics.kv_cache_size_in_bytes, self._blocks, BLOCK_TOKENS)

    def add(self, key: int, tokens: Sequence[int], sampling: Sampling) -> None:
        if self._cancelled and not self._handles:
            self._step()
        try:
            config = self._config(sampling)
            config.validate()
            self._switch(sampling.adapters)
            prompt = ov.Tensor(np.array([tokens], np.int64))
            self._handles[key] = self._pipeline.add_request(key, prompt, config)
        except TypeError as exc:
            raise InvalidArgument("the runtime refuses the request: a number is too large for it") from exc
        except (RuntimeError, ValueError) as exc:
            raise InvalidArgument(f"the runtime refuses the request: {short(exc)}") from exc
        if sampling.logprobs:
            self._wants_logprobs.add(key)

    def _switch(self, adapters: Mapping[str, float]) -> None:
        """Puts adapters into effect, for which nothing may run. The library does so for `generate` alone, and keeps
        them; of those in the configuration of an added request it takes no notice."""
        if not self._adapters or adapters == self._switched:
            return
        config = self._config(Sampling(max_new_tokens=1, adapters=adapters))
        self._switched = None
        self._pipeline.generate([ov.Tensor(np.zeros((1, 1), np.int64))], [config])
        self._switched = dict(adapters)

    def _config(self, sampling: Sampling) -> Any:
        config = genai.GenerationConfig()
        config.max_new_tokens = sampling.max_new_tokens
        config.stop_token_ids = {*self._end_tokens, *sampling.stop_token_ids}
        config.apply_chat_template = False
        config.logprobs = int(sampling.logprobs)
        for name in FIELDS:
            setattr(config, name, getattr(sampling, name))
        if not sampling.greedy:
            config.do_sample = True
            for name in RANDOM:
                setattr(config, name, getattr(sampling, name))
            if sampling.top_k:
                config.top_k = sampling.top_k
            config.rng_seed = sampling.seed if sampling.seed is not None else _random_seed()
        if sampling.ignore_eos:
            config.stop_token_ids = set(sampling.stop_token_ids)
        elif self._end_tokens:
            config.set_eos_token_id(min(self._end_tokens))
        if sampling.constraint is not None:
            config.structured_output_config = _structured(sampling.constraint)
        if sampling.adapters:
            config.adapters = _adapters(self._adapters, sampling.adapters)
        elif self._adapters:
            config.adapters = genai.AdapterConfig()
        if self._spec.assistant_tokens:
            config.num_assistant_tokens = self._spec.assistant_tokens
        if self._spec.ngram:
            config.max_ngram_size = self._spec.ngram
        return config

    def cancel(self, key: int) -> None:
        handle = self._handles.pop(key, None)
        self._wants_logprobs.discard(key)
        if handle is not None:
            handle.cancel()
            self._cancelled = True

    def step(self) -> Sequence[Progress]:
        self._step()
        made: list[Progress] = []
        ended: list[int] = []
        for key, handle in self._handles.items():
            if handle.can_read():
                for output in handle.read().values():
                    progress = self._progress(key, output)
                    made.append(progress)
                    if progress.end:
                        ended.append(key)
            elif handle.get_status() == IGNORED:
                made.append(Progress(key, (), end="no_room"))
                ended.append(key)
        for key in ended:
            self._handles.pop(key, None)
            self._wants_logprobs.discard(key)
        return made

    def _progress(self, key: int, output: Any) -> Progress:
        tokens: list[int] = output.generated_ids
        reason = output.finish_reason
        progress = Progress(key, tokens)
        if key in self._wants_logprobs:
            progress.logprobs = output.generated_log_probs
        if reason == STOP:
            progress.end = "stop"
            if tokens:
                progress.tokens = tokens[:-1]
                progress.logprobs = progress.logprobs[: len(tokens) - 1]
        elif reason == LENGTH:
            progress.end = "length"
        return progress

    def reset(self) -> None:
        for handle in self._handles.values():
            handle.cancel()
        self._handles.clear()
        self._wants_logprobs.clear()
        self._step()

    def _step(self) -> None:
        self._cancelled = False
        try:
            self._pipeline.step()
        except RuntimeError as exc:
            raise BackendError(short(exc)) from exc


IGNORED: Final = genai.GenerationStatus.IGNORED
STOP: Final = genai.GenerationFinishReason.STOP
LENGTH: Final = genai.GenerationFinishReason.LENGTH


def _random_seed() -> int:
    """The library's own is the same for every request."""
    return int.from_bytes(np.random.default_rng().bytes(4), "little")


def _structured(constraint: Constraint) -> Any:
    config = genai.StructuredOutputConfig()
    setattr(config, constraint.kind, constraint.value)
    return config


def _adapters(known: Mapping[str, Any], wanted: Mapping[str, float]) -> Any:
    config = genai.AdapterConfig()
    for name, weight in wanted.items():
        if name not in known:
            raise InvalidArgument(f"the model has no adapter '{name}', only {', '.join(sorted(known)) or 'none'}")
        config.add(known[name], weight)
    return config


PLACE: Final = re.compile(r"^(\[[\d:]+\] )?\S+\.(cc|cpp|hpp|h):\d+: ")
"""Of the library's source, in front of what it says."""


def short(error: Exception) -> str:
    """What an exception of the library's says, without the places in its source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    lines = [PLACE.sub("", line) for line in lines]
    told = [line for line in lines if not line.startswith(("Exception from", "Check '"))] or lines
    return told[-1].rsplit("Internal error: ", 1)[-1] if told else type(error).__name__
