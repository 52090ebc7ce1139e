"""The sandbox in which chat templates run: Jinja2 as transformers' `apply_chat_template` sets it up.

Knows nothing of messages or of files. Invariant: a template sees the values that it is given and what is named here,
cannot change them, and writes at most `MOST_CHARACTERS`. The client's values are data: they are never compiled.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final, NoReturn

from jinja2 import Template, TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from vintner.errors import InvalidArgument

MOST_CHARACTERS: Final = 1 << 26
_LONGEST_PRODUCT: Final = 1 << 20
_LARGEST_POWER: Final = 1 << 10


class _Generation(Extension):
    """`{% generation %}` marks what the assistant wrote, for training; here it is a block like any other."""

    tags = {"generation"}  # noqa: RUF012 - Jinja2's own declaration

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


class _Sandbox(ImmutableSandboxedEnvironment):
    """Products and powers are looked at first: a number among the client's values may be a factor or an exponent."""

    intercepted_binops = frozenset(("*", "**"))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "**" and isinstance(right, int | float) and abs(right) > _LARGEST_POWER:
            raise SecurityError("a power is too large")
        if operator == "*" and max(_repeated(left, right), _repeated(right, left)) > _LONGEST_PRODUCT:
            raise SecurityError("a repetition is too long")
        return super().call_binop(context, operator, left, right)


def _repeated(text: Any, times: Any) -> int:
    """How long the product is if the one is a text or a list, and the other a number."""
    return len(text) * times if isinstance(text, str | list | tuple) and isinstance(times, int) else 0


def environment(now: Callable[[], datetime]) -> ImmutableSandboxedEnvironment:
    made = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
    made.filters["tojson"] = _tojson
    made.globals["raise_exception"] = _raise_exception
    made.globals["strftime_now"] = lambda layout: now().strftime(layout)
    return made


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def written_by(template: Template, values: Mapping[str, Any]) -> str:
    """Raises InvalidArgument with the template's own reason, or Python's, for values that it cannot take."""
    pieces: list[str] = []
    length = 0
    try:
        for piece in template.generate(values):
            pieces.append(piece)
            length += len(piece)
            if length > MOST_CHARACTERS:
                raise InvalidArgument(f"the rendered chat is longer than {MOST_CHARACTERS} characters")
    except TemplateError as exc:
        raise InvalidArgument(f"the chat template refuses these messages: {exc.message or 'no reason given'}") from exc
    except InvalidArgument:
        raise
    except Exception as exc:  # whatever Python raises for a value of the wrong kind, RecursionError and MemoryError too
        raise InvalidArgument(f"the chat template cannot render these messages: {exc}") from exc
    return "".join(pieces)
