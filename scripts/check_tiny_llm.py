"""Checks that every runtime says with greedy decoding what the tiny language model was taught, alone and many at once.

    python scripts/check_tiny_llm.py [--repository FOLDER] [--transformers FOLDER]

It compares token ids, not texts. Invariant: it exits with 0 only if no answer of any runtime differed.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import onnxruntime_genai as og
import openvino as ov
import openvino_genai
import torch
from tiny_llm_lessons import Example, all_lessons, encode_chat
from transformers import AutoModelForCausalLM, AutoTokenizer

ROOT: Final = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests"))
import tiny_llm  # noqa: E402

LONGEST_ANSWER: Final = 400
"""In tokens; a model that has not learned its lessons would else run to the end of its context."""
AT_ONCE: Final = 16

Ids: TypeAlias = tuple[int, ...]
Generate: TypeAlias = Callable[[Sequence[Ids]], list[Ids]]
"""The answers, without the end token, to prompts that are all put to the runtime at the same time."""


def main() -> int:
    arguments = parse()
    lessons = all_lessons(AutoTokenizer.from_pretrained(arguments.transformers))
    examples = dict(zip(lessons.names(), lessons.plain(), strict=True))
    openvino, onnx = arguments.repository / "tiny_llm" / "1", arguments.repository / "tiny_llm_onnx" / "1"
    check_tokenizers(openvino, onnx, list(lessons.texts()), lessons.tokenizer.encode)
    adapted = {name: encode_chat(lessons.tokenizer, chat) for name, chat in tiny_llm.adapted_chats().items()}
    plain = {
        "transformers": with_transformers(arguments.transformers),
        "OpenVINO GenAI, f32": with_openvino(openvino, "f32"),
        "OpenVINO GenAI, bf16": with_openvino(openvino, "bf16"),
        "ONNX Runtime GenAI": with_onnxruntime(onnx),
    }
    wrong = sum(differing(name, examples, generate) for name, generate in plain.items())
    for precision in ("f32", "bf16"):
        generate = with_openvino(openvino, precision, tiny_llm.ADAPTER)
        wrong += differing(f"OpenVINO GenAI with the adapter, {precision}", examples | adapted, generate)
    return min(wrong, 1)


def differing(name: str, examples: dict[str, Example], generate: Generate) -> int:
    """How many answers were wrong, alone or in company."""
    count = 0
    for at_once in (1, AT_ONCE):
        wrong = wrong_answers(examples, generate, at_once)
        print(f"{name}, {at_once} at once: {len(examples) - len(wrong)} of {len(examples)} right", *wrong)
        count += len(wrong)
    return count


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repository", type=Path, default=ROOT / "model_repository")
    parser.add_argument("--transformers", type=Path, default=ROOT / "build" / "tiny_llm")
    return parser.parse_args()


def wrong_answers(examples: dict[str, Example], generate: Generate, at_once: int) -> list[str]:
    names = list(examples)
    wrong: list[str] = []
    for start in range(0, len(names), at_once):
        chosen = names[start : start + at_once]
        answers = generate([examples[name].prompt for name in chosen])
        wrong += [name for name, ids in zip(chosen, answers, strict=True) if ids != examples[name].answer[:-1]]
    return wrong


def check_tokenizers(openvino: Path, onnx: Path, texts: Sequence[str], encode: Callable[[str], list[int]]) -> None:
    """All three must cut the texts in the same way and give them back."""
    first = openvino_genai.Tokenizer(str(openvino))
    second = og.Tokenizer(og.Model(str(onnx)))
    for text in texts:
        wanted = encode(text)
        assert first.encode(text, add_special_tokens=False).input_ids.data[0].tolist() == wanted, text
        assert second.encode(text).tolist() == wanted, text
        assert first.decode(wanted, skip_special_tokens=False) == text
    print(f"{len(texts)} texts: the tokenizers agree")


def with_transformers(folder: Path) -> Generate:
    model = AutoModelForCausalLM.from_pretrained(folder)

    def generate(prompts: Sequence[Ids]) -> list[Ids]:
        """Padded on the left, as a batch has to be."""
        longest = max(map(len, prompts))
        ids = torch.zeros((len(prompts), longest), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, longest - len(prompt) :] = torch.tensor(prompt)
            mask[row, longest - len(prompt) :] = 1
        with torch.no_grad():
            output = model.generate(ids, attention_mask=mask, max_new_tokens=LONGEST_ANSWER)
        ends = model.generation_config.eos_token_id
        return [without_end(row[longest:].tolist(), ends) for row in output]

    return generate


def without_end(ids: Sequence[int], ends: Collection[int]) -> Ids:
    return tuple(itertools.takewhile(lambda token: token not in ends, ids))


def with_openvino(folder: Path, precision: str, adapter: Path | None = None) -> Generate:
    scheduler = openvino_genai.SchedulerConfig()
    scheduler.cache_size = 1
    properties: dict[str, Any] = {"INFERENCE_PRECISION_HINT": precision}
    if adapter:
        properties["adapters"] = with_adapter(adapter)
    pipeline = openvino_genai.ContinuousBatchingPipeline(str(folder), scheduler, "CPU", properties)
    config = pipeline.get_config()
    config.max_new_tokens = LONGEST_ANSWER

    def generate(prompts: Sequence[Ids]) -> list[Ids]:
        handles = [
            pipeline.add_request(index, ov.Tensor(np.array([prompt], np.int64)), config)
            for index, prompt in enumerate(prompts)
        ]
        while pipeline.has_non_finished_requests():
            pipeline.step()
        return [without_end(handle.read_all()[0].generated_ids, config.stop_token_ids) for handle in handles]

    return generate


def with_adapter(path: Path) -> openvino_genai.AdapterConfig:
    """For all requests: a pipeline that is given requests one by one does not look at the adapters that each names."""
    adapters = openvino_genai.AdapterConfig
    return adapters(openvino_genai.Adapter(str(path)), 1.0, mode=adapters.Mode.MODE_STATIC)


def with_onnxruntime(folder: Path) -> Generate:
    """Its engine reports no token for the end of an answer."""
    engine = og.Engine(og.Model(str(folder)))
    buffer = engine.create_event_buffer(AT_ONCE)

    def generate(prompts: Sequence[Ids]) -> list[Ids]:
        requests = [engine.create_request() for _ in prompts]
        for request, prompt in zip(requests, prompts, strict=True):
            options = og.TurnOptions(request)
            options.set_max_generated_tokens(LONGEST_ANSWER)
            request.begin_turn(np.array(prompt, np.int32), options)
        answers: dict[og.Request, list[int]] = {request: [] for request in requests}
        while engine.has_pending_requests():
            for event in engine.run(buffer):
                if event.flags & og.EngineEventFlags.TOKEN:
                    answers[event.request].append(event.token)
        for request in requests:
            request.close()
        return [tuple(ids) for ids in answers.values()]

    return generate


if __name__ == "__main__":
    sys.exit(main())
