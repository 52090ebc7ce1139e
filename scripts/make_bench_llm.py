"""Writes a language model of about 90 million random weights, to measure with, into a folder of your choice.

    python scripts/make_bench_llm.py FOLDER        (`make bench` does so, with build/ as the folder)

It knows nothing. Invariant: greedy decoding never ends an answer before it is as long as was asked for.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Final

import torch
from model_exports import OPENVINO_LLM, export_onnx_llm, export_openvino
from tiny_llm_tokenizer import CONTEXT_LENGTH, save
from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

ROOT: Final = Path(__file__).parents[1]
TOKENIZER: Final = ROOT / "model_repository" / "tiny_llm_onnx" / "1"
SEED: Final = 6


def main() -> None:
    arguments = parse()
    torch.manual_seed(SEED)
    tokenizer = AutoTokenizer.from_pretrained(arguments.tokenizer)
    model = Qwen2ForCausalLM(config_for(tokenizer))
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=False
    )
    never_end(model, [tokenizer.eos_token_id, tokenizer.pad_token_id])
    print(f"{model.num_parameters() / 1e6:.1f} million parameters")
    with tempfile.TemporaryDirectory() as original:
        model.save_pretrained(original)
        save(tokenizer, Path(original))
        openvino, onnx = arguments.folder / "bench_llm" / "1", arguments.folder / "bench_llm_onnx" / "1"
        export_openvino(Path(original), openvino, "text-generation-with-past", "int8", OPENVINO_LLM)
        export_onnx_llm(Path(original), onnx, "int4")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the two models go")
    parser.add_argument("--tokenizer", type=Path, default=TOKENIZER, help="a folder with a tokenizer")
    return parser.parse_args()


def config_for(tokenizer: PreTrainedTokenizerFast) -> Qwen2Config:
    """The shape of Qwen2-0.5B with fewer layers, so that the cost of a token is in the layers as it is there."""
    return Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=768,
        intermediate_size=2560,
        num_hidden_layers=12,
        num_attention_heads=12,
        num_key_value_heads=4,
        max_position_embeddings=CONTEXT_LENGTH,
        tie_word_embeddings=False,
        use_sliding_window=False,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.pad_token_id,
    )


@torch.no_grad()
def never_end(model: Qwen2ForCausalLM, ends: list[int]) -> None:
    """Zero weights give the end a logit of 0, which greedy decoding takes only if all others are below it."""
    model.lm_head.weight[ends] = 0.0


if __name__ == "__main__":
    main()
