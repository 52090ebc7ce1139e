"""Requests that are decoded by a heading that was seen before: as protobuf would have it, or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from vintner.grpc_codec import decode_infer
from vintner.grpc_headings import LONGEST, MOST, Headings
from vintner.pb import grpc_service_pb2 as pb
from vintner.types import DTYPES, Request

NUMERIC = [name for name in DTYPES if name != "BYTES"]
tensors = st.lists(
    st.tuples(st.sampled_from(NUMERIC), st.lists(st.integers(0, 40), max_size=3)), min_size=1, max_size=3
)


def message(kinds: Sequence[tuple[str, Sequence[int]]], seed: int = 0, **others: Any) -> pb.ModelInferRequest:
    random = np.random.default_rng(seed)
    made = pb.ModelInferRequest(**{"model_name": "m", **others})
    for number, (datatype, shape) in enumerate(kinds):
        made.inputs.add(name=f"x{number}", datatype=datatype, shape=shape)
        size = int(np.prod(shape, dtype=int)) * DTYPES[datatype].itemsize
        made.raw_input_contents.append(random.integers(0, 2, size, np.uint8).tobytes())
    return made


def learnt(*messages: pb.ModelInferRequest) -> Headings:
    headings = Headings()
    for one in messages:
        headings.learn(one.SerializeToString(), one, decode_infer(one))
    return headings


def assert_equal(one: Request | None, other: Request) -> None:
    assert one is not None
    assert (one.model_name, one.model_version, tuple(one.outputs)) == (
        other.model_name,
        other.model_version,
        tuple(other.outputs),
    )
    assert (one.id, one.parameters, one.deadline) == (other.id, other.parameters, other.deadline)
    assert list(one.inputs) == list(other.inputs)
    for name, tensor in one.inputs.items():
        assert tensor.datatype == other.inputs[name].datatype
        assert tensor.array.dtype == other.inputs[name].array.dtype
        assert tensor.array.tobytes() == other.inputs[name].array.tobytes()
        assert tensor.shape == other.inputs[name].shape


@given(tensors, st.booleans(), st.sampled_from(["", "3"]))
def test_a_heading_that_was_seen_is_decoded_as_protobuf_would(
    kinds: list[tuple[str, list[int]]], picks: bool, version: str
) -> None:
    others = {"model_version": version, "outputs": [{"name": "y"}] if picks else []}
    first, second = message(kinds, 1, **others), message(kinds, 2, **others)
    headings = learnt(first)
    for one in (first, second):
        assert_equal(headings.decode(one.SerializeToString()), decode_infer(one))


@given(tensors, st.data())
def test_what_is_cut_short_or_too_long_has_to_be_parsed(
    kinds: list[tuple[str, list[int]]], data: st.DataObject
) -> None:
    one = message(kinds)
    whole = one.SerializeToString()
    headings = learnt(one)
    assert headings.decode(whole[: data.draw(st.integers(0, len(whole) - 1))]) is None
    assert headings.decode(whole + data.draw(st.binary(min_size=1, max_size=9))) is None


@given(tensors, st.data())
def test_whatever_bytes_come_it_is_what_protobuf_makes_of_them(
    kinds: list[tuple[str, list[int]]], data: st.DataObject
) -> None:
    one = message(kinds)
    changed = bytearray(one.SerializeToString())
    position = data.draw(st.integers(0, len(changed) - 1))
    changed[position] = data.draw(st.integers(0, 255))
    decoded = learnt(one).decode(bytes(changed))
    if decoded is not None:
        assert_equal(decoded, decode_infer(pb.ModelInferRequest.FromString(bytes(changed))))


KIND = [("FP32", [1, 4])]
TYPED = pb.ModelInferRequest(model_name="m")
TYPED.inputs.add(name="x", datatype="FP32", shape=[1]).contents.fp32_contents.append(1.0)
WITH_TENSOR_PARAMETER = message(KIND)
WITH_TENSOR_PARAMETER.inputs[0].parameters["a"].bool_param = True
STRINGS = pb.ModelInferRequest(model_name="m", raw_input_contents=[bytes([1, 0, 0, 0, 65])])
STRINGS.inputs.add(name="x", datatype="BYTES", shape=[1])


@pytest.mark.parametrize(
    "unusual",
    [
        message(KIND, id="7"),
        message(KIND, parameters={"priority": {"int64_param": 1}}),
        message(KIND, model_name="m" * LONGEST),
        TYPED,
        WITH_TENSOR_PARAMETER,
        STRINGS,
        pb.ModelInferRequest(model_name="m"),
    ],
    ids=["id", "parameters", "long", "typed", "tensor's parameters", "strings", "no inputs"],
)
def test_what_is_unusual_is_not_kept(unusual: pb.ModelInferRequest) -> None:
    assert learnt(unusual).decode(unusual.SerializeToString()) is None


def test_tensors_that_do_not_come_last_are_not_kept() -> None:
    one = message(KIND)
    head = pb.ModelInferRequest(model_name="m", inputs=one.inputs).SerializeToString()
    raw = pb.ModelInferRequest(raw_input_contents=one.raw_input_contents).SerializeToString()
    assert pb.ModelInferRequest.FromString(raw + head) == one
    headings = Headings()
    headings.learn(raw + head, one, decode_infer(one))
    assert headings.decode(raw + head) is None


def test_the_headings_that_are_kept_are_bounded() -> None:
    headings = learnt(*(message([("FP32", [1, number])]) for number in range(3 * MOST)))
    assert len(headings._headings) <= MOST
    last = message([("FP32", [1, 3 * MOST - 1])])
    assert headings.decode(last.SerializeToString()) is not None
