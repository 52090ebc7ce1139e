"""What requests to the OpenAI API ask, whatever it is that they want generated.

Knows no transport. Invariant: a question was read to its end, so every parameter of its request is honoured; what only
its model can tell is checked by `prepare`, before the request is queued.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from vintner import __version__
from vintner.errors import InvalidArgument
from vintner.openai_answers import AnswerWriter, Head
from vintner.openai_request import Parameters
from vintner.prompts import Language, Work

SEPARATOR: Final = ":"
"""Between the names of a model and of its adapter."""

IGNORED: Final = ("user", "metadata", "safety_identifier", "prompt_cache_key", "prompt_cache_retention")
"""Parameters that only mark a request for its sender: these may have any value."""


@dataclass(frozen=True, slots=True)
class ModelName:
    """A model as a request names it: `given` may be that of an adapter, `MODEL:ADAPTER`."""

    given: str
    model: str
    adapter: str = ""


@dataclass(frozen=True, slots=True)
class Manner:
    """How an answer is to come. `priority` is 0 for the usual one, `created` in seconds since 1970."""

    name: ModelName
    id: str
    created: int
    stream: bool = False
    usage: bool = False
    priority: int = 0

    def head(self, language: Language) -> Head:
        return Head(self.id, self.created, self.name.given, f"vintner-{__version__}-v{language.version}")


class Question(Protocol):
    """One request's."""

    @property
    def manner(self) -> Manner: ...

    def prepare(self, language: Language) -> tuple[Work, AnswerWriter]:
        """What is to be generated, and what writes the answer. Raises RequestError."""
        ...


def read_manner(parameters: Parameters, name: ModelName, identity: str, created: int) -> Manner:
    """Also takes out of the parameters those that are ignored. Raises InvalidArgument."""
    for ignored in IGNORED:
        parameters.value(ignored)
    stream = parameters.flag("stream")
    options = parameters.inner("stream_options")
    usage = False
    if options is not None:
        if not stream:
            raise InvalidArgument("parameter 'stream_options' is only allowed when 'stream' is true", "stream_options")
        usage = options.flag("include_usage")
        options.finish({"include_obfuscation": (False,), "continuous_usage_stats": (False,)})
    return Manner(name, identity, created, stream, usage, parameters.whole("priority", 0, 2**31 - 1) or 0)
