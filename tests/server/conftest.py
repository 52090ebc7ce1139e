"""Servers for the tests of this folder: one for the whole run where a test leaves nothing behind, else its own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from fake_backend import fake_model, write_model
from held_backend import install
from running_server import ROOT, RunningServer, start_server

DATATYPES = (
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64",
    "FP16", "FP32", "FP64", "BF16", "BYTES",
)  # fmt: skip

Start = Callable[..., RunningServer]


@pytest.fixture(scope="session")
def third_party(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment in which a third party's backend, `held`, is installed."""
    site = install(tmp_path_factory.mktemp("third-party"))
    return {"PYTHONPATH": os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])}


@pytest.fixture
def start(tmp_path: Path, third_party: dict[str, str]) -> Iterator[Start]:
    """Starts servers of the test's own, with the third party's backend, and ends them."""
    running: list[RunningServer] = []

    def begin(repository: Path | Sequence[Path], *arguments: str, env: dict[str, str] | None = None) -> RunningServer:
        log = tmp_path / f"server-{len(running)}.log"
        running.append(start_server(repository, log, *arguments, env={**third_party, **(env or {})}))
        return running[-1]

    yield begin
    for server in running:
        server.kill()


@pytest.fixture(scope="session")
def doubling(tmp_path_factory: pytest.TempPathFactory, third_party: dict[str, str]) -> Iterator[RunningServer]:
    """A server of models in memory: `double_<datatype>` each with one input [-1,2], and `pair` with two of each."""
    root = tmp_path_factory.mktemp("doubling")
    for datatype in DATATYPES:
        write_model(root / f"double_{datatype.lower()}" / "1", fake_model(datatype, (-1, 2)))
    pair = {
        "inputs": [{"name": f"in{i}", "datatype": "FP32", "shape": [-1, 2]} for i in range(2)],
        "outputs": [{"name": f"out{i}", "datatype": "FP32", "shape": [-1, 2]} for i in range(2)],
    }
    write_model(root / "pair" / "1", pair)
    write_model(root / "pair" / "3", pair)
    (root / "pair" / "config.yaml").write_text("version_policy: all\n")
    server = start_server(root, root.parent / "doubling.log", "--max-request-bytes=1MiB", env=third_party)
    yield server
    server.kill()


@pytest.fixture(scope="session")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server of the repository that ships, `model_repository/`."""
    server = start_server(ROOT / "model_repository", tmp_path_factory.mktemp("shipped") / "log")
    yield server
    server.kill()


@pytest.fixture(scope="session")
def tiny_llm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server of the language model that ships, alone."""
    root = tmp_path_factory.mktemp("tiny-llm")
    shutil.copytree(ROOT / "model_repository" / "tiny_llm", root / "tiny_llm")
    server = start_server(root, root.parent / "tiny_llm.log")
    yield server
    server.kill()
