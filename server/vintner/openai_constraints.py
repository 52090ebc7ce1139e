"""What the text of an answer must be, as requests to the OpenAI API say it: OpenAI's `response_format`, and vLLM's
`structured_outputs` and `guided_*`.

Pure. Invariant: a request has one constraint at most, and it has been checked, so that no runtime fails at it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

import orjson

from vintner.errors import InvalidArgument
from vintner.generation import Constraint
from vintner.openai_request import Parameters, bad, blamed
from vintner.response_formats import (
    ANY_OBJECT,
    grammar_constraint,
    regex_constraint,
    response_constraint,
    schema_constraint,
)


def _schema(value: Any, name: str) -> Constraint:
    """A JSON schema, or the text of one."""
    if isinstance(value, str):
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError as exc:
            raise InvalidArgument(f"parameter '{name}': expected a JSON schema, {exc}", name) from None
    return schema_constraint(value, name)


def _regex(value: Any, name: str) -> Constraint:
    return regex_constraint(_text(value, name), name)


def _grammar(value: Any, name: str) -> Constraint:
    return grammar_constraint(_text(value, name), name)


def _choice(value: Any, name: str) -> Constraint:
    if not isinstance(value, list) or not value or not all(isinstance(one, str) and one for one in value):
        raise bad(name, "an array of strings", value)
    return regex_constraint("|".join(f"({re.escape(one)})" for one in value), name)


def _any_object(value: Any, name: str) -> Constraint | None:
    if not isinstance(value, bool):
        raise bad(name, "true or false", value)
    return ANY_OBJECT if value else None


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise bad(name, "a string", value)
    return value


KINDS: Final[Mapping[str, Callable[[Any, str], Constraint | None]]] = {
    "json": _schema,
    "regex": _regex,
    "grammar": _grammar,
    "choice": _choice,
    "json_object": _any_object,
}
"""Keys of `structured_outputs`; each is a parameter of its own too, with `guided_` in front."""


def read_constraint(parameters: Parameters) -> Constraint | None:
    """The one that a request asks for. Raises InvalidArgument if there are several, or it cannot be followed."""
    with blamed("response_format"):
        wanted = [response_constraint(parameters.value("response_format"))]
    for name, made in KINDS.items():
        wanted.append(_made(parameters, f"guided_{name}", f"guided_{name}", made))
    inner = parameters.inner("structured_outputs")
    if inner is not None:
        for name, made in KINDS.items():
            wanted.append(_made(inner, name, f"structured_outputs.{name}", made))
        inner.finish()
    constraints = [one for one in wanted if one is not None]
    if len(constraints) > 1:
        raise InvalidArgument("expected one of response_format, structured_outputs and guided_*, got several")
    return constraints[0] if constraints else None


def _made(
    parameters: Parameters, name: str, path: str, made: Callable[[Any, str], Constraint | None]
) -> Constraint | None:
    value = parameters.value(name)
    if value is None:
        return None
    with blamed(path):
        return made(value, path)
