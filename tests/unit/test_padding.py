"""Batches padded to the sizes that a model was compiled for, on the in-memory backend."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_backend import FakeBackend, FakeModel, fake_model, write_model
from hypothesis import given
from hypothesis import strategies as st
from vintner.backend import Backends, LoadedModel, LoadSpec
from vintner.errors import BackendError, InvalidArgument, LoadError
from vintner.opening import open_servable
from vintner.padding import load_sizes, padded
from vintner.repository import scan
from vintner.triton_view import model_config
from vintner.types import DTYPES, Array, Request, Response, Tensor, TensorSpec

SPEC = LoadSpec(Path("model.fake"))
COLUMNS = 3


def backend_of(datatype: str = "FP32", shape: Sequence[int] = (-1, COLUMNS)) -> FakeBackend:
    return FakeBackend({"model.fake": fake_model(datatype, shape) | {"reshapes": True}})


def rows_of(rows: int, datatype: str = "FP32") -> Array:
    numbers = np.arange(rows * COLUMNS).reshape(rows, COLUMNS) % 50
    return numbers.astype(bytes).astype(object) if datatype == "BYTES" else numbers.astype(DTYPES[datatype])


@given(rows=st.integers(0, 16), sizes=st.sets(st.integers(1, 16), min_size=1).map(sorted))
def test_the_smallest_size_that_holds_the_rows_runs_and_exactly_they_come_back(rows: int, sizes: list[int]) -> None:
    backend = backend_of()
    [instance] = load_sizes(backend.load, SPEC, sizes).instances
    if rows > sizes[-1]:
        with pytest.raises(InvalidArgument, match=f"compiled for at most {sizes[-1]} rows, got {rows}"):
            instance.run({"input": rows_of(rows)})
        return
    output = instance.run({"input": rows_of(rows)})["output"]
    assert np.array_equal(output, rows_of(rows) * 2)
    ran = {size: model.batch_sizes for size, model in zip(sizes, backend.loaded, strict=True) if model.runs}
    expected = next(size for size in sizes if size >= rows)
    assert ran == {expected: [expected]}


@pytest.mark.parametrize("datatype", sorted(DTYPES))
@pytest.mark.parametrize("rows", [0, 1, 3, 4])
def test_padding_repeats_the_last_row_in_every_datatype(datatype: str, rows: int) -> None:
    array = rows_of(rows, datatype)
    full = padded(array, 4)
    assert (full.shape, full.dtype, full.flags.c_contiguous) == ((4, COLUMNS), array.dtype, True)
    nothing = [b"" if datatype == "BYTES" else 0] * COLUMNS
    assert full.tolist() == [*array.tolist(), *[array[-1].tolist() if rows else nothing] * (4 - rows)]


def test_all_sizes_are_one_model_with_a_dynamic_first_dimension_and_are_closed_with_it() -> None:
    backend = backend_of(shape=(1, COLUMNS))
    model = load_sizes(backend.load, replace(SPEC, instances=2), [1, 4, 8])
    assert [one.spec.rows for one in backend.loaded] == [1, 4, 8]
    assert (model.platform, len(model.instances)) == ("fake", 2)
    assert model.inputs == (TensorSpec("input", "FP32", (-1, COLUMNS)),)
    assert model.outputs == (TensorSpec("output", "FP32", (-1, COLUMNS)),)
    model.close()
    assert [one.times_closed for one in backend.loaded] == [1, 1, 1]


def test_there_are_as_many_instances_as_every_size_has() -> None:
    backend = backend_of()

    def load(spec: LoadSpec) -> LoadedModel:
        return backend.load(replace(spec, instances=spec.rows))

    assert len(load_sizes(load, SPEC, [2, 3]).instances) == 2


@pytest.mark.parametrize("failing", [1, 4, 8])
def test_a_size_that_cannot_be_loaded_is_named_and_those_before_it_are_closed(failing: int) -> None:
    backend = backend_of()

    def load(spec: LoadSpec) -> LoadedModel:
        if spec.rows == failing:
            raise LoadError("no memory")
        return backend.load(spec)

    with pytest.raises(LoadError, match=f"^compiled size {failing}: no memory$"):
        load_sizes(load, SPEC, [1, 4, 8])
    assert [one.spec.rows for one in backend.loaded] == [size for size in (1, 4, 8) if size < failing]
    assert all(one.times_closed == 1 for one in backend.loaded)


def test_a_backend_that_cannot_reshape_may_have_the_size_of_the_model_alone() -> None:
    backend = FakeBackend({"model.fake": fake_model(shape=(4, COLUMNS))})
    [instance] = load_sizes(backend.load, SPEC, [4]).instances
    assert instance.run({"input": rows_of(3)})["output"].tolist() == (rows_of(3) * 2).tolist()
    with pytest.raises(LoadError, match="compiled size 8: the model's first dimension cannot be changed"):
        load_sizes(backend.load, SPEC, [4, 8])


def with_outputs(shape: Callable[[int], tuple[int, ...]]) -> Callable[[LoadSpec], FakeModel]:
    """Loads models whose outputs have a shape that depends on the size, whatever the runs return."""
    backend = backend_of()

    def load(spec: LoadSpec) -> FakeModel:
        model = backend.load(spec)
        assert spec.rows is not None
        model.outputs = [TensorSpec("output", "FP32", shape(spec.rows))]
        return model

    return load


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (lambda size: (COLUMNS,), r"compiled size 4: output 'output' has shape \[3\]; its first dimension is not"),
        (lambda size: (), r"compiled size 4: output 'output' has shape \[\]"),
        (lambda size: (size, size), r"output 'output' is FP32 \[4, 4\] for 4 rows, but FP32 \[8, 8\] for 8"),
    ],
)
def test_a_model_that_is_not_batched_by_its_first_dimension_is_a_load_error(shape: Any, message: str) -> None:
    with pytest.raises(LoadError, match=message):
        load_sizes(with_outputs(shape), SPEC, [4, 8])


def test_an_output_whose_first_extent_is_open_is_looked_at_in_each_run() -> None:
    [instance] = load_sizes(with_outputs(lambda size: (-1, COLUMNS)), SPEC, [4]).instances
    assert instance.run({"input": rows_of(3)})["output"].shape == (3, COLUMNS)

    def load(spec: LoadSpec) -> LoadedModel:
        model = with_outputs(lambda size: (-1, COLUMNS))(spec)
        model.instances[0].run = lambda inputs: {"output": np.zeros((2, COLUMNS))}  # type: ignore[method-assign]
        return model

    [instance] = load_sizes(load, SPEC, [4]).instances
    with pytest.raises(BackendError, match=r"output 'output' has shape \[2, 3\] for a batch of 4 rows"):
        instance.run({"input": rows_of(3)})


# -- as a version that is served ---------------------------------------------------------------------------------


def opened(tmp_path: Path, backend: FakeBackend, text: str, document: Mapping[str, Any]) -> Any:
    backends = Backends(made={"fake": backend})
    write_model(tmp_path / "m" / "1", document)
    (tmp_path / "m" / "config.yaml").write_text(text)
    [source] = scan([tmp_path], backends).models.values()
    return open_servable(source, 1, backends, 1, None)


def answers(servable: Any, *sizes: int) -> list[Any]:
    """What requests of so many rows get that are all there before the first runs."""
    results: list[Any] = []
    turns = [
        servable.submit(Request("m", "", {"input": Tensor("FP32", rows_of(rows))}), results.append) for rows in sizes
    ]
    turns[0].run()
    return results


def test_a_batch_of_several_requests_is_padded_and_each_gets_its_own_rows(tmp_path: Path) -> None:
    backend = FakeBackend()
    document = fake_model(shape=(1, COLUMNS)) | {"reshapes": True}
    servable = opened(tmp_path, backend, "batching: {compiled_sizes: [1, 4, 8]}", document)
    for result, rows in zip(answers(servable, 1, 2, 3), (1, 2, 3), strict=True):
        assert isinstance(result, Response)
        assert result.outputs["output"].array.tolist() == (rows_of(rows) * 2).tolist()
    assert [model.batch_sizes for model in backend.loaded] == [[], [], [8]]
    with pytest.raises(InvalidArgument, match="batch-size must be <= 8 for 'm', got 9"):
        answers(servable, 9)
    message = model_config(servable)
    assert (message.max_batch_size, list(message.input[0].dims)) == (8, [COLUMNS])


def test_warm_up_runs_the_sizes_that_its_samples_need(tmp_path: Path) -> None:
    backend = FakeBackend()
    text = "{batching: {compiled_sizes: [2, 8]}, warmup: [{batch_size: 1}, {batch_size: 7}]}"
    opened(tmp_path, backend, text, fake_model(shape=(-1, COLUMNS)) | {"reshapes": True})
    assert [model.batch_sizes for model in backend.loaded] == [[2], [8]]
