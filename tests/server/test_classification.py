"""Classes, sequences and places in the queue, as Triton's clients ask for them over both protocols."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from fake_backend import fake_model, write_model
from held_backend import JOURNAL, held
from infer_calls import PROTOCOLS, Background, Given, Inference, answer, refuse, wait_for_queued, wait_until
from running_server import RunningServer, start_server
from tritonclient.utils import InferenceServerException

MODULES = {"grpc": triton_grpc, "rest": triton_http}
VALUES = np.array([[1.5, -2.0, 3.25], [0.0, 0.0, -1.0]], np.float32)
BEST = [[b"6.500000:2:owl", b"3.000000:0:cat"], [b"0.000000:0:cat", b"0.000000:1:dog"]]
"""Of twice the values."""


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("classes")
    for name in ("animals", "kept", "scalars"):
        shape = (3,) if name == "scalars" else (-1, 3)
        write_model(root / name / "1", fake_model(shape=shape))
        (root / name / "animals.txt").write_text("cat\ndog\nowl\n")
        (root / name / "config.yaml").write_text("outputs: {output: {labels: animals.txt}}\n")
    (root / "kept" / "config.yaml").write_text(
        "response_cache: true\noutputs: {output: {labels: animals.txt, name: answer}}\n"
    )
    write_model(root / "decoupled" / "1", fake_model(shape=(-1, 3)) | {"decoupled": True})
    (root / "decoupled" / "labels.txt").write_text("cat\ndog\nowl\n")
    (root / "decoupled" / "config.yaml").write_text("outputs: {output: {labels: labels.txt}}\n")
    write_model(root / "changing" / "1", fake_model(shape=(-1, 3)))
    (root / "changing" / "animals.txt").write_text("cat\n")
    (root / "changing" / "config.pbtxt").write_text(
        'output { name: "output" data_type: TYPE_FP32 dims: [ -1, 3 ] label_filename: "animals.txt" }'
    )
    write_model(root / "unlabelled" / "1", fake_model(shape=(-1, 3)))
    (root / "unlabelled" / "config.yaml").write_text("outputs: {output: {labels: plants.txt}}\n")
    write_model(root / "levels" / "1", fake_model(shape=(-1, 3)))
    (root / "levels" / "1" / JOURNAL).touch()
    (root / "levels" / "config.yaml").write_text(
        "instances: 1\nbatching: false\nqueue: {priority_levels: 3, default_priority: 2, max_requests: 9}\n"
    )
    return root


@pytest.fixture(scope="module")
def server(repository: Path, third_party: dict[str, str]) -> Iterator[RunningServer]:
    log = repository.parent / "classes.log"
    running = start_server(
        repository, log, "--no-strict-readiness", "--repository-settle-seconds=0.05", env=third_party
    )
    yield running
    running.kill()


@pytest.fixture(params=PROTOCOLS)
def protocol(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def infer(server: RunningServer, protocol: str, model: str, values: np.ndarray = VALUES, **options: Any) -> Any:
    """By Triton's client; `class_count`, `binary` and `name` are of the output, the rest are arguments of `infer`."""
    module = MODULES[protocol]
    name = options.pop("name", "output")
    classes, binary = options.pop("class_count", 0), options.pop("binary", True)
    with module.InferenceServerClient(server.grpc if protocol == "grpc" else server.http) as client:
        given = module.InferInput("input", list(values.shape), "FP32")
        given.set_data_from_numpy(values)
        form = {} if protocol == "grpc" else {"binary_data": binary}
        wanted = module.InferRequestedOutput(name, class_count=classes, **form)
        return client.infer(model, [given], outputs=[wanted], **options).as_numpy(name)


@pytest.mark.parametrize("binary", [True, False])
def test_each_row_has_its_best_classes_with_labels(server: RunningServer, protocol: str, binary: bool) -> None:
    answer = infer(server, protocol, "animals", class_count=2, binary=binary)
    expected = BEST if binary or protocol == "grpc" else [[text.decode() for text in row] for row in BEST]
    assert answer.tolist() == expected
    assert infer(server, protocol, "animals", class_count=9, binary=True).shape == (2, 3)
    assert infer(server, protocol, "animals").tolist() == (VALUES * 2).tolist()


