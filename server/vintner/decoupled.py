"""Decoupled models, which give any number of responses to a request, as the scheduler runs others.

A run of theirs is a generation: the responses leave one by one while it goes on, and what the scheduler gets in the end
is empty. So their requests wait, expire, are cancelled and counted as all others.

Invariant: once a request has been answered, no response of it leaves any more, and its generator is closed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeGuard, cast

from vintner.backend import GeneratingModel, Generator, LoadedModel, LoadSpec, close_anyway
from vintner.call import Arrays, Call, Parametrized, Result
from vintner.errors import LoadError
from vintner.model_config import ModelConfig
from vintner.response_metrics import ResponseMetrics, ResponseTimes
from vintner.rests import Rests
from vintner.types import Array, Parameter, TensorSpec

Load = Callable[[LoadSpec], LoadedModel]


class Generation(Parametrized[Array]):
    """The inputs of one request, with its parameters and where its responses go."""

    def __init__(
        self,
        inputs: Arrays,
        parameters: Mapping[str, Parameter],
        respond: Callable[[Arrays], None],
        metrics: ResponseMetrics,
    ) -> None:
        """`respond` is called in the thread of the run, and may block it."""
        super().__init__(inputs, parameters)
        self._respond = respond
        self.metrics = metrics
        self.rests = Rests(time.monotonic)
        self.over = False
        """Whether nobody wants more: the client went away, or the deadline passed."""

    def respond(self, outputs: Arrays) -> None:
        """Blocks while the client is slow."""
        with self.rests.one():
            self._respond(outputs)


def let_generate(
    call: Call, parameters: Mapping[str, Parameter], respond: Callable[[Arrays], None], metrics: ResponseMetrics
) -> None:
    """Makes a generation of a call that has not been submitted. It does not know the call: the two would keep each
    other, and the arrays, until Python looks for such circles, which it does rarely here."""
    generation = Generation(call.inputs, parameters, respond, metrics)
    done = call.done

    def end(result: Result) -> None:
        generation.over = True
        done(result)

    call.inputs, call.done, call.rests = generation, end, generation.rests


class GeneratorInstance:
    """A backend's generator as an instance."""

    def __init__(self, generator: Generator) -> None:
        self._generator = generator

    def run(self, inputs: Arrays) -> Arrays:
        """Generates until the end, or until nobody wants more. Of inputs of no request, as of a warm-up or an
        examination, that is the first response: the last one may never come."""
        asked = inputs if isinstance(inputs, Generation) else None
        times = ResponseTimes(asked.metrics if asked else ResponseMetrics())
        responses: Iterable[Arrays] = ()
        try:
            responses = self._generator.generate(inputs, inputs.parameters if isinstance(inputs, Parametrized) else {})
            for outputs in responses:
                if asked is None or asked.over:
                    break
                times.computed()
                asked.respond(outputs)
                times.sent()
        except BaseException:
            times.end("fail")
            raise
        finally:
            _close(responses)
        times.end("cancel" if asked and asked.over else "empty_response")
        return {}


def _close(responses: Iterable[Arrays]) -> None:
    """Ends a generator where it is; an iterator of another kind need not have such a thing."""
    close = getattr(responses, "close", None)
    if close is not None:
        close_anyway(close, "a generator")


@dataclass(frozen=True, slots=True)
class DecoupledModel:
    """A loaded model whose instances generate, with instances that can be run."""

    model: GeneratingModel
    instances: Sequence[GeneratorInstance]

    @property
    def platform(self) -> str:
        return self.model.platform

    @property
    def inputs(self) -> Sequence[TensorSpec]:
        return self.model.inputs

    @property
    def outputs(self) -> Sequence[TensorSpec]:
        return self.model.outputs

    def close(self) -> None:
        self.model.close()


def is_decoupled(model: LoadedModel) -> bool:
    return isinstance(model, DecoupledModel)


def _generates(model: LoadedModel | GeneratingModel) -> TypeGuard[GeneratingModel]:
    return any(hasattr(instance, "generate") for instance in model.instances)


def loader(load: Callable[[LoadSpec], LoadedModel | GeneratingModel], config: ModelConfig) -> Load:
    """A backend's `load`, whose models can be run, whatever their kind.

    The model is closed, and LoadError raised, if its kind contradicts the configuration.
    """

    def loaded(spec: LoadSpec) -> LoadedModel:
        model = load(spec)
        problem = _problem(config) if _generates(model) else _missing(config)
        if problem:
            close_anyway(model.close, "a model that is not served")
            raise LoadError(problem)
        if _generates(model):
            return DecoupledModel(model, [GeneratorInstance(instance) for instance in model.instances])
        return cast(LoadedModel, model)

    return loaded


def _problem(config: ModelConfig) -> str:
    """What of a configuration a decoupled model cannot have."""
    unfit = {
        "max_batch_size": config.batching.max_batch_size is not None,
        "compiled_sizes": bool(config.batching.compiled_sizes),
        "response_cache": config.response_cache,
        "ragged": any(tensor.ragged for tensor in config.inputs.values()),
    }
    named = [key for key, given in unfit.items() if given]
    return f"a decoupled model cannot have {' or '.join(named)}: its requests are not stacked" if named else ""


def _missing(config: ModelConfig) -> str:
    if not config.decoupled:
        return ""
    return "the configuration says `decoupled`, but the backend gives one response to a request"
