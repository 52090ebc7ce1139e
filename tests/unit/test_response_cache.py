"""The bound, the order and the keys of the response cache, and what one load of a model has of it."""

from __future__ import annotations

import itertools
import tracemalloc
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from vintner import response_cache
from vintner.errors import BackendError
from vintner.model_metrics import CacheMetrics
from vintner.response_cache import ResponseCache, digest, held_bytes
from vintner.types import DTYPES, Request, Response, Tensor

PLENTY = 1 << 20


def fp32(*values: float, shape: Sequence[int] = (1, -1)) -> Tensor:
    return Tensor("FP32", np.array(values, np.float32).reshape(shape))


def texts(*elements: bytes, shape: Sequence[int] = (-1,)) -> Tensor:
    return Tensor("BYTES", np.array([*elements, b""], np.object_)[:-1].reshape(shape))


def answer(size: int = 16) -> dict[str, Tensor]:
    return {"y": Tensor("UINT8", np.zeros(size, np.uint8))}


def key(name: int, load: int = 0) -> tuple[int, bytes]:
    return load, name.to_bytes(32, "little")


# -- keys ------------------------------------------------------------------------------------------------------

BASE = Request("m", "1", {"x": fp32(1, 2), "z": fp32(3, 4)})
OUTPUTS = ("y", "w")

DIFFERENT: dict[str, tuple[Request, Sequence[str]]] = {
    "as it is": (BASE, OUTPUTS),
    "the name of an input": (replace(BASE, inputs={"x": fp32(1, 2), "zz": fp32(3, 4)}), OUTPUTS),
    "the inputs exchanged": (replace(BASE, inputs={"z": fp32(1, 2), "x": fp32(3, 4)}), OUTPUTS),
    "one input": (replace(BASE, inputs={"x": fp32(1, 2)}), OUTPUTS),
    "a value": (replace(BASE, inputs={"x": fp32(1, 2), "z": fp32(3, 5)}), OUTPUTS),
    "the sign of a zero": (replace(BASE, inputs={"x": fp32(0, 2), "z": fp32(3, 4)}), OUTPUTS),
    "the other sign": (replace(BASE, inputs={"x": fp32(-0.0, 2), "z": fp32(3, 4)}), OUTPUTS),
    "the bounds of the inputs": (replace(BASE, inputs={"x": fp32(1), "z": fp32(2, 3, 4)}), OUTPUTS),
    "a shape": (replace(BASE, inputs={"x": fp32(1, 2, shape=(2, 1)), "z": fp32(3, 4)}), OUTPUTS),
    "the rank": (replace(BASE, inputs={"x": fp32(1, 2, shape=(2,)), "z": fp32(3, 4)}), OUTPUTS),
    "the datatype of the same bytes": (
        replace(BASE, inputs={"x": Tensor("INT32", fp32(1, 2).array.view(np.int32)), "z": fp32(3, 4)}),
        OUTPUTS,
    ),
    "bf16": (replace(BASE, inputs={"x": Tensor("BF16", np.ones((1, 2), np.uint16))}), OUTPUTS),
    "uint16 of the same bytes": (replace(BASE, inputs={"x": Tensor("UINT16", np.ones((1, 2), np.uint16))}), OUTPUTS),
    "nothing, of one shape": (replace(BASE, inputs={"x": fp32(shape=(0, 3))}), OUTPUTS),
    "nothing, of another": (replace(BASE, inputs={"x": fp32(shape=(3, 0))}), OUTPUTS),
    "texts": (replace(BASE, inputs={"x": texts(b"ab", b"c")}), OUTPUTS),
    "texts with another bound": (replace(BASE, inputs={"x": texts(b"a", b"bc")}), OUTPUTS),
    "an empty text": (replace(BASE, inputs={"x": texts(b"abc", b"")}), OUTPUTS),
    "one text": (replace(BASE, inputs={"x": texts(b"abc")}), OUTPUTS),
    "a text with a length in it": (replace(BASE, inputs={"x": texts(b"ab\1\0\0\0c")}), OUTPUTS),
    "texts of another shape": (replace(BASE, inputs={"x": texts(b"ab", b"c", shape=(2, 1))}), OUTPUTS),
    "a parameter": (replace(BASE, parameters={"top": 1}), OUTPUTS),
    "its name": (replace(BASE, parameters={"tops": 1}), OUTPUTS),
    "its value": (replace(BASE, parameters={"top": 2}), OUTPUTS),
    "true is not 1": (replace(BASE, parameters={"top": True}), OUTPUTS),
    "1.0 is not 1": (replace(BASE, parameters={"top": 1.0}), OUTPUTS),
    "a text is not 1": (replace(BASE, parameters={"top": "1"}), OUTPUTS),
    "two parameters": (replace(BASE, parameters={"top": 1, "more": 2}), OUTPUTS),
    "one output": (BASE, ("y",)),
    "the other output": (BASE, ("w",)),
    "the order of the outputs": (BASE, ("w", "y")),
    "a name that looks like two": (BASE, ("y', 'w",)),
}


