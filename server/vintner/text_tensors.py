"""A language model as one of tensors: Triton's `text_input` and `text_output`, as its backends of language models have
them, and the generate extension of the Open Inference Protocol.

What else is asked is a parameter of the request, or an input of that name as Triton's clients send it. Invariant: no
parameter is passed over: each is known here, or refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import orjson

from vintner.errors import InvalidArgument, nearest
from vintner.generation import Sampling
from vintner.generation_limits import MOST_CHOICES, checked_sampling, encoded
from vintner.prompts import Language, Piece, Work
from vintner.types import Parameter, Request, Response, Tensor, TensorSpec

INPUTS: Final = (TensorSpec("text_input", "BYTES", (-1,)),)
OPTIONAL_INPUTS: Final = (TensorSpec("stop", "BYTES", (-1,)), TensorSpec("stop_words", "BYTES", (-1,)))
"""Parameters that may be lists, which only inputs can be."""
OUTPUTS: Final = (TensorSpec("text_output", "BYTES", (-1,)),)

MOST_TOKENS: Final = 2**31 - 1
MOST_WHOLE: Final = {"seed": 2**64 - 1, "random_seed": 2**64 - 1}
"""Of whole numbers that are not counts of tokens."""

Kind = Callable[[str, Any], Any]


def _number(name: str, value: Any) -> float:
    if type(value) not in (int, float):
        raise InvalidArgument(f"parameter '{name}': expected a number, got {value!r:.60}")
    return float(value)


def _whole(name: str, value: Any) -> int:
    if type(value) is float and value.is_integer():
        value = int(value)
    most = MOST_WHOLE.get(name, MOST_TOKENS)
    if type(value) is not int or not 0 <= value <= most:
        raise InvalidArgument(f"parameter '{name}': expected a whole number from 0 to {most}, got {value!r:.60}")
    return value


def _boolean(name: str, value: Any) -> bool:
    if type(value) is not bool:
        raise InvalidArgument(f"parameter '{name}': expected true or false, got {value!r:.60}")
    return value


def _strings(name: str, value: Any) -> tuple[str, ...]:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not all(isinstance(one, str) and one for one in values):
        raise InvalidArgument(f"parameter '{name}': expected a string or a list of strings, got {value!r:.60}")
    return tuple(values)


SAMPLING: Final[Mapping[str, tuple[str, Kind]]] = {
    "max_tokens": ("max_new_tokens", _whole),
    "max_new_tokens": ("max_new_tokens", _whole),
    "min_tokens": ("min_new_tokens", _whole),
    "temperature": ("temperature", _number),
    "top_p": ("top_p", _number),
    "top_k": ("top_k", _whole),
    "min_p": ("min_p", _number),
    "repetition_penalty": ("repetition_penalty", _number),
    "presence_penalty": ("presence_penalty", _number),
    "frequency_penalty": ("frequency_penalty", _number),
    "seed": ("seed", _whole),
    "random_seed": ("seed", _whole),
    "ignore_eos": ("ignore_eos", _boolean),
}
"""Parameters, with what of `Sampling` they are."""

OTHERS: Final[Mapping[str, Kind]] = {
    "stop": _strings,
    "stop_words": _strings,
    "stream": _boolean,
    "exclude_input_in_output": _boolean,
    "return_finish_reason": _boolean,
    "return_num_input_tokens": _boolean,
    "return_num_output_tokens": _boolean,
}
SCHEDULE: Final = ("priority", "timeout", "binary_data_output", "triton_enable_empty_final_response")
"""Parameters that are not the model's."""


