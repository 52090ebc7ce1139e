"""ONNX Runtime GenAI with the language model that ships: its answers, its process, and what happens when that dies."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnxruntime_genai as runtime
import pytest
from running_server import ROOT
from vintner.backend import LoadSpec
from vintner.errors import BackendError, InvalidArgument, LoadError, Unsupported
from vintner.generation import Constraint, Engine, EngineSpec, Sampling
from vintner_backends import onnxruntime_genai
from vintner_backends.onnxruntime_genai import OnnxRuntimeGenAIBackend, OnnxRuntimeGenAIModel
from vintner_backends.onnxruntime_genai_tokenizer import StreamDecoder
from vintner_backends.token_text import TableDecoder
from waiting import wait_until

MODEL = ROOT / "model_repository" / "tiny_llm_onnx" / "1"
DIGITS = ROOT / "model_repository" / "digits_onnx" / "1" / "model.onnx"
PROMPT = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
QUESTIONS = (
    "What is the capital of France?",
    "Count from one to one hundred.",
    "Πώς σε λένε;",
    "你好吗?",
    "Show me three animals.",
    "Hello!",
    "Write a short poem.",
    "Describe Ada as JSON.",
)
CAPITAL = "The capital of France is Paris."
LONG = QUESTIONS[1]


def load(directory: Path = MODEL, **settings: Any) -> OnnxRuntimeGenAIModel:
    return OnnxRuntimeGenAIBackend().load_language_model(LoadSpec(directory, **{"cores": 2, **settings}))


@pytest.fixture(scope="module")
def model() -> Iterator[OnnxRuntimeGenAIModel]:
    model = load()
    yield model
    model.close()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[OnnxRuntimeGenAIModel]:
    """A model that a test may break, from files that it may take away."""
    directory = copied(tmp_path)
    model = load(directory)
    yield model
    model.close()


def copied(where: Path) -> Path:
    return Path(shutil.copytree(MODEL, where / "model"))


class Sequences:
    """What came of each sequence of an engine."""

    counter = 0

    def __init__(self, model: OnnxRuntimeGenAIModel) -> None:
        self.engine: Engine = model.engine
        self.model = model
        self.tokens: dict[int, list[int]] = {}
        self.ends: dict[int, str] = {}

    def add(self, question: str, most: int = 400, **sampling: Any) -> int:
        Sequences.counter += 1
        prompt = self.model.tokenizer.encode(PROMPT.format(question))
        self.engine.add(Sequences.counter, prompt, Sampling(most, **sampling))
        self.tokens[Sequences.counter] = []
        return Sequences.counter

    def step(self) -> None:
        for progress in self.engine.step():
            self.tokens[progress.key] += progress.tokens
            if progress.end:
                self.ends[progress.key] = progress.end

    def finish(self) -> None:
        while set(self.ends) != set(self.tokens):
            self.step()

    def cancel(self, key: int) -> None:
        self.engine.cancel(key)
        del self.tokens[key]

    def text(self, key: int) -> str:
        decoder = self.model.tokenizer.decoder()
        return "".join(decoder.feed([token]) for token in self.tokens[key]) + decoder.finish()


def answer(model: OnnxRuntimeGenAIModel, question: str, most: int = 400, **sampling: Any) -> tuple[str, str]:
    """The text of one sequence, and how it ended."""
    sequences = Sequences(model)
    key = sequences.add(question, most, **sampling)
    sequences.finish()
    return sequences.text(key), sequences.ends[key]


@pytest.fixture(scope="module")
def oracle() -> dict[str, list[int]]:
    """What the runtime's own generator, which has no batches, makes of the questions."""
    model = runtime.Model(str(MODEL))
    tokenizer = runtime.Tokenizer(model)
    found: dict[str, list[int]] = {}
    for question in QUESTIONS:
        prompt = tokenizer.encode(PROMPT.format(question))
        params = runtime.GeneratorParams(model)
        params.set_search_options(max_length=len(prompt) + 400, do_sample=False)
        generator = runtime.Generator(model, params)
        generator.append_tokens(prompt)
        while not generator.is_done():
            generator.generate_next_token()
        made = generator.get_sequence(0)[len(prompt) :].tolist()
        found[question] = [token for token in made if token not in tokenizer.eos_token_ids]
    return found