@pytest.mark.parametrize("model", ["animals", "decoupled"])
def test_the_responses_of_a_stream_have_classes(server: RunningServer, model: str) -> None:
    events: SimpleQueue[tuple[Any, Any]] = SimpleQueue()
    with triton_grpc.InferenceServerClient(server.grpc) as client:
        client.start_stream(lambda result, error: events.put((result, error)))
        given = triton_grpc.InferInput("input", [2, 3], "FP32")
        given.set_data_from_numpy(VALUES)
        client.async_stream_infer(model, [given], outputs=[triton_grpc.InferRequestedOutput("output", class_count=2)])
        rows: list[Any] = []
        while len(rows) < 2:
            result, error = events.get(timeout=20)
            assert error is None, error
            rows += np.atleast_2d(result.as_numpy("output")).tolist()
        client.stop_stream()
    assert rows == BEST


def test_a_model_without_rows_has_one_list_of_classes(server: RunningServer, protocol: str) -> None:
    assert infer(server, protocol, "scalars", VALUES[0], class_count=2).tolist() == BEST[0]


def test_an_answer_that_was_kept_serves_for_classes_and_for_values(server: RunningServer, protocol: str) -> None:
    values = VALUES + (10 if protocol == "grpc" else 20)
    hits = server.counter("vintner_cache_hits_total", model="kept")
    plain = [infer(server, protocol, "kept", values, name="answer").tolist() for _ in range(2)]
    classes = [infer(server, protocol, "kept", values, name="answer", class_count=1) for _ in range(2)]
    assert plain == [(values * 2).tolist()] * 2
    best = f"{values[0, 2] * 2:f}:2:owl".encode()
    assert [each[0].tolist() for each in classes] == [[best], [best]]
    assert infer(server, protocol, "kept", values, name="answer").tolist() == plain[0]
    assert server.counter("vintner_cache_hits_total", model="kept") == hits + 4


def test_changed_labels_are_taken(server: RunningServer, repository: Path) -> None:
    assert infer(server, "grpc", "changing", class_count=1)[1].tolist() == [b"0.000000:0:cat"]
    (repository / "changing" / "animals.txt").write_text("tiger\n")
    wait_until(lambda: infer(server, "grpc", "changing", class_count=1)[1].tolist() == [b"0.000000:0:tiger"])


def test_a_model_whose_labels_are_not_there_says_so(server: RunningServer) -> None:
    refusal = refuse(server, "rest", Inference(model="unlabelled"), "UNAVAILABLE")
    assert "the labels of output 'output' cannot be read: plants.txt: No such file or directory" in refusal.message


def test_the_configuration_that_clients_see_names_the_labels(server: RunningServer) -> None:
    with triton_grpc.InferenceServerClient(server.grpc) as client:
        assert client.get_model_config("kept").config.output[0].label_filename == "animals.txt"


@pytest.mark.parametrize(
    ("protocol", "datatype"),
    [*product(PROTOCOLS, ["BYTES", "BOOL"]), ("rest", "FP16"), ("rest", "BF16")],  # gRPC's typed contents have no FP16
)
def test_outputs_that_are_no_scores_have_no_classes(doubling: RunningServer, protocol: str, datatype: str) -> None:
    data = {"BYTES": ["a", "b"], "BOOL": [True, False]}.get(datatype, [1, 2])
    inference = Inference(
        model=f"double_{datatype.lower()}",
        inputs=[Given(datatype=datatype, data=data)],
        outputs=[("output", {"classification": 1})],
    )
    message = refuse(doubling, protocol, inference, "INVALID_ARGUMENT").message
    assert f"class result not available for output 'output' due to unsupported type '{datatype}'" in message


