"""Triton's model statistics, made from the metrics when somebody asks.

Pure. The document has the names and the nesting of `ModelStatistics`, so JSON is written and the message is filled from
the same one. Durations are sums in nanoseconds. What the response cache answered is a success, but neither an inference
nor an execution.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vintner.model_metrics import ModelMetrics, Stages


def statistics(model: ModelMetrics) -> dict[str, Any]:
    """Of one model version since it was loaded. `inference_count` counts rows, `execution_count` batches."""
    scheduler = model.scheduler
    requests = model.requests.values()
    succeeded = sum(one.outcomes["ok"] for one in requests)
    answered = sum(sum(one.outcomes.values()) for one in requests)
    succeeded_seconds = sum(one.succeeded_seconds for one in requests)
    seconds = sum(one.duration.total for one in requests)
    cache = model.cache
    return {
        "name": model.model,
        "version": model.version,
        "last_inference": int(scheduler.last * 1000),
        "inference_count": int(scheduler.rows.total),
        "execution_count": scheduler.executions,
        "inference_stats": {
            "success": _duration(succeeded, succeeded_seconds),
            "fail": _duration(answered - succeeded, seconds - succeeded_seconds),
            "queue": _duration(sum(scheduler.wait.counts), scheduler.wait.total),
            **_stages(scheduler.requests),
            "cache_hit": _duration(cache.hits, cache.hit_seconds),
            "cache_miss": _duration(cache.misses, cache.miss_seconds),
        },
        "response_stats": {
            str(place): {kind: _duration(*sums) for kind, sums in kinds.items()}
            for place, kinds in enumerate(model.responses.places)
        },
        "batch_stats": [
            {"batch_size": rows, **_stages(stages)} for rows, stages in sorted(dict(scheduler.by_rows).items())
        ],
        "memory_usage": [],
    }


def document(models: Sequence[ModelMetrics]) -> dict[str, Any]:
    """The reply to a request for statistics."""
    return {"model_stats": [statistics(model) for model in models]}


def _stages(stages: Stages) -> dict[str, dict[str, int]]:
    return {
        "compute_input": _duration(stages.count, stages.input),
        "compute_infer": _duration(stages.count, stages.infer),
        "compute_output": _duration(stages.count, stages.output),
    }


def _duration(count: int, seconds: float) -> dict[str, int]:
    return {"count": count, "ns": max(0, round(seconds * 1e9))}
