"""Language models by Triton's clients: one answer, streams of them, and what becomes of those who leave."""

from __future__ import annotations

import json
import queue
import re
import shutil
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpc_client
import tritonclient.http as http_client
from running_server import ROOT, RunningServer, start_server
from tiny_chats import CHATS, answer, messages
from tritonclient.utils import InferenceServerException
from vintner.chat_templates import read_template
from waiting import wait_until

RUNTIMES = ("tiny_llm", "tiny_llm_onnx")
PLAIN = [name for name, chat in CHATS.items() if not chat.tools and not chat.thinking]
TEMPLATE = read_template(ROOT / "model_repository" / "tiny_llm" / "1")
PATIENCE = 60.0
ENDLESS = {"ignore_eos": True, "max_tokens": 1900}
MANY = 24
"""Endless answers at a time: they take seconds."""


def prompt(name: str) -> str:
    assert TEMPLATE is not None
    return TEMPLATE.render(messages(name))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    root = tmp_path_factory.mktemp("languages")
    for name in RUNTIMES:
        shutil.copytree(ROOT / "model_repository" / name, root / name)
    server = start_server(root, root.parent / "languages.log")
    yield server
    server.kill()


class Stream:
    """One gRPC stream, with the texts of its requests."""

    def __init__(self, server: RunningServer) -> None:
        self.client = grpc_client.InferenceServerClient(server.grpc)
        self._came: queue.Queue[tuple[Any, Any]] = queue.Queue()
        self.texts: dict[str, str] = {}
        self.client.start_stream(lambda result, error: self._came.put((result, error)))

    def ask(self, model: str, text: str, identity: str, **parameters: Any) -> None:
        self.texts[identity] = ""
        self.client.async_stream_infer(
            model, grpc_input(text), request_id=identity, parameters=parameters, enable_empty_final_response=True
        )

    def next(self) -> str | None:
        """The request that has ended with the next message, if one has."""
        result, error = self._came.get(timeout=PATIENCE)
        assert error is None, error
        response = result.get_response()
        if response.parameters["triton_final_response"].bool_param:
            return str(response.id)
        self.texts[response.id] += result.as_numpy("text_output")[0].decode()
        return None

    def all(self) -> Mapping[str, str]:
        left = set(self.texts)
        while left:
            left.discard(self.next() or "")
        return self.texts

    def close(self) -> None:
        self.client.stop_stream(cancel_requests=True)
        self.client.close()


def grpc_input(*texts: str) -> list[grpc_client.InferInput]:
    given = grpc_client.InferInput("text_input", [len(texts)], "BYTES")
    given.set_data_from_numpy(np.array([text.encode() for text in texts], np.object_))
    return [given]


def post(server: RunningServer, model: str, route: str, body: dict[str, Any]) -> tuple[int, Any]:
    status, _, text = server.request("POST", f"/v2/models/{model}/{route}", json.dumps(body).encode())
    return status, text


def running(server: RunningServer, model: str = "tiny_llm") -> float:
    return server.counter("vintner_generation_sequences_running", model=model)


def ended(server: RunningServer, outcome: str) -> float:
    return server.counter("vintner_requests_total", model="tiny_llm", outcome=outcome)


# -- answers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", RUNTIMES)
def test_64_at_once_are_each_answered_as_if_they_were_alone(server: RunningServer, model: str) -> None:
    stream = Stream(server)
    asked = {str(number): PLAIN[number % len(PLAIN)] for number in range(64)}
    for identity, name in asked.items():
        stream.ask(model, prompt(name), identity)
    texts = stream.all()
    assert texts == {identity: answer(name) for identity, name in asked.items()}
    stream.close()


@pytest.mark.parametrize("model", RUNTIMES)
def test_one_answer_to_a_request_by_each_of_tritons_clients(server: RunningServer, model: str) -> None:
    by_grpc = grpc_client.InferenceServerClient(server.grpc).infer(model, grpc_input(prompt("capital")))
    assert by_grpc.as_numpy("text_output").tolist() == [answer("capital").encode()]
    given = http_client.InferInput("text_input", [1], "BYTES")
    given.set_data_from_numpy(np.array([prompt("greek")], np.object_))
    by_rest = http_client.InferenceServerClient(server.http).infer(model, [given], parameters={"max_tokens": 500})
    assert by_rest.as_numpy("text_output").tolist() == [answer("greek").encode()]


