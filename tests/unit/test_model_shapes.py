"""A static batch of 1 that is made dynamic where no answer changes, on models made of functions."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from vintner.backend import LoadedModel, LoadSpec
from vintner.errors import BackendError, LoadError
from vintner.model_config import parse_model_config
from vintner.model_shapes import open_model
from vintner.row_independence import ROWS
from vintner.types import Array, TensorSpec, bf16_to_fp32, fp32_to_bf16

COLUMNS = 4
Function = Callable[[Array], Array]


@dataclass
class Model:
    """One input `x` and one output `y`, which a function computes."""

    spec: LoadSpec
    inputs: Sequence[TensorSpec]
    outputs: Sequence[TensorSpec]
    function: Function
    platform: str = "function"
    times_closed: int = 0
    ran: list[Array] = field(default_factory=list)

    @property
    def instances(self) -> Sequence[Model]:
        return [self]

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        self.ran.append(inputs["x"])
        return {"y": self.function(inputs["x"])}

    def close(self) -> None:
        self.times_closed += 1


@dataclass
class Loader:
    """Loads `static` as it is, and `dynamic`, by default the same function, with a dynamic first dimension."""

    static: Function
    dynamic: Function | None = None
    datatypes: tuple[str, str] = ("FP32", "FP32")
    shape: tuple[int, ...] = (1, COLUMNS)
    becomes: tuple[int, ...] = (-1, COLUMNS)
    failure: Exception | None = None
    loaded: list[Model] = field(default_factory=list)

    def __call__(self, spec: LoadSpec) -> LoadedModel:
        given, function = self.shape, self.static
        if spec.rows is not None:
            if self.failure:
                raise self.failure
            given, function = (spec.rows, *self.shape[1:]), self.dynamic or self.static
        outputs = self.becomes if spec.rows is not None else self.shape
        into, out = self.datatypes
        model = Model(spec, [TensorSpec("x", into, given)], [TensorSpec("y", out, outputs)], function)
        self.loaded.append(model)
        return model


def opened(loader: Loader, document: Mapping[str, Any] | None = None, directory: Path = Path(), **spec: Any) -> Any:
    config = parse_model_config(document or {}, "config.yaml")
    return open_model(loader, LoadSpec(Path("m/1/model"), **spec), config, directory)


def served_dynamic(loader: Loader, document: Mapping[str, Any] | None = None, **spec: Any) -> bool:
    """Whether the dynamic model was taken; and the other one was closed, once."""
    model = opened(loader, document, **spec)
    assert [one.times_closed for one in loader.loaded] == [int(one is not model) for one in loader.loaded]
    return bool(model.inputs[0].shape[0] == -1)


def noisy(share: float) -> Function:
    return lambda x: x + share * (-1.0) ** np.arange(COLUMNS, dtype=np.float32)


def raising(error: Exception) -> Function:
    def run(array: Array) -> Array:
        raise error

    return run


def by_turns() -> Function:
    turn = count()
    return lambda x: x * next(turn)


def rounded_to_bf16(x: Array) -> Array:
    return bf16_to_fp32(fp32_to_bf16(x * 3))


INDEPENDENT: Mapping[str, Loader] = {
    "a function of each element": Loader(np.tanh),
    "of each row": Loader(lambda x: x - x.mean(1, keepdims=True)),
    "computed in bf16": Loader(lambda x: x * 3, rounded_to_bf16),
    "integers": Loader(lambda x: x * 2, datatypes=("INT64", "INT64")),
    "labels that differ": Loader(lambda x: (x * 1000).astype(np.int32), datatypes=("FP32", "INT32")),
    "texts": Loader(lambda x: x + x, datatypes=("BYTES", "BYTES")),
    "bf16 as bits": Loader(lambda x: x, datatypes=("BF16", "BF16")),
}
DEPENDENT: Mapping[str, tuple[Loader, str]] = {
    "the mean of the batch": (Loader(lambda x: x - x.mean(0)), "is the same for all rows|differs by"),
    "a softmax over the batch": (Loader(lambda x: np.exp(x) / np.exp(x).sum(0) + x), "differs by"),
    "a running sum": (Loader(lambda x: np.cumsum(x, 0)), "differs by"),
    "the order of rows": (Loader(lambda x: x[::-1]), "differs by"),
    "one row for all": (Loader(lambda x: np.repeat(x[:1], len(x), 0)), "differs by"),
    "a weak bond": (Loader(lambda x: x + 0.1 * (x.mean(0) - x)), "differs by"),
    "only one element": (
        Loader(lambda x: np.concatenate([x[:, :-1], np.broadcast_to(x[:1, -1:], (len(x), 1))], 1)), "differs by",
    ),
    "integers": (
        Loader(lambda x: x + x.sum(0) - x.sum(0) // len(x), datatypes=("INT64", "INT64")), "is not the same",
    ),
    "texts": (Loader(lambda x: np.repeat(x[:1], len(x), 0), datatypes=("BYTES", "BYTES")), "is not the same"),
    "nothing: a constant": (Loader(lambda x: np.ones_like(x)), "the same for all rows of the samples"),
    "nothing: a constant integer": (
        Loader(lambda x: np.ones_like(x), datatypes=("INT8", "INT8")), "the same for all rows of the samples",
    ),
    "not a number": (Loader(lambda x: x * np.nan), "differs by nan"),
    "infinity": (Loader(lambda x: x * np.inf), "differs by nan"),
    "other rows than went in": (Loader(np.tanh, lambda x: x[:1]), r"has \[2, 4\] for 3 rows and one"),
    "a lone row": (Loader(np.tanh, lambda x: np.tanh(x) + (len(x) == 1)), "differs by"),
    "the state of the last run": (Loader(by_turns()), "differs by"),
    "an output that stays at 1": (Loader(np.tanh, becomes=(1, COLUMNS)), r"'y' has shape \[1, 4\], not \[-1, 4\]"),
    "an output that opens up": (Loader(np.tanh, becomes=(-1, -1)), r"'y' has shape \[-1, -1\], not \[-1, 4\]"),
    "a backend that cannot": (Loader(np.tanh, failure=LoadError("cannot reshape")), "cannot reshape"),
    "a backend with a bug": (Loader(np.tanh, failure=RuntimeError("a bug")), "a bug"),
    "runs that fail": (Loader(np.tanh, raising(BackendError("no kernel"))), "no kernel"),
    "runs that fail alone": (Loader(raising(MemoryError("full")), np.tanh), "full"),
}  # fmt: skip


@pytest.mark.parametrize("name", INDEPENDENT)
def test_a_model_whose_rows_are_independent_is_served_with_a_dynamic_batch(name: str) -> None:
    assert served_dynamic(INDEPENDENT[name])


@pytest.mark.parametrize("name", DEPENDENT)
def test_one_whose_rows_depend_on_something_keeps_its_batch_of_1(name: str, caplog: pytest.LogCaptureFixture) -> None:
    loader, reason = DEPENDENT[name]
    loader.loaded.clear()
    with caplog.at_level(logging.INFO):
        assert not served_dynamic(loader)
    [record] = caplog.records
    assert record.levelno == logging.INFO
    assert "m/1/model keeps its static batch of 1: " in record.getMessage()
    assert re.search(reason, record.getMessage())


@pytest.mark.parametrize(
    ("noise", "precision", "dynamic"),
    [(1e-4, "f32", True), (0.005, "f32", False), (0.005, None, True), (0.005, "bf16", True), (0.1, "bf16", False)],
)
def test_as_much_difference_is_borne_as_the_precision_makes(noise: float, precision: str, dynamic: bool) -> None:
    assert served_dynamic(Loader(lambda x: x, noisy(noise)), precision=precision) == dynamic


def test_made_rows_are_told_apart_by_a_model_that_averages_noise_away() -> None:
    many = 10_000

    def mean(x: Array) -> Array:
        return np.repeat(x.mean(1, keepdims=True), many, 1)

    assert served_dynamic(Loader(mean, lambda x: mean(x) + 0.003, shape=(1, many), becomes=(-1, many)))


def test_a_difference_as_large_as_that_between_rows_is_not_put_down_to_precision() -> None:
    """The rows are within a hundredth of each other here, so a hundredth may be one row in the place of another."""
    assert not served_dynamic(Loader(lambda x: 1 + x / 100, lambda x: 1 + x[:1] / 100 + 0 * x))


@pytest.mark.parametrize(
    ("loader", "document", "spec"),
    [
        (Loader(np.tanh), {"batching": False}, {}),
        (Loader(np.tanh), {}, {"shapes": {"x": (1, COLUMNS)}}),
        (Loader(np.tanh, shape=(2, COLUMNS)), {}, {}),
        (Loader(np.tanh, shape=(-1, COLUMNS)), {}, {}),
        (Loader(np.tanh, shape=()), {}, {}),
    ],
)
def test_nothing_is_tried_where_it_is_not_wanted_or_not_needed(loader: Loader, document: Any, spec: Any) -> None:
    assert opened(loader, document, **spec) is loader.loaded[0]
    assert [(one.spec.rows, one.times_closed) for one in loader.loaded] == [(None, 0)]


def test_what_else_was_asked_for_holds_for_the_dynamic_model_too() -> None:
    loader = Loader(np.tanh)
    assert served_dynamic(loader, device="GPU", instances=2, cores=3)
    static, dynamic = (one.spec for one in loader.loaded)
    assert (dynamic.device, dynamic.instances, dynamic.cores, dynamic.rows) == ("GPU", 2, 3, -1)
    assert static.rows is None


def test_a_limit_of_rows_without_batching_is_enough_to_want_it() -> None:
    assert served_dynamic(Loader(np.tanh), {"batching": {"enabled": False, "max_batch_size": 4}})


def test_a_limit_of_rows_that_cannot_be_served_fails_the_load_with_the_reason_and_closes_both() -> None:
    loader = Loader(lambda x: np.cumsum(x, 0))
    with pytest.raises(LoadError, match=r"max_batch_size needs a dynamic first dimension, .*differs by"):
        opened(loader, {"batching": {"max_batch_size": 4}})
    assert [one.times_closed for one in loader.loaded] == [1, 1]


def test_the_rows_of_the_samples_are_compared_and_made_ones_only_where_they_are_too_few(tmp_path: Path) -> None:
    for name, start in (("first", 100), ("second", 200)):
        (tmp_path / name).write_bytes(np.arange(start, start + COLUMNS, dtype=np.float32).tobytes())
    (tmp_path / "many").write_bytes(np.arange(6 * COLUMNS, dtype=np.float32).tobytes())
    for warmup, expected in (
        ([{"inputs": {"x": {"file": name}}} for name in ("first", "second", "first")], [100, 200, None]),
        ([{"batch_size": 6, "inputs": {"x": {"file": "many"}}}], [0, 4, 8]),
        ([{"batch_size": 2, "inputs": {"x": {"data": "zero"}}}], [0, None, None]),
    ):
        loader = Loader(np.arctan)
        opened(loader, {"warmup": warmup}, tmp_path)
        static, dynamic = loader.loaded
        [stacked, one] = dynamic.ran
        assert np.array_equal(np.concatenate(static.ran), stacked)
        assert np.array_equal(one, stacked[:1])
        assert len(stacked) == len(expected) == ROWS
        for row, first in zip(stacked, expected, strict=True):
            assert row[0] == first if first is not None else 0 < row[0] < 1


def test_an_open_extent_beyond_the_batch_needs_a_sample(caplog: pytest.LogCaptureFixture) -> None:
    def loader() -> Loader:
        return Loader(np.tanh, shape=(1, -1), becomes=(-1, -1))

    with caplog.at_level(logging.INFO):
        assert not served_dynamic(loader())
    assert "so the sample needs a shape" in caplog.text
    assert served_dynamic(loader(), {"warmup": [{"inputs": {"x": {"shape": [1, 7]}}}]})


def test_a_model_that_cannot_be_closed_does_not_fail_the_load(caplog: pytest.LogCaptureFixture) -> None:
    class Stuck(Model):
        def close(self) -> None:
            raise RuntimeError("the device is gone")

    loader = Loader(np.tanh)

    def load(spec: LoadSpec) -> LoadedModel:
        model = loader(spec)
        if spec.rows is None:
            model.__class__ = Stuck
        return model

    assert opened(load).inputs[0].shape == (-1, COLUMNS)  # type: ignore[arg-type]
    assert "the device is gone" in caplog.text
