"""The series of language models, by the server's own names and by vLLM's, from made-up counts."""

from __future__ import annotations

import re

import pytest
from prometheus_client.parser import text_string_to_metric_families
from vintner import generation_families
from vintner.exposition import HistogramMetricFamily, exposition
from vintner.generation import CacheUse
from vintner.generation_metrics import ENDS, GenerationMetrics, Load
from vintner.histograms import Histogram
from vintner.metrics import Registry
from vintner.model_metrics import ModelMetrics
from vintner.vllm_metrics import HISTOGRAMS, VllmMetrics

BOUNDED = CacheUse(0.25, 1024, 64, 32)
GROWING = CacheUse(1.0, 1024, 0, 32)
UNKNOWN = CacheUse()
VLLM = 'model_name="m",engine="0",version="2"'
OWN = 'model="m",version="2"'


def model(cache: CacheUse = BOUNDED, version: str = "2") -> ModelMetrics:
    made = ModelMetrics("m", version)
    counts = made.generation = GenerationMetrics(prefix_caching=True, load=lambda: Load(2, 3, 5, 7, cache))
    counts.prompt_tokens, counts.generated_tokens, counts.steps, counts.no_room, counts.retried = 11, 13, 17, 19, 23
    counts.ended |= {reason: number for number, reason in enumerate(ENDS, 31)}
    for number, name in enumerate(HISTOGRAMS):
        getattr(counts, HISTOGRAMS[name][0]).observe(0.3 + number)
    return made


def own(*models: ModelMetrics) -> str:
    return exposition(generation_families.families(models)).decode()


def vllm(*models: ModelMetrics) -> str:
    return exposition(VllmMetrics().families(models)).decode()


def test_each_count_has_its_own_name() -> None:
    text = own(model())
    for name, value in {
        "prompt_tokens_total": 11, "generated_tokens_total": 13, "steps_total": 17, "requests_running": 2,
        "requests_waiting": 3, "sequences_running": 5, "sequences_waiting": 7, "cache_bytes": 1024,
        "cache_used_bytes": 256, "cache_usage_ratio": 0.25,
    }.items():  # fmt: skip
        assert f"\nvintner_generation_{name}{{{OWN}}} {float(value)}\n" in text
    for number, reason in enumerate(ENDS, 31):
        assert f'vintner_generation_requests_total{{{OWN},reason="{reason}"}} {number}.0\n' in text
    assert f'vintner_generation_restarts_total{{{OWN},reason="no_room"}} 19.0\n' in text
    assert f'vintner_generation_restarts_total{{{OWN},reason="failed_step"}} 23.0\n' in text
    for attribute, (name, _) in generation_families.HISTOGRAMS.items():
        histogram = getattr(model().generation, attribute)
        assert f"vintner_generation_{name}_sum{{{OWN}}} {histogram.total}\n" in text
        assert f"vintner_generation_{name}_count{{{OWN}}} {sum(histogram.counts)}\n" in text


def test_each_count_has_vllms_name() -> None:
    text = vllm(model())
    for name, value in {
        "prompt_tokens_total": 11, "generation_tokens_total": 13, "num_preemptions_total": 19,
        "num_requests_running": 5, "num_requests_waiting": 7, "kv_cache_usage_perc": 0.25, "gpu_cache_usage_perc": 0.25,
    }.items():  # fmt: skip
        assert f"\nvllm:{name}{{{VLLM}}} {float(value)}\n" in text
    for number, reason in enumerate(ENDS, 31):
        assert f'vllm:request_success_total{{{VLLM},finished_reason="{reason}"}} {number}.0\n' in text
    cache = 'block_size="32",num_gpu_blocks="64",enable_prefix_caching="True"'
    assert f"vllm:cache_config_info{{{VLLM},{cache}}} 1.0\n" in text


@pytest.mark.parametrize("name", HISTOGRAMS)
def test_a_histogram_by_vllms_name_has_vllms_bounds_and_what_is_below_each(name: str) -> None:
    attribute, bounds, _ = HISTOGRAMS[name]
    made = model()
    histogram = getattr(made.generation, attribute)
    for value in (bounds[0], bounds[0] / 2, bounds[3], bounds[-1] * 2):
        histogram.observe(value)
    found = re.findall(rf'^vllm:{name}_bucket{{{VLLM},le="(.*)"}} (\d+)$', vllm(made), re.MULTILINE)
    assert [bound for bound, _ in found] == [*map(repr, bounds), "+Inf"]
    exact = dict(histogram.cumulative())
    assert {bound: float(number) for bound, number in found} == {bound: exact[bound] for bound, _ in found}
    assert f"vllm:{name}_count{{{VLLM}}} {int(exact['+Inf'])}\n" in vllm(made)
    assert f"vllm:{name}_sum{{{VLLM}}} {histogram.total}\n" in vllm(made)


@pytest.mark.parametrize(
    ("cache", "there"),
    [
        (BOUNDED, {"cache_bytes", "cache_used_bytes", "cache_usage_ratio"}),
        (GROWING, {"cache_bytes", "cache_used_bytes"}),
        (UNKNOWN, set()),
    ],
)
def test_what_is_not_known_of_the_cache_has_no_series(cache: CacheUse, there: set[str]) -> None:
    made = model(cache)
    assert set(re.findall(r"^vintner_generation_(cache_\w+){", own(made), re.MULTILINE)) == there
    bounded = bool(cache.blocks)
    for name in ("kv_cache_usage_perc", "gpu_cache_usage_perc", "cache_config_info"):
        assert (f"\nvllm:{name}{{" in vllm(made)) == bounded


def test_only_language_models_have_series_and_vllms_families_are_there_with_the_first() -> None:
    plain = ModelMetrics("plain", "1")
    assert vllm(plain) == ""
    assert not [line for line in own(plain).splitlines() if not line.startswith("#")]
    assert '"plain"' not in own(plain, model()) + vllm(plain, model())


def test_two_versions_are_told_apart() -> None:
    text = own(model(), model(version="3")) + vllm(model(), model(version="3"))
    lines = [line.rpartition(" ")[0] for line in text.splitlines() if not line.startswith("#")]
    assert len(set(lines)) == len(lines)


def test_a_parser_that_is_not_ours_reads_all_of_it() -> None:
    registry = Registry(dialects=[VllmMetrics()])
    registry.add(model())
    families = {family.name: family for family in text_string_to_metric_families(registry.render().decode())}
    assert families["vllm:time_to_first_token_seconds"].type == "histogram"
    assert families["vllm:request_success"].type == "counter"
    assert families["vllm:kv_cache_usage_perc"].type == "gauge"
    assert families["vintner_generation_time_to_first_token_seconds"].type == "histogram"


def test_coarser_bounds_lose_no_observation() -> None:
    histogram = Histogram((1.0, 2.0, 3.0, 4.0))
    for value in (0.5, 1.0, 1.5, 3.5, 9.0):
        histogram.observe(value)
    family = HistogramMetricFamily("h", "h")
    histogram.add_coarser_to(family, "", (2.0, 4.0))
    assert family.text().splitlines()[2:] == [
        'h_bucket{le="2.0"} 3', 'h_bucket{le="4.0"} 4', 'h_bucket{le="+Inf"} 5', "h_count 5", "h_sum 15.5",
    ]  # fmt: skip