def test_several_prompts_have_an_answer_each(server: RunningServer) -> None:
    names = PLAIN[:5]
    reply = grpc_client.InferenceServerClient(server.grpc).infer("tiny_llm", grpc_input(*map(prompt, names)))
    assert [text.decode() for text in reply.as_numpy("text_output")] == [answer(name) for name in names]


def test_generate_takes_parameters_as_the_open_inference_protocol_has_them(server: RunningServer) -> None:
    asked = {"text_input": prompt("counting"), "parameters": {"max_tokens": 400, "temperature": 0.0, "stop": [" 4"]}}
    status, text = post(server, "tiny_llm", "generate", asked)
    assert status == 200
    assert json.loads(text) == {"model_name": "tiny_llm", "model_version": "1", "text_output": "1, 2, 3,"}


def test_generate_tells_what_it_is_asked_to_tell(server: RunningServer) -> None:
    more = {"return_finish_reason": True, "return_num_input_tokens": True, "return_num_output_tokens": True}
    status, text = post(server, "tiny_llm", "generate", {"text_input": prompt("story"), "max_tokens": 7, **more})
    reply = json.loads(text)
    assert status == 200
    assert (reply["finish_reason"], reply["num_output_tokens"]) == ("length", 7)
    assert reply["num_input_tokens"] > 7
    assert answer("story").startswith(reply["text_output"])
    with_prompt = {"text_input": prompt("capital"), "exclude_input_in_output": False}
    reply = json.loads(post(server, "tiny_llm", "generate", with_prompt)[1])
    assert reply["text_output"] == prompt("capital") + answer("capital")


def test_generate_tells_the_probabilities_as_triton_s_backend_of_vllm_does(server: RunningServer) -> None:
    more = {"return_logprobs": True, "return_cumulative_logprob": True, "return_num_output_tokens": True}
    reply = json.loads(post(server, "tiny_llm", "generate", {"text_input": prompt("capital"), **more})[1])
    tokens = [token for entry in json.loads(reply["logprobs"]) for token in entry.values()]
    assert "".join(token["decoded_token"] for token in tokens) == answer("capital")
    assert len(tokens) == reply["num_output_tokens"]
    assert reply["cumulative_logprob"] == pytest.approx(sum(token["logprob"] for token in tokens), abs=1e-5)
    assert reply["cumulative_logprob"] < 0


def test_outputs_that_are_named_are_told(server: RunningServer) -> None:
    names = ("text_output", "finish_reason", "cumulative_logprob", "num_output_tokens")
    outputs = [grpc_client.InferRequestedOutput(name) for name in names]
    client = grpc_client.InferenceServerClient(server.grpc)
    reply = client.infer("tiny_llm", grpc_input(prompt("capital")), outputs=outputs)
    assert reply.as_numpy("text_output").tolist() == [answer("capital").encode()]
    assert reply.as_numpy("finish_reason").tolist() == [b"stop"]
    assert reply.as_numpy("num_output_tokens")[0] > 1
    assert reply.as_numpy("cumulative_logprob")[0] < 0


def test_parameters_come_as_an_input_and_spelled_as_triton_s_samples_have_them(server: RunningServer) -> None:
    options = json.dumps({"temperature": "0", "max_tokens": "3", "stop_token_ids": []})
    status, text = post(server, "tiny_llm", "generate", {"text_input": prompt("story"), "sampling_parameters": options})
    assert status == 200, text
    assert answer("story").startswith(json.loads(text)["text_output"])
    by_input = grpc_client.InferInput("sampling_parameters", [1], "BYTES")
    by_input.set_data_from_numpy(np.array([options.encode()], np.object_))
    counted = grpc_client.InferInput("return_num_output_tokens", [1], "BOOL")
    counted.set_data_from_numpy(np.array([True]))
    given = [*grpc_input(prompt("story")), by_input, counted]
    by_grpc = grpc_client.InferenceServerClient(server.grpc).infer("tiny_llm", given, parameters={"temperature": "0"})
    assert by_grpc.as_numpy("text_output").tolist() == [json.loads(text)["text_output"].encode()]
    assert by_grpc.as_numpy("num_output_tokens").tolist() == [3]