def test_every_difference_makes_another_key() -> None:
    by_key: dict[bytes, list[str]] = {}
    for what, (request, outputs) in DIFFERENT.items():
        by_key.setdefault(digest(request, outputs), []).append(what)
    assert [alike for alike in by_key.values() if len(alike) > 1] == []


ALIKE: dict[str, Request] = {
    "the id": replace(BASE, id="7"),
    "the deadline": replace(BASE, deadline=1.0),
    "the order of the inputs": replace(BASE, inputs=dict(reversed(BASE.inputs.items()))),
    "an array that is not contiguous": replace(
        BASE, inputs={"x": Tensor("FP32", fp32(1, 9, 2, 9).array[:, ::2]), "z": fp32(3, 4)}
    ),
    "what only steers": replace(BASE, parameters={"priority": 1, "timeout": 5, "timing": True}),
}


@pytest.mark.parametrize("what", ALIKE)
def test_what_does_not_matter_makes_no_other_key(what: str) -> None:
    assert digest(ALIKE[what], OUTPUTS) == digest(BASE, OUTPUTS)


def test_the_order_of_parameters_does_not_matter() -> None:
    one, other = ({"a": 1, "b": "x"}, {"b": "x", "a": 1})
    assert digest(replace(BASE, parameters=one), ()) == digest(replace(BASE, parameters=other), ())


@pytest.mark.parametrize("datatype", DTYPES)
def test_every_datatype_and_a_scalar_have_a_key(datatype: str) -> None:
    array = np.full((), b"x", np.object_) if datatype == "BYTES" else np.ones((), DTYPES[datatype])
    scalar, row = (Request("m", "", {"x": Tensor(datatype, each)}) for each in (array, array.reshape(1)))
    assert digest(scalar, ("y",)) != digest(row, ("y",))


@given(st.lists(st.binary(max_size=6), max_size=5), st.lists(st.binary(max_size=6), max_size=5))
def test_texts_have_one_key_only_if_they_are_the_same(left: list[bytes], right: list[bytes]) -> None:
    keys = [digest(Request("m", "", {"x": texts(*each)}), ()) for each in (left, right)]
    assert (keys[0] == keys[1]) == (left == right)


# -- what is kept ----------------------------------------------------------------------------------------------


def test_an_answer_is_found_as_it_was_given_by_its_own_key_only() -> None:
    cache = ResponseCache(PLENTY)
    given_answer = {"y": fp32(1, 2), "words": texts(b"one", b"")}
    cache.put(key(1), given_answer)
    found = cache.get(key(1))
    assert found is not None
    assert [(name, each.datatype, each.array.tolist()) for name, each in found.items()] == [
        (name, each.datatype, each.array.tolist()) for name, each in given_answer.items()
    ]
    assert cache.get(key(2)) is None
    assert cache.get(key(1, load=1)) is None