class TextAsked:
    """What one request with tensors asks. Each row of `text_input` is a prompt, with one answer."""

    def __init__(self, request: Request, model: str, version: str) -> None:
        """Raises InvalidArgument for tensors that a language model does not take, or a parameter that is unknown."""
        self._model, self._version, self._id = model, version, request.id
        self._stream = request.stream
        self._prompts = _prompts(request.inputs, model)
        if len(self._prompts) > MOST_CHOICES:
            raise InvalidArgument(f"text_input: expected at most {MOST_CHOICES} prompts, got {len(self._prompts)}")
        self._parameters = _checked({**request.parameters, **_inputs(request.inputs)})
        self.streams = request.stream is not None and self._parameters.get("stream", True)
        if self.streams and len(self._prompts) > 1:
            raise InvalidArgument("text_input: a stream of answers has one prompt, got several; set stream to false")
        for name in request.outputs:
            if name not in (*(spec.name for spec in OUTPUTS), *EXTRA):
                raise InvalidArgument(f"unexpected inference output '{name}' for model '{model}'")
        self._answers: list[list[Piece]] = [[] for _ in self._prompts]
        self._prompt_tokens: list[int] = []

    def prepare(self, language: Language) -> Work:
        prompts = [encoded(language, text) for text in self._prompts]
        self._prompt_tokens = [len(prompt) for prompt in prompts]
        stop = (*self._parameters.get("stop", ()), *self._parameters.get("stop_words", ()))
        return Work(prompts, checked_sampling(self._sampling(), language), stop=stop)

    def _sampling(self) -> Sampling:
        given = {own: self._parameters[name] for name, (own, _) in SAMPLING.items() if name in self._parameters}
        return Sampling(**{"max_new_tokens": 0, **given})

    def has_room(self) -> bool:
        return self._stream is not None and self._stream.has_room()

    def take(self, pieces: Sequence[Piece]) -> None:
        if self.streams and self._stream is not None:
            for piece in pieces:
                self._stream.put(self._response([piece.text], [[piece]]))
            return
        for piece in pieces:
            self._answers[piece.index].append(piece)

    def response(self) -> Response:
        """The one that ends the request: of a stream it is empty."""
        if self.streams:
            return Response(self._model, self._version, {}, self._id)
        texts = ["".join(piece.text for piece in answer) for answer in self._answers]
        return self._response(texts, self._answers)

    def _response(self, texts: Sequence[str], answers: Sequence[Sequence[Piece]]) -> Response:
        if self._parameters.get("exclude_input_in_output") is False and not self.streams:
            texts = [prompt + text for prompt, text in zip(self._prompts, texts, strict=True)]
        outputs = {"text_output": _strings_tensor(texts)}
        if self._parameters.get("return_finish_reason"):
            outputs["finish_reason"] = _strings_tensor([answer[-1].finish for answer in answers])
        counts = {
            "return_num_input_tokens": ("num_input_tokens", self._prompt_tokens),
            "return_num_output_tokens": ("num_output_tokens", [sum(p.tokens for p in answer) for answer in answers]),
        }
        for key, (name, values) in counts.items():
            if self._parameters.get(key):
                outputs[name] = Tensor("UINT32", np.array(values, np.uint32))
        return Response(self._model, self._version, outputs, self._id)


LISTS: Final = frozenset(spec.name for spec in OPTIONAL_INPUTS)

EXTRA: Final = ("finish_reason", "num_input_tokens", "num_output_tokens")
"""Outputs that there are if they are asked for by parameters."""


def _strings_tensor(texts: Sequence[str]) -> Tensor:
    array = np.empty(len(texts), np.object_)
    array[:] = [text.encode() for text in texts]
    return Tensor("BYTES", array)


def _prompts(inputs: Mapping[str, Tensor], model: str) -> list[str]:
    tensor = inputs.get("text_input")
    if tensor is None:
        raise InvalidArgument(
            f"expected the input 'text_input' of BYTES for model '{model}', got {list(inputs) or 'no input'}"
        )
    if tensor.datatype != "BYTES":
        raise InvalidArgument(f"inference input 'text_input' data-type is '{tensor.datatype}', but expected 'BYTES'")
    if not tensor.array.size:
        raise InvalidArgument("inference input 'text_input': expected at least one prompt, got none")
    try:
        return [bytes(one).decode() for one in tensor.array.flat]
    except UnicodeDecodeError as exc:
        raise InvalidArgument(f"inference input 'text_input': expected UTF-8, {exc.reason}") from exc


def _inputs(inputs: Mapping[str, Tensor]) -> Mapping[str, Any]:
    """Inputs that are as good as parameters, as Triton's backends of language models have them."""
    values: dict[str, Any] = {}
    for name, tensor in inputs.items():
        if name == "text_input":
            continue
        if name in LISTS:
            values[name] = [one.decode(errors="replace") for one in tensor.array.flat]
            continue
        if tensor.array.size != 1:
            raise InvalidArgument(f"inference input '{name}': expected one element, got shape {list(tensor.shape)}")
        value = tensor.array.reshape(-1)[0]
        value = value.decode(errors="replace") if isinstance(value, bytes) else value.item()
        if name in ("sampling_parameters", "parameters"):
            values |= _document(name, value)
        else:
            values[name] = value
    return values


def _document(name: str, text: Any) -> Mapping[str, Any]:
    try:
        document = orjson.loads(text)
    except (orjson.JSONDecodeError, TypeError) as exc:
        raise InvalidArgument(f"inference input '{name}': expected a JSON object, {exc}") from exc
    if not isinstance(document, dict):
        raise InvalidArgument(f"inference input '{name}': expected a JSON object, got {document!r:.60}")
    return document


def _checked(parameters: Mapping[str, Parameter | Any]) -> dict[str, Any]:
    checked: dict[str, Any] = {}
    for name, value in parameters.items():
        if name in SCHEDULE:
            continue
        kind = SAMPLING[name][1] if name in SAMPLING else OTHERS.get(name)
        if kind is None:
            raise InvalidArgument(
                f"unknown parameter '{name}' of a language model{nearest(name, [*SAMPLING, *OTHERS])}"
            )
        checked[name] = kind(name, value)
    return checked
