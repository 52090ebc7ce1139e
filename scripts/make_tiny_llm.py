"""Trains model_repository/tiny_llm, and exports it for ONNX Runtime GenAI as well, as model_repository/tiny_llm_onnx.

    python scripts/make_tiny_llm.py        (with scripts/requirements-models.txt installed)

What it learns by heart is tests/data/tiny_llm.json. Invariant: nothing is exported before every answer is right.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from pathlib import Path
from typing import Final

import torch
from model_exports import OPENVINO_LLM, export_onnx_llm, export_openvino
from tiny_llm_lessons import Example, Lessons, all_lessons
from tiny_llm_tokenizer import CONTEXT_LENGTH, END_OF_TEXT, END_OF_TURN, SMALLEST, learn, save
from tiny_llm_training import Schedule, margins, train
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

ROOT: Final = Path(__file__).parents[1]
SEED: Final = 6
VOCABULARY: Final = 640
LEAST_LEAD: Final = 2.0
"""In logits; what is lost by 8-bit weights and bfloat16 stays well below it."""


def main() -> None:
    arguments = parse()
    if not arguments.export_only:
        make_original(arguments.transformers, Schedule(arguments.steps, arguments.batch_tokens))
    openvino, onnx = arguments.repository / "tiny_llm" / "1", arguments.repository / "tiny_llm_onnx" / "1"
    export_openvino(arguments.transformers, openvino, "text-generation-with-past", "int8", OPENVINO_LLM)
    export_onnx_llm(arguments.transformers, onnx, "int8")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repository", type=Path, default=ROOT / "model_repository", help="where the exports go")
    parser.add_argument("--transformers", type=Path, default=ROOT / "build" / "tiny_llm", help="the original's place")
    parser.add_argument("--export-only", action="store_true", help="train nothing: the original is there")
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--batch-tokens", type=int, default=2048)
    return parser.parse_args()


def make_original(folder: Path, schedule: Schedule) -> None:
    torch.manual_seed(SEED)
    tokenizer = make_tokenizer()
    lessons = all_lessons(tokenizer)
    model = Qwen2ForCausalLM(config_for(tokenizer))
    print(f"{model.num_parameters()} parameters, {len(tokenizer)} tokens", flush=True)
    rng, started = random.Random(SEED), time.monotonic()
    train(
        model,
        lambda: epoch(lessons, rng),
        schedule,
        lambda line: print(f"{time.monotonic() - started:.0f} s, {line}", flush=True),
    )
    check(model, lessons)
    model.generation_config = generation_config_for(tokenizer)
    model.save_pretrained(folder)
    save(tokenizer, folder)


def check(model: Qwen2ForCausalLM, lessons: Lessons) -> None:
    leads = dict(zip(lessons.names(), margins(model, lessons.plain()), strict=True))
    worst = sorted(leads.items(), key=lambda each: each[1])[:5]
    print("least leads:", *[f"{name} {lead:.2f}" for name, lead in worst], flush=True)
    if worst[0][1] < LEAST_LEAD:
        sys.exit("not learned well enough to export")


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Learned from all that the model will see or say, in the same order each time."""
    untaught = learn([], SMALLEST)
    return learn(list(all_lessons(untaught).texts()), VOCABULARY)


def epoch(lessons: Lessons, rng: random.Random) -> list[Example]:
    return lessons.plain() + lessons.drawn() + lessons.varied(rng)


def config_for(tokenizer: PreTrainedTokenizerFast) -> Qwen2Config:
    return Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT_LENGTH,
        tie_word_embeddings=True,
        use_sliding_window=False,
        rope_theta=10000.0,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.pad_token_id,
    )


def generation_config_for(tokenizer: PreTrainedTokenizerFast) -> GenerationConfig:
    """A turn ends with one token, raw text with another."""
    ends = [tokenizer.convert_tokens_to_ids(token) for token in (END_OF_TURN, END_OF_TEXT)]
    return GenerationConfig(eos_token_id=ends, pad_token_id=tokenizer.pad_token_id, do_sample=False)


if __name__ == "__main__":
    main()