def test_what_is_kept_is_a_copy_that_nobody_can_change() -> None:
    cache = ResponseCache(PLENTY)
    batch = np.arange(8, dtype=np.float32).reshape(4, 2)
    cache.put(key(1), {"y": Tensor("FP32", batch[1:2])})
    batch[:] = 0
    found = cache.get(key(1))
    assert found is not None
    array = found["y"].array
    assert array.tolist() == [[2.0, 3.0]]
    assert array.base is None  # the batch is not kept alive
    with pytest.raises(ValueError, match="read-only"):
        array[0, 0] = 1


def room_for(count: int) -> ResponseCache:
    return ResponseCache(count * held_bytes(answer()))


def kept(cache: ResponseCache, names: Sequence[int]) -> list[int]:
    """Which of the names are there. Looking makes them used, in this order."""
    return [name for name in names if cache.get(key(name)) is not None]


def test_the_least_recently_used_goes_first() -> None:
    cache = room_for(3)
    for name in (1, 2, 3):
        cache.put(key(name), answer())
    assert cache.get(key(1)) is not None
    cache.put(key(4), answer())
    assert kept(cache, (1, 2, 3, 4)) == [1, 3, 4]
    cache.put(key(5), answer())
    assert kept(cache, (1, 2, 3, 4, 5)) == [3, 4, 5]


def test_a_large_answer_takes_the_place_of_several() -> None:
    cache = room_for(3)
    for name in (1, 2, 3):
        cache.put(key(name), answer())
    cache.put(key(4), answer(16 + held_bytes(answer())))
    assert kept(cache, (1, 2, 3, 4)) == [3, 4]


def test_an_answer_that_is_larger_than_the_bound_is_not_kept_and_drives_nothing_out() -> None:
    cache = room_for(1)
    cache.put(key(1), answer())
    cache.put(key(2), answer(17))
    assert kept(cache, (1, 2)) == [1]
    assert cache.size == (1, held_bytes(answer()))


def test_an_answer_that_is_kept_again_is_counted_once() -> None:
    cache = ResponseCache(PLENTY)
    cache.put(key(1), answer(1000))
    cache.put(key(1), answer())
    assert cache.size == (1, held_bytes(answer()))


def test_what_is_kept_of_one_load_goes_with_it() -> None:
    cache = ResponseCache(PLENTY)
    for load in (0, 1):
        for name in (1, 2):
            cache.put(key(name, load), answer())
    cache.drop(0)
    assert [cache.get(key(name, load)) is not None for load in (0, 1) for name in (1, 2)] == [False, False, True, True]
    assert cache.size == (2, 2 * held_bytes(answer()))


STEPS = st.lists(st.tuples(st.sampled_from(["put", "get", "drop"]), st.integers(0, 12), st.integers(0, 4000)))


@given(st.integers(0, 10_000), STEPS)
def test_the_bound_holds_after_every_step_and_the_newest_answer_is_there(
    bound: int, steps: list[tuple[str, int, int]]
) -> None:
    cache = ResponseCache(bound)
    sizes: dict[tuple[int, bytes], int] = {}
    for step, name, size in steps:
        at = key(name, name % 2)
        if step == "put":
            cache.put(at, answer(size))
            sizes[at] = size if held_bytes(answer(size)) <= bound else sizes.get(at, size)
            assert (cache.get(at) is not None) or held_bytes(answer(size)) > bound
        elif step == "drop":
            cache.drop(name % 2)
            assert cache.get(at) is None
        found = {each: cache.get(each) for each in sizes}
        there = {each: outputs for each, outputs in found.items() if outputs is not None}
        assert {each: outputs["y"].array.size for each, outputs in there.items()} == {
            each: sizes[each] for each in there
        }
        assert cache.size == (len(there), sum(map(held_bytes, there.values())))
        assert cache.size[1] <= bound


def many_texts(number: int) -> dict[str, Tensor]:
    return {"y": texts(*(f"{number} {i}".encode() * (i % 7) for i in range(40)))}


