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

from vintner.errors import InvalidArgument
from vintner.generation_limits import MOST_CHOICES, encoded
from vintner.prompts import Language, Piece, TokenLogprob, Work
from vintner.text_parameters import read_text_parameters
from vintner.types import Request, Response, Tensor, TensorSpec

INPUTS: Final = (TensorSpec("text_input", "BYTES", (-1,)),)
OPTIONAL_INPUTS: Final = (
    TensorSpec("stop", "BYTES", (-1,)),
    TensorSpec("stop_words", "BYTES", (-1,)),
    TensorSpec("stop_token_ids", "INT64", (-1,)),
)
"""Parameters that may be lists, which only inputs can be."""
OUTPUTS: Final = (TensorSpec("text_output", "BYTES", (-1,)),)


class TextAsked:
    """What one request with tensors asks. Each row of `text_input` is a prompt, with one answer."""

    def __init__(self, request: Request, model: str, version: str) -> None:
        """Raises InvalidArgument for tensors that a language model does not take, or a parameter that is unknown."""
        self._model, self._version, self._id = model, version, request.id
        self._stream = request.stream
        self._prompts = _prompts(request.inputs, model)
        if len(self._prompts) > MOST_CHOICES:
            raise InvalidArgument(f"text_input: expected at most {MOST_CHOICES} prompts, got {len(self._prompts)}")
        named = {f"return_{name}": True for name in request.outputs if name in EXTRA}
        self._parameters = read_text_parameters({**request.parameters, **_inputs(request.inputs), **named})
        self.streams = request.stream is not None and self._parameters.streams
        self._with_prompt = self._parameters.given.get("exclude_input_in_output") is False
        if self.streams and len(self._prompts) > 1:
            raise InvalidArgument("text_input: a stream of answers has one prompt, got several; set stream to false")
        if self.streams and self._with_prompt:
            raise InvalidArgument("parameter 'exclude_input_in_output': a stream of answers has no prompts in it")
        for name in request.outputs:
            if name not in (*(spec.name for spec in OUTPUTS), *EXTRA):
                raise InvalidArgument(f"unexpected inference output '{name}' for model '{model}'")
        self._answers: list[list[Piece]] = [[] for _ in self._prompts]
        self._prompt_tokens: list[int] = []
        self._token_bytes: Callable[[int], bytes] = lambda token: b""

    def prepare(self, language: Language) -> Work:
        prompts = [encoded(language, text) for text in self._prompts]
        self._prompt_tokens = [len(prompt) for prompt in prompts]
        self._token_bytes = language.tokenizer.token_bytes
        asked = self._parameters
        include = asked.wants("include_stop_str_in_output")
        return Work(prompts, asked.sampling(language), stop=asked.stop, include_stop=include)

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
        if self._with_prompt:
            texts = [prompt + text for prompt, text in zip(self._prompts, texts, strict=True)]
        outputs = {"text_output": _strings_tensor(texts)}
        more: Mapping[str, Callable[[], Tensor]] = {
            "finish_reason": lambda: _strings_tensor([answer[-1].finish for answer in answers]),
            "cumulative_logprob": lambda: _sums(answers),
            "logprobs": lambda: _strings_tensor([self._logprobs(answer) for answer in answers]),
            "num_input_tokens": lambda: _counts(self._prompt_tokens),
            "num_output_tokens": lambda: _counts([sum(piece.tokens for piece in answer) for answer in answers]),
        }
        outputs |= {name: make() for name, make in more.items() if self._parameters.wants(f"return_{name}")}
        done = bool(answers[0][-1].finish) if self.streams else None
        return Response(self._model, self._version, outputs, self._id, done=done)

    def _logprobs(self, answer: Sequence[Piece]) -> str:
        """An object for each token, by its id. Its rank among all tokens is not known."""
        return orjson.dumps([self._logprob(given) for piece in answer for given in piece.logprobs]).decode()

    def _logprob(self, given: TokenLogprob) -> Mapping[str, Any]:
        text = self._token_bytes(given.token).decode(errors="replace")
        return {str(given.token): {"logprob": given.logprob, "rank": None, "decoded_token": text}}


LISTS: Final = frozenset(spec.name for spec in OPTIONAL_INPUTS)

EXTRA: Final = ("finish_reason", "cumulative_logprob", "logprobs", "num_input_tokens", "num_output_tokens")
"""Outputs that there are if they are asked for, by name or by parameters."""


def _counts(values: Sequence[int]) -> Tensor:
    return Tensor("UINT32", np.array(values, np.uint32))


def _sums(answers: Sequence[Sequence[Piece]]) -> Tensor:
    values = [sum(each.logprob for piece in answer for each in piece.logprobs) for answer in answers]
    return Tensor("FP32", np.array(values, np.float32))


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
        if name not in LISTS and tensor.array.size != 1:
            raise InvalidArgument(f"inference input '{name}': expected one element, got shape {list(tensor.shape)}")
        elements = [_element(one) for one in tensor.array.flat]
        values[name] = elements if name in LISTS else elements[0]
    return values


def _element(value: Any) -> Any:
    return value.decode(errors="replace") if isinstance(value, bytes) else value.item()
