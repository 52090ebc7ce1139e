"""Repositories in which something is wrong, or that are not to be written to: what can be served is, and the index says
why the rest is not."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from closed_loop import in_a_closed_loop
from fake_backend import fake_model, write_model
from infer_calls import PROTOCOLS, Inference, answer, refuse, wait_until
from model_builders import onnx_mlp, onnx_value, openvino_mlp, openvino_scaling, save_onnx
from mounting import read_only
from onnx import TensorProto, helper
from repository_calls import answering, index, loads, wait_for
from running_server import RunningServer

Start = Callable[..., RunningServer]

ONNX_RUNTIME = "backend: onnxruntime\n"
WEIGHTS = np.arange(4, dtype=np.float32)


def with_weights_at(directory: Path, location: str) -> Path:
    """An ONNX model that adds what is in another file."""
    tensor = TensorProto(name="weights", data_type=TensorProto.FLOAT, dims=[4])
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", location
    nodes = [helper.make_node("Add", ["input", "weights"], ["output"])]
    graph = helper.make_graph(nodes, "external", [onnx_value("input")], [onnx_value("output")], [tensor])
    return save_onnx(directory, graph)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


# -- models that are wrong -------------------------------------------------------------------------------------


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A repository of models that cannot be loaded, but for `m`; weights lie beside it, in it and in a version."""
    root = tmp_path / "repository"
    openvino_scaling(root / "m" / "1", 2)
    cut(openvino_mlp(root / "cut_ir" / "1", 64, 64).with_suffix(".bin"))
    for backend, config in (("openvino", "backend: openvino\n"), ("onnxruntime", ONNX_RUNTIME)):
        cut(onnx_mlp(root / f"cut_onnx_{backend}" / "1", 64, 64))
        for kind, location in (("absolute", f"{tmp_path}/weights.bin"), ("above", "../weights.bin"), ("link", "link")):
            version = with_weights_at(root / f"{kind}_{backend}" / "1", location).parent
            WEIGHTS.tofile(version.parent / "weights.bin")
        (version / "link").symlink_to(tmp_path / "weights.bin")
        for model in root.glob(f"*_{backend}"):
            (model / "config.yaml").write_text(config)
    WEIGHTS.tofile(tmp_path / "weights.bin")
    openvino_scaling(tmp_path / "elsewhere" / "1", 3)
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "linked_version").mkdir()
    (root / "linked_version" / "1").symlink_to(tmp_path / "elsewhere" / "1")
    (root / "linked_file" / "1").mkdir(parents=True)
    for name in ("model.xml", "model.bin"):
        (root / "linked_file" / "1" / name).symlink_to(tmp_path / "elsewhere" / "1" / name)
    (root / "misspelt" / "1").mkdir(parents=True)
    (root / "misspelt" / "config.yaml").write_text("devise: CPU\n")
    return root


LEAVES = "outside the model repository; --follow-external-links allows it"
FAILURES = {
    "cut_ir/1": "weights",
    "cut_onnx_openvino/1": "model.onnx",
    "cut_onnx_onnxruntime/1": "model.onnx",
    "absolute_openvino/1": "outside",
    "absolute_onnxruntime/1": "Absolute path not allowed",
    "above_openvino/1": "outside",
    "above_onnxruntime/1": "escapes model directory",
    "misspelt/": "did you mean 'device'?",
}
LINKS = ("link_openvino", "link_onnxruntime", "linked", "linked_version", "linked_file")


def check_reasons(server: RunningServer, ready: set[str], expected: Mapping[str, str]) -> None:
    found = index(server)
    assert {entry for entry, (state, _) in found.items() if state == "READY"} == ready
    assert found.keys() == expected.keys() | ready
    wrong = {entry: found[entry] for entry, text in expected.items() if text not in found[entry][1]}
    assert not wrong


def test_what_is_broken_or_leads_out_is_refused_with_the_reason(broken: Path, start: Start) -> None:
    server = start(broken)
    check_reasons(server, {"m/1"}, FAILURES | {f"{name}/": LEAVES for name in LINKS})
    assert not server.ready
    assert answering(server) == (200, "1", 2.0)
    for protocol in PROTOCOLS:
        assert "'device'" in refuse(server, protocol, Inference(model="misspelt"), "UNAVAILABLE").message
        assert LEAVES in refuse(server, protocol, Inference(model="linked"), "UNAVAILABLE").message
    assert "Traceback" not in server.log.read_text()


