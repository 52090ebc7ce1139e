"""The metrics of language models by vLLM's names, `vllm:*`, made of what is counted anyway when somebody scrapes.

Pure, but that each model is asked for its load. Names, types, labels and bounds are those of vLLM's V1 engine; a label
`version` is added, for two versions of a model may be loaded. Invariant: what is not known has no series.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from vintner.exposition import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    MetricFamily,
    label_pairs,
)
from vintner.generation_families import generating
from vintner.generation_metrics import CHOICES, LENGTH, STEP, GenerationMetrics, Load
from vintner.model_metrics import ModelMetrics

FIRST_TOKEN: Final = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
    160.0, 640.0, 2560.0,
)  # fmt: skip
TOKEN: Final = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
)  # fmt: skip
REQUEST: Final = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0,
    1920.0, 7680.0,
)  # fmt: skip

COUNTERS: Final[Mapping[str, tuple[str, str]]] = {
    "prompt_tokens": ("prompt_tokens", "Tokens of prompts that were read."),
    "generation_tokens": ("generated_tokens", "Tokens that were generated."),
    "num_preemptions": ("no_room", "Sequences that were begun anew for want of room in the key-value cache."),
}
"""Names, with the attribute of `GenerationMetrics` and their help."""

HISTOGRAMS: Final[Mapping[str, tuple[str, tuple[float, ...], str]]] = {
    "time_to_first_token_seconds": ("first_token", FIRST_TOKEN, "From a request's arrival to its first token."),
    "inter_token_latency_seconds": ("between_tokens", TOKEN, "Between steps that gave a sequence tokens."),
    "time_per_output_token_seconds": ("between_tokens", TOKEN, "The same, by its older name."),
    "request_time_per_output_token_seconds": ("per_token", TOKEN, "Of each choice, on average behind its first token."),
    "e2e_request_latency_seconds": ("whole", REQUEST, "From a request's arrival to its end."),
    "request_queue_time_seconds": ("queued", REQUEST, "From when a request was queued to when the engine got it."),
    "request_inference_time_seconds": ("inference", REQUEST, "From there to its last token."),
    "request_prefill_time_seconds": ("prefill", REQUEST, "From when the engine got a request to its first token."),
    "request_decode_time_seconds": ("decode", REQUEST, "From a request's first token to its last."),
    "request_prompt_tokens": ("prompt_length", LENGTH, "Tokens of a request's prompts."),
    "request_generation_tokens": ("answer_length", LENGTH, "Tokens that were generated for a request."),
    "request_max_num_generation_tokens": ("longest_choice", LENGTH, "Tokens of a request's longest choice."),
    "request_params_n": ("choices", CHOICES, "Answers to each prompt that a request asks for."),
    "request_params_max_tokens": ("max_tokens", LENGTH, "Tokens that a choice of a request may have."),
    "iteration_tokens_total": ("step_tokens", STEP, "Tokens of a step: generated, and of prompts that were read."),
}
"""Names, with the attribute of `GenerationMetrics`, the bounds, and their help."""

GAUGES: Final[Mapping[str, str]] = {
    "num_requests_running": "Sequences in the engine.",
    "num_requests_waiting": "Sequences that wait for a place there.",
    "kv_cache_usage_perc": "The share of the key-value cache that is used; 1 is all of it.",
    "gpu_cache_usage_perc": "The same, by its older name.",
}


class VllmMetrics:
    """Of all loaded models that generate."""

    def attach(self, model: ModelMetrics) -> None:
        """Everything is counted already."""

    def families(self, models: Sequence[ModelMetrics]) -> Iterator[MetricFamily]:
        """None, if no model generates."""
        language = [(_named(model), counts, counts.load()) for model, counts in generating(models)]
        if language:
            yield from _counters(language)
            yield from _histograms(language)
            yield from _gauges(language)


Language = Sequence[tuple[str, GenerationMetrics, Load]]
"""Labels, counts, and what is there at present, of each model."""


def _named(model: ModelMetrics) -> str:
    return label_pairs({"model_name": model.model, "engine": "0", "version": model.version})


def _counters(language: Language) -> Iterator[MetricFamily]:
    for name, (attribute, text) in COUNTERS.items():
        family = CounterMetricFamily(f"vllm:{name}", text)
        for labels, counts, _ in language:
            family.add_labelled(labels, getattr(counts, attribute))
        yield family
    ended = CounterMetricFamily("vllm:request_success", "Requests that ended, by why.")
    for labels, counts, _ in language:
        for reason, number in counts.ended.items():
            ended.add_labelled(f'{labels},finished_reason="{reason}"', number)
    yield ended


def _histograms(language: Language) -> Iterator[MetricFamily]:
    for name, (attribute, bounds, text) in HISTOGRAMS.items():
        family = HistogramMetricFamily(f"vllm:{name}", text)
        for labels, counts, _ in language:
            getattr(counts, attribute).add_coarser_to(family, labels, bounds)
        yield family


def _gauges(language: Language) -> Iterator[MetricFamily]:
    families = {name: GaugeMetricFamily(f"vllm:{name}", text) for name, text in GAUGES.items()}
    config = GaugeMetricFamily("vllm:cache_config_info", "The key-value cache, if it has a given size; always 1.")
    for labels, counts, load in language:
        values: dict[str, float] = {"num_requests_running": load.running, "num_requests_waiting": load.waiting}
        if load.cache.blocks:
            values |= dict.fromkeys(("kv_cache_usage_perc", "gpu_cache_usage_perc"), load.cache.used)
            config.add_labelled(f"{labels},{_cache_labels(counts, load)}", 1)
        for name, value in values.items():
            families[name].add_labelled(labels, value)
    yield from families.values()
    yield config


def _cache_labels(counts: GenerationMetrics, load: Load) -> str:
    cache = load.cache
    return label_pairs(
        {
            "block_size": str(cache.block_tokens),
            "num_gpu_blocks": str(cache.blocks),
            "enable_prefix_caching": str(counts.prefix_caching),
        }
    )
