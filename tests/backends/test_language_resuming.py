"""What becomes of answers when a step fails, in the real runtimes: they are what they would have been alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from threading import Event
from typing import Any

import pytest
from running_server import ROOT
from vintner.backend import LoadSpec
from vintner.errors import InvalidArgument
from vintner.generation import Constraint, EngineSpec, Sampling
from vintner.language_servable import LanguageServable
from vintner.model_config import ModelConfig
from vintner.prompts import Language, Piece, Work
from vintner.types import Request, Response
from vintner_backends.openvino_genai_model import load_model

WAIT = 120.0
LONG = Sampling(150, ignore_eos=True)
POISON = replace(LONG, constraint=Constraint("json_schema", '{"type": "nonsense"}'))
"""The runtime takes it, and fails at every step from then on."""
JSON = Constraint("json_schema", '{"type": "array", "items": {"type": "integer"}, "minItems": 40}')


@dataclass(eq=False)
class Asks:
    """A request, and what came of it. `midway` is called once, in the model's thread, behind some of the tokens."""

    text: str
    sampling: Sampling
    n: int = 1
    stop: tuple[str, ...] = ()
    streams: bool = True
    midway: Callable[[], None] | None = None
    pieces: list[Piece] = field(default_factory=list)
    ended: Event = field(default_factory=Event)
    result: Response | Exception | None = None

    def prepare(self, language: Language) -> Work:
        return Work([language.tokenizer.encode(self.text)], self.sampling, self.n, self.stop)

    def has_room(self) -> bool:
        return True

    def take(self, pieces: Sequence[Piece]) -> None:
        self.pieces += pieces
        if self.midway is not None and sum(piece.tokens for piece in self.pieces) > 10:
            midway, self.midway = self.midway, None
            midway()

    def end(self, result: Response | Exception) -> None:
        self.result = result
        self.ended.set()

    def wait(self) -> Response | Exception:
        assert self.ended.wait(WAIT)
        assert self.result is not None
        return self.result

    @property
    def answers(self) -> list[tuple[str, list[Any], str]]:
        """Of each choice the text, the tokens with their probabilities, and why it ended."""
        assert isinstance(self.wait(), Response), self.result
        choices = [[piece for piece in self.pieces if piece.index == index] for index in range(self.n)]
        return [
            (
                "".join(piece.text for piece in pieces),
                [one.token for piece in pieces for one in piece.logprobs],
                pieces[-1].finish,
            )
            for pieces in choices
        ]


def serve(name: str = "tiny_llm", **engine: Any) -> LanguageServable:
    model = load_model(LoadSpec(ROOT / "model_repository" / name / "1", "CPU", engine=EngineSpec(**engine)))
    return LanguageServable(name, 1, model, ModelConfig())


@pytest.fixture(scope="module")
def servable() -> Iterator[LanguageServable]:
    servable = serve()
    yield servable
    servable.close()


def ask(servable: LanguageServable, asks: Asks) -> Asks:
    servable.submit(Request("tiny_llm", "", {}, asked=asks), asks.end)
    return asks


WAYS: dict[str, dict[str, Any]] = {
    "greedy": {"sampling": LONG},
    "with logprobs": {"sampling": replace(LONG, logprobs=True)},
    "presence": {"sampling": replace(LONG, presence_penalty=1.5)},
    "frequency": {"sampling": replace(LONG, frequency_penalty=1.5, logprobs=True)},
    "repetition": {"sampling": replace(LONG, repetition_penalty=1.5)},
    "a least length": {"sampling": Sampling(150, min_new_tokens=80)},
    "several": {"sampling": LONG, "n": 3},
    "a stop string": {"sampling": LONG, "stop": ("for she",)},
    "a constraint": {"sampling": replace(LONG, ignore_eos=False, constraint=JSON)},
}


@pytest.mark.parametrize("way", WAYS)
def test_a_schema_that_poisons_the_runtime_changes_no_other_answer(servable: LanguageServable, way: str) -> None:
    asked = {"text": "Count from one: 1, 2, 3, 4, 5,", **WAYS[way]}
    alone = ask(servable, Asks(**asked)).answers
    poison = Asks("a", POISON)
    retried = servable.metrics.generation.retried
    both = ask(servable, Asks(**asked, midway=lambda: ask(servable, poison) and None))
    assert both.answers == alone
    assert servable.metrics.generation.retried > retried
    result = poison.wait()
    assert isinstance(result, InvalidArgument)
    assert "json_schema" in str(result)


def test_what_is_drawn_by_a_schema_goes_on_though_nobody_gave_a_seed(servable: LanguageServable) -> None:
    """Such as every answer of JSON to a client that gives no temperature."""
    poison = Asks("a", POISON)
    drawn = replace(LONG, ignore_eos=False, temperature=1.0, constraint=JSON)
    both = ask(servable, Asks("numbers", drawn, midway=lambda: ask(servable, poison) and None))
    ((text, _, _),) = both.answers
    assert text.startswith("[")
    assert isinstance(poison.wait(), InvalidArgument)


def test_answers_that_are_drawn_differ_without_a_seed(servable: LanguageServable) -> None:
    drawn = replace(LONG, temperature=2.0)
    assert len({answer[0] for answer in ask(servable, Asks("a", drawn, n=4)).answers}) == 4
    assert ask(servable, Asks("a", drawn)).answers != ask(servable, Asks("a", drawn)).answers