@pytest.mark.parametrize("count", [0, -1, "3", 1.5, True, 1_000_001])
def test_a_count_that_is_none_is_refused(doubling: RunningServer, protocol: str, count: Any) -> None:
    inference = Inference(outputs=[("output", {"classification": count})])
    message = refuse(doubling, protocol, inference, "INVALID_ARGUMENT").message
    assert ("classification output tensor too large" if count == 1_000_001 else "'classification' of") in message


# -- sequences ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"sequence_id": 7}, "'sequence_id' is 7"),
        ({"sequence_id": 2**63 - 1, "sequence_start": True}, "'sequence_id' is 9223372036854775807"),
        ({"sequence_id": "seven", "sequence_end": True}, "'sequence_id' is 'seven'"),
    ],
)
def test_a_sequence_is_refused_by_a_model_without_state(
    server: RunningServer, protocol: str, options: dict[str, Any], named: str
) -> None:
    with pytest.raises(InferenceServerException) as caught:
        infer(server, protocol, "animals", **options)
    assert caught.value.status() in ("400", "StatusCode.INVALID_ARGUMENT")
    assert named in caught.value.message()
    assert "model 'animals' keeps no state between requests" in caught.value.message()


@pytest.mark.parametrize("flag", ["sequence_start", "sequence_end"])
def test_a_flag_without_a_sequence_is_refused(doubling: RunningServer, protocol: str, flag: str) -> None:
    refusal = refuse(doubling, protocol, Inference(parameters={flag: True}), "INVALID_ARGUMENT")
    assert f"parameter '{flag}' is True" in refusal.message


def test_what_says_that_there_is_no_sequence_is_accepted(doubling: RunningServer, protocol: str) -> None:
    none = {"sequence_id": 0, "sequence_start": False, "sequence_end": False}
    assert answer(doubling, protocol, Inference(parameters=none))["outputs"][0]["data"] == [2, 4]


# -- priority and time-out ---------------------------------------------------------------------------------------------


def test_priorities_by_tritons_client_say_who_goes_first(
    server: RunningServer, protocol: str, repository: Path
) -> None:
    journal = repository / "levels" / "1" / JOURNAL
    journal.write_text("")
    waiting = []
    with held(repository / "levels" / "1"):
        for number, priority in enumerate([0, 3, 2**64 - 1, 1, 2], start=1):
            options = {} if number == 1 else {"priority": priority}
            waiting.append(
                Background(lambda n=number, o=options: infer(server, protocol, "levels", VALUES * 0 + n, **o))
            )
            wait_for_queued(server, "levels", running=1, waiting=number - 1)
    for each in waiting:
        assert not isinstance(each.outcome, Exception), each.outcome
    order = [float(line.split()[0].strip("[],")) for line in journal.read_text().splitlines() if line]
    assert order == [1, 4, 3, 5, 2]  # a level that is not there is the default one, the second


def test_a_timeout_by_tritons_client_ends_the_wait(server: RunningServer, protocol: str, repository: Path) -> None:
    with held(repository / "levels" / "1"):
        first = Background(lambda: infer(server, protocol, "levels"))
        wait_for_queued(server, "levels", running=1, waiting=0)
        with pytest.raises(InferenceServerException, match="Request timeout expired"):
            infer(server, protocol, "levels", timeout=1000)
        patient = Background(lambda: infer(server, protocol, "levels", timeout=2**63 - 1))
        wait_for_queued(server, "levels", running=1, waiting=1)
    assert first.outcome.tolist() == patient.outcome.tolist() == (VALUES * 2).tolist()


@pytest.mark.parametrize("name", ["priority", "timeout"])
@pytest.mark.parametrize("value", [-1, 1.5, True, "soon"])
def test_a_place_in_the_queue_that_is_none_is_refused(
    doubling: RunningServer, protocol: str, name: str, value: Any
) -> None:
    refusal = refuse(doubling, protocol, Inference(parameters={name: value}), "INVALID_ARGUMENT")
    assert f"parameter '{name}': expected a whole number of at least 0, got {value!r}" in refusal.message