# Answers


def test_the_model_tells_what_it_is(model: OnnxRuntimeGenAIModel) -> None:
    assert (model.platform, model.context_length, model.vocabulary_size) == ("onnxruntime_genai", 2048, 640)
    assert model.directory == MODEL
    assert model.engine.in_waves
    assert model.engine.max_sequences == 4


def test_fewer_sequences_at_once_can_be_asked_for() -> None:
    model = load(engine=EngineSpec(max_sequences=1))
    try:
        assert model.engine.max_sequences == 1
    finally:
        model.close()


def test_greedy_answers_are_those_of_the_runtimes_generator(
    model: OnnxRuntimeGenAIModel, oracle: dict[str, list[int]]
) -> None:
    for question in QUESTIONS:
        sequences = Sequences(model)
        key = sequences.add(question)
        sequences.finish()
        assert (sequences.tokens[key], sequences.ends[key]) == (oracle[question], "stop"), question
    assert answer(model, QUESTIONS[0]) == (CAPITAL, "stop")


def test_eight_at_once_are_generated_in_waves_and_are_the_same(
    model: OnnxRuntimeGenAIModel, oracle: dict[str, list[int]]
) -> None:
    sequences = Sequences(model)
    asked: dict[int, str] = {}
    for begin in (0, 4):
        for question in QUESTIONS[begin : begin + 4]:
            asked[sequences.add(question)] = question
        sequences.finish()
    assert {asked[key]: tokens for key, tokens in sequences.tokens.items()} == oracle
    assert set(sequences.ends.values()) == {"stop"}


def test_a_sequence_beyond_a_wave_waits_and_is_generated(
    model: OnnxRuntimeGenAIModel, oracle: dict[str, list[int]]
) -> None:
    sequences = Sequences(model)
    asked = {sequences.add(question): question for question in QUESTIONS[:5]}
    sequences.finish()
    assert {asked[key]: tokens for key, tokens in sequences.tokens.items()} == {q: oracle[q] for q in QUESTIONS[:5]}


def test_an_answer_has_as_many_tokens_as_were_asked_for(model: OnnxRuntimeGenAIModel) -> None:
    sequences = Sequences(model)
    short, long = sequences.add(LONG, 1), sequences.add(LONG, 50)
    sequences.finish()
    assert [len(sequences.tokens[key]) for key in (short, long)] == [1, 50]
    assert set(sequences.ends.values()) == {"length"}


def test_a_prompt_may_leave_room_for_one_token(model: OnnxRuntimeGenAIModel) -> None:
    model.engine.add(-1, [5] * 2047, Sampling(1))
    [progress] = model.engine.step()
    assert (progress.key, len(progress.tokens), progress.end) == (-1, 1, "length")
    with pytest.raises(InvalidArgument, match="at most 2048 tokens in all, got 2049"):
        model.engine.add(-2, [5] * 2047, Sampling(2))


def test_end_tokens_can_be_ignored_or_put_off(model: OnnxRuntimeGenAIModel) -> None:
    text, end = answer(model, QUESTIONS[0], 60, ignore_eos=True)
    assert text.startswith(CAPITAL)
    assert text != CAPITAL
    assert end == "length"
    sequences = Sequences(model)
    key = sequences.add(QUESTIONS[0], min_new_tokens=40)
    sequences.finish()
    assert len(sequences.tokens[key]) >= 40


def test_other_tokens_end_an_answer_and_are_not_in_it(
    model: OnnxRuntimeGenAIModel, oracle: dict[str, list[int]]
) -> None:
    whole = oracle[LONG]
    sequences = Sequences(model)
    key, other = sequences.add(LONG, stop_token_ids=frozenset(whole[5:6])), sequences.add(LONG)
    sequences.finish()
    assert sequences.tokens[key] == whole[: whole.index(whole[5])]
    assert (sequences.tokens[other], sequences.ends[key]) == (whole, "stop")


