"""What a model is run with before it is served, on the in-memory backend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_backend import FakeBackend, FakeModel, fake_model, write_model
from vintner.backend import Backends, LoadSpec
from vintner.errors import ConfigError, LoadError
from vintner.model_config import ModelConfig, parse_model_config
from vintner.opening import open_servable
from vintner.repository import scan
from vintner.types import DTYPES, Array
from vintner.warmup import warm_up


class Recording(FakeBackend):
    """Keeps the inputs of every run."""

    def __init__(self) -> None:
        super().__init__()
        self.runs: list[Mapping[str, Array]] = []

    def load(self, spec: LoadSpec) -> FakeModel:
        model = super().load(spec)
        model.enter = self.runs.append  # type: ignore[method-assign, assignment]
        return model


def config(text: Any) -> ModelConfig:
    return parse_model_config({"warmup": text}, "config.yaml")


def warmed(tmp_path: Path, text: Any, document: Any = None, instances: int = 1) -> list[Mapping[str, Array]]:
    backend = Recording()
    model = backend.load(LoadSpec(write_model(tmp_path / "m", document), instances=instances))
    assert warm_up(model, config(text).warmup, tmp_path) is None
    return backend.runs


def test_without_a_configuration_nothing_is_run(tmp_path: Path) -> None:
    assert warmed(tmp_path, None) == warmed(tmp_path, False) == warmed(tmp_path, []) == []


def test_true_runs_one_row_on_every_instance(tmp_path: Path) -> None:
    runs = warmed(tmp_path, True, instances=3)
    assert [run["input"].shape for run in runs] == [(1, 4)] * 3


@pytest.mark.parametrize("datatype", sorted(DTYPES))
@pytest.mark.parametrize("data", ["random", "zero"])
def test_every_datatype_can_be_made(tmp_path: Path, datatype: str, data: str) -> None:
    text = [{"batch_size": 3, "inputs": {"input": {"data": data}}}]
    [run] = warmed(tmp_path, text, fake_model(datatype, (-1, 5)))
    array = run["input"]
    assert (array.shape, array.dtype) == ((3, 5), DTYPES[datatype])
    if datatype == "BYTES":
        assert set(array.flat) == {b"" if data == "zero" else b"warm-up"}
    else:
        assert bool(array.any()) == (data == "random")
        assert datatype == "BF16" or array.max() <= 1


def test_samples_are_run_as_often_as_asked_in_order(tmp_path: Path) -> None:
    text = [{"batch_size": 2, "count": 2}, {"name": "big", "batch_size": 8}]
    assert [len(run["input"]) for run in warmed(tmp_path, text)] == [2, 2, 8]


def test_a_shape_is_whole_without_a_batch_size_and_of_one_row_with_it(tmp_path: Path) -> None:
    document = fake_model("FP32", (-1, -1, 2))
    for sample in (
        {"inputs": {"input": {"shape": [4, 3, 2]}}},
        {"batch_size": 4, "inputs": {"input": {"shape": [3, 2]}}},
    ):
        [run] = warmed(tmp_path, [sample], document)
        assert run["input"].shape == (4, 3, 2)


def test_a_file_is_read_as_a_request_would_be(tmp_path: Path) -> None:
    values = np.arange(8, dtype=np.float32)
    (tmp_path / "sample").write_bytes(values.tobytes())
    [run] = warmed(tmp_path, [{"batch_size": 2, "inputs": {"input": {"file": "sample"}}}])
    assert run["input"].tolist() == values.reshape(2, 4).tolist()


@pytest.mark.parametrize(
    ("sample", "document", "message"),
    [
        ({"inputs": {"imput": {}}}, None, "names an input 'imput' that is not there; did you mean 'input'"),
        ({}, fake_model("FP32", (-1, -1)), "so the sample needs a shape"),
        ({"inputs": {"input": {"shape": [2, 5]}}}, None, r"expects shape \[-1, 4\], the sample has \[2, 5\]"),
        ({"inputs": {"input": {"file": "gone"}}}, None, "warm-up file gone: No such file"),
        ({"batch_size": 9, "inputs": {"input": {"file": "short"}}}, None, "short: .*Expected 144, got 4"),
    ],
)
def test_a_sample_that_does_not_fit_fails_the_load(tmp_path: Path, sample: Any, document: Any, message: str) -> None:
    (tmp_path / "short").write_bytes(bytes(4))
    with pytest.raises(LoadError, match=message):
        warmed(tmp_path, [sample], document)


def test_a_run_that_fails_fails_the_load_with_the_reason_and_closes_the_model(tmp_path: Path) -> None:
    def broken() -> None:
        raise RuntimeError("no kernel for this shape")

    backend = FakeBackend(gate=broken)
    backends = Backends(made={"fake": backend})
    write_model(tmp_path / "m" / "1")
    (tmp_path / "m" / "config.yaml").write_text("warmup: [{name: usual}]")
    [source] = scan([tmp_path], backends).models.values()
    with pytest.raises(LoadError, match="warm-up 'usual' failed on instance 0: no kernel for this shape"):
        open_servable(source, 1, backends, 1, None)
    assert backend.loaded[0].closed
    good = replace(source, config=ModelConfig())
    open_servable(good, 1, backends, 1, None).close()


def test_a_model_whose_outputs_lack_the_batch_is_found_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Summing(FakeBackend):
        def load(self, spec: LoadSpec) -> FakeModel:
            model = super().load(spec)
            for instance in model.instances:
                instance.run = lambda inputs: {"output": inputs["input"].sum(axis=0, keepdims=True)}  # type: ignore[method-assign]
            return model

    backends = Backends(made={"fake": Summing()})
    write_model(tmp_path / "m" / "1")
    (tmp_path / "m" / "config.yaml").write_text("warmup: [{batch_size: 4}]")
    [source] = scan([tmp_path], backends).models.values()
    servable = open_servable(source, 1, backends, 1, None)
    assert servable.max_rows == 1
    misfit = "output 'output' has shape [1, 4] for a batch of 4 rows"
    assert f"model 'm' version 1 is served unbatched from now on: {misfit}" in caplog.text
    assert servable.remarks == f"served unbatched: {misfit}"
    servable.close()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ([{"batch": 3}], "unknown key 'batch'; did you mean 'batch_size'"),
        ([{"count": 0}], "warmup.0.count"),
        ([{"inputs": {"x": {"data": "ones"}}}], "data"),
        ([{"inputs": {"x": {"file": "../secret"}}}], "a bare file name"),
        ("yes", "warmup"),
    ],
)
def test_a_wrong_configuration_says_what_was_expected(text: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config(text)
    assert message in str(caught.value)
