"""A language model of ONNX Runtime GenAI in a real server: it answers, and leaves no process behind in the end."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as grpc_client
from running_server import ROOT, RunningServer, start_server
from waiting import wait_until

NAME = "tiny_llm_onnx"
PROMPT = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
CAPITAL = ("What is the capital of France?", "The capital of France is Paris.")
ANSWERS = {
    CAPITAL[0]: CAPITAL[1],
    "Count from one to ten.": "1, 2, 3, 4, 5, 6, 7, 8, 9, 10",
    "Πώς σε λένε;": "Με λένε Ίριδα και μένω στην Αθήνα.",
    "Show me three animals.": "🐱🐶🦊 and a family: 👨‍👩‍👧",
}
WORKER = "onnxruntime_genai_worker"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    shutil.copytree(ROOT / "model_repository" / NAME, root / NAME)
    return root


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[RunningServer]:
    server = start_server(repository, repository.parent / "genai.log")
    yield server
    server.kill()


def workers(server: RunningServer) -> list[int]:
    """The processes of models that a server has."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if parent(int(entry.name)) == server.process.pid and WORKER in (entry / "cmdline").read_text():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def parent(pid: int) -> int:
    return int(status(pid)[1])


def status(pid: int) -> list[str]:
    """The fields of a process behind its name: its state, its parent ..."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def gone(pid: int) -> bool:
    try:
        return status(pid)[0] == "Z"  # its own end is over; nobody may be there to ask for it
    except OSError:
        return True


def ask(server: RunningServer, question: str, **parameters: object) -> str:
    with grpc_client.InferenceServerClient(server.grpc) as client:
        text = grpc_client.InferInput("text_input", [1], "BYTES")
        text.set_data_from_numpy(np.array([PROMPT.format(question).encode()], object))
        answer = client.infer(NAME, [text], parameters=parameters or None)
        return answer.as_numpy("text_output")[0].decode()


def generate(server: RunningServer, question: str, **parameters: object) -> tuple[int, dict[str, object]]:
    body = json.dumps({"text_input": PROMPT.format(question), **parameters}).encode()
    code, _, reply = server.request("POST", f"/v2/models/{NAME}/generate", body, {"content-type": "application/json"})
    return code, json.loads(reply)


def test_it_is_found_and_tells_its_platform(server: RunningServer) -> None:
    code, _, body = server.request("GET", f"/v2/models/{NAME}")
    assert code == 200
    assert json.loads(body)["platform"] == "onnxruntime_genai"


def test_answers_are_the_models_one_by_one_and_many_at_once(server: RunningServer) -> None:
    assert {question: ask(server, question) for question in ANSWERS} == ANSWERS
    with ThreadPoolExecutor(16) as pool:
        texts = list(pool.map(lambda question: ask(server, question), list(ANSWERS) * 4))
    assert texts == list(ANSWERS.values()) * 4


def test_stop_strings_and_lengths_are_the_servers(server: RunningServer) -> None:
    assert ask(server, "Count from one to ten.", stop="5") == "1, 2, 3, 4, "
    code, reply = generate(server, CAPITAL[0], max_tokens=2, return_finish_reason=True)
    assert (code, reply["finish_reason"]) == (200, "length")
    assert str(reply["text_output"]) == CAPITAL[1][: len(str(reply["text_output"]))]


@pytest.mark.parametrize("parameter", [{"min_p": 0.5}, {"presence_penalty": 1.0}, {"seed": 3, "temperature": 0.5}])
def test_what_the_runtime_lacks_is_refused_by_name(server: RunningServer, parameter: dict[str, float]) -> None:
    code, reply = generate(server, CAPITAL[0], **parameter)
    assert code == 501
    assert next(iter(parameter)) in str(reply["error"])


def test_a_process_that_dies_is_replaced_and_requests_are_answered(server: RunningServer) -> None:
    [killed] = workers(server)
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(ask, server, CAPITAL[0]) for _ in range(4)]
        [answer.result() for answer in asked]
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: gone(killed))
        assert ask(server, CAPITAL[0]) == CAPITAL[1]
    [new] = workers(server)
    assert new != killed


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
def test_no_process_is_left_when_the_server_ends(repository: Path, tmp_path: Path, ending: signal.Signals) -> None:
    server = start_server(repository, tmp_path / "log")
    try:
        [worker] = workers(server)
        assert ask(server, CAPITAL[0]) == CAPITAL[1]
        code = server.terminate(ending)
        assert code == (0 if ending == signal.SIGTERM else -ending)
        wait_until(lambda: gone(worker))
    finally:
        server.kill()


def test_no_process_is_left_when_the_model_is_unloaded(repository: Path, tmp_path: Path) -> None:
    server = start_server(repository, tmp_path / "log", "--model-control-mode=explicit", f"--load-model={NAME}")
    try:
        [worker] = workers(server)
        assert server.request("POST", f"/v2/repository/models/{NAME}/unload", b"{}")[0] == 200
        wait_until(lambda: gone(worker))
        assert server.request("POST", f"/v2/repository/models/{NAME}/load", b"{}")[0] == 200
        wait_until(lambda: len(workers(server)) == 1)
        assert ask(server, CAPITAL[0]) == CAPITAL[1]
    finally:
        server.kill()


def test_a_server_that_is_told_to_end_finishes_what_it_generates(repository: Path, tmp_path: Path) -> None:
    """Also where the signal reaches all of its processes, as service managers send it."""
    server = start_server(repository, tmp_path / "log")
    try:
        [worker] = workers(server)
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(generate, server, CAPITAL[0], max_tokens=1900, ignore_eos=True)
            wait_until(lambda: server.counter("vintner_instances_busy") or asked.done())
            os.kill(worker, signal.SIGTERM)
            assert server.terminate() == 0
            code, reply = asked.result()
        assert (code, str(reply["text_output"])[: len(CAPITAL[1])]) == (200, CAPITAL[1])
        wait_until(lambda: gone(worker))
    finally:
        server.kill()
