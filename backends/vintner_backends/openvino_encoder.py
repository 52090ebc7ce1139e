"""An encoder of texts beside its tokenizer: what embedding models and rerankers have in common.

Knows nothing of what comes out of it. Each slot is an infer request of the encoder and one of the tokenizer, so slots
run at the same time. Invariant: what a text gets does not depend on the texts beside it, but for rounding.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import numpy as np
import openvino as ov
from vintner.backend import LoadSpec
from vintner.errors import LoadError
from vintner.types import Array, TensorSpec

from vintner_backends import openvino as runtime
from vintner_backends.cpu_budget import cpu_budget
from vintner_backends.openvino_config import (
    check_device,
    compile_properties,
    known_options,
    pinned_copies,
    read_properties,
    streams_of,
)
from vintner_backends.openvino_instance import OpenVINOInstance, StringInstance
from vintner_backends.openvino_strings import carry_strings_as_bytes
from vintner_backends.openvino_tokenizer import RAGGED, TEXT, Tokenizer, read_tokenizer
from vintner_backends.pinning import pinned
from vintner_backends.text_settings import MODEL, OPTIONS, TOKENIZER, TextSettings
from vintner_backends.token_batches import Sequences, Template, groups, mask, padded, sequences

PLATFORM: Final = "openvino_genai"
TOKENS: Final = TensorSpec("tokens", "INT64", (-1,))
"""An output: tokens of each text, special ones included and padding not."""

FED: Final = ("input_ids", "attention_mask", "token_type_ids", "position_ids")
"""Inputs that an encoder may have."""

Finish = Callable[[ov.Model], ov.Model]
"""Makes an encoder's output what is wanted of it, as its only one."""


class Encoder:
    """One slot: from sequences to the encoder's output, group by group."""

    def __init__(self, instance: OpenVINOInstance, inputs: Sequence[TensorSpec], output: TensorSpec, padding: int):
        self._instance = instance
        self._names = {spec.name for spec in inputs}
        self._output = output
        self._padding = padding

    def run(self, given: Sequences) -> Array:
        """The output of each sequence, FP32 [sequences, ...]."""
        lengths = given.lengths
        result = np.empty((len(lengths), *self._output.shape[1:]), np.float32)
        for group in groups(lengths):
            result[group] = self._instance.run(self._arrays(given, lengths, group))[self._output.name]
        return result

    def _arrays(self, given: Sequences, lengths: Array, group: Array) -> Mapping[str, Array]:
        kept = mask(lengths[group])
        arrays = {"input_ids": padded([given.ids[index] for index in group], self._padding), "attention_mask": kept}
        if "token_type_ids" in self._names:
            arrays["token_type_ids"] = padded([given.types[index] for index in group], 0)
        if "position_ids" in self._names:
            arrays["position_ids"] = np.maximum(kept.cumsum(axis=1) - 1, 0)
        return arrays

    def close(self) -> None:
        self._instance.close()


@dataclass(frozen=True, slots=True)
class Slot:
    """What an instance of a model of texts computes with."""

    tokenizer: Tokenizer
    encoder: Encoder
    template: Template
    settings: TextSettings

    def encode(self, rows: Sequence[Sequence[Array]]) -> tuple[Array, Array]:
        """The encoder's output for each row of texts, given as tokens; and its tokens. Raises InvalidArgument."""
        given = sequences(self.template, rows, self.settings.max_length, self.settings.truncate)
        return self.encoder.run(given), given.lengths

    def close(self) -> None:
        self.tokenizer.close()
        self.encoder.close()


class TextInstance(ABC):
    """Between what is served and a slot; what differs is in `run`."""

    def __init__(self, slot: Slot) -> None:
        self._slot = slot

    @abstractmethod
    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]: ...

    def close(self) -> None:
        self._slot.close()


class TextModel:
    """A loaded model of texts."""

    platform = PLATFORM

    def __init__(
        self,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        slots: Sequence[TextInstance],
        affinity: frozenset[int],
    ) -> None:
        self.inputs = inputs
        self.outputs = outputs
        self.instances = pinned(slots, affinity)
        self._slots = slots

    def close(self) -> None:
        for slot in self._slots:
            slot.close()
        self.instances = self._slots = ()


def open_slots(
    core: ov.Core, spec: LoadSpec, settings: TextSettings, finish: Finish, pairs: bool = False
) -> tuple[TensorSpec, list[Slot]]:
    """The encoder's output, and its slots. Raises LoadError."""
    if spec.shapes or spec.rows is not None:
        raise LoadError("the inputs of a model of texts have no shapes to be set")
    spec = replace(spec, options={name: value for name, value in spec.options.items() if name not in OPTIONS})
    check_device(core, spec.device)
    with runtime.library_errors(spec.path):
        graph = read_tokenizer(core, spec.path.with_name(TOKENIZER), read_properties(spec))
        model = finish(core.read_model(spec.path.with_name(MODEL), config=read_properties(spec)))
    template = graph.pair if pairs else graph.single
    if template is None:
        raise LoadError(f"{TOKENIZER} does not say how two texts are put together; convert it anew")
    inputs, outputs = (runtime.tensor_specs(ports, "tensor") for ports in (model.inputs, model.outputs))
    check_inputs(inputs)
    encoders = requests_of(core, spec, model, partial(OpenVINOInstance, inputs=inputs, outputs=outputs))
    carry_strings_as_bytes(graph.model)
    tokenizer_spec = replace(spec, device="CPU", options={}, precision=None)
    tokenizers = requests_of(
        core, tokenizer_spec, graph.model, partial(StringInstance, inputs=[TEXT], outputs=RAGGED), len(encoders)
    )
    return outputs[0], [
        Slot(
            Tokenizer(tokenizer, settings.max_length, settings.truncate),
            Encoder(encoder, inputs, outputs[0], graph.padding),
            template,
            settings,
        )
        for tokenizer, encoder in zip(tokenizers, encoders, strict=True)
    ]


def check_inputs(inputs: Sequence[TensorSpec]) -> None:
    """Raises LoadError for a model that wants what cannot be made of texts here."""
    for tensor in inputs:
        if tensor.name not in FED or tensor.datatype != "INT64" or tensor.shape != (-1, -1):
            raise LoadError(
                f"input '{tensor.name}' is {tensor.datatype} {list(tensor.shape)}; expected {' or '.join(FED)}, INT64"
                " [-1, -1]: export the model for feature extraction or text classification, with dynamic shapes"
            )


def requests_of(
    core: ov.Core,
    spec: LoadSpec,
    model: ov.Model,
    make: Callable[..., OpenVINOInstance],
    wanted: int | None = None,
) -> list[OpenVINOInstance]:
    """Infer requests as the `openvino` backend would have them for the same configuration, or so many."""
    budget = cpu_budget(spec)
    count = 1
    if spec.affinity:
        count = pinned_copies(spec, budget)
        budget = runtime.ALONE
    properties = compile_properties(partial(known_options, core), spec, budget)
    with runtime.library_errors(spec.path):
        copies = [runtime.compile_audibly(core, model, spec.device, properties) for _ in range(count)]
        each = [runtime.slots(spec, budget, one) for one in copies] if wanted is None else shares(wanted, count)
        return [
            make(one.create_infer_request(), streams=streams_of(one))
            for one, requests in zip(copies, each, strict=True)
            for _ in range(requests)
        ]


def shares(wanted: int, copies: int) -> Sequence[int]:
    return [wanted // copies + (place < wanted % copies) for place in range(copies)]
