"""One sequence that is generated: from the engine's tokens to the text that is sent.

Pure: knows no engine, no threads, no clock. Invariant: the texts of all pieces together are what the tokens say, up to
the stop string if there was one, and the tokens of all pieces are those that were generated until then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from vintner.generation import Decoder, Progress, Sampling
from vintner.prompts import Finish, Piece, TokenLogprob
from vintner.stop_strings import StopStrings

if TYPE_CHECKING:
    from vintner.generation_call import GenerationCall


class GeneratedSequence:
    """A choice of a call. `key` is its name in the engine at present."""

    __slots__ = (
        "_decoder",
        "_known",
        "_logprobs",
        "_made",
        "_piece_tokens",
        "_skip",
        "_stops",
        "_text",
        "call",
        "crowded",
        "due",
        "failures",
        "finish",
        "first",
        "index",
        "key",
        "last",
        "prompt",
        "sampling",
        "stop",
    )

    def __init__(
        self,
        call: GenerationCall,
        index: int,
        prompt: Sequence[int],
        sampling: Sampling,
        decoder: Decoder,
        stops: StopStrings | None,
    ) -> None:
        self.call = call
        self.index = index
        self.prompt = prompt
        self.sampling = sampling
        self.key = 0
        self.due = 0.0
        """When its next piece may be sent."""
        self.first = 0.0
        """When its first token came, or without any its end; 0 before that."""
        self.last = 0.0
        """When its last one came."""
        self.failures = 0
        """Steps that failed since its last token, perhaps because of it."""
        self.crowded = False
        """Whether the cache had no room for it beside others."""
        self.finish: Finish = ""
        self.stop: str | None = None
        self._decoder = decoder
        self._stops = stops
        self._made: list[int] = []
        self._known = 0  # of them, those that were there when it was begun the last time
        self._skip = 0  # of those, the ones that are yet to be repeated
        self._text = ""
        self._piece_tokens = 0
        self._logprobs: list[TokenLogprob] = []

    @property
    def made(self) -> int:
        """Tokens that were generated."""
        return len(self._made)

    @property
    def proven(self) -> bool:
        """Whether it has come further than when it was begun the last time."""
        return len(self._made) > self._known

    @property
    def pending(self) -> bool:
        """Whether there is something to be sent."""
        return bool(self._text or self.finish or self._logprobs)

    def feed(self, progress: Progress) -> None:
        """Takes in what a step gave."""
        tokens = progress.tokens
        if self._skip:
            tokens = self._repeated(tokens)
        logprobs = progress.logprobs[-len(tokens) :] if tokens and progress.logprobs else ()
        size = len(tokens) if self._stops is None else 1
        for begin in range(0, len(tokens), max(1, size)):
            self._generated(tokens[begin : begin + size], logprobs[begin : begin + size])
            if self.finish:
                return  # what a step made beyond a stop string is no part of the answer
        if progress.end and not self.finish:
            self._end("length" if progress.end == "length" else "stop")

    def _generated(self, tokens: Sequence[int], logprobs: Sequence[float]) -> None:
        self._made.extend(tokens)
        self._piece_tokens += len(tokens)
        if logprobs:
            self._logprobs.extend(map(TokenLogprob, tokens, logprobs))
        self._say(self._decoder.feed(tokens))

    def _say(self, text: str) -> None:
        if self._stops is not None and text:
            text, self.stop = self._stops.feed(text)
            if self.stop is not None:
                self.finish = "stop"
        self._text += text

    def _end(self, finish: Finish) -> None:
        self._say(self._decoder.finish())
        if not self.finish:
            self.finish = finish
            if self._stops is not None:
                self._text += self._stops.finish()

    def piece(self) -> Piece:
        """What is to be sent, once."""
        piece = Piece(self.index, self._text, self._piece_tokens, self._logprobs, self.finish, self.stop)
        self._text, self._piece_tokens, self._logprobs = "", 0, []
        return piece

    # -- another try -----------------------------------------------------------------------------------------

    def again(self) -> tuple[Sequence[int], Sampling]:
        """The prompt and the sampling with which it goes on in an engine that knows nothing of it any more.

        What looks at the answer alone, such as a constraint, has to see its begin: then all is generated again, and
        what is repeated is not sent again. Any other answer goes on behind what there is.
        """
        self._known = len(self._made)
        if self.sampling.minds_begin:
            self._skip = len(self._made)
            return self.prompt, self.sampling
        left = max(1, self.sampling.max_new_tokens - len(self._made))
        least = max(0, self.sampling.min_new_tokens - len(self._made))
        return [*self.prompt, *self._made], replace(self.sampling, max_new_tokens=left, min_new_tokens=least)

    def _repeated(self, tokens: Sequence[int]) -> Sequence[int]:
        """Those of the tokens that are new. Raises ValueError if it is not what was generated before."""
        begin = len(self._made) - self._skip
        known = self._made[begin : begin + len(tokens)]
        if list(tokens[: len(known)]) != known:
            raise ValueError("the model answered differently when it was asked again")
        self._skip -= len(known)
        return tokens[len(known) :]