@pytest.mark.parametrize("model", RUNTIMES)
def test_generate_can_be_held_to_a_schema_or_a_grammar(server: RunningServer, model: str) -> None:
    asked = {"text_input": prompt("json"), "guided_json": '{"type": "integer", "minimum": 10, "maximum": 99}'}
    status, text = post(server, model, "generate", asked)
    assert status == 200, text
    assert 10 <= int(json.loads(text)["text_output"]) <= 99
    grammar = 'root ::= Digit{2} "-" [a-c]\nDigit ::= [0-9]'
    status, text = post(server, model, "generate", {"text_input": prompt("json"), "guided_grammar": grammar})
    assert status == 200, text
    assert re.fullmatch("[0-9]{2}-[a-c]", json.loads(text)["text_output"])


def test_the_last_event_of_a_stream_says_that_it_is_the_last(server: RunningServer) -> None:
    _, text = post(server, "tiny_llm", "generate_stream", {"text_input": prompt("capital")})
    events = [json.loads(line[6:]) for line in text.decode().splitlines() if line.startswith("data: ")]
    assert [event["done"] for event in events] == [False] * (len(events) - 1) + [True]


@pytest.mark.parametrize("model", RUNTIMES)
def test_generate_stream_sends_an_answer_piece_by_piece(server: RunningServer, model: str) -> None:
    status, text = post(server, model, "generate_stream", {"text_input": prompt("story")})
    events = [json.loads(line[6:]) for line in text.decode().splitlines() if line.startswith("data: ")]
    assert status == 200
    assert len(events) > 3
    assert "".join(event["text_output"] for event in events) == answer("story")


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"max_tokens": -1}, "parameter 'max_tokens': expected a whole number from 0 to 2147483647, got -1"),
    ({"top_k": 2**40}, "parameter 'top_k': expected a whole number from 0 to 2147483647, got 1099511627776"),
    ({"seed": 1e300}, "parameter 'seed': expected a whole number from 0 to 18446744073709551615"),
    ({"max_tokns": 1}, "unknown parameter 'max_tokns' of a language model; did you mean 'max_tokens'?"),
    ({"temperature": 3.5}, "parameter 'temperature': expected at least 0 and at most 2, got 3.5"),
    ({"top_p": 0.0}, "parameter 'top_p': expected above 0 and at most 1, got 0.0"),
    ({"stream": "yes"}, "parameter 'stream': expected true or false, got 'yes'"),
    ({"lora_name": "french"}, "parameter 'lora_name': the model has no adapter 'french'"),
    ({"max_tokens": 5000}, "this model's maximum context length is 2048 tokens, but"),
]


@pytest.mark.parametrize(("wrong", "text"), WRONG)
def test_what_is_wrong_with_a_request_is_told_on_both_protocols(
    server: RunningServer, wrong: dict[str, Any], text: str
) -> None:
    status, body = post(server, "tiny_llm", "generate", {"text_input": "a", **wrong})
    assert (status, text in json.loads(body)["error"]) == (400, True), body
    with pytest.raises(InferenceServerException, match="INVALID_ARGUMENT") as caught:
        grpc_client.InferenceServerClient(server.grpc).infer("tiny_llm", grpc_input("a"), parameters=wrong)
    assert text in caught.value.message()


def test_of_a_prompt_longer_by_far_only_the_begin_becomes_tokens(server: RunningServer) -> None:
    status, body = post(server, "tiny_llm", "generate", {"text_input": "a" * 10**6})
    assert (status, "the prompt of 1000000 characters has more than" in json.loads(body)["error"]) == (400, True), body


def test_there_are_not_more_prompts_than_choices(server: RunningServer) -> None:
    with pytest.raises(InferenceServerException, match="at most 128 prompts, got 129"):
        grpc_client.InferenceServerClient(server.grpc).infer("tiny_llm", grpc_input(*["a"] * 129))