def test_sampling_varies_and_a_narrow_choice_does_not(model: OnnxRuntimeGenAIModel) -> None:
    assert len({answer(model, "Hello!", 30, temperature=2.0)[0] for _ in range(5)}) > 1
    narrow = {answer(model, QUESTIONS[0], temperature=1.0, top_p=0.01)[0] for _ in range(3)}
    assert narrow == {CAPITAL}
    assert answer(model, QUESTIONS[0], temperature=1.9, top_k=1)[0] == CAPITAL


def test_repetition_can_be_punished(model: OnnxRuntimeGenAIModel, oracle: dict[str, list[int]]) -> None:
    sequences = Sequences(model)
    key = sequences.add(LONG, repetition_penalty=3.0)
    sequences.finish()
    assert sequences.tokens[key] != oracle[LONG]


# Constraints


def test_an_answer_can_be_constrained(model: OnnxRuntimeGenAIModel) -> None:
    regex, grammar = (
        Constraint("regex", "(yes|no)!"),
        Constraint("grammar", 'root ::= ("ab" | "cd") Tail\nTail ::= [e-f]{2}'),
    )
    assert answer(model, "Hello!", constraint=regex)[0] in ("yes!", "no!")
    assert answer(model, "Hello!", constraint=grammar)[0] in [
        begin + end for begin in ("ab", "cd") for end in ("ee", "ef", "fe", "ff")
    ]
    schema = {"type": "object", "properties": {"age": {"enum": [1, 2]}}, "required": ["age"], "x-guidance": COMPACT}
    text, end = answer(model, "Hello!", constraint=Constraint("json_schema", json.dumps(schema)))
    assert (json.loads(text)["age"] in (1, 2), end) == (True, "stop")


COMPACT = {"whitespace_flexible": False}


@pytest.mark.parametrize(
    "constraint",
    [
        Constraint("json_schema", '{"type":'),
        Constraint("json_schema", '{"type": "nope"}'),
        Constraint("json_schema", '{"$ref": "#/$defs/nowhere"}'),
        Constraint("regex", "(("),
        Constraint("grammar", "root ::= nowhere"),
    ],
    ids=str,
)
def test_a_bad_constraint_is_refused_and_hurts_nobody(model: OnnxRuntimeGenAIModel, constraint: Constraint) -> None:
    sequences = Sequences(model)
    key = sequences.add(QUESTIONS[0])
    with pytest.raises(InvalidArgument, match="Error creating grammar"):
        sequences.add("Hello!", constraint=constraint)
    sequences.finish()
    assert sequences.text(key) == CAPITAL


def test_what_is_not_supported_is_refused_by_name(model: OnnxRuntimeGenAIModel) -> None:
    with pytest.raises(Unsupported, match="'min_p'"):
        Sequences(model).add("Hello!", min_p=0.5)
    assert model.supported == {"constraints", "ignore_eos", "min_tokens"}


# Cancellation


def test_a_sequence_can_be_cancelled_beside_others(model: OnnxRuntimeGenAIModel, oracle: dict[str, list[int]]) -> None:
    sequences = Sequences(model)
    keys = [sequences.add(LONG) for _ in range(4)]
    sequences.step()
    sequences.cancel(keys[1])
    sequences.cancel(keys[3])
    model.engine.cancel(keys[3])
    sequences.finish()
    assert [sequences.tokens[key] for key in (keys[0], keys[2])] == [oracle[LONG]] * 2


def test_when_all_are_cancelled_the_next_wave_begins(model: OnnxRuntimeGenAIModel) -> None:
    for steps in range(4):
        sequences = Sequences(model)
        keys = [sequences.add(LONG) for _ in range(3)]
        for _ in range(steps):
            sequences.step()
        for key in keys:
            sequences.cancel(key)
        assert answer(model, QUESTIONS[0]) == (CAPITAL, "stop")


