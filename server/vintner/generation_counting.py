"""Counts what happens to the requests of a language model, as it happens.

Pure: knows neither engine nor threads; times are passed in, in seconds of one clock. What the figures mean is said at
`GenerationMetrics`. Invariant: a request has its first token once, and its end once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vintner.errors import VintnerError
from vintner.generation_metrics import GenerationMetrics

if TYPE_CHECKING:
    from vintner.generated_sequence import GeneratedSequence
    from vintner.generation_call import GenerationCall

EXPIRED: Final = ("CANCELLED", "DEADLINE_EXCEEDED")


def count_admission(metrics: GenerationMetrics, call: GenerationCall, now: float) -> None:
    """The first of its sequences is given to the engine."""
    call.admitted = now
    metrics.queued.observe(now - call.arrived)


def count_tokens(metrics: GenerationMetrics, sequence: GeneratedSequence, count: int, now: float) -> None:
    """A step gave a sequence so many tokens that it did not have before, or none, and its end."""
    call = sequence.call
    if not sequence.first:
        _begin(metrics, sequence, now)
    elif count:
        metrics.between_tokens.observe(now - sequence.last)
        sequence.last = now
    metrics.generated_tokens += count
    call.made += count


def _begin(metrics: GenerationMetrics, sequence: GeneratedSequence, now: float) -> None:
    call = sequence.call
    sequence.first = sequence.last = now
    if sequence.index % call.n == 0:
        metrics.prompt_tokens += len(sequence.prompt)
    if not call.first:
        call.first = now
        metrics.first_token.observe(now - call.received)
        metrics.prefill.observe(now - call.admitted)


def count_step(metrics: GenerationMetrics, before: int) -> None:
    """`before` is how many tokens of both kinds there were before the step."""
    metrics.steps += 1
    metrics.step_tokens.observe(metrics.prompt_tokens + metrics.generated_tokens - before)


def count_end(metrics: GenerationMetrics, call: GenerationCall, error: Exception | None, now: float) -> None:
    """A request was answered. One that ran has run, whatever came of it."""
    if call.admitted:
        queued, ran = call.admitted - call.arrived, now - call.admitted
        metrics.ran(len(call.sequences), (queued,), (0.0, ran, 0.0))
        if call.timing is not None:
            call.timing.ran(queued, (0.0, ran, 0.0), len(call.sequences), 1)
            call.timing.prompt_tokens, call.timing.generated_tokens = call.prompt_tokens, call.made
    if error is not None:
        expired = isinstance(error, VintnerError) and error.code in EXPIRED
        metrics.ended["abort" if expired else "error"] += 1
    else:
        _count_answer(metrics, call, now)


def _count_answer(metrics: GenerationMetrics, call: GenerationCall, now: float) -> None:
    sequences = call.sequences
    last = max(sequence.last for sequence in sequences)
    metrics.ended["length" if any(sequence.finish == "length" for sequence in sequences) else "stop"] += 1
    metrics.whole.observe(now - call.received)
    metrics.decode.observe(last - call.first)
    metrics.inference.observe(last - call.admitted)
    metrics.prompt_length.observe(call.prompt_tokens)
    metrics.answer_length.observe(call.made)
    metrics.longest_choice.observe(max(sequence.made for sequence in sequences))
    metrics.max_tokens.observe(sequences[0].sampling.max_new_tokens)
    metrics.choices.observe(call.n)
    for sequence in sequences:
        if sequence.made > 1:
            metrics.per_token.observe((sequence.last - sequence.first) / (sequence.made - 1))
