"""Teaches a causal language model until it says every answer by itself.

It knows tokens, not texts. Invariant: a model is done when each wanted token leads all others by a margin.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from tiny_llm_lessons import Example
from transformers import PreTrainedModel

IGNORED = -100
"""The label of a token that does not count in the loss."""


@dataclass(frozen=True, slots=True)
class Schedule:
    steps: int
    batch_tokens: int
    """What a batch may hold, padding included."""
    learning_rate: float = 3e-3
    warm_up: int = 50


def train(
    model: PreTrainedModel, epochs: Callable[[], list[Example]], schedule: Schedule, report: Callable[[str], None]
) -> None:
    """Each call of `epochs` gives the examples of the next epoch; the order of its batches is drawn by torch."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=schedule.learning_rate, weight_decay=0.01, betas=(0.9, 0.98))
    rates = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, schedule.learning_rate, total_steps=schedule.steps, pct_start=schedule.warm_up / schedule.steps
    )
    model.train()
    step = 0
    while step < schedule.steps:
        of_epoch = batches(epochs(), schedule.batch_tokens)
        for index in torch.randperm(len(of_epoch)).tolist():
            loss = model(**collate(of_epoch[index])).loss
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            rates.step()
            step += 1
            if step % 50 == 0:
                report(f"step {step}: loss {loss.item():.5f}")
            if step == schedule.steps:
                break
    model.eval()


def batches(examples: Sequence[Example], batch_tokens: int) -> list[list[Example]]:
    """Examples of about one length together, so that little is padding."""
    by_length = sorted(examples, key=lambda each: len(each.prompt) + len(each.answer))
    result: list[list[Example]] = [[]]
    for example in by_length:
        length = len(example.prompt) + len(example.answer)
        if result[-1] and length * (len(result[-1]) + 1) > batch_tokens:
            result.append([])
        result[-1].append(example)
    return result


def collate(examples: Sequence[Example]) -> dict[str, torch.Tensor]:
    longest = max(len(each.prompt) + len(each.answer) for each in examples)
    ids = torch.zeros((len(examples), longest), dtype=torch.long)
    labels = torch.full((len(examples), longest), IGNORED)
    mask = torch.zeros((len(examples), longest), dtype=torch.long)
    for row, example in enumerate(examples):
        start, end = len(example.prompt), len(example.prompt) + len(example.answer)
        ids[row, :end] = torch.tensor(example.prompt + example.answer)
        labels[row, start:end] = torch.tensor(example.answer)
        mask[row, :end] = 1
    return {"input_ids": ids, "labels": labels, "attention_mask": mask}


@torch.no_grad()
def margins(model: PreTrainedModel, examples: Sequence[Example]) -> list[float]:
    """By how much, in logits, the wanted token leads the next best, at its worst place; below 0 the answer is wrong."""
    return [worst_lead(model, example) for example in examples]


def worst_lead(model: PreTrainedModel, example: Example) -> float:
    start = len(example.prompt) - 1
    ids = torch.tensor([example.prompt + example.answer])
    logits = model(input_ids=ids).logits[0, start:-1]
    wanted = torch.tensor(example.answer)[:, None]
    lead = logits.gather(1, wanted)
    others = logits.scatter(1, wanted, -torch.inf).max(dim=1, keepdim=True).values
    return float((lead - others).min())
