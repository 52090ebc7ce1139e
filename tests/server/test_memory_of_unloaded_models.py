"""What a server keeps of models that clients loaded, used and unloaded again and again, by its resident set."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from model_builders import onnx_mlp, openvino_mlp
from running_server import RunningServer

Start = Callable[..., RunningServer]

CYCLES = int(os.environ.get("VINTNER_TEST_CYCLES", "15"))
"""50 take too long to be run each time."""
WIDTHS = (1024,) * 6
WEIGHTS = 5 * 1024 * 1024 * 4
"""Bytes."""


def resident(server: RunningServer) -> int:
    pages = int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE")


def cycle(server: RunningServer, module: Any, client: Any) -> tuple[int, int]:
    """Bytes while the model is loaded, and once it is not."""
    client.load_model("m")
    given = np.ones((4, WIDTHS[0]), np.float32)
    tensor = module.InferInput("input", given.shape, "FP32")
    tensor.set_data_from_numpy(given)
    for _ in range(5):
        assert client.infer("m", [tensor]).as_numpy("output").shape == given.shape
    loaded = resident(server)
    client.unload_model("m")
    return loaded, resident(server)


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_the_memory_of_unloaded_models_is_given_back(tmp_path: Path, start: Start, backend: str) -> None:
    root = tmp_path / "repository"
    (openvino_mlp if backend == "openvino" else onnx_mlp)(root / "m" / "1", *WIDTHS)
    (root / "m" / "config.yaml").write_text(f"backend: {backend}\n")
    server = start(root, "--model-control=explicit")
    with (
        tritonclient.grpc.InferenceServerClient(server.grpc) as by_grpc,
        tritonclient.http.InferenceServerClient(server.http) as by_http,
    ):
        clients = [(tritonclient.grpc, by_grpc), (tritonclient.http, by_http)]
        found = [cycle(server, *clients[number % 2]) for number in range(CYCLES)]
    loaded, unloaded = zip(*found, strict=True)
    print(f"{backend}: resident after 1, and after {CYCLES}: {unloaded[0] / 2**20:.1f}, {unloaded[-1] / 2**20:.1f} MiB")
    assert loaded[-1] > unloaded[0] + WEIGHTS / 2, "the weights are there while the model is loaded"
    assert unloaded[-1] <= 1.05 * unloaded[0], [round(size / 2**20, 1) for size in unloaded]