def test_a_prompt_longer_than_the_context_is_refused_with_both_lengths(server: RunningServer) -> None:
    status, body = post(server, "tiny_llm", "generate", {"text_input": "one two three " * 1000})
    error = json.loads(body)["error"]
    assert status == 400
    assert "maximum context length is 2048 tokens" in error
    assert "in the prompt" in error


# -- clients that leave ------------------------------------------------------------------------------------------


def test_a_stream_over_grpc_that_is_cancelled_frees_its_places(server: RunningServer) -> None:
    done = {outcome: ended(server, outcome) for outcome in ("ok", "cancelled")}
    stream = Stream(server)
    for number in range(MANY):
        stream.ask("tiny_llm", prompt("story"), str(number), **ENDLESS)
    assert stream.next() is None
    stream.close()
    wait_until(lambda: running(server) == 0)
    assert ended(server, "ok") == done["ok"]
    assert ended(server, "cancelled") > done["cancelled"]


def test_a_call_over_grpc_that_is_cancelled_frees_its_place(server: RunningServer) -> None:
    client = grpc_client.InferenceServerClient(server.grpc)
    ended: queue.Queue[Any] = queue.Queue()
    prompts = grpc_input(*[prompt("story")] * MANY)
    call = client.async_infer("tiny_llm", prompts, lambda result, error: ended.put(error), parameters=ENDLESS)
    wait_until(lambda: running(server) == MANY)
    call.cancel()
    assert "CANCELLED" in str(ended.get(timeout=PATIENCE))
    wait_until(lambda: running(server) == 0)


def connected(server: RunningServer, route: str, body: dict[str, Any]) -> socket.socket:
    text = json.dumps(body).encode()
    host, _, port = server.http.rpartition(":")
    connection = socket.create_connection((host, int(port)), timeout=PATIENCE)
    head = f"POST /v2/models/tiny_llm/{route} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(text)}\r\n\r\n"
    connection.sendall(head.encode() + text)
    return connection


def test_a_stream_over_rest_that_is_left_frees_its_place(server: RunningServer) -> None:
    asked = {"text_input": prompt("story"), **ENDLESS}
    connections = [connected(server, "generate_stream", asked) for _ in range(MANY)]
    for connection in connections:
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")
        connection.close()
    wait_until(lambda: running(server) == 0)


def test_readers_that_do_not_read_hold_up_nobody(server: RunningServer) -> None:
    asked = {"text_input": prompt("story"), **ENDLESS}
    idle = [connected(server, "generate_stream", asked) for _ in range(8)]
    for name in PLAIN[:8]:
        status, text = post(server, "tiny_llm", "generate", {"text_input": prompt(name)})
        assert (status, json.loads(text)["text_output"]) == (200, answer(name))
    for connection in idle:
        connection.close()
    wait_until(lambda: running(server) == 0)


# -- the model's life --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("model", "count"), [("tiny_llm", 4), ("tiny_llm_onnx", 1)])
def test_a_stream_ends_on_the_version_that_it_began_on(start: Any, tmp_path: Path, model: str, count: int) -> None:
    root = tmp_path / "models"
    shutil.copytree(ROOT / "model_repository" / model, root / model)
    server = start(root, "--repository-settle-seconds=0.1")
    stream = Stream(server)
    for number in range(count):
        stream.ask(model, prompt("story"), str(number), ignore_eos=True, max_tokens=1500)
    while not all(stream.texts.values()):
        assert stream.next() is None
    shutil.copytree(root / model / "1", root / "new")
    (root / "new").rename(root / model / "2")
    asked = {"text_input": prompt("capital")}

    def answered_by() -> str:
        status, text = post(server, model, "generate", asked)
        assert status == 200, text
        reply = json.loads(text)
        assert reply["text_output"] == answer("capital")
        return str(reply["model_version"])

    wait_until(lambda: answered_by() == "2")
    assert all(text.startswith(answer("story")) for text in stream.all().values())
    stream.close()
    wait_until(lambda: server.request("GET", f"/v2/models/{model}/versions/1/ready")[0] != 200)
    assert server.terminate() == 0
