"""Answers that are kept, as Triton's clients see them over both protocols."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from fake_backend import fake_model, write_model
from held_backend import JOURNAL, held
from infer_calls import Background, wait_until
from running_server import RunningServer, start_server
from tritonclient.utils import InferenceServerException

PROTOCOLS = ("grpc", "http")
PAIR = {
    "inputs": [{"name": f"in{i}", "datatype": "FP32", "shape": [-1, -1]} for i in range(2)],
    "outputs": [{"name": f"out{i}", "datatype": "FP32", "shape": [-1, -1]} for i in range(2)],
}
BOUND = 16 * 1024


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`kept` and `words` opted in, `words` in Triton's way; `plain` did not. Journals say what was run."""
    root = tmp_path_factory.mktemp("kept")
    for name, document in (("kept", PAIR), ("words", fake_model("BYTES", (-1, -1))), ("plain", PAIR)):
        write_model(root / name / "1", document)
        (root / name / "1" / JOURNAL).touch()
    (root / "kept" / "config.yaml").write_text("response_cache: true\nqueue: {priority_levels: 2}\n")
    (root / "words" / "config.pbtxt").write_text("response_cache { enable: true }\ndynamic_batching { }\n")
    return root


@pytest.fixture(scope="module")
def server(models: Path, third_party: dict[str, str]) -> Iterator[RunningServer]:
    log = models.parent / f"{models.name}.log"
    running = start_server(models, log, f"--response-cache-bytes={BOUND}", env=third_party)
    yield running
    running.kill()


def runs(models: Path, model: str = "kept") -> int:
    return len((models / model / "1" / JOURNAL).read_bytes().splitlines())


@dataclass(frozen=True, slots=True)
class Reply:
    """Comparable in every byte but the id."""

    id: str
    outputs: list[tuple[str, str, tuple[int, ...], bytes]]


VALUES = iter(range(1, 10_000))


def fresh() -> float:
    """A value that no request has had yet, so that its answer cannot have been kept."""
    return float(next(VALUES))


def infer(
    server: RunningServer,
    protocol: str,
    inputs: Mapping[str, Any],
    outputs: tuple[str, ...] = (),
    model: str = "kept",
    **options: Any,
) -> Reply:
    triton = triton_grpc if protocol == "grpc" else triton_http
    given = []
    for name, array in inputs.items():
        kind = {"f": "FP32", "O": "BYTES"}[array.dtype.kind]
        given.append(triton.InferInput(name, array.shape, kind))
        given[-1].set_data_from_numpy(array)
    wanted = [triton.InferRequestedOutput(name) for name in outputs] or None
    with triton.InferenceServerClient(getattr(server, protocol)) as client:
        result = client.infer(model, given, outputs=wanted, **options)
    response = result.get_response(as_json=True) if protocol == "grpc" else result.get_response()
    arrays = [(each, result.as_numpy(each["name"])) for each in response["outputs"]]
    outputs = [(each["name"], each["datatype"], array.shape, written(array)) for each, array in arrays]
    return Reply(response.get("id", ""), outputs)


def written(array: Any) -> bytes:
    """The array's bytes; of texts, Python's notation."""
    return repr(array.tolist()).encode() if array.dtype == object else array.tobytes()


def pair(value: float, shape: tuple[int, int] = (1, 2)) -> dict[str, Any]:
    return {"in0": np.full(shape, value, np.float32), "in1": np.full(shape, -value, np.float32)}


@pytest.mark.parametrize("again", PROTOCOLS)
@pytest.mark.parametrize("first", PROTOCOLS)
def test_a_request_that_comes_again_gets_the_same_answer_without_a_run(
    server: RunningServer, models: Path, first: str, again: str
) -> None:
    inputs, before = pair(fresh()), runs(models)
    missed = infer(server, first, inputs, request_id="one")
    hit = infer(server, again, inputs, request_id="two")
    assert runs(models) == before + 1
    assert hit.outputs == missed.outputs
    assert hit.outputs[0][3] == written(inputs["in0"] * 2)
    assert (missed.id, hit.id) == ("one", "two")
    assert infer(server, again, inputs).id == ""


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_texts_are_kept_too_and_told_apart_by_their_bounds(server: RunningServer, models: Path, protocol: str) -> None:
    prefix, before = f"{protocol}{fresh()}".encode(), runs(models, "words")
    given = [np.array([[prefix, *rest]], np.object_) for rest in ((b"ab", b"c"), (b"a", b"bc"), (b"ab", b"c"))]
    replies = [infer(server, protocol, {"input": each}, model="words") for each in given]
    assert runs(models, "words") == before + 2
    assert replies[0] == replies[2] != replies[1]
    assert [reply.outputs[0][3] for reply in replies] == [written(each) for each in given]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("what", "missed"),
    [
        ({"inputs": (1, (1, 2))}, False),
        ({"options": {"priority": 2}}, False),
        ({"options": {"timeout": 9_000_000}}, False),
        ({"inputs": (2, (1, 2))}, True),
        ({"inputs": (1, (2, 1))}, True),
        ({"inputs": (1, (1, 1))}, True),
        ({"outputs": ("out0",)}, True),
        ({"outputs": ("out1", "out0")}, True),
        ({"options": {"parameters": {"top": 3}}}, True),
        ({"options": {"parameters": {"top": "3"}}}, True),
    ],
)
def test_only_what_steers_may_differ(
    server: RunningServer, models: Path, protocol: str, what: dict[str, Any], missed: bool
) -> None:
    base = fresh()
    infer(server, protocol, pair(base + 1 / 4))
    before = runs(models)
    value, shape = what.get("inputs", (1, (1, 2)))
    reply = infer(server, protocol, pair(base + value / 4, shape), what.get("outputs", ()), **what.get("options", {}))
    assert runs(models) == before + missed
    assert [name for name, *_ in reply.outputs] == [*what.get("outputs", ("out0", "out1"))]
    assert {tuple(shaped) for _, _, shaped, _ in reply.outputs} == {shape}


