"""What a scrape says of a language model after requests whose tokens are known, by all names."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from running_server import ROOT, RunningServer, start_server
from waiting import wait_until

MODEL = ROOT / "model_repository" / "tiny_llm"
CONFIGS = {
    "asked": "",
    "bounded": "generation: {kv_cache_size: 4MiB, prefix_caching: false}\n",
    "narrow": "generation: {max_num_seqs: 1}\n",
}
COUNTED = {"return_num_input_tokens": True, "return_num_output_tokens": True, "return_finish_reason": True}


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("language") / "log"


@pytest.fixture(scope="module")
def server(log: Path) -> Iterator[RunningServer]:
    root = log.parent / "models"
    for name, config in CONFIGS.items():
        shutil.copytree(MODEL / "1", root / name / "1")
        (root / name / "config.yaml").write_text(config)
    running = start_server(root, log, "--ovms-metrics", "--access-log")
    yield running
    running.kill()


def scrape(server: RunningServer) -> str:
    return server.request("GET", "/metrics")[2].decode()


def ask(server: RunningServer, model: str, prompt: str, **parameters: Any) -> dict[str, Any]:
    """By the generate extension."""
    body = json.dumps({"text_input": prompt, **COUNTED, **parameters}).encode()
    status, _, answer = server.request("POST", f"/v2/models/{model}/generate", body)
    assert status == 200, answer
    return dict(json.loads(answer))


def prompts(*texts: str) -> list[Any]:
    given = triton_grpc.InferInput("text_input", [len(texts)], "BYTES")
    given.set_data_from_numpy(np.array(texts, np.object_))
    return [given]


def test_requests_and_tokens_are_those_that_the_clients_were_told_of(server: RunningServer, log: Path) -> None:
    answers = [ask(server, "asked", "Hello!", max_tokens=tokens, ignore_eos=True) for tokens in (1, 7, 20)]
    answers.append(ask(server, "asked", "What is the capital of France?", max_tokens=5, ignore_eos=True))
    with triton_grpc.InferenceServerClient(server.grpc) as client:
        result = client.infer(
            "asked", prompts("red", "a glass of white"), parameters={"max_tokens": 3, "ignore_eos": True, **COUNTED}
        )
    given = [answer["num_input_tokens"] for answer in answers] + result.as_numpy("num_input_tokens").tolist()
    made = [answer["num_output_tokens"] for answer in answers] + result.as_numpy("num_output_tokens").tolist()
    assert made == [1, 7, 20, 5, 3, 3]
    requests, choices = 5, 6

    def own(name: str, **labels: str) -> float:
        return server.counter(f"vintner_generation_{name}", model="asked", version="1", **labels)

    def vllm(name: str, **labels: str) -> float:
        return server.counter(f"vllm:{name}", model_name="asked", engine="0", version="1", **labels)

    # The last client may be answered before the step with which it ended has been counted.
    wait_until(lambda: own("requests_running") == own("sequences_running") == 0 and own("steps_total") >= 36)
    assert own("prompt_tokens_total") == vllm("prompt_tokens_total") == sum(given)
    assert own("generated_tokens_total") == vllm("generation_tokens_total") == sum(made)
    assert own("requests_total", reason="length") == vllm("request_success_total", finished_reason="length") == requests
    assert own("requests_total") == vllm("request_success_total") == requests
    for name in (
        "time_to_first_token_seconds", "e2e_request_latency_seconds", "request_queue_time_seconds",
        "request_prefill_time_seconds", "request_decode_time_seconds", "request_inference_time_seconds",
        "request_prompt_tokens", "request_generation_tokens", "request_params_n", "request_params_max_tokens",
    ):  # fmt: skip
        assert vllm(f"{name}_count") == vllm(f"{name}_bucket", le="+Inf") == requests, name
    assert vllm("request_prompt_tokens_sum") == sum(given)
    assert vllm("request_generation_tokens_sum") == sum(made)
    assert vllm("request_params_max_tokens_sum") == 1 + 7 + 20 + 5 + 3
    assert vllm("request_time_per_output_token_seconds_count") == choices - 1, "one had a single token"
    for name in ("inter_token_latency_seconds", "time_per_output_token_seconds"):
        assert vllm(f"{name}_count") == sum(made) - choices
    assert own("step_tokens_sum") == sum(given) + sum(made)
    parts = [vllm(f"request_{part}_time_seconds_sum") for part in ("queue", "prefill", "decode")]
    assert 0 < sum(parts) <= vllm("e2e_request_latency_seconds_sum")
    assert sum(parts[1:]) == pytest.approx(vllm("request_inference_time_seconds_sum"))
    assert 0 < vllm("time_to_first_token_seconds_sum") < vllm("e2e_request_latency_seconds_sum")
    assert own("restarts_total") == vllm("num_preemptions_total") == 0

    triton = {"model": "asked", "version": "1"}
    assert server.counter("nv_inference_request_success", **triton) == requests
    assert server.counter("nv_inference_exec_count", **triton) == requests
    assert server.counter("nv_inference_count", **triton) == choices
    spent = [server.counter(f"nv_inference_{part}_duration_us", **triton) for part in ("queue", "compute_infer")]
    assert 0 < sum(spent) <= server.counter("nv_inference_request_duration_us", **triton)
    assert server.counter("ovms_inference_time_us_count", name="asked") == requests
    assert server.counter("ovms_requests_success", name="asked", method="ModelInfer") == requests
    with triton_http.InferenceServerClient(server.http) as client:
        (statistics,) = client.get_inference_statistics("asked")["model_stats"]
    assert (statistics["inference_count"], statistics["execution_count"]) == (choices, requests)
    assert statistics["last_inference"] > 0
    assert statistics["inference_stats"]["queue"]["count"] == requests
    assert statistics["inference_stats"]["compute_infer"]["count"] == requests

    told = rf"model=asked .* compute_seconds=\S+ prompt_tokens={given[0]} generated_tokens=1$"
    wait_until(lambda: re.search(told, log.read_text(), re.MULTILINE))


def test_an_answer_that_ends_by_itself_stops_and_one_that_is_refused_was_never_there(server: RunningServer) -> None:
    before = server.counter("vintner_generation_requests_total", model="bounded")
    answer = ask(server, "bounded", "Hello!", max_tokens=100)
    assert server.counter("vintner_generation_requests_total", model="bounded", reason=answer["finish_reason"]) == 1
    body = json.dumps({"text_input": "Hello!", "max_tokens": 10**6}).encode()
    assert server.request("POST", "/v2/models/bounded/generate", body)[0] == 400
    assert server.counter("vintner_generation_requests_total", model="bounded") == before + 1
    assert server.counter("vintner_requests_total", model="bounded", outcome="invalid_argument") == 1
    assert server.counter("nv_inference_exec_count", model="bounded") == before + 1


def test_what_waits_for_a_place_is_seen_and_goes_with_its_client(server: RunningServer) -> None:
    def load(*names: str) -> Sequence[float]:
        return [server.counter(name, model_name="narrow") + server.counter(name, model="narrow") for name in names]

    seen = ("vllm:num_requests_running", "vllm:num_requests_waiting", "vintner_generation_sequences_waiting")
    with triton_grpc.InferenceServerClient(server.grpc) as client:
        # So much that it takes far longer than a scrape: one at a time, and none ends by itself.
        call = client.async_infer(
            "narrow",
            prompts(*["Hello!"] * 120),
            lambda result, error: None,
            parameters={"max_tokens": 400, "ignore_eos": True},
        )
        wait_until(lambda: load(*seen)[0] == 1)
        running, waiting, own = load(*seen)
        assert running == 1
        assert own <= waiting
        assert waiting > 100
        assert server.counter("vintner_generation_requests_running", model="narrow") == 1
        assert server.counter("vintner_instances_busy", model="narrow") == 1
        call.cancel()
    wait_until(lambda: load(*seen) == [0, 0, 0])
    ended = {"model": "narrow", "reason": "abort"}
    assert server.counter("vintner_generation_requests_total", **ended) == 1
    assert server.counter("vllm:request_success_total", model_name="narrow", finished_reason="abort") == 1
    assert server.counter("vllm:e2e_request_latency_seconds_count", model_name="narrow") == 0
    assert 0 < server.counter("vintner_generation_generated_tokens_total", model="narrow") < 120 * 400


def test_the_cache_is_told_of_as_far_as_it_is_known(server: RunningServer) -> None:
    ask(server, "asked", "Hello!", max_tokens=2)
    ask(server, "bounded", "Hello!", max_tokens=2)
    text = scrape(server)
    assert 'vintner_generation_cache_usage_ratio{model="asked"' not in text
    assert 'vllm:kv_cache_usage_perc{model_name="asked"' not in text
    assert server.counter("vintner_generation_cache_bytes", model="asked") > 0
    wait_until(lambda: server.counter("vintner_generation_cache_used_bytes", model="bounded") == 0)
    assert 'vllm:kv_cache_usage_perc{model_name="bounded",engine="0",version="1"} 0.0\n' in scrape(server)
    (size,) = re.findall(r'vllm:cache_config_info{model_name="(?:bounded)".*block_size="(\d+)"', text)
    (blocks,) = re.findall(r'vllm:cache_config_info{model_name="(?:bounded)".*num_gpu_blocks="(\d+)"', text)
    assert int(size) * int(blocks) > 0
    assert 'num_gpu_blocks="' + blocks + '",enable_prefix_caching="False"' in text
    assert server.counter("vintner_generation_cache_bytes", model="bounded") <= 4 * 2**20


def promtool(text: str) -> str:
    beside = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    tool = shutil.which("promtool", path=beside)
    assert tool, "promtool is not there: `make test` installs it"
    return subprocess.run([tool, "check", "metrics"], input=text, capture_output=True, text=True, check=False).stderr


def test_prometheus_finds_nothing_amiss_with_our_names_and_can_read_vllms(server: RunningServer) -> None:
    lines = scrape(server).splitlines(keepends=True)
    own = [line for line in lines if re.match(r"(# \w+ )?vintner_", line)]
    assert sum(line.startswith("vintner_generation_") for line in own) > 500
    assert promtool("".join(own)) == ""
    theirs = [line for line in lines if re.match(r"(# \w+ )?vllm:", line)]
    expected = {f"{name} metric names should not contain ':'" for name in re.findall(r"# TYPE (\S+)", "".join(theirs))}
    expected.add('vllm:iteration_tokens_total non-counter metrics should not have "_total" suffix')
    assert set(promtool("".join(theirs)).splitlines()) == expected


# -- docs/metrics.md -----------------------------------------------------------------------------------------


def test_the_docs_name_all_that_there_is_by_vllms_names(server: RunningServer) -> None:
    page = (ROOT / "docs" / "metrics.md").read_text()
    told = dict(re.findall(r"^\| `(vllm:\w+)` \| (counter|gauge|histogram) \|", page, re.MULTILINE))
    found = dict(re.findall(r"^# TYPE (vllm:\S+) (\S+)$", scrape(server), re.MULTILINE))
    assert told == found
