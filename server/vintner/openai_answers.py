"""Answers of the OpenAI API: whole ones, and the chunks of streams.

Pure: is given what was generated, piece by piece, and gives JSON. Knows neither requests nor transports. Invariant: the
chunks of a stream together say what the whole answer would; of each choice only the last one has a finish reason.
"""

from __future__ import annotations

import codecs
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from vintner.output_parsers import Delta, OutputParser, ToolCallDelta
from vintner.prompts import Piece, TokenLogprob

Json = dict[str, Any]
TokenBytes = Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class Head:
    """What all chunks of an answer begin with. `created` is in seconds since 1970."""

    id: str
    created: int
    model: str
    fingerprint: str

    def document(self, kind: str) -> Json:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }


class Tally:
    """Counts the tokens of an answer."""

    def __init__(self, prompt: int) -> None:
        self.prompt = prompt
        self.generated = 0

    @property
    def usage(self) -> Json:
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.generated,
            "total_tokens": self.prompt + self.generated,
        }


class AnswerWriter(ABC):
    """Writes the answer to one request: give it each piece once. Not for two threads at a time."""

    kind: str
    chunk_kind: str

    def __init__(self, head: Head, prompt_tokens: int, count: int, with_usage: bool) -> None:
        """There are `count` choices. `with_usage`: the stream has a last chunk that tells of the tokens."""
        self._tally = Tally(prompt_tokens)
        self._head = head.document(self.chunk_kind)
        self._no_usage = {"usage": None} if with_usage else {}
        self._whole = head.document(self.kind)
        self._with_usage = with_usage
        self._count = count

    def chunks(self, piece: Piece) -> Sequence[bytes]:
        """JSON texts."""
        self._tally.generated += piece.tokens
        return [orjson.dumps({**self._head, "choices": [choice], **self._no_usage}) for choice in self._choices(piece)]

    def last_chunk(self) -> bytes | None:
        """What follows when all choices have ended."""
        return orjson.dumps(self._head | {"choices": [], "usage": self._tally.usage}) if self._with_usage else None

    def document(self, pieces: Sequence[Piece]) -> bytes:
        """The whole answer of all its pieces."""
        parts: list[list[Piece]] = [[] for _ in range(self._count)]
        for piece in pieces:
            self._tally.generated += piece.tokens
            parts[piece.index].append(piece)
        choices = [self._choice(index, joined(own)) for index, own in enumerate(parts)]
        return orjson.dumps(self._whole | {"choices": choices, "usage": self._tally.usage})

    @abstractmethod
    def _choices(self, piece: Piece) -> Sequence[Json]:
        """The choices of the chunks that a piece makes."""

    @abstractmethod
    def _choice(self, index: int, piece: Piece) -> Json:
        """A choice of the whole answer, of which this is all."""


def joined(pieces: Sequence[Piece]) -> Piece:
    """One that says what all pieces of a choice say."""
    if len(pieces) == 1:
        return pieces[0]
    last = pieces[-1]
    logprobs = [each for piece in pieces for each in piece.logprobs]
    text, tokens = "".join(piece.text for piece in pieces), sum(piece.tokens for piece in pieces)
    return Piece(last.index, text, tokens, logprobs, last.finish, last.stop)


