"""One request to a language model on its way through the stepper, from the queue to its answer.

Invariant: a call is queued, running or done, and its owner is told once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

from vintner.batching import Pending
from vintner.errors import DeadlineExceeded, QueueTimeout
from vintner.generated_sequence import GeneratedSequence
from vintner.generation import Tokenizer
from vintner.prompts import Asked, Piece, Work
from vintner.stop_strings import StopStrings
from vintner.timing import Timing
from vintner.types import Cancellation

Done = Callable[[Exception | None], None]
"""Called with the error that ended a call, or None for one that has all that it asked for. Must be quick."""


class GenerationCall(Pending):
    """Times are in seconds of `time.monotonic`; `deadline` is the client's, `timeout` that of the queue."""

    __slots__ = (
        "_asked",
        "_pieces",
        "_timeout",
        "admitted",
        "cancellation",
        "client_deadline",
        "done",
        "first",
        "left",
        "made",
        "n",
        "prompt_tokens",
        "received",
        "sequences",
        "state",
        "timing",
    )

    def __init__(
        self,
        asked: Asked,
        work: Work,
        tokenizer: Tokenizer,
        done: Done,
        *,
        deadline: float | None = None,
        timeout: float | None = None,
        cancellation: Cancellation | None = None,
        level: int = 1,
        received: float = 0.0,
        timing: Timing | None = None,
    ) -> None:
        """`received` is when the request came, if it was not just now; `timing` is told of its run."""
        waits_until = min((at for at in (deadline, timeout) if at is not None), default=None)
        super().__init__(1, 8 * sum(map(len, work.prompts)), None, waits_until, level)
        self.client_deadline = deadline
        self.cancellation = cancellation
        self.done = done
        self.state: Literal["queued", "running", "done"] = "queued"
        self.prompt_tokens = sum(map(len, work.prompts))
        self.received = received
        self.timing = timing
        self.n = work.n
        self.made = 0
        """Tokens that were generated."""
        self.admitted = 0.0
        """When its first sequence was given to the engine."""
        self.first = 0.0
        """When its first token came."""
        self._asked = asked
        self._pieces: list[Piece] = []
        self.sequences = _sequences(self, work, tokenizer)
        self.left = len(self.sequences)
        """Sequences that have not ended."""

    def lateness(self) -> Exception:
        """What it is told when its deadline has passed."""
        if self.state == "queued" and self.deadline != self.client_deadline:
            return QueueTimeout("Request timeout expired")
        return DeadlineExceeded("the deadline passed while the request waited or ran")

    @property
    def wants_pieces(self) -> bool:
        """Whether what there is of unfinished sequences had better be sent now."""
        return self._asked.streams and self._asked.has_room()

    def send(self, sequence: GeneratedSequence) -> None:
        """Puts what a sequence has into what `flush` hands over."""
        self._pieces.append(sequence.piece())

    def flush(self) -> None:
        """Hands over what was collected, if the call is not over."""
        pieces, self._pieces = self._pieces, []
        if pieces and self.state != "done":
            self._asked.take(pieces)


def _sequences(call: GenerationCall, work: Work, tokenizer: Tokenizer) -> Sequence[GeneratedSequence]:
    made: list[GeneratedSequence] = []
    for prompt in work.prompts:
        for number in range(work.n):
            seed = work.sampling.seed
            sampling = work.sampling if seed is None or not number else replace(work.sampling, seed=seed + number)
            stops = StopStrings(work.stop, include_stop=work.include_stop) if work.stop else None
            made.append(GeneratedSequence(call, len(made), prompt, sampling, tokenizer.decoder(), stops))
    return made
