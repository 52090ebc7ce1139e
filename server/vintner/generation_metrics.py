"""What is counted of one loaded language model: requests, tokens, and how long they took.

Knows neither protocols nor how it is shown. What comes of steps is written by the model's stepping thread alone, what
is known at a request's end under the stepper's lock. Invariant: no count ever goes down.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from vintner.generation import CacheUse
from vintner.histograms import Histogram

# Each has the bounds that vLLM has for the same, which dashboards and objectives are written for, and finer ones below
# them: on a processor a small model makes a token in less than the least of vLLM's.
FIRST_TOKEN: Final = (
    0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75,
    1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
)  # fmt: skip
"""Upper bounds in seconds, of the time until something is there."""

TOKEN: Final = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75,
    1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
)  # fmt: skip
"""The same, of what a token takes."""

REQUEST: Final = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0,
    40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0,
)  # fmt: skip
"""The same, of what a request takes."""

LENGTH: Final = (
    1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 2e5, 5e5, 1e6,
)  # fmt: skip
"""Upper bounds of numbers of tokens."""

STEP: Final = (1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0)
"""The same, of the tokens of a step."""

CHOICES: Final = (1.0, 2.0, 5.0, 10.0, 20.0)

ENDS: Final = ("stop", "length", "abort", "error")
"""Why requests ended; `abort`: the client went away, or ran out of time."""

Ran = Callable[[int, Sequence[float], tuple[float, float, float]], None]
"""As `SchedulerMetrics.ran`."""


def _not_counted(rows: int, waits: Sequence[float], stages: tuple[float, float, float]) -> None:
    """Nobody wants it."""


@dataclass(frozen=True, slots=True)
class Load:
    """What is there at present."""

    running_requests: int = 0
    """Those of which a sequence is in the engine, or was."""
    waiting_requests: int = 0
    running: int = 0
    """Sequences in the engine."""
    waiting: int = 0
    """Sequences that are to be."""
    cache: CacheUse = field(default_factory=CacheUse)


@dataclass(slots=True)
class GenerationMetrics:
    """Of one model version. What a request's end tells, but why it ended, is of those that got their answers."""

    ran: Ran = _not_counted
    """Told of the run of each request, as of an execution: its choices, and how long it had waited."""
    prefix_caching: bool = False
    load: Callable[[], Load] = Load
    """Asked at scrape time."""
    prompt_tokens: int = 0
    """Of prompts whose first answer has begun; a prompt with several answers counts once."""
    generated_tokens: int = 0
    """End tokens are not among them, nor what was generated again."""
    steps: int = 0
    step_tokens: Histogram = field(default_factory=partial(Histogram, STEP))
    """Those that were generated in a step, and those of prompts that it finished reading."""
    no_room: int = 0
    """Sequences that were begun anew for want of room in the cache."""
    retried: int = 0
    """The same, after a step that failed."""
    first_token: Histogram = field(default_factory=partial(Histogram, FIRST_TOKEN))
    """From a request's arrival, before it is tokenised, to its first token."""
    between_tokens: Histogram = field(default_factory=partial(Histogram, TOKEN))
    """From a step that gave a sequence tokens to the next: several that come together are one."""
    per_token: Histogram = field(default_factory=partial(Histogram, TOKEN))
    """Of each choice with several tokens: from its first to its last, divided by the tokens behind the first."""
    whole: Histogram = field(default_factory=partial(Histogram, REQUEST))
    """From a request's arrival to its end."""
    queued: Histogram = field(default_factory=partial(Histogram, REQUEST))
    """From when a request was queued to when its first sequence was given to the engine."""
    prefill: Histogram = field(default_factory=partial(Histogram, REQUEST))
    """From there to its first token."""
    decode: Histogram = field(default_factory=partial(Histogram, REQUEST))
    """From there to its last."""
    inference: Histogram = field(default_factory=partial(Histogram, REQUEST))
    """Prefill and decode."""
    prompt_length: Histogram = field(default_factory=partial(Histogram, LENGTH))
    answer_length: Histogram = field(default_factory=partial(Histogram, LENGTH))
    """Tokens of a request, of all its choices."""
    longest_choice: Histogram = field(default_factory=partial(Histogram, LENGTH))
    max_tokens: Histogram = field(default_factory=partial(Histogram, LENGTH))
    """That a choice may have."""
    choices: Histogram = field(default_factory=partial(Histogram, CHOICES))
    """Answers to each prompt."""
    ended: dict[str, int] = field(default_factory=lambda: dict.fromkeys(ENDS, 0))
