"""One loaded version of a language model: makes calls of requests, and has them generated.

Knows the core's requests and no protocol. A request either brings what it asks (`Request.asked`), as from the OpenAI
API, or has tensors as Triton's clients send them, of which `text_tensors` makes the same.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from vintner.cores import available_cores
from vintner.errors import InvalidArgument, LoadError, Stopping
from vintner.generation import LanguageModel, Sampling
from vintner.generation_call import GenerationCall
from vintner.generation_limits import MOST_CHOICES, check_prompt
from vintner.generation_metrics import GenerationMetrics
from vintner.model_config import BatchingConfig, ModelConfig
from vintner.model_metrics import PoolState
from vintner.prompts import Language, Template, Work
from vintner.queue_policy import QueuePolicy, queue_limits
from vintner.servable import Servable
from vintner.stepping import Stepper
from vintner.text_tensors import INPUTS, OPTIONAL_INPUTS, OUTPUTS, TextAsked
from vintner.timing import Timing
from vintner.turns import Threads
from vintner.types import Request, Response


class LanguageServable(Servable):
    """Its requests share one engine, which a thread of its own steps."""

    language: Language

    def __init__(
        self,
        name: str,
        version: int,
        model: LanguageModel,
        config: ModelConfig,
        threads: Threads | None = None,
        backend: str = "",
        template: Template | None = None,
        tool_parser: str | None = None,
        reasoning_parser: str | None = None,
    ) -> None:
        """Takes ownership of the model. The parsers are names, of what the model's text is read with.

        Raises LoadError if the configuration contradicts it.
        """
        super().__init__(name, version, model.platform, config, backend, INPUTS, OUTPUTS)
        _check_length(config, model)
        self.decoupled = True
        self.optional_inputs = OPTIONAL_INPUTS
        self._device = config.device
        self._policy = QueuePolicy(config.queue)
        self._default = config.generation.default_max_tokens
        self.language = Language(
            name,
            self.version,
            model.tokenizer,
            template,
            min(model.context_length, config.generation.max_model_length or model.context_length),
            model.vocabulary_size,
            model.defaults,
            model.supported,
            config.generation.default_max_tokens or 0,
            frozenset(config.generation.adapters),
            tool_parser,
            reasoning_parser,
        )
        self.metrics.generation = self._counts = GenerationMetrics(
            self.metrics.scheduler.ran, config.generation.prefix_caching
        )
        self.metrics.tag(config.metric_tags)
        self._used = 0.0
        self._stepper = Stepper(
            model.engine,
            limits=queue_limits(config.queue),
            metrics=self._counts,
            alarms=(threads or Threads()).alarms,
            timeout=config.execution_timeout_seconds,
            name=self.title,
            cores=available_cores(),
            closed=model.close,
        )

    def _take_on(self, config: ModelConfig) -> None:
        check_keys(config)
        self._stepper.reconfigure(queue_limits(config.queue), config.execution_timeout_seconds)
        self._policy = QueuePolicy(config.queue)
        self.metrics.tag(config.metric_tags)

    @property
    def pools(self) -> Sequence[PoolState]:
        out = bool(self._stepper.fault)
        return [PoolState(self._device, int(self._stepper.busy), int(not out), int(out))]

    @property
    def faults(self) -> str:
        return self._stepper.fault

    @property
    def down(self) -> bool:
        return bool(self._stepper.fault)

    def _gauges(self) -> Mapping[str, float]:
        requests, size = self._stepper.queued
        oldest = self._stepper.longest_wait
        return {"queue_requests": requests, "queue_bytes": size, "queue_oldest": oldest, "waiting": 0}

    @property
    def _last_used(self) -> float:
        return self._used

    def _when_idle(self, callback: Callable[[], None]) -> None:
        self._stepper.when_idle(callback)

    def cut_short(self) -> None:
        self._stepper.cut_short(Stopping("the server is stopping"))

    def close(self) -> None:
        self._stepper.close()

    # -- inference -------------------------------------------------------------------------------------------

    def submit(self, request: Request, reply: Callable[[Response | Exception], None]) -> None:
        """Raises as `Stepper.submit` does, too."""
        received = time.monotonic()
        asked = request.asked
        text: TextAsked | None = None
        if asked is None:
            asked = text = TextAsked(request, self.name, self.version)
        work = self._within_bounds(asked.prepare(self.language))
        identity = request.id

        def done(error: Exception | None) -> None:
            self._used = time.time()
            if error is not None:
                reply(error)
            else:
                reply(text.response() if text else Response(self.name, self.version, {}, identity))

        place = self._policy.place(request.parameters) if request.parameters else self._policy.usual
        call = GenerationCall(
            asked,
            work,
            self.language.tokenizer,
            done,
            deadline=request.deadline,
            timeout=None if place.timeout is None else time.monotonic() + place.timeout,
            cancellation=request.cancellation,
            level=place.level,
            received=received,
            timing=_timing(request, received),
        )
        self._stepper.submit(call)

    def _within_bounds(self, work: Work) -> Work:
        """The work with its tokens counted. Raises InvalidArgument."""
        choices = len(work.prompts) * work.n
        if not 1 <= choices <= MOST_CHOICES:
            raise InvalidArgument(f"expected at most {MOST_CHOICES} choices of a request, got {choices}")
        wanted = work.sampling.max_new_tokens
        for prompt in work.prompts:
            check_prompt(self.language, prompt, wanted)
        room = self.language.context_length - max(map(len, work.prompts))
        return replace(work, sampling=self._complete(work.sampling, room))

    def _complete(self, sampling: Sampling, room: int) -> Sampling:
        """With a length, and with a seed of its own where the runtime knows seeds: what is drawn can then be drawn
        again, if it has to be. Raises InvalidArgument."""
        most = sampling.max_new_tokens or min(room, self._default or room)
        if sampling.min_new_tokens > most:
            raise InvalidArgument(
                f"parameter 'min_tokens': expected at most the {most} tokens that the answer may have, got"
                f" {sampling.min_new_tokens}",
                "min_tokens",
            )
        seed = sampling.seed
        if seed is None and not sampling.greedy and "seed" in self.language.supported:
            seed = secrets.randbits(32)
        return replace(sampling, max_new_tokens=most, seed=seed)


def _timing(request: Request, received: float) -> Timing | None:
    """For the access log, if there is one."""
    if request.visit is None:
        return None
    request.visit.timing = Timing(received)
    return request.visit.timing


def _check_length(config: ModelConfig, model: LanguageModel) -> None:
    longest = config.generation.max_model_length
    if longest is not None and longest > model.context_length:
        raise LoadError(f"max_model_length: the model has a context of {model.context_length} tokens, got {longest}")


def check_keys(config: ModelConfig) -> None:
    """Raises LoadError for what a language model cannot have, of all that a configuration may say."""
    unfit = {
        **{key: getattr(config.batching, key) != getattr(BATCHING, key) for key in BatchingConfig.model_fields},
        "response_cache": config.response_cache,
        "inputs": bool(config.inputs),
        "batch_inputs": bool(config.batch_inputs),
        "outputs": bool(config.outputs),
        "warmup": bool(config.warmup),
        "instances": (config.instances or 1) > 1,
        "streams": config.streams is not None,
        "rate_limiter": config.rate_limiter is not None,
        "reopen_after_failures": "reopen_after_failures" in config.model_fields_set,
        "several pools": len(config.in_pools()) > 1,
        "timeout_action: delay": config.queue.timeout_action == "delay",
    }
    named = [key for key, given in unfit.items() if given and key != "enabled"]
    if named:
        raise LoadError(f"a language model cannot have {' or '.join(named)}: its requests share one engine")


BATCHING: Final = BatchingConfig()
