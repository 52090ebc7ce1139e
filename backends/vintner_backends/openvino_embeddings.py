"""Embedding models: texts in, a vector for each out.

The encoder's output is pooled and normalised in its graph, in FP32 wherever the runtime allows, so what leaves OpenVINO
is one vector for each text and not one for each token. Invariant: padding has no part in a vector.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import openvino as ov
from openvino import opset15 as ops
from vintner.backend import LoadSpec
from vintner.errors import LoadError
from vintner.types import Array, TensorSpec

from vintner_backends.openvino_encoder import TOKENS, TextInstance, TextModel, open_slots
from vintner_backends.openvino_tokenizer import TEXT
from vintner_backends.text_settings import HIDDEN, POOLED, Pooling, TextSettings

NAME: Final = "embedding"


class EmbeddingInstance(TextInstance):
    """`text` BYTES [texts] -> `embedding` FP32 [texts, values] and `tokens` INT64 [texts]."""

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        tokens = self._slot.tokenizer.run(inputs[TEXT.name])
        vectors, lengths = self._slot.encode([[one] for one in tokens])
        return {NAME: vectors, TOKENS.name: lengths}


def load_embeddings(core: ov.Core, spec: LoadSpec, settings: TextSettings) -> TextModel:
    """Raises LoadError."""
    output, slots = open_slots(core, spec, settings, lambda model: with_vectors(model, settings))
    if len(output.shape) != 2 or output.shape[1] == -1:
        raise LoadError(f"the encoder's vectors have shape {list(output.shape)}; expected as many values in each")
    outputs = [TensorSpec(NAME, "FP32", output.shape), TOKENS]
    return TextModel([TEXT], outputs, [EmbeddingInstance(slot) for slot in slots], spec.affinity)


def with_vectors(model: ov.Model, settings: TextSettings) -> ov.Model:
    """The model with one output, [texts, values] in FP32."""
    vectors = output_named(model, (POOLED,))
    if vectors is None:
        hidden = output_named(model, HIDDEN)
        if hidden is None:
            raise LoadError(f"the model has no output {', '.join((POOLED, *HIDDEN))}; export it for feature extraction")
        vectors = pooled(settings.pooling, ops.convert(hidden, "f32"), input_named(model, "attention_mask"))
    vectors = ops.convert(vectors, "f32").output(0)
    if settings.normalize:
        vectors = ops.normalize_l2(vectors, axes(1), 1e-12, "max").output(0)
    vectors.set_names({NAME})
    return ov.Model([ops.result(vectors)], model.get_parameters(), "embeddings")


def pooled(pooling: Pooling, hidden: Any, attention: Any) -> ov.Node:
    """[texts, tokens, values] -> [texts, values], over the tokens that the mask keeps, which are the first ones."""
    if pooling == "cls":
        return ops.gather(hidden, np.int64(0), np.int64(1))
    count = ops.reduce_sum(attention, axes(1))
    if pooling == "last":
        last = ops.subtract(count, np.int64(1))
        return row_of_each(hidden, last)
    share = ops.convert(ops.unsqueeze(attention, axes(2)), "f32")
    total = ops.reduce_sum(ops.multiply(hidden, share), axes(1))
    return ops.divide(total, ops.unsqueeze(ops.convert(count, "f32"), axes(1)))


def row_of_each(hidden: Any, places: Any) -> ov.Node:
    """Of each text the values at its place."""
    found = ops.gather(hidden, ops.unsqueeze(places, axes(1)), np.int64(1), batch_dims=1)
    return ops.squeeze(found, axes(1))


def output_named(model: ov.Model, names: tuple[str, ...]) -> Any:
    """What is behind the first output of one of these names, or None."""
    ports = {name: port for port in model.outputs for name in port.names}
    return next((ports[name].node.input_value(0) for name in names if name in ports), None)


def input_named(model: ov.Model, name: str) -> Any:
    found = next((port for port in model.inputs if name in port.names), None)
    if found is None:
        raise LoadError(f"the model has no input '{name}'")
    return found


def axes(*numbers: int) -> Array:
    return np.array(numbers, np.int64)