def test_links_that_lead_out_are_followed_if_that_is_allowed_but_not_by_models(broken: Path, start: Start) -> None:
    server = start(broken, "--follow-external-links", "--repository-poll-seconds=0.2")
    refused = FAILURES | {"link_openvino/1": "outside", "link_onnxruntime/1": "escapes model directory"}
    check_reasons(server, {"m/1", "linked/1", "linked_version/1", "linked_file/1"}, refused)
    assert answering(server, "linked") == (200, "1", 3.0)
    elsewhere = (broken / "linked").resolve()
    openvino_scaling(elsewhere.parent / "new", 5)
    (elsewhere.parent / "new").rename(elsewhere / "2")  # of which nothing is heard below the repository
    wait_until(lambda: answering(server, "linked") == (200, "2", 5.0))


def test_a_model_that_breaks_while_it_is_served_goes_on_and_says_why(tmp_path: Path, start: Start) -> None:
    root = tmp_path / "repository"
    openvino_scaling(root / "m" / "1", 2)
    server = start(root, "--repository-settle-seconds=0.1")
    with in_a_closed_loop(server, ("1", 2.0), ("2", 4.0), number=2):
        (root / "m" / "config.yaml").write_text("instnces: 2\n")
        wait_for(server, "m/1", "READY", "its change is not used: config.yaml: unknown key 'instnces'")
        (root / "m" / "config.yaml").unlink()
        wait_for(server, "m/1", "READY")
        openvino_scaling(root / "m" / "2", 4)
        wait_for(server, "m/2", "READY")
        cut(root / "m" / "2" / "model.bin")
        wait_for(server, "m/2", "READY", "a change of it failed to load, so the former one is served")
        shutil.rmtree(root / "m" / "2")
        wait_until(lambda: index(server) == {"m/1": ("READY", "")})
    assert server.request("GET", "/v2/health/ready")[0] == 200


# -- one name in two repositories ------------------------------------------------------------------------------

TWICE = "model appears in two or more repositories"


def test_a_name_that_two_repositories_have_is_served_from_neither(tmp_path: Path, start: Start) -> None:
    roots = [tmp_path / "one", tmp_path / "other"]
    for root in roots:
        write_model(root / "both" / "1", fake_model(shape=(-1, 2)))
    write_model(roots[1] / "single" / "1", fake_model(shape=(-1, 2)))
    server = start(roots)
    assert not server.ready
    assert index(server) == {"both/": ("UNAVAILABLE", TWICE), "single/1": ("READY", "")}
    for protocol in PROTOCOLS:
        assert TWICE in refuse(server, protocol, Inference(model="both"), "UNAVAILABLE").message
        assert answer(server, protocol, Inference(model="single"))["outputs"][0]["data"] == [2, 4]
    shutil.rmtree(roots[0] / "both")
    wait_for(server, "both/1", "READY")
    assert server.request("GET", "/v2/health/ready")[0] == 200


def test_a_served_model_goes_on_when_another_repository_gets_its_name(tmp_path: Path, start: Start) -> None:
    roots = [tmp_path / "one", tmp_path / "other"]
    openvino_scaling(roots[0] / "m" / "1", 2)
    roots[1].mkdir()
    server = start(roots)
    openvino_scaling(tmp_path / "second" / "1", 3)
    with in_a_closed_loop(server, ("1", 2.0), number=2) as all_answered:
        (tmp_path / "second").rename(roots[1] / "m")
        wait_for(server, "m/1", "READY", TWICE)
        all_answered()
        shutil.rmtree(roots[1] / "m")
        wait_for(server, "m/1", "READY")
    assert loads(server)[0] == 1


# -- a repository that cannot be written to --------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("mount") is None, reason="there is no mount(8)")
def test_a_read_only_repository_is_served_and_changed_from_its_other_side(tmp_path: Path, start: Start) -> None:
    root = tmp_path / "repository"
    openvino_scaling(root / "m" / "1", 1)
    with read_only(root, tmp_path / "mounted"):
        with pytest.raises(OSError, match="Read-only"):
            (tmp_path / "mounted" / "file").touch()
        server = start(tmp_path / "mounted", "--repository-poll-seconds=0.2", f"--cache-dir={tmp_path / 'cache'}")
        assert "mounted read-only" in server.log.read_text()
        with in_a_closed_loop(server, *((str(n), float(n)) for n in (1, 2)), ("2", 3.0), number=2) as all_answered:
            openvino_scaling(root / "2.tmp", 2)
            (root / "2.tmp").rename(root / "m" / "2")
            wait_until(lambda: answering(server) == (200, "2", 2.0))
            openvino_scaling(root / "m" / "2", 3)
            wait_until(lambda: answering(server) == (200, "2", 3.0))
            shutil.rmtree(root / "m" / "2")
            wait_until(lambda: answering(server) == (200, "1", 1.0))
            all_answered()
        assert loads(server)[1] == 0
        assert server.terminate() == 0