class ChatWriter(AnswerWriter):
    """A chat's. Each choice has a parser of its own, that finds thoughts and calls of tools in its text."""

    kind = "chat.completion"
    chunk_kind = "chat.completion.chunk"

    def __init__(
        self,
        head: Head,
        prompt_tokens: int,
        parsers: Sequence[OutputParser],
        *,
        token_bytes: TokenBytes | None = None,
        likeliest: int = 0,
        parallel: bool = True,
        calls_only: bool = False,
        with_usage: bool = False,
    ) -> None:
        """`token_bytes` where logarithms of probabilities are wanted, `likeliest` of so many tokens beside the one that
        was chosen; without `parallel` no more than one call of a tool is told, and with `calls_only` nothing else."""
        super().__init__(head, prompt_tokens, len(parsers), with_usage)
        self._parsers = parsers
        self._token_bytes = token_bytes
        self._likeliest = likeliest
        self._parallel = parallel
        self._calls_only = calls_only
        self._begun = [False] * len(parsers)
        self._called = [False] * len(parsers)

    def _choices(self, piece: Piece) -> Sequence[Json]:
        index = piece.index
        delta = self._read(piece)
        logprobs = self._logprobs(piece.logprobs)
        made: list[Json] = []
        if not self._begun[index]:
            self._begun[index] = True
            made.append({"index": index, "delta": {"role": "assistant", "content": ""}, **UNFINISHED})
        if delta or logprobs:
            made.append({"index": index, "delta": _delta(delta), "logprobs": logprobs, "finish_reason": None})
        if piece.finish:
            made.append({"index": index, "delta": {}, "logprobs": None, "finish_reason": self._reason(piece)})
        return made

    def _choice(self, index: int, piece: Piece) -> Json:
        delta = self._read(piece)
        message: Json = {"role": "assistant", "content": delta.content, "refusal": None}
        if delta.reasoning:
            message["reasoning_content"] = delta.reasoning
        if delta.tool_calls or self._calls_only:
            message["content"] = delta.content or None
        if delta.tool_calls:
            message["tool_calls"] = [_call(call) for call in delta.tool_calls]
        return {
            "index": index,
            "message": message,
            "logprobs": self._logprobs(piece.logprobs),
            "finish_reason": self._reason(piece),
        }

    def _read(self, piece: Piece) -> Delta:
        parser = self._parsers[piece.index]
        delta = parser.feed(piece.text)
        if piece.finish:
            delta = delta.plus(parser.finish())
        if not self._parallel:
            calls = tuple(call for call in delta.tool_calls if call.index == 0)
            delta = Delta(delta.content, delta.reasoning, calls)
        if self._calls_only:  # what is around them is space, or the begin of a call that was not finished
            delta = Delta(tool_calls=delta.tool_calls)
        if delta.tool_calls:
            self._called[piece.index] = True
        return delta

    def _reason(self, piece: Piece) -> str:
        return "tool_calls" if piece.finish == "stop" and self._called[piece.index] else piece.finish

    def _logprobs(self, given: Sequence[TokenLogprob]) -> Json | None:
        if self._token_bytes is None or not given:
            return None
        return {"content": [self._logprob(each, self._token_bytes) for each in given], "refusal": None}

    def _logprob(self, given: TokenLogprob, token_bytes: TokenBytes) -> Json:
        data = token_bytes(given.token)
        entry: Json = {"token": data.decode(errors="replace"), "logprob": given.logprob, "bytes": list(data)}
        return {**entry, "top_logprobs": [entry] if self._likeliest else []}


UNFINISHED: Final[Mapping[str, None]] = {"logprobs": None, "finish_reason": None}


def _delta(delta: Delta) -> Json:
    told: Json = {}
    if delta.reasoning:
        told["reasoning_content"] = delta.reasoning
    if delta.content or not (delta.reasoning or delta.tool_calls):
        told["content"] = delta.content
    if delta.tool_calls:
        told["tool_calls"] = [_call_delta(call) for call in delta.tool_calls]
    return told


def _call(call: ToolCallDelta) -> Json:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _call_delta(call: ToolCallDelta) -> Json:
    """Its id, type and name only come once."""
    if not call.id:
        return {"index": call.index, "function": {"arguments": call.arguments}}
    return {"index": call.index, **_call(call)}


class TextWriter(AnswerWriter):
    """A completion's."""

    kind = "text_completion"
    chunk_kind = "text_completion"

    def __init__(
        self,
        head: Head,
        prompt_tokens: int,
        echoes: Sequence[str],
        *,
        token_bytes: TokenBytes | None = None,
        likeliest: int = 0,
        with_usage: bool = False,
    ) -> None:
        """`echoes` are what the texts of the choices begin with; otherwise as `ChatWriter`."""
        super().__init__(head, prompt_tokens, len(echoes), with_usage)
        self._echoes = list(echoes)
        self._token_bytes = token_bytes
        self._likeliest = likeliest
        self._offsets = [len(echo) for echo in echoes]
        self._characters = [codecs.getincrementaldecoder("utf-8")("replace") for _ in echoes]

    def _choices(self, piece: Piece) -> Sequence[Json]:
        text, logprobs = self._echo(piece) + piece.text, self._logprobs(piece)
        if not (text or logprobs or piece.finish):
            return ()
        return [{"index": piece.index, "text": text, "logprobs": logprobs, "finish_reason": piece.finish or None}]

    def _choice(self, index: int, piece: Piece) -> Json:
        return {
            "index": index,
            "text": self._echo(piece) + piece.text,
            "logprobs": self._logprobs(piece),
            "finish_reason": piece.finish,
        }

    def _echo(self, piece: Piece) -> str:
        echo, self._echoes[piece.index] = self._echoes[piece.index], ""
        return echo

    def _logprobs(self, piece: Piece) -> Json | None:
        if self._token_bytes is None or not piece.logprobs:
            return None
        spelled = [self._token_bytes(each.token) for each in piece.logprobs]
        tokens = [data.decode(errors="replace") for data in spelled]
        values = [each.logprob for each in piece.logprobs]
        likeliest = [{token: value} for token, value in zip(tokens, values, strict=True)] if self._likeliest else None
        return {
            "tokens": tokens,
            "token_logprobs": values,
            "top_logprobs": likeliest,
            "text_offset": self._placed(piece.index, spelled),
        }

    def _placed(self, index: int, tokens: Sequence[bytes]) -> list[int]:
        """Where tokens begin in the text of a choice, in characters. All tokens of one character begin with it."""
        places = []
        for token in tokens:
            places.append(self._offsets[index])
            self._offsets[index] += len(self._characters[index].decode(token))
        return places