@pytest.mark.parametrize("count", [6, 11, 90, 400])
@pytest.mark.parametrize(
    "made",
    [
        lambda number: answer(0),
        lambda number: {"y": Tensor("FP32", np.zeros((1,) * 60 + (5,), np.float32))},
        lambda number: {f"y{i}": fp32(*range(i)) for i in range(12)},
        many_texts,
    ],
    ids=["empty", "many dimensions", "many outputs", "texts"],
)
def test_entries_take_no_more_memory_than_is_counted(made: Callable[[int], dict[str, Tensor]], count: int) -> None:
    cache = ResponseCache(1 << 30)
    cache.put(key(0), made(0))
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for number in range(1, count + 1):
        cache.put(key(number), made(number))
    taken = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    counted = cache.size[1] - held_bytes(made(0))
    assert counted / 3 < taken <= counted


def test_threads_may_use_it_at_once() -> None:
    cache = room_for(5)

    def use(start: int) -> None:
        for step in range(500):
            name = (start + step) % 9
            found = cache.get(key(name))
            assert found is None or found["y"].array[0] == name
            cache.put(key(name), {"y": Tensor("UINT8", np.full(16, name, np.uint8))})
            if step % 50 == 0:
                cache.drop(1)

    with ThreadPoolExecutor(6) as pool:
        for future in [pool.submit(use, start) for start in range(6)]:
            future.result()
    assert cache.size == (5, 5 * held_bytes(answer()))


# -- a load's share --------------------------------------------------------------------------------------------


class Loaded:
    """One load of a model, that takes part in a cache."""

    def __init__(self, cache: ResponseCache) -> None:
        self.metrics = CacheMetrics()
        self.share = cache.share(self.metrics)

    def ask(self, result: Any) -> tuple[bool, Any]:
        """Whether the request was a hit, and what it was told; `result` is what the model would say."""
        told: list[Any] = []
        at, found = self.share.find(BASE, OUTPUTS)
        if found is not None:
            return True, found
        self.share.keeping(at, told.append)(result)
        return False, told[0]


def response(size: int = 16) -> Response:
    return Response("m", "1", answer(size), id="1")


def test_a_request_that_comes_again_is_a_hit_and_both_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count()  # a second goes by whenever it is looked at
    monkeypatch.setattr(response_cache, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    loaded = Loaded(ResponseCache(PLENTY))
    first = response()
    assert loaded.ask(first) == (False, first)
    assert [loaded.ask(None)[0] for _ in range(2)] == [True, True]
    assert (loaded.metrics.hits, loaded.metrics.misses) == (2, 1)
    assert loaded.metrics.hit_seconds == 2
    assert loaded.metrics.miss_seconds == 2, "to look it up, and to keep the answer"


def test_an_error_is_passed_on_and_not_kept() -> None:
    cache = ResponseCache(PLENTY)
    loaded = Loaded(cache)
    error = BackendError("once")
    assert loaded.ask(error) == (False, error)
    assert cache.size == (0, 0)
    assert loaded.ask(response())[0] is False


def test_another_load_of_the_same_version_finds_nothing() -> None:
    cache = ResponseCache(PLENTY)
    old, new = Loaded(cache), Loaded(cache)
    old.ask(response())
    assert new.ask(response())[0] is False
    old.share.close()
    assert cache.size[0] == 1
    assert new.ask(None)[0] is True


def test_an_answer_that_cannot_be_kept_is_given_all_the_same(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*arguments: object) -> None:
        raise MemoryError

    cache = ResponseCache(PLENTY)
    monkeypatch.setattr(cache, "put", full)
    result = response()
    assert Loaded(cache).ask(result) == (False, result)
    assert "could not be kept" in caplog.text


def test_a_bound_of_nothing_keeps_nothing() -> None:
    loaded = Loaded(ResponseCache(0))
    loaded.ask(response())
    assert loaded.ask(response())[0] is False
