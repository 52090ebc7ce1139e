"""What is counted of one loaded language model: tokens, and how long they took.

Knows neither protocols nor how it is shown. Written by the model's stepping thread alone. Invariant: no count ever goes
down.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from vintner.generation import CacheUse
from vintner.histograms import Histogram

SECONDS: Final = (
    1e-3, 2.5e-3, 5e-3, 10e-3, 20e-3, 40e-3, 60e-3, 80e-3,
    0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0,
)  # fmt: skip
"""Upper bounds of the latency buckets."""

TOKENS: Final = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 2e5)
"""Upper bounds of the buckets of lengths."""

ENDS: Final = ("stop", "length", "abort", "error")
"""Why requests ended; `abort`: the client went away, or ran out of time."""


def _seconds() -> Histogram:
    return Histogram(SECONDS)


def _tokens() -> Histogram:
    return Histogram(TOKENS)


@dataclass(slots=True)
class Load:
    """What is there at present."""

    running: int = 0
    """Sequences in the engine."""
    waiting: int = 0
    """Requests that are not."""
    cache: CacheUse = field(default_factory=CacheUse)


@dataclass(slots=True)
class GenerationMetrics:
    """Of one model version."""

    load: Callable[[], Load] = Load
    """Asked at scrape time."""
    prompt_tokens: int = 0
    generated_tokens: int = 0
    steps: int = 0
    retried: int = 0
    """Sequences that were begun anew, for want of room in the cache or after a step that failed."""
    first_token: Histogram = field(default_factory=_seconds)
    """From a request's arrival to its first token."""
    between_tokens: Histogram = field(default_factory=_seconds)
    """From a token of a sequence to the next."""
    per_token: Histogram = field(default_factory=_seconds)
    """Of a request, from its first token to its last, by token."""
    whole: Histogram = field(default_factory=_seconds)
    """From a request's arrival to its end."""
    queued: Histogram = field(default_factory=_seconds)
    """From a request's arrival to when the engine got it."""
    prefill: Histogram = field(default_factory=_seconds)
    """From there to its first token."""
    decode: Histogram = field(default_factory=_seconds)
    """From there to its end."""
    prompt_length: Histogram = field(default_factory=_tokens)
    answer_length: Histogram = field(default_factory=_tokens)
    """Tokens of a request, of all its choices."""
    ended: dict[str, int] = field(default_factory=lambda: dict.fromkeys(ENDS, 0))
