"""Language models that come, go and change while they generate, and that have little room."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from repository_calls import index
from running_server import ROOT, RunningServer, start_server
from tiny_chats import CHATS, answer, messages
from vintner.chat_templates import read_template
from waiting import wait_until

SHIPPED = ROOT / "model_repository"
TEMPLATE = read_template(SHIPPED / "tiny_llm" / "1")
PLAIN = [name for name, chat in CHATS.items() if not chat.tools and not chat.thinking]
CONFIGS = {
    "controlled": "",
    "sleeping": "load: on_demand\nidle_unload_seconds: 1\n",
    "small_cache": "generation: {kv_cache_size: 512KiB}\n",
    "small_cache_unkept": "generation: {kv_cache_size: 512KiB, prefix_caching: false}\n",
    "drafting": "generation: {draft_model: draft, num_assistant_tokens: 4, kv_cache_size: 512KiB}\n",
    "looking_up": "generation: {max_ngram_size: 3, kv_cache_size: 512KiB}\n",
    "few": "generation: {max_num_seqs: 2}\n",
    "shadowed": "traffic: {default: 1, shadow: {version: 2}}\n",
}
LONG = {"ignore_eos": True, "max_tokens": 1000}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    root = tmp_path_factory.mktemp("life")
    for name, config in CONFIGS.items():
        shutil.copytree(SHIPPED / "tiny_llm" / "1", root / name / "1")
        (root / name / "config.yaml").write_text(config)
    shutil.copytree(SHIPPED / "tiny_llm" / "1", root / "drafting" / "1" / "draft")
    shutil.copytree(SHIPPED / "tiny_llm" / "1", root / "shadowed" / "2")
    shutil.copytree(SHIPPED / "tiny_llm_onnx" / "1", root / "controlled_onnx" / "1")
    server = start_server(root, root.parent / "life.log", "--model-control=explicit", "--load-model=*")
    yield server
    server.kill()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(64) as pool:
        yield pool


def generate(server: RunningServer, model: str, name: str, **parameters: Any) -> tuple[int, str]:
    """The status, and the text or what was said."""
    assert TEMPLATE is not None
    asked = {"text_input": TEMPLATE.render(messages(name)), **parameters}
    status, _, body = server.request("POST", f"/v2/models/{model}/generate", json.dumps(asked).encode())
    reply = json.loads(body)
    return status, reply.get("text_output", reply)


def chat(server: RunningServer, model: str, name: str, **parameters: Any) -> dict[str, Any]:
    asked = {"model": model, "messages": messages(name), "temperature": 0, **parameters}
    headers = {"Content-Type": "application/json"}
    status, _, body = server.request("POST", "/v1/chat/completions", json.dumps(asked).encode(), headers)
    assert status == 200, body
    choice: dict[str, Any] = json.loads(body)["choices"][0]
    return choice


def stream(server: RunningServer, model: str) -> str:
    """All events of a long answer."""
    asked = {"model": model, "prompt": "a b c d", "stream": True, "temperature": 0, **LONG}
    headers = {"Content-Type": "application/json"}
    _, _, body = server.request("POST", "/v1/completions", json.dumps(asked).encode(), headers)
    return body.decode()


def control(server: RunningServer, model: str, action: str, config: dict[str, Any] | None = None) -> int:
    body = {"parameters": {"config": json.dumps(config)}} if config is not None else {}
    return server.request("POST", f"/v2/repository/models/{model}/{action}", json.dumps(body).encode())[0]


def begin(server: RunningServer, pool: ThreadPoolExecutor, model: str, count: int) -> list[Future[tuple[int, str]]]:
    """Long answers that are under way."""
    asked = [pool.submit(generate, server, model, "story", **LONG) for _ in range(count)]
    wait_until(lambda: running(server, model) or any(one.done() for one in asked))
    return asked


def running(server: RunningServer, model: str) -> float:
    return server.counter("vintner_generation_sequences_running", model=model)


def whole(asked: list[Future[tuple[int, str]]]) -> bool:
    """Whether all were answered to their ends."""
    return all(one.result()[0] == 200 and one.result()[1].startswith(answer("story")) for one in asked)


# -- coming and going --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["controlled", "controlled_onnx"])
def test_what_runs_when_a_model_is_unloaded_is_answered(
    server: RunningServer, pool: ThreadPoolExecutor, model: str
) -> None:
    asked = begin(server, pool, model, 2)
    assert control(server, model, "unload") == 200
    assert generate(server, model, "capital")[0] == 503
    assert whole(asked)
    assert control(server, model, "load") == 200
    assert generate(server, model, "capital") == (200, answer("capital"))


@pytest.mark.parametrize("model", ["controlled", "controlled_onnx"])
def test_what_runs_when_a_configuration_changes_is_answered_by_the_former(
    server: RunningServer, pool: ThreadPoolExecutor, model: str
) -> None:
    asked = begin(server, pool, model, 2)
    assert control(server, model, "load", {"generation": {"default_max_tokens": 3}}) == 200
    assert chat(server, model, "story")["finish_reason"] == "length"
    assert whole(asked)
    assert control(server, model, "load", {"response_cache": True}) == 400
    assert chat(server, model, "story")["finish_reason"] == "length"
    assert control(server, model, "load", {}) == 200
    assert chat(server, model, "story")["message"]["content"] == answer("story")


def test_a_model_is_loaded_by_its_first_request_and_put_away_when_nobody_asks(server: RunningServer) -> None:
    for _ in range(2):
        wait_until(lambda: index(server)["sleeping/1"][0] == "UNAVAILABLE")
        assert chat(server, "sleeping", "capital")["message"]["content"] == answer("capital")
    assert generate(server, "sleeping", "story", **LONG)[1].startswith(answer("story"))


@pytest.mark.parametrize("model", ["tiny_llm", "tiny_llm_onnx"])
def test_a_server_that_is_told_to_end_finishes_what_it_generates(
    start: Callable[..., RunningServer], tmp_path: Path, pool: ThreadPoolExecutor, model: str
) -> None:
    shutil.copytree(SHIPPED / model, tmp_path / "models" / model)
    server = start(tmp_path / "models")
    asked = begin(server, pool, model, 2)
    assert server.terminate() == 0
    assert whole(asked)


@pytest.mark.parametrize("model", ["tiny_llm", "tiny_llm_onnx"])
def test_what_is_not_finished_when_the_server_has_to_end_is_told(
    start: Callable[..., RunningServer], tmp_path: Path, pool: ThreadPoolExecutor, model: str
) -> None:
    """In time for it to be sent, which a request that runs for minutes would not be otherwise."""
    shutil.copytree(SHIPPED / model, tmp_path / "models" / model)
    server = start(tmp_path / "models", "--exit-timeout-seconds=2")
    asked = begin(server, pool, model, 48)
    streamed = pool.submit(stream, server, model)
    wait_until(lambda: server.counter("vintner_requests_in_flight", model=model) == 49)
    assert server.terminate() == 0
    answers = [one.result() for one in asked]
    assert {status for status, _ in answers} <= {200, 503}
    assert (503, {"error": "the server is stopping"}) in answers
    assert "the server is stopping" in streamed.result()


# -- little room -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["small_cache", "small_cache_unkept", "drafting", "looking_up"])
def test_64_at_once_are_answered_though_the_cache_has_no_room_for_them(
    server: RunningServer, pool: ThreadPoolExecutor, model: str
) -> None:
    names = [PLAIN[number % len(PLAIN)] for number in range(64)]
    answers = pool.map(lambda name: generate(server, model, name), names)
    assert list(answers) == [(200, answer(name)) for name in names]


def test_a_prompt_that_the_cache_has_no_room_for_is_refused(server: RunningServer) -> None:
    status, _, body = server.request(
        "POST", "/v2/models/small_cache/generate", json.dumps({"text_input": "Ω" * 900}).encode()
    )
    assert status == 413
    assert b"key-value cache" in body


@pytest.mark.parametrize("model", ["small_cache", "small_cache_unkept"])
def test_an_answer_that_outgrows_the_cache_is_an_error_and_no_short_answer(server: RunningServer, model: str) -> None:
    status, said = generate(server, model, "story", **LONG)
    assert status == 413
    assert "has no room for the prompt and what was generated so far" in str(said)
    assert generate(server, model, "capital") == (200, answer("capital"))


def test_no_more_are_generated_at_once_than_the_configuration_says(
    server: RunningServer, pool: ThreadPoolExecutor
) -> None:
    asked = begin(server, pool, "few", 4)
    wait_until(lambda: server.counter("vintner_generation_sequences_waiting", model="few") == 2 or asked[-1].done())
    assert not any(one.done() for one in asked)
    assert running(server, "few") == 2
    assert whole(asked)


# -- trials ------------------------------------------------------------------------------------------------------


def test_a_shadow_is_compared_by_tensors_and_what_has_none_is_counted(server: RunningServer) -> None:
    labels = {"model": "shadowed", "shadow": "2"}
    assert chat(server, "shadowed", "capital")["message"]["content"] == answer("capital")
    assert generate(server, "shadowed", "capital") == (200, answer("capital"))
    wait_until(lambda: server.counter("vintner_shadow_requests_total", **labels, outcome="ok") == 1)
    assert server.counter("vintner_shadow_requests_total", **labels) == 1
    assert server.counter("vintner_shadow_skipped_total", **labels, reason="not_comparable") == 1
    assert server.counter("vintner_shadow_mismatches_total", **labels) == 0
