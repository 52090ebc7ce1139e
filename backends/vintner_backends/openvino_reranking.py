"""Rerankers: pairs of a query and a document in, how relevant the one is to the other out.

Invariant: a score is between 0 and 1, the sigmoid of a model's one value, as in OpenVINO
GenAI's TextRerankPipeline.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import openvino as ov
from openvino import opset15 as ops
from vintner.backend import LoadSpec
from vintner.errors import LoadError
from vintner.types import Array, TensorSpec

from vintner_backends.openvino_embeddings import axes, output_named
from vintner_backends.openvino_encoder import TOKENS, TextInstance, TextModel, open_slots
from vintner_backends.text_settings import TextSettings

QUERY: Final = TensorSpec("query", "BYTES", (-1,))
DOCUMENT: Final = TensorSpec("document", "BYTES", (-1,))
SCORE: Final = TensorSpec("score", "FP32", (-1,))


class RerankInstance(TextInstance):
    """`query` and `document` BYTES [pairs] -> `score` FP32 [pairs] and `tokens` INT64 [pairs]."""

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        queries, places = distinct(inputs[QUERY.name])
        tokens = self._slot.tokenizer.run(np.concatenate([queries, inputs[DOCUMENT.name]]))
        rows = [[tokens[place], document] for place, document in zip(places, tokens[len(queries) :], strict=True)]
        scores, lengths = self._slot.encode(rows)
        return {SCORE.name: scores, TOKENS.name: lengths}


def distinct(queries: Array) -> tuple[Array, list[int]]:
    """The queries without those that came before, and where each is among them: most requests have one."""
    known: dict[bytes, int] = {}
    places = [known.setdefault(query, len(known)) for query in queries]
    return np.array([*known, None], np.object_)[:-1], places


def load_reranker(core: ov.Core, spec: LoadSpec, settings: TextSettings) -> TextModel:
    """Raises LoadError."""
    _, slots = open_slots(core, spec, settings, with_score, pairs=True)
    return TextModel([QUERY, DOCUMENT], [SCORE, TOKENS], [RerankInstance(slot) for slot in slots], spec.affinity)


def with_score(model: ov.Model) -> ov.Model:
    """The model with one output, [pairs] in FP32."""
    logits = output_named(model, ("logits",))
    if logits is None:
        raise LoadError("the model has no output 'logits'; export it for text classification")
    shape = logits.get_partial_shape()
    if len(shape) != 2 or not shape[1].is_static or shape[1].get_length() != 1:
        raise LoadError(f"the model's logits have shape {shape}; a reranker with one value for each pair can be served")
    score = ops.squeeze(ops.sigmoid(ops.convert(logits, "f32")), axes(1)).output(0)
    score.set_names({SCORE.name})
    return ov.Model([ops.result(score)], model.get_parameters(), "reranker")