# What fails


def test_tokens_that_there_are_not_are_refused(model: OnnxRuntimeGenAIModel) -> None:
    for tokens in ([640], [-1], []):
        with pytest.raises(InvalidArgument):
            model.engine.add(-3, tokens, Sampling(5))
    assert answer(model, QUESTIONS[0]) == (CAPITAL, "stop")


def test_a_batch_that_failed_is_told_and_the_process_goes_on(own: OnnxRuntimeGenAIModel) -> None:
    process = own.pid
    # lets a token through that the model does not have
    own._engine._config = replace(own._engine._config, vocabulary_size=10**6)
    sequences = Sequences(own)
    sequences.add(LONG)
    own.engine.add(-1, [100_000], Sampling(5))
    with pytest.raises(BackendError, match="out of data bounds"):
        sequences.finish()
    own.engine.reset()
    assert answer(own, QUESTIONS[0]) == (CAPITAL, "stop")
    assert own.pid == process


def test_a_process_that_is_killed_is_told_and_replaced(own: OnnxRuntimeGenAIModel) -> None:
    killed = own.pid
    sequences = Sequences(own)
    sequences.add(LONG, 1000, ignore_eos=True)
    sequences.step()
    os.kill(killed, signal.SIGKILL)
    with pytest.raises(BackendError, match="killed by SIGKILL"):
        sequences.finish()
    own.engine.reset()
    assert own.pid != killed
    assert answer(own, QUESTIONS[0]) == (CAPITAL, "stop")


def test_a_process_that_dies_while_nobody_asks_is_replaced_by_the_next_request(own: OnnxRuntimeGenAIModel) -> None:
    killed = own.pid
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: ended(killed))
    assert answer(own, QUESTIONS[0]) == (CAPITAL, "stop")
    assert own.pid != killed


def test_a_model_that_cannot_be_loaded_again_is_an_error(own: OnnxRuntimeGenAIModel) -> None:
    sequences = Sequences(own)
    sequences.add(LONG, 1000, ignore_eos=True)
    (own.directory / "model.onnx").unlink()
    os.kill(own.pid, signal.SIGKILL)
    with pytest.raises(BackendError):
        sequences.finish()
    with pytest.raises(BackendError, match="could not be loaded again"):
        own.engine.reset()
    with pytest.raises(BackendError, match="could not be loaded again"):
        sequences.add(LONG)


# The process


