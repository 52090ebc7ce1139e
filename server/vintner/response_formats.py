"""What OpenAI's `response_format` asks of the answer, as a constraint that a runtime takes.

Knows no runtime. Invariant: a Constraint has been checked, and its value is the text that runtimes expect: a JSON
schema as JSON, a regular expression, a grammar in GBNF.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import orjson

from vintner.ebnf_syntax import check_grammar
from vintner.errors import InvalidArgument, nearest
from vintner.generation import Constraint
from vintner.json_schemas import check_schema
from vintner.regex_syntax import check_regex

_KEYS: Final = {"text": ("type",), "json_object": ("type",), "json_schema": ("type", "json_schema")}
_SCHEMA_KEYS: Final = ("name", "description", "schema", "strict")
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


ANY_OBJECT: Final = Constraint("json_schema", '{"type":"object","additionalProperties":true}')
"""`{"type":"object"}` alone is taken for an object without properties."""


def response_constraint(response_format: Any) -> Constraint | None:
    """None for text without constraint. Raises InvalidArgument that names the parameter.

    `strict` may be given either way: a schema is always followed.
    """
    where = "response_format"
    if response_format is None:
        return None
    kind = response_format.get("type") if isinstance(response_format, Mapping) else None
    if not isinstance(kind, str):
        raise InvalidArgument(f"{where} must be an object with a type: {', '.join(sorted(_KEYS))}")
    if kind not in _KEYS:
        raise InvalidArgument(f"{where}.type: '{kind[:64]}' is not supported{nearest(kind, _KEYS)}")
    _check_keys(response_format, _KEYS[kind], where)
    if kind == "json_schema":
        return _of_schema(response_format.get("json_schema"), f"{where}.json_schema")
    return ANY_OBJECT if kind == "json_object" else None


def _of_schema(wanted: Any, where: str) -> Constraint:
    if not isinstance(wanted, Mapping):
        raise InvalidArgument(f"{where} must be an object with name and schema")
    _check_keys(wanted, _SCHEMA_KEYS, where)
    if not isinstance(wanted.get("name"), str) or not _NAME.fullmatch(wanted["name"]):
        raise InvalidArgument(f"{where}.name must be 1 to 64 letters, digits, underscores or dashes")
    if not isinstance(wanted.get("description", ""), str | None):
        raise InvalidArgument(f"{where}.description must be a string")
    if not isinstance(wanted.get("strict", False), bool | None):
        raise InvalidArgument(f"{where}.strict must be true or false")
    if "schema" not in wanted:
        raise InvalidArgument(f"{where}.schema is missing")
    return schema_constraint(wanted["schema"], f"{where}.schema")


def schema_constraint(schema: Any, where: str = "schema") -> Constraint:
    """Of a schema that came some other way, such as the one that forces a tool call."""
    check_schema(schema, where)
    return Constraint("json_schema", orjson.dumps(schema).decode())


def regex_constraint(pattern: str, where: str = "regex") -> Constraint:
    check_regex(pattern, where)
    return Constraint("regex", pattern)


def grammar_constraint(grammar: str, where: str = "grammar") -> Constraint:
    check_grammar(grammar, where)
    return Constraint("grammar", grammar)


def _check_keys(given: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    for key in given:
        if key not in known:
            raise InvalidArgument(f"{where}: there is no key '{str(key)[:64]}'{nearest(str(key), known)}")