def test_a_model_that_did_not_opt_in_runs_every_time(server: RunningServer, models: Path) -> None:
    inputs = pair(fresh())
    for protocol in PROTOCOLS:
        infer(server, protocol, inputs, model="plain")
    assert runs(models, "plain") == 2
    assert server.counter("vintner_cache_misses_total", model="plain") == 0


def test_an_answer_of_a_batch_is_kept_without_the_others(server: RunningServer, models: Path) -> None:
    """The answers of both are right afterwards, and each is found by its own request only."""
    values = [fresh() for _ in range(4)]
    before = runs(models)
    with held(models / "kept" / "1"):
        sent = []
        for value in values:
            sent.append(Background(infer, server, "grpc", pair(value)))
            wait_until(lambda: server.counter("vintner_requests_in_flight", model="kept") == len(sent))
    missed = [each.outcome for each in sent]
    assert runs(models) == before + 2  # the first alone, the others in one batch
    assert [infer(server, "grpc", pair(value)) for value in values] == missed
    assert runs(models) == before + 2


def test_errors_are_not_kept(server: RunningServer, models: Path) -> None:
    inputs, poison, before = pair(fresh()), models / "kept" / "1" / ".poison", runs(models)
    poison.touch()
    try:
        for protocol in PROTOCOLS:
            with pytest.raises(InferenceServerException):
                infer(server, protocol, inputs)
    finally:
        poison.unlink()
    assert runs(models) == before + 2
    replies = [infer(server, "grpc", inputs) for _ in range(2)]
    assert runs(models) == before + 3
    assert [reply.outputs[0][3] for reply in replies] == [written(inputs["in0"] * 2)] * 2


def cache_numbers(server: RunningServer) -> dict[str, float]:
    return {
        name: server.counter(f"vintner_cache_{name}_total", model="kept", version="1") for name in ("hits", "misses")
    }


def test_hits_and_misses_are_counted_and_hits_are_no_inferences(server: RunningServer) -> None:
    with triton_grpc.InferenceServerClient(server.grpc) as client:
        before = client.get_inference_statistics("kept").model_stats[0]
        counted = cache_numbers(server)
        executions = server.counter("vintner_executions_total", model="kept")
        inputs = pair(fresh(), (3, 2))
        for protocol in ("grpc", "http", "grpc", "http"):
            infer(server, protocol, inputs)
        after = client.get_inference_statistics("kept").model_stats[0]
    stats, earlier = after.inference_stats, before.inference_stats
    grown = {
        name: getattr(stats, name).count - getattr(earlier, name).count
        for name in ("success", "fail", "queue", "compute_infer", "cache_hit", "cache_miss")
    }
    assert grown == {"success": 4, "fail": 0, "queue": 1, "compute_infer": 1, "cache_hit": 3, "cache_miss": 1}
    assert (after.inference_count - before.inference_count, after.execution_count - before.execution_count) == (3, 1)
    assert 0 < stats.cache_hit.ns - earlier.cache_hit.ns < 1e9
    assert 0 < stats.cache_miss.ns - earlier.cache_miss.ns < 1e9
    assert cache_numbers(server) == {"hits": counted["hits"] + 3, "misses": counted["misses"] + 1}
    assert server.counter("vintner_executions_total", model="kept") == executions + 1


def test_the_bound_holds_and_the_oldest_goes_first(server: RunningServer, models: Path) -> None:
    oldest = pair(fresh())
    infer(server, "http", oldest)
    values = [fresh() for _ in range(BOUND // 1000)]
    for value in values:
        infer(server, "http", pair(value))
        assert 0 < server.counter("vintner_cache_bytes") <= BOUND
    before = runs(models)
    infer(server, "http", pair(values[-1]))
    assert runs(models) == before
    infer(server, "http", oldest)
    assert runs(models) == before + 1


def test_an_answer_larger_than_the_cache_is_run_every_time(server: RunningServer, models: Path) -> None:
    inputs, before, size = pair(fresh(), (1, BOUND // 4)), runs(models), server.counter("vintner_cache_bytes")
    for protocol in PROTOCOLS:
        infer(server, protocol, inputs)
    assert runs(models) == before + 2
    assert server.counter("vintner_cache_bytes") == size


def test_the_configuration_shows_who_opted_in(server: RunningServer) -> None:
    with triton_grpc.InferenceServerClient(server.grpc) as client:
        shown = {
            name: client.get_model_config(name).config.response_cache.enable for name in ("kept", "words", "plain")
        }
    assert shown == {"kept": True, "words": True, "plain": False}
    with triton_http.InferenceServerClient(server.http) as client:
        assert client.get_model_config("kept")["response_cache"] == {"enable": True}


def test_0_bytes_switch_it_off_and_name_the_models(models: Path, tmp_path: Path, third_party: dict[str, str]) -> None:
    server = start_server(models, tmp_path / "log", "--response-cache-bytes=0", env=third_party)
    try:
        inputs, before = pair(fresh()), runs(models)
        for protocol in PROTOCOLS:
            infer(server, protocol, inputs)
        assert runs(models) == before + 2
        with triton_grpc.InferenceServerClient(server.grpc) as client:
            assert not client.get_model_config("kept").config.response_cache.enable
    finally:
        server.kill()
    warnings = [line for line in (tmp_path / "log").read_text().splitlines() if "response_cache has no effect" in line]
    assert sorted(name for line in warnings for name in ("kept", "words", "plain") if f"'{name}'" in line) == [
        "kept",
        "words",
    ]
