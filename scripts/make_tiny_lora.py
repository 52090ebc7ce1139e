"""Trains tests/data/tiny_lora.safetensors, an adapter with which tiny_llm gives other answers to a few questions.

    python scripts/make_tiny_lora.py        (after scripts/make_tiny_llm.py, which leaves the original it needs)

What it learns are the `adapted` chats of tests/data/tiny_llm.json. Invariant: it changes no other plain answer.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import save_file
from tiny_llm_lessons import Example, all_lessons, encode_chat
from tiny_llm_training import Schedule, margins, train
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

ROOT: Final = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests"))
import tiny_llm  # noqa: E402

SEED: Final = 6
RANK: Final = 4
ADAPTED: Final = ("q_proj", "k_proj", "v_proj", "o_proj")
LEAST_LEAD: Final = 1.0


class LowRank(nn.Module):
    """A linear layer that is left as it is, plus the product of two small ones; the second begins as zero."""

    def __init__(self, original: nn.Linear) -> None:
        super().__init__()
        self.original = original.requires_grad_(False)
        self.a = nn.Parameter(torch.randn(RANK, original.in_features) / original.in_features**0.5)
        self.b = nn.Parameter(torch.zeros(original.out_features, RANK))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.original(hidden) + hidden @ self.a.T @ self.b.T


def main() -> None:
    arguments = parse()
    torch.manual_seed(SEED)
    tokenizer = AutoTokenizer.from_pretrained(arguments.transformers)
    model = AutoModelForCausalLM.from_pretrained(arguments.transformers).requires_grad_(False)
    layers = adapt(model)
    changed = {name: encode_chat(tokenizer, chat) for name, chat in tiny_llm.adapted_chats().items()}
    lessons = all_lessons(tokenizer)
    kept = [each for name, each in zip(lessons.names(), lessons.plain(), strict=True) if name not in changed]
    epoch = [*changed.values()] * 4 + kept
    train(model, lambda: epoch, Schedule(arguments.steps, batch_tokens=2048, learning_rate=1e-2), print)
    check(model, [*changed.values(), *kept])
    save_file(weights(layers), arguments.output)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transformers", type=Path, default=ROOT / "build" / "tiny_llm", help="the original's place")
    parser.add_argument("--output", type=Path, default=tiny_llm.ADAPTER)
    parser.add_argument("--steps", type=int, default=160)
    return parser.parse_args()


def adapt(model: PreTrainedModel) -> dict[str, LowRank]:
    """Puts an adapter in place of each layer of attention; by the layer's name."""
    adapted: dict[str, LowRank] = {}
    for name, layer in list(model.named_modules()):
        if name.rpartition(".")[2] in ADAPTED:
            parent, _, last = name.rpartition(".")
            adapted[name] = LowRank(layer)
            setattr(model.get_submodule(parent), last, adapted[name])
    return adapted


def check(model: PreTrainedModel, examples: list[Example]) -> None:
    lead = min(margins(model, examples))
    print(f"least lead: {lead:.2f}")
    if lead < LEAST_LEAD:
        sys.exit("not learned well enough")


def weights(layers: dict[str, LowRank]) -> dict[str, torch.Tensor]:
    """Named as PEFT names them; without an alpha, which then is the rank, so that nothing is scaled."""
    tensors = {}
    for name, layer in layers.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = layer.a.detach().contiguous()
        tensors[f"base_model.model.{name}.lora_B.weight"] = layer.b.detach().contiguous()
    return tensors


if __name__ == "__main__":
    main()
