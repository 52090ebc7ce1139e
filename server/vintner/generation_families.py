"""The server's own metrics of language models, `vintner_generation_*`, made of what is counted when somebody scrapes.

Pure, but that each model is asked for its load. Invariant: a model that does not generate has no series.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from vintner.exposition import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, MetricFamily
from vintner.generation_metrics import GenerationMetrics, Load
from vintner.model_metrics import ModelMetrics

COUNTERS: Final[Mapping[str, tuple[str, str]]] = {
    "prompt_tokens": ("prompt_tokens", "Tokens of prompts that were read."),
    "generated_tokens": ("generated_tokens", "Tokens that were generated."),
    "steps": ("steps", "Steps of the engine, each for all sequences in it."),
}
"""Names behind the prefix, by attribute of `GenerationMetrics`, and their help."""

HISTOGRAMS: Final[Mapping[str, tuple[str, str]]] = {
    "first_token": ("time_to_first_token_seconds", "From a request's arrival to its first token."),
    "between_tokens": ("time_between_tokens_seconds", "From a step that gave a sequence tokens to the next one."),
    "per_token": ("time_per_token_seconds", "Of each choice, from its first token to its last, by token."),
    "whole": ("request_duration_seconds", "From a request's arrival to its end."),
    "queued": ("queue_duration_seconds", "From when a request was queued to when the engine got it."),
    "prefill": ("prefill_duration_seconds", "From when the engine got a request to its first token."),
    "decode": ("decode_duration_seconds", "From a request's first token to its last."),
    "prompt_length": ("request_prompt_tokens", "Tokens of a request's prompts."),
    "answer_length": ("request_generated_tokens", "Tokens that were generated for a request."),
    "step_tokens": ("step_tokens", "Tokens that a step generated, and those of prompts that it finished reading."),
}

GAUGES: Final[Mapping[str, str]] = {
    "requests_running": "Requests that the engine has begun.",
    "requests_waiting": "Requests that it has not.",
    "sequences_running": "Sequences in the engine.",
    "sequences_waiting": "Sequences that wait for a place there.",
    "cache_bytes": "Bytes of the key-value cache.",
    "cache_used_bytes": "Those that sequences use.",
    "cache_usage_ratio": "The share of a key-value cache of a given size that sequences use.",
}


def generating(models: Sequence[ModelMetrics]) -> Sequence[tuple[ModelMetrics, GenerationMetrics]]:
    """Those that are language models."""
    return [(model, model.generation) for model in models if model.generation is not None]


def families(models: Sequence[ModelMetrics]) -> Iterator[MetricFamily]:
    """Of those of the models that generate. All families are there in any case."""
    language = generating(models)
    for attribute, (name, text) in COUNTERS.items():
        counter = CounterMetricFamily(f"vintner_generation_{name}", text)
        for model, counts in language:
            counter.add_labelled(model.labels, getattr(counts, attribute))
        yield counter
    yield from _by_reason(language)
    for attribute, (name, text) in HISTOGRAMS.items():
        histogram = HistogramMetricFamily(f"vintner_generation_{name}", text)
        for model, counts in language:
            getattr(counts, attribute).add_to(histogram, model.labels)
        yield histogram
    gauges = {name: GaugeMetricFamily(f"vintner_generation_{name}", text) for name, text in GAUGES.items()}
    for model, counts in language:
        for name, value in _present(counts.load()).items():
            gauges[name].add_labelled(model.labels, value)
    yield from gauges.values()


def _by_reason(language: Sequence[tuple[ModelMetrics, GenerationMetrics]]) -> Iterator[MetricFamily]:
    requests = CounterMetricFamily("vintner_generation_requests", "Requests that were queued and ended, by why.")
    restarts = CounterMetricFamily("vintner_generation_restarts", "Sequences that were begun anew, by why.")
    for model, counts in language:
        for reason, number in counts.ended.items():
            requests.add_labelled(f'{model.labels},reason="{reason}"', number)
        for reason, number in (("no_room", counts.no_room), ("failed_step", counts.retried)):
            restarts.add_labelled(f'{model.labels},reason="{reason}"', number)
    yield requests
    yield restarts


def _present(load: Load) -> Mapping[str, float]:
    """The gauges by name. Where a runtime does not tell of its cache, or it grows, what cannot be said is not there."""
    values: dict[str, float] = {
        "requests_running": load.running_requests,
        "requests_waiting": load.waiting_requests,
        "sequences_running": load.running,
        "sequences_waiting": load.waiting,
    }
    cache = load.cache
    if cache.block_tokens:
        values |= {"cache_bytes": cache.size, "cache_used_bytes": round(cache.used * cache.size)}
    if cache.blocks:
        values["cache_usage_ratio"] = cache.used
    return values
