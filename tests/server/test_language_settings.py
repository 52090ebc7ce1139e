"""What a language model's configuration says of its chat template and of what reads its text."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from running_server import ROOT, RunningServer, start_server
from tiny_chats import messages, tools

JSON = {"Content-Type": "application/json"}
CONFIGS = {
    "plain": "",
    "other_template": "generation: {chat_template: loud.jinja}",
    "no_template": "",
    "two_templates": "",
    "no_parsers": "generation: {tool_parser: none, reasoning_parser: none}",
    "short": "generation: {default_max_tokens: 3}",
    "no_such_parser": "generation: {tool_parser: hermez}",
    "no_such_template": "generation: {chat_template: other.jinja}",
    "broken_template": "generation: {chat_template: broken.jinja}",
    "pooled": "pools: [{device: CPU}, {device: CPU, hint: latency}]",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    root = tmp_path_factory.mktemp("settings")
    for name, config in CONFIGS.items():
        shutil.copytree(ROOT / "model_repository" / "tiny_llm" / "1", root / name / "1")
        (root / name / "config.yaml").write_text(config)
        (root / name / "1" / "loud.jinja").write_text("{{ messages[0].content | upper }}")
        (root / name / "1" / "broken.jinja").write_text("{% if %}")
    forget_template(root / "no_template" / "1")
    give_tools_a_template(root / "two_templates" / "1")
    shutil.copytree(ROOT / "model_repository" / "text_lines", root / "tensors")
    (root / "tensors" / "config.yaml").write_text("backend: onnxruntime\ngeneration: {max_num_seqs: 1}\n")
    server = start_server(root, root.parent / "settings.log", "--no-strict-readiness")
    yield server
    server.kill()


def give_tools_a_template(directory: Path) -> None:
    (directory / "additional_chat_templates").mkdir()
    (directory / "chat_template.jinja").rename(directory / "additional_chat_templates" / "tool_use.jinja")
    (directory / "chat_template.jinja").write_text("{{ messages[0].content }}")


def forget_template(directory: Path) -> None:
    """Also the copy that the converted tokenizer has."""
    (directory / "chat_template.jinja").unlink()
    tokenizer = directory / "openvino_tokenizer.xml"
    tokenizer.write_text(re.sub(r'<chat_template value="[^"]*" ?/>', "", tokenizer.read_text()))


def post(server: RunningServer, path: str, **asked: Any) -> tuple[int, dict[str, Any]]:
    status, _, body = server.request("POST", f"/v1/{path}", json.dumps(asked).encode(), JSON)
    return status, json.loads(body)


def test_a_template_may_be_in_a_file_of_its_own(server: RunningServer) -> None:
    for model, text in (("other_template", "WHO ARE YOU?"), ("plain", None)):
        status, reply = post(server, "tokenize", model=model, messages=messages("name"), return_token_strs=True)
        assert status == 200
        assert ("".join(reply["token_strs"]) == text) == (text is not None)


def test_a_model_without_a_template_completes_texts_only(server: RunningServer) -> None:
    status, reply = post(server, "chat/completions", model="no_template", messages=messages("name"))
    assert (status, reply["error"]["param"]) == (400, "model")
    assert "has no chat template" in reply["error"]["message"]
    assert post(server, "completions", model="no_template", prompt="a b c d")[0] == 200


def test_text_is_read_by_nothing_if_that_is_wanted(server: RunningServer) -> None:
    thinking = {"chat_template_kwargs": {"enable_thinking": True}, "temperature": 0}
    for model, thought in (("plain", True), ("no_parsers", False)):
        reply = post(server, "chat/completions", model=model, messages=messages("think_capital"), **thinking)[1]
        message = reply["choices"][0]["message"]
        assert ("reasoning_content" in message) == thought
        assert message["content"].startswith("<think>") != thought
    asked = {"messages": messages("tool"), "tools": tools("tool")}
    status, reply = post(server, "chat/completions", model="no_parsers", **asked)
    assert (status, reply["error"]["code"], reply["error"]["param"]) == (400, "unsupported_parameter", "tools")


def test_a_template_for_tools_tells_how_they_are_called(server: RunningServer) -> None:
    asked = {"messages": messages("tool"), "tools": tools("tool"), "temperature": 0}
    reply = post(server, "chat/completions", model="two_templates", **asked)[1]
    assert reply["choices"][0]["finish_reason"] == "tool_calls"
    assert reply["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "get_weather"


def test_an_answer_is_as_long_as_the_configuration_says(server: RunningServer) -> None:
    for path, asked in (("chat/completions", {"messages": messages("story")}), ("completions", {"prompt": "a b c d"})):
        reply = post(server, path, model="short", temperature=0, **asked)[1]
        assert reply["usage"]["completion_tokens"] == 3


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("no_such_parser", "tool_parser: there is no 'hermez'; did you mean 'hermes'?"),
        ("no_such_template", "other.jinja: cannot be read: No such file or directory"),
        ("broken_template", "broken.jinja: the chat template is not valid Jinja2"),
        ("pooled", "a language model cannot have several pools"),
        ("tensors", "generation: the model is not a language model"),
    ],
)
def test_a_setting_that_cannot_be_followed_is_told_when_the_model_is_loaded(
    server: RunningServer, model: str, reason: str
) -> None:
    status, reply = post(server, "completions", model=model, prompt="a")
    assert (status, reply["error"]["code"]) == (503, "not_ready")
    assert reason in reply["error"]["message"]
    assert "/tmp" not in reply["error"]["message"]
