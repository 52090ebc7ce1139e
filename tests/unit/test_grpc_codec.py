"""Replies on the wire, read back by tritonclient's own messages."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2
from vintner import grpc_codec
from vintner.errors import TooLarge
from vintner.grpc_codec import encode_infer
from vintner.tensor_bytes import encode_raw
from vintner.types import DTYPES, Response, Tensor

NAMES = st.text(max_size=20)
SIZES = st.sampled_from([0, 1, 31, 32, 127, 128, 129, 16383, 16384, 70_000])
"""Around the places where a length takes one more byte on the wire."""


def tensor(datatype: str, size: int) -> Tensor:
    if datatype == "BYTES":
        return Tensor(datatype, np.array([b"x" * (size % 300)] * (size % 50), np.object_))
    return Tensor(datatype, (np.arange(size) % 100).astype(DTYPES[datatype]))


TENSORS = st.builds(tensor, st.sampled_from(sorted(DTYPES)), SIZES)


def parsed(message: bytes) -> Any:
    return service_pb2.ModelInferResponse.FromString(message)


@given(NAMES, NAMES, NAMES, st.dictionaries(NAMES, TENSORS, max_size=4))
def test_a_reply_says_what_was_answered(name: str, version: str, identity: str, outputs: dict[str, Tensor]) -> None:
    reply = parsed(encode_infer(Response(name, version, outputs, identity)))
    assert (reply.model_name, reply.model_version, reply.id) == (name, version, identity)
    assert [(o.name, o.datatype, tuple(o.shape)) for o in reply.outputs] == [
        (key, each.datatype, each.array.shape) for key, each in outputs.items()
    ]
    assert list(reply.raw_output_contents) == [encode_raw(each) for each in outputs.values()]


PARAMETERS = {"flag": True, "off": False, "count": 2**62, "negative": -1, "share": 0.5, "text": "é"}
FIELDS = {"bool_param": ("flag", "off"), "int64_param": ("count", "negative"), "double_param": ("share",)}


def test_a_replys_parameters_keep_their_kinds() -> None:
    reply = parsed(encode_infer(Response("m", "1", {"y": tensor("FP32", 3)}, "7", PARAMETERS)))
    told = {key: (value.WhichOneof("parameter_choice"), value) for key, value in reply.parameters.items()}
    assert {key: getattr(value, kind) for key, (kind, value) in told.items()} == PARAMETERS
    kinds = {key: kind for kind, keys in FIELDS.items() for key in keys}
    assert {key: kind for key, (kind, _) in told.items()} == {**kinds, "text": "string_param"}
    assert (reply.id, reply.outputs[0].name, len(reply.raw_output_contents)) == ("7", "y", 1)
    assert not parsed(encode_infer(Response("m", "1", {"y": tensor("FP32", 3)}, "7"))).parameters


def test_replies_of_other_shapes_are_not_confused() -> None:
    for shape in ((2, 3), (3, 2), (6,), (1, 6), (2, 3)):
        values = np.arange(6, dtype=np.float32).reshape(shape)
        reply = parsed(encode_infer(Response("m", "1", {"y": Tensor("FP32", values)})))
        assert tuple(reply.outputs[0].shape) == shape


def test_a_reply_that_no_client_could_read_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_codec, "MAX_MESSAGE", 1000)
    encode_infer(Response("m", "1", {"y": Tensor("UINT8", np.zeros(900, np.uint8))}))
    with pytest.raises(TooLarge, match="1000"):
        encode_infer(Response("m", "1", {"y": Tensor("UINT8", np.zeros(1000, np.uint8))}))