def ended(pid: int) -> bool:
    """Whether a process is no more, or only its exit status is."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_the_model_is_loaded_by_another_process_and_ends_with_it() -> None:
    model = load()
    pid = model.pid
    assert pid != os.getpid()
    assert "model.onnx" not in Path(f"/proc/{os.getpid()}/maps").read_text()
    model.close()
    assert ended(pid)
    model.close()


def test_nothing_of_the_server_is_open_in_the_process() -> None:
    with socket.socket() as listening:
        listening.listen()
        os.set_inheritable(listening.fileno(), True)
        model = load()
        try:
            links = [os.readlink(entry) for entry in Path(f"/proc/{model.pid}/fd").iterdir()]
        finally:
            model.close()
        assert os.readlink(f"/proc/self/fd/{listening.fileno()}") not in links
    assert len([link for link in links if link.startswith("socket:")]) == 1


def test_signals_for_the_servers_group_do_not_end_the_process(own: OnnxRuntimeGenAIModel) -> None:
    assert os.getpgid(own.pid) != os.getpgid(0)
    os.kill(own.pid, signal.SIGTERM)
    os.kill(own.pid, signal.SIGINT)
    assert answer(own, QUESTIONS[0]) == (CAPITAL, "stop")


def test_a_process_can_be_bound_to_cores() -> None:
    [core, *_] = sorted(os.sched_getaffinity(0))
    model = load(affinity=frozenset({core}), cores=1)
    try:
        tasks = [int(task.name) for task in Path(f"/proc/{model.pid}/task").iterdir()]
        # the thread that waits for the connection's end was there before, and does nothing
        assert sum(os.sched_getaffinity(task) == {core} for task in tasks) >= len(tasks) - 1
        assert os.sched_getaffinity(model.pid) == {core}
        assert answer(model, QUESTIONS[0]) == (CAPITAL, "stop")
    finally:
        model.close()


def test_a_step_holds_nobody_up(model: OnnxRuntimeGenAIModel) -> None:
    """While a thread waits for the other process, others of this one run."""
    sequences = Sequences(model)
    key = sequences.add(LONG)
    counted = 0
    done = threading.Event()

    def count() -> None:
        nonlocal counted
        while not done.is_set():
            counted += 1

    counting = threading.Thread(target=count)
    os.kill(model.pid, signal.SIGSTOP)
    try:
        stepping = threading.Thread(target=sequences.finish)
        stepping.start()
        counting.start()
        wait_until(lambda: counted > 10_000)
        assert stepping.is_alive()
    finally:
        os.kill(model.pid, signal.SIGCONT)
        done.set()
    stepping.join()
    counting.join()
    assert sequences.ends[key] == "stop"


def test_neither_runtime_reports_to_its_makers(tmp_path: Path) -> None:
    """Which they would do from files and threads of their own."""
    code = (
        "from pathlib import Path; from vintner.backend import LoadSpec;"
        "from vintner_backends.onnxruntime import OnnxRuntimeBackend;"
        "from vintner_backends.onnxruntime_genai import OnnxRuntimeGenAIBackend;"
        f"OnnxRuntimeBackend().load(LoadSpec(Path({str(DIGITS)!r}))).close();"
        f"OnnxRuntimeGenAIBackend().load_language_model(LoadSpec(Path({str(MODEL)!r}))).close()"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("ORT_", "XDG_"))}
    subprocess.run([sys.executable, "-c", code], env={**environment, "HOME": str(tmp_path)}, check=True)
    assert list(tmp_path.iterdir()) == []


# Finding and loading


def test_a_directory_with_the_runtimes_configuration_is_found(tmp_path: Path) -> None:
    backend = OnnxRuntimeGenAIBackend()
    assert backend.find(MODEL) == MODEL
    assert backend.generates(MODEL)
    assert backend.find(tmp_path) is None


def test_the_runtime_is_not_imported_to_find_a_model() -> None:
    code = (
        "import sys; from pathlib import Path; from vintner_backends.onnxruntime_genai import *;"
        f"assert OnnxRuntimeGenAIBackend().find(Path({str(MODEL)!r}));"
        "OnnxRuntimeGenAIBackend().devices(); sys.exit('onnxruntime_genai' in sys.modules)"
    )
    assert os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", code]) == 0


def test_without_the_package_one_is_told_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime_genai, "find_spec", lambda name: None)
    with pytest.raises(LoadError, match=r"pip install 'vintner\[genai\]'"):
        load()
    assert OnnxRuntimeGenAIBackend().devices() == []


def test_a_model_that_is_broken_says_so(tmp_path: Path) -> None:
    directory = copied(tmp_path)
    (directory / "model.onnx").write_bytes(b"garbage")
    with pytest.raises(LoadError, match=r"(?i)protobuf"):
        load(directory)
    (directory / "model.onnx").unlink()
    with pytest.raises(LoadError, match=r"model\.onnx"):
        load(directory)


def test_a_tokenizer_that_is_missing_or_broken_says_so(tmp_path: Path) -> None:
    directory = copied(tmp_path)
    (directory / "tokenizer.json").write_text("garbage")
    with pytest.raises(LoadError, match="tokenizer"):
        load(directory)


def test_a_session_option_that_there_is_not_is_an_error() -> None:
    with pytest.raises(LoadError, match="graph_optimization_level"):
        load(options={"session_options": {"graph_optimization_level": "NONSENSE"}})


# Text and tokens

TEXTS = [
    "Hello, world!",
    "  two spaces\n\n\ttab \r\n",
    "Γειά σου Κόσμε! άέή ΐ",
    "你好，世界。日本語テスト",
    "😀👨‍👩‍👧 🇬🇷",
    "It's 3.14, I'll say; DON'T!!!",
    "def f(x):\n    return x**2  # é",
    "<|im_start|>user\nhi<|im_end|>",
    "<think>x</think><tool_call>",
    "a\u00a0b\u3000c \u200b",
    "",
]


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_text_is_cut_as_the_runtime_cuts_it_and_comes_back(model: OnnxRuntimeGenAIModel, text: str) -> None:
    tokens = model.tokenizer.encode(text)
    assert tokens == runtime.Tokenizer(str(MODEL)).encode(text).tolist()
    special = ("<|im_start|>", "<|im_end|>")
    without = text
    for name in special:
        without = without.replace(name, "")
    decoder = model.tokenizer.decoder()
    assert isinstance(decoder, TableDecoder)
    pieces = [decoder.feed([token]) for token in tokens]
    assert "".join(pieces) + decoder.finish() == without
    assert b"".join(map(model.tokenizer.token_bytes, tokens)).decode() == text


def test_text_is_composed_before_it_is_cut(model: OnnxRuntimeGenAIModel) -> None:
    assert model.tokenizer.encode("e\u0301") == model.tokenizer.encode("\u00e9")


def test_a_nul_does_not_end_a_text(model: OnnxRuntimeGenAIModel) -> None:
    tokens = model.tokenizer.encode("a\0b\0")
    assert b"".join(map(model.tokenizer.token_bytes, tokens)) == b"a\0b\0"


def test_half_a_character_is_never_given(model: OnnxRuntimeGenAIModel) -> None:
    tokens = model.tokenizer.encode("👨")
    decoder = model.tokenizer.decoder()
    assert len(tokens) > 1
    assert [decoder.feed([token]) for token in tokens] == [""] * (len(tokens) - 1) + ["👨"]
    half = model.tokenizer.decoder()
    assert half.feed(tokens[:-1]) == ""
    assert half.finish() == "\ufffd"


def test_a_vocabulary_of_another_kind_is_decoded_by_the_runtime(tmp_path: Path) -> None:
    directory = copied(tmp_path)
    description = json.loads((directory / "tokenizer.json").read_text())
    description["decoder"] = {"type": "Fuse"}
    (directory / "tokenizer.json").write_text(json.dumps(description))
    model = load(directory)
    try:
        decoder = model.tokenizer.decoder()
        assert isinstance(decoder, StreamDecoder)
        tokens = model.tokenizer.encode("Γειά, 你好 😀!")
        assert "".join(decoder.feed([token]) for token in tokens) + decoder.finish() == "Γειά, 你好 😀!"
        half = model.tokenizer.decoder()
        assert half.feed([*tokens, *model.tokenizer.encode("é")[:1]]) == "Γειά, 你好 😀!"
        assert half.finish() == "\ufffd"
        assert model.tokenizer.decoder().finish() == ""
        with pytest.raises(InvalidArgument, match="NUL"):
            model.tokenizer.encode("a\0b")
    finally:
        model.close()


def test_a_token_that_begins_a_text_is_added_only_if_wanted(tmp_path: Path) -> None:
    directory = copied(tmp_path)
    description = json.loads((directory / "tokenizer.json").read_text())
    begin = {"id": "<|im_start|>", "ids": [632], "tokens": ["<|im_start|>"]}
    description["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<|im_start|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [],
        "special_tokens": {"<|im_start|>": begin},
    }
    (directory / "tokenizer.json").write_text(json.dumps(description))
    changed: dict[str, Any] = json.loads((directory / "tokenizer_config.json").read_text())
    changed |= {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|im_start|>"}
    (directory / "tokenizer_config.json").write_text(json.dumps(changed))
    model = load(directory)
    try:
        plain: Sequence[int] = model.tokenizer.encode("a<|im_end|>", False)
        assert plain == [*model.tokenizer.encode("a", False), 633]
        assert model.tokenizer.encode("a<|im_end|>") == [632, *plain]
    finally:
        model.close()
