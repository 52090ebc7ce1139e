"""What the README and docs/ show, executed: commands against `model_repository/`, examples as they are."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from infer_calls import wait_until
from running_server import ROOT, RunningServer, start_server
from tiny_llm import ADAPTER, adapted_chats, chats
from vintner.model_config import GenerationConfig, parse_model_config
from vintner.output_parsers import REASONING_PARSERS, TOOL_PARSERS
from vintner.text_parameters import CONSTRAINTS, OTHERS, SAMPLING
from vintner.triton_config import read_triton_config
from vintner_backends.text_settings import OPTIONS, read_settings

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(document: str) -> list[tuple[str, str]]:
    """Language and text of each block of code."""
    return BLOCK.findall((ROOT / document).read_text())


def commands(document: str = "README.md") -> Iterator[tuple[str, str]]:
    """Each command that a document shows after a `$`, and the output under it."""
    for language, text in blocks(document):
        if language == "console":
            for shown in text.split("$ ")[1:]:
                command, _, output = shown.partition("\n")
                yield command, output


def here(text: str, server: RunningServer) -> str:
    """The text with the ports and the interpreter of this run."""
    text = text.replace("localhost:8000", server.http).replace("localhost:8001", server.grpc)
    return text.replace(".venv/bin/vintner", f"{sys.executable} -m vintner")


PAGES = (
    "README.md",
    "docs/streaming.md",
    "docs/v1.md",
    "docs/rest.md",
    "docs/embeddings.md",
    "docs/openai.md",
    "docs/language_models.md",
)
"""Whose commands are for the repository that ships."""


def check(command: str, output: str, server: RunningServer, directory: Path = ROOT) -> None:
    """Runs a command that a page shows, and holds what it prints against what the page says."""
    run = subprocess.run(["bash", "-c", here(command, server)], capture_output=True, text=True, cwd=directory)
    assert run.stdout.rstrip("\n") == output.rstrip("\n"), (command, run.stderr)


@pytest.mark.parametrize(("command", "output"), [shown for page in PAGES for shown in commands(page)])
def test_commands_print_what_the_pages_say(shipped: RunningServer, command: str, output: str) -> None:
    check(command, output, shipped)


def test_the_backend_in_the_docs_streams(tmp_path: Path) -> None:
    (program,) = (text for language, text in blocks("docs/streaming.md") if language == "python")
    (tmp_path / "counting_backend.py").write_text(program)
    info = tmp_path / "counting-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: counting\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[vintner.backends]\ncounting = counting_backend:CountingBackend\n")
    (tmp_path / "models" / "count" / "1").mkdir(parents=True)
    (tmp_path / "models" / "count" / "1" / "counter").touch()
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    server = start_server(tmp_path / "models", tmp_path / "log", env={"PYTHONPATH": path})
    try:
        found = server.request("POST", "/v2/models/count/generate_stream", b'{"up_to": 3}')[2]
    finally:
        server.kill()
    numbers = [json.loads(event[6:])["number"] for event in found.decode().split("\n\n") if event]
    assert numbers == [0, 1, 2]


def test_the_labels_in_the_docs_are_valid() -> None:
    (keys,) = (text for language, text in blocks("docs/v1.md") if language == "yaml")
    assert parse_model_config(yaml.safe_load(keys), "docs/v1.md").version_labels == {"stable": 1, "next": 2}


def test_the_commands_that_control_models_print_what_the_docs_say(tmp_path: Path) -> None:
    shown = next(text for language, text in blocks("docs/model-control.md") if not language)
    options = shown.split("model_repository", 1)[1].split()
    server = start_server(ROOT / "model_repository", tmp_path / "log", *options)
    try:
        for command, output in commands("docs/model-control.md"):
            check(command, output, server, ROOT)
    finally:
        server.kill()


def test_what_is_logged_is_what_the_docs_say(tmp_path: Path) -> None:
    shown = [text for language, text in blocks("docs/logging.md") if language in ("", "log")]
    options = shown[0].split("model_repository", 1)[1].split()
    server = start_server(ROOT / "model_repository", tmp_path / "log", *options)
    try:
        for command, output in commands("docs/logging.md"):
            check(command, output, server, ROOT)
    finally:
        server.kill()
    (expected, logged) = (re.sub(r"[\d.]+(e-\d+)?", "0", text) for text in (shown[1], server.log.read_text()))
    for line in expected.splitlines():
        assert line in logged.splitlines()


@pytest.mark.parametrize("page", ["docs/grpc.md", "docs/openai.md", "docs/language_models.md"])
def test_the_only_program_of_a_page_prints_what_it_says(shipped: RunningServer, page: str) -> None:
    program, output = (text for language, text in blocks(page) if language in ("python", ""))
    run = subprocess.run([sys.executable, "-c", here(program, shipped)], capture_output=True, text=True, check=False)
    assert run.stdout == output, run.stderr


def test_a_change_of_the_repository_shows_what_the_docs_say(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "model_repository", tmp_path / "models")
    server = start_server(tmp_path / "models", tmp_path / "log")
    try:
        for command, output in commands("docs/model-life.md"):
            check(command, output, server, tmp_path)
    finally:
        server.kill()
    (keys,) = (text for language, text in blocks("docs/model-life.md") if language == "yaml")
    assert parse_model_config(yaml.safe_load(keys), "docs/model-life.md").load == "on_demand"


def test_the_readmes_program_prints_what_it_says(shipped: RunningServer) -> None:
    (index, program) = next((i, text) for i, (language, text) in enumerate(blocks("README.md")) if language == "python")
    run = subprocess.run([sys.executable, "-c", here(program, shipped)], capture_output=True, text=True, check=False)
    assert run.stdout == blocks("README.md")[index + 1][1], run.stderr


def test_the_program_in_the_docs_prints_what_they_say(shipped: RunningServer) -> None:
    shown = blocks("docs/models.md")
    (index, program) = next((i, text) for i, (language, text) in enumerate(shown) if language == "python")
    run = subprocess.run([sys.executable, "-c", here(program, shipped)], capture_output=True, text=True, check=False)
    assert run.stdout == shown[index + 1][1], run.stderr


def test_the_program_about_embeddings_prints_what_the_docs_say(shipped: RunningServer) -> None:
    shown = blocks("docs/embeddings.md")
    (index, program) = next((i, text) for i, (language, text) in enumerate(shown) if language == "python")
    run = subprocess.run([sys.executable, "-c", here(program, shipped)], capture_output=True, text=True, check=False)
    assert run.stdout == shown[index + 1][1], run.stderr


def test_the_options_of_embedding_models_in_the_docs_are_all_that_there_are(tmp_path: Path) -> None:
    (keys,) = (text for language, text in blocks("docs/embeddings.md") if language == "yaml")
    options = parse_model_config(yaml.safe_load(keys), "docs/embeddings.md").backend_options
    assert options.keys() == OPTIONS
    directory = ROOT / "model_repository" / "tiny_embeddings" / "1"
    assert read_settings(directory, options) == read_settings(directory, {})


def test_the_settings_of_a_language_model_in_the_docs_are_all_that_there_are(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "language_models.md").read_text()
    (keys,) = (text for language, text in blocks("docs/language_models.md") if language == "yaml")
    table = page.partition("| Key | Default |")[2].partition("\n\n")[0]
    documented = {key for row in table.splitlines() for key in re.findall(r"`(\w+)`", row.split("|")[1] if row else "")}
    assert documented == GenerationConfig.model_fields.keys()
    given = parse_model_config(yaml.safe_load(keys), "docs/language_models.md").generation.model_fields_set
    assert given == documented - {"max_ngram_size"}
    for table, known in (("tool_parser", TOOL_PARSERS), ("reasoning_parser", REASONING_PARSERS)):
        rows = page.partition(f"| Template | `{table}` |")[2].partition("\n\n")[0]
        assert set(re.findall(r"\| `(\w+)` \|$", rows, re.MULTILINE)) == known.keys()


def test_the_parameters_of_a_language_model_in_the_docs_are_all_that_there_are() -> None:
    page = (ROOT / "docs" / "language_models.md").read_text()
    rows = page.partition("| Parameter | |")[2].partition("\n\n")[0].splitlines()
    documented = {name for row in rows if row for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert documented == {*SAMPLING, *CONSTRAINTS, *OTHERS, "priority", "timeout"}


def test_a_language_model_without_a_version_directory_has_the_settings_in_the_docs(tmp_path: Path) -> None:
    (keys,) = (text for language, text in blocks("docs/language_models.md") if language == "yaml")
    model, files = tmp_path / "models" / "chat", ROOT / "model_repository" / "tiny_llm" / "1"
    shutil.copytree(files, model)
    shutil.copytree(files, model / "draft")
    shutil.copy(ADAPTER, model)
    (model / "config.yaml").write_text(keys)
    server = start_server(tmp_path / "models", tmp_path / "log")
    try:
        asked = {"messages": chats()["name"].messages, "temperature": 0}
        for name, answer in (("chat", chats()["name"].answer), ("chat:parrot", adapted_chats()["name"].answer)):
            body = json.dumps({"model": name, **asked}).encode()
            reply = json.loads(server.request("POST", "/v1/chat/completions", body)[2])
            assert reply["choices"][0]["message"]["content"] == answer
    finally:
        server.kill()


def test_the_programs_about_inference_print_what_the_docs_say(tmp_path: Path) -> None:
    shown = blocks("docs/inference.md")
    server = start_server(ROOT / "model_repository", tmp_path / "log", "--allow-client-shm")
    try:
        for index, program in ((i, text) for i, (language, text) in enumerate(shown) if language == "python"):
            run = subprocess.run([sys.executable, "-c", here(program, server)], capture_output=True, text=True)
            assert run.stdout == shown[index + 1][1], run.stderr
    finally:
        server.kill()


def test_the_configuration_in_the_docs_is_valid_and_complete(tmp_path: Path) -> None:
    from vintner.model_config import ModelConfig

    shown = [text for language, text in blocks("docs/models.md") if language == "yaml"]
    config = parse_model_config(yaml.safe_load(shown[0]), "docs/models.md")
    assert set(config.model_fields_set) == set(ModelConfig.model_fields)


def test_the_triton_configuration_in_the_docs_is_read(tmp_path: Path) -> None:
    shown = [text for language, text in blocks("docs/models.md") if language == "pbtxt"]
    path = tmp_path / "config.pbtxt"
    path.write_text(shown[0])
    config = read_triton_config(path)
    assert (config.backend, config.batching.max_batch_size, config.instances) == ("onnxruntime", 16, 1)


def test_the_example_of_a_quantised_version_is_judged_as_the_docs_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = blocks("docs/traffic.md")
    quantise, send, ask = (text for language, text in shown if language == "python")
    everything, shadow, canary = (text for language, text in shown if language == "yaml")
    (output,) = (text for language, text in shown if not language and text.startswith("compared"))
    model = tmp_path / "models" / "digits_onnx"
    shutil.copytree(ROOT / "model_repository" / "digits_onnx" / "1", model / "1")
    monkeypatch.chdir(tmp_path)
    exec(quantise, {})
    (model / "config.yaml").write_text(shadow)
    server = start_server(tmp_path / "models", tmp_path / "log")
    try:
        subprocess.run([sys.executable, "-c", here(send, server)], check=True)
        seen = ("vintner_shadow_requests_total", "vintner_shadow_skipped_total")
        wait_until(lambda: sum(map(server.counter, seen)) == 450)
        run = subprocess.run([sys.executable, "-c", here(ask, server)], capture_output=True, text=True, check=True)
    finally:
        server.kill()
    figures = [float(number) for number in re.findall(r"[\d.]+", run.stdout)]
    assert re.sub(r"[\d.]+", "0", run.stdout) == re.sub(r"[\d.]+", "0", output)
    assert sum(figures[:2]) == 450
    assert figures[0] > 400
    assert 0 < figures[2] < 0.002
    assert figures[2] <= figures[3] < 0.2
    assert figures[4] > 99
    for text in (everything, canary):
        traffic = parse_model_config(yaml.safe_load(text), "docs/traffic.md").traffic
        assert traffic is not None
        assert traffic.canary is not None
