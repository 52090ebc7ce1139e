"""What becomes of changes in the repository while clients ask all the time: slow copies, renames, switched links."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from closed_loop import in_a_closed_loop
from fake_backend import fake_model, write_model
from held_backend import HOLD, held
from infer_calls import PROTOCOLS, Background, Inference, answer, refuse, wait_until
from model_builders import openvino_scaling
from repository_calls import answering, index, loads, switch, wait_for
from running_server import RunningServer

Start = Callable[..., RunningServer]

PIECES = 3
STALL = 0.3
"""Seconds; not long enough for a file to be taken for finished."""
SETTLE = "--repository-settle-seconds=5"
LARGE = 3_200_000
"""Numbers of FP32 that make a model of 51 MB."""


def write_in_pieces(data: bytes, *paths: Path) -> None:
    """To all of them at once."""
    size = len(data) // PIECES + 1
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for start in range(0, len(data), size):
        for path in paths:
            with path.open("ab") as file:
                file.write(data[start : start + size])
        time.sleep(STALL)


@pytest.mark.parametrize(
    "order",
    [("config.yaml", "1/model.xml", "1/model.bin"), ("1/model.bin", "1/model.xml", "config.yaml")],
    ids=["configuration-first", "configuration-last"],
)
def test_large_models_that_are_copied_slowly_are_never_loaded_half_done(
    tmp_path: Path, start: Start, order: tuple[str, ...]
) -> None:
    """A version of a model that is served, and a new model with a configuration, without which it has other inputs."""
    large = openvino_scaling(tmp_path / "large" / "1", 3, padding=LARGE).parent
    (large.parent / "config.yaml").write_text("inputs: {input: {name: given}}\n")
    root = tmp_path / "repository"
    openvino_scaling(root / "m" / "1", 2)
    server = start(root, SETTLE)
    with in_a_closed_loop(server, ("1", 2.0), ("2", 3.0), number=2) as all_answered:
        for file in order:
            copies = [root / "new" / file]
            if file != "config.yaml":
                copies.append(root / "m" / "2" / Path(file).name)
            write_in_pieces((large.parent / file).read_bytes(), *copies)
            if file != order[2]:
                assert answering(server) == (200, "1", 2.0)
                assert index(server)["new/"][0] == "LOADING"
        wait_for(server, "m/2", "READY")
        wait_for(server, "new/1", "READY")
        all_answered()
    assert answering(server) == (200, "2", 3.0)
    inputs = json.loads(server.request("GET", "/v2/models/new")[2])["inputs"]
    assert [given["name"] for given in inputs] == ["given"]
    assert loads(server) == (3, 0)


def test_what_is_renamed_into_place_answers_at_once(tmp_path: Path, start: Start) -> None:
    """Else it would have to settle, or to wait until somebody looks at the repository, which takes ten minutes here."""
    root = tmp_path / "repository"
    root.mkdir()
    server = start(root, "--repository-settle-seconds=600", "--repository-poll-seconds=600")
    openvino_scaling(tmp_path / "m" / "1", 1)
    (tmp_path / "m").rename(root / "m")
    wait_until(lambda: answering(server) == (200, "1", 1.0))
    for version in range(2, 9):
        openvino_scaling(root / "m" / f"{version}.tmp", version)
        time.sleep(0.02)  # or it may happen in one tick of the file system's clock, and then nothing tells
        (root / "m" / f"{version}.tmp").rename(root / "m" / str(version))
        wait_until(lambda version=version: answering(server) == (200, str(version), float(version)))  # type: ignore[misc]
    openvino_scaling(tmp_path / "other" / "1", 5)
    (tmp_path / "other").rename(root / "other")
    wait_until(lambda: answering(server, "other") == (200, "1", 5.0))


def test_a_repository_behind_links_as_kubernetes_makes_them_is_switched_under_clients(
    tmp_path: Path, start: Start
) -> None:
    """m -> ..data/m, ..data -> ..2024_1; what ..data led to is removed as soon as it leads elsewhere."""
    root = tmp_path / "mounted"
    for revision in (1, 2, 3):
        openvino_scaling(root / f"..2024_{revision}" / "m" / "1", revision)
    (root / "..data").symlink_to("..2024_1")
    (root / "m").symlink_to("..data/m")
    server = start(root)
    assert answering(server) == (200, "1", 1.0)
    with in_a_closed_loop(server, *(("1", float(revision)) for revision in (1, 2, 3))) as all_answered:
        for revision in (2, 3):
            switch(root / "..data", f"..2024_{revision}")
            shutil.rmtree(root / f"..2024_{revision - 1}")
            wait_until(lambda revision=revision: answering(server) == (200, "1", float(revision)))  # type: ignore[misc]
            all_answered()
    assert index(server) == {"m/1": ("READY", "")}
    assert loads(server) == (3, 0)


def test_a_root_that_is_a_link_is_switched_under_clients(tmp_path: Path, start: Start) -> None:
    for revision in (1, 2, 3):
        openvino_scaling(tmp_path / f"revision_{revision}" / "m" / str(revision), revision)
    link = tmp_path / "current"
    link.symlink_to("revision_1")
    server = start(link, "--repository-poll-seconds=0.2")
    with in_a_closed_loop(server, *((str(revision), float(revision)) for revision in (1, 2, 3))) as all_answered:
        for revision in (2, 3):
            switch(link, tmp_path / f"revision_{revision}")
            shutil.rmtree(tmp_path / f"revision_{revision - 1}")
            wait_until(lambda r=revision: answering(server) == (200, str(r), float(r)))  # type: ignore[misc]
            all_answered()
    wait_until(lambda: index(server) == {"m/3": ("READY", "")})
    assert loads(server) == (3, 0)


def test_a_model_that_cannot_be_loaded_twice_is_reloaded_under_clients(tmp_path: Path, start: Start) -> None:
    """Its requests wait meanwhile."""
    model = tmp_path / "repository" / "m"
    openvino_scaling(model / "1", 1, padding=200_000)
    (model / "config.yaml").write_text("resource_preserving: true\n")
    server = start(model.parent)
    right = [(str(version), float(version)) for version in range(1, 5)]
    with in_a_closed_loop(server, *right, ("4", 9.0)) as all_answered:
        for version in (2, 3, 4):
            openvino_scaling(tmp_path / "new", version, padding=200_000)
            (tmp_path / "new").rename(model / str(version))
            wait_until(lambda v=version: answering(server) == (200, str(v), float(v)))  # type: ignore[misc]
            all_answered()
        for file in openvino_scaling(tmp_path / "new", 9, padding=200_000).parent.iterdir():
            os.replace(file, model / "4" / file.name)
        wait_until(lambda: answering(server) == (200, "4", 9.0))
        all_answered()
        (model / "5").mkdir()
        (model / "5" / "model.xml").write_text("<net>no model</net>")  # then the former comes back
        wait_for(server, "m/5", "UNAVAILABLE", "model.xml")
        wait_for(server, "m/4", "READY")
        all_answered()
    loaded, failed = loads(server)
    assert failed == 1
    assert loaded in (6, 7), "of the files that were replaced one by one, the first may have been seen alone"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_model_that_is_removed_answers_what_runs_and_is_not_found_then(
    tmp_path: Path, start: Start, protocol: str
) -> None:
    root = tmp_path / "repository"
    for name in ("m", "other"):
        write_model(root / name / "1", fake_model(shape=(-1, 2)))
    (root / "m" / "1" / HOLD).symlink_to(tmp_path / "hold")
    server = start(root)
    with held(root / "m" / "1"):
        calls = [Background(answer, server, protocol, Inference(model="m")) for _ in range(3)]
        wait_until(lambda: server.counter("vintner_requests_in_flight", model="m") == 3)
        (root / "m").rename(tmp_path / "removed")
        wait_for(server, "m/1", "UNLOADING")
        refuse(server, protocol, Inference(model="m"), "UNAVAILABLE")
    assert [call.outcome["outputs"][0]["data"] for call in calls] == [[2, 4]] * 3
    wait_until(lambda: list(index(server)) == ["other/1"])
    refusal = refuse(server, protocol, Inference(model="m"), "NOT_FOUND")
    assert "'m' is not found" in refusal.message
    assert server.request("GET", "/v2/models/m/ready")[0] == 404
    assert answer(server, protocol, Inference(model="other"))["outputs"][0]["data"] == [2, 4]
    assert "Traceback" not in server.log.read_text()
