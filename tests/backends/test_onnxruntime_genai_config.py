"""What of a model's configuration and of the server's reaches ONNX Runtime GenAI: all of it, or an error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from vintner.backend import LoadSpec
from vintner.errors import InvalidArgument, LoadError, OperatorError, Unsupported
from vintner.generation import Constraint, EngineSpec, Sampling
from vintner_backends.onnxruntime_genai_config import NAME, GenAiConfig, check_supported, overlay, read_config
from vintner_backends.onnxruntime_genai_engine import check_tokens, turn_options
from vintner_backends.onnxruntime_genai_process import environment

MODEL = {"context_length": 64, "vocab_size": 10}
PLAIN = GenAiConfig(64, 10, {}, True)


def spec(**settings: Any) -> LoadSpec:
    return LoadSpec(path=Path("1"), cores=4, **settings)


def config(directory: Path, **document: Any) -> GenAiConfig:
    (directory / NAME).write_text(json.dumps(document))
    return read_config(directory)


def test_recommendations_are_for_models_that_sample(tmp_path: Path) -> None:
    search = {"temperature": 0.6, "top_k": 20, "top_p": 0.9, "repetition_penalty": 1.1, "num_beams": 1}
    assert config(tmp_path, model=MODEL, search=search).defaults == {"repetition_penalty": 1.1}
    assert config(tmp_path, model=MODEL, search={**search, "do_sample": True}).defaults == {
        "temperature": 0.6,
        "top_k": 20,
        "top_p": 0.9,
        "repetition_penalty": 1.1,
    }


def test_a_model_without_dynamic_batching_runs_in_waves(tmp_path: Path) -> None:
    assert config(tmp_path, model=MODEL) == GenAiConfig(64, 10, {}, True)
    assert not config(tmp_path, model=MODEL, engine={"dynamic_batching": {"max_batch_size": 8}}).in_waves


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "genai_config.json: not JSON"),
        ("[]", "expected a JSON object"),
        ("{}", "lacks 'model'"),
        ('{"model": {"context_length": 64}}', "lacks 'vocab_size'"),
        ('{"model": {"context_length": "64", "vocab_size": 10}}', "at least 1 for context_length, got '64'"),
        ('{"model": 3}', "not as the model builder"),
        (
            '{"model": {"context_length": 9, "vocab_size": 9}, "search": {"do_sample": true, "top_p": "x"}}',
            "not as the",
        ),
    ],
)
def test_a_broken_configuration_says_what_is_wrong(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / NAME).write_text(text)
    with pytest.raises(OperatorError, match=reason):
        read_config(tmp_path)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"device": "GPU"}, "device 'GPU'"),
        ({"precision": "f16"}, "precision"),
        ({"streams": 2}, "streams"),
        ({"instances": 2}, "more than one instance"),
        ({"rows": 4}, "shapes"),
        ({"engine": EngineSpec(max_batched_tokens=256)}, "a bound of the tokens in a step"),
        ({"engine": EngineSpec(cache_bytes=1)}, "a bound of the key-value cache"),
        ({"engine": EngineSpec(ngram=3)}, "speculative decoding"),
        ({"engine": EngineSpec(draft_model=Path("x"))}, "speculative decoding"),
        ({"engine": EngineSpec(adapters={"x": Path("x")})}, "adapters"),
        ({"options": {"session_option": {}}}, "did you mean 'session_options'"),
    ],
    ids=str,
)
def test_what_cannot_be_done_is_refused_by_name(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(LoadError, match=reason):
        check_supported(spec(**settings))


def test_threads_and_session_options_are_laid_over_the_models_own() -> None:
    options = {"session_options": {"log_severity_level": 1}}
    session = json.loads(overlay(spec(threads=3, options=options), PLAIN))["model"]["decoder"]["session_options"]
    assert session["intra_op_num_threads"] == 3
    assert session["log_severity_level"] == 1
    assert json.loads(overlay(spec(), PLAIN))["model"]["decoder"]["session_options"]["intra_op_num_threads"] == 4
    with pytest.raises(LoadError, match="is a mapping"):
        overlay(spec(options={"session_options": 3}), PLAIN)


def test_a_greedy_sequence_has_nothing_to_be_drawn() -> None:
    for sampling in (Sampling(5, top_p=0.5, seed=3), Sampling(5, temperature=0.7, top_k=1)):
        options = turn_options(sampling, 10)
        assert options["do_sample"] == (False,)
        assert not {"temperature", "top_p", "top_k", "seed"} & set(options)


def test_sampling_says_everything_that_the_model_would_have_a_default_for() -> None:
    options = turn_options(Sampling(5, temperature=0.7, top_k=100, repetition_penalty=1.2, min_new_tokens=2), 10)
    assert options == {
        "max_generated_tokens": (5,),
        "min_generated_tokens": (2,),
        "repetition_penalty": (1.2,),
        "do_sample": (True,),
        "temperature": (0.7,),
        "top_p": (1.0,),
        "top_k": (10,),
    }


def test_end_tokens_are_ignored_by_masking_them_to_the_end() -> None:
    assert turn_options(Sampling(5, ignore_eos=True), 10)["min_generated_tokens"] == (5,)


def test_a_constraint_is_the_runtimes_guidance() -> None:
    regex, grammar = Constraint("regex", "a+"), Constraint("grammar", 'root ::= "a"')
    assert turn_options(Sampling(5, constraint=regex), 10)["guidance"] == ("regex", "a+")
    assert turn_options(Sampling(5, constraint=grammar), 10)["guidance"] == ("lark_grammar", 'start: "a"')


@pytest.mark.parametrize(
    "unfit",
    [
        {"min_p": 0.1},
        {"presence_penalty": 0.1},
        {"frequency_penalty": -0.1},
        {"logprobs": True},
        {"adapters": {"x": 1.0}},
        {"seed": 3, "temperature": 0.5},
    ],
    ids=str,
)
def test_what_the_runtime_lacks_is_refused_by_name(unfit: dict[str, Any]) -> None:
    with pytest.raises(Unsupported, match=f"'{next(iter(unfit))}'"):
        turn_options(Sampling(5, **unfit), 10)


@pytest.mark.parametrize("tokens", [[], [10], [-1], [3, 2**40]], ids=str)
def test_tokens_that_there_are_not_are_refused(tokens: list[int]) -> None:
    with pytest.raises(InvalidArgument):
        check_tokens(tokens, 10)


def test_the_models_process_learns_no_secrets() -> None:
    kept = environment({"PATH": "/bin", "LC_ALL": "C", "HF_TOKEN": "secret", "ORT_DISABLE_TELEMETRY": "0"})
    assert kept == {"PATH": "/bin", "LC_ALL": "C", "ORT_DISABLE_TELEMETRY": "1"}
