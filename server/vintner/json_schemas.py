"""Whether a JSON schema is one that structured generation follows, before it reaches a runtime.

Found with OpenVINO GenAI 2026.4.1 (xgrammar): `GenerationConfig.validate()` and `add_request()` accept any text as a
schema; it is compiled in `step()`, which then raises for it, and from then on for every request. 2,000 arrays in one
another hold `step()` up for more than a minute, 100,000, or a NUL in a pattern, end the process. Nothing in the
runtime's Python API compiles a schema without a pipeline, and xgrammar's own package needs torch, so this refuses what
was seen to do any of that, and keywords that are silently not followed, because an answer that only looks constrained
is worse than an error. ONNX Runtime GenAI (llguidance) refuses some of what passes:
unknown formats, propertyNames, unevaluatedProperties, minProperties with optional properties. What this cannot foresee
remains to whoever runs the pipeline: it has to recover.

Knows nothing of requests. Invariant: a schema that passes has only keywords of the right types, bounds that can be met,
and references that lead somewhere. It may still describe values that never end (a list that must have a next).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from math import isfinite
from typing import Any, Final, NoReturn

import orjson

from vintner.errors import InvalidArgument
from vintner.number_bounds import check_bounds
from vintner.regex_syntax import check_regex
from vintner.schema_costs import MOST_COSTS, schema_costs
from vintner.syntax_cursor import MOST_REPEATS

LONGEST_SCHEMA: Final = 131_072
DEEPEST_SCHEMA: Final = 48
DEEPEST_IN_ALL: Final = 512
"""Of all that references lead to: they may lead from one to the next, and 2,500 end the process of llguidance."""
MOST_SCHEMAS: Final = 4_096
MOST_PROPERTIES: Final = 512
"""Of one object: compiling takes the square of them, a second for a thousand."""
MOST_MEMBERS: Final = 10_000
"""Items or properties that a bound may count: llguidance in ONNX Runtime GenAI 0.18 writes each of them out, and with a
thousand million hangs."""
_TYPES: Final = frozenset(("array", "boolean", "integer", "null", "number", "object", "string"))
_NOT_FOLLOWED: Final = (
    "not", "if", "then", "else", "contains", "minContains", "maxContains", "multipleOf", "dependentRequired",
    "dependentSchemas", "dependencies", "additionalItems", "$dynamicRef", "$recursiveRef", "$anchor", "$dynamicAnchor",
)  # fmt: skip
_ALONE: Final = ("$ref", "const", "enum", "anyOf", "oneOf", "allOf")
_BESIDES: Final = frozenset(
    (
        "properties", "patternProperties", "additionalProperties", "unevaluatedProperties", "propertyNames", "required",
        "items", "prefixItems", "unevaluatedItems", "pattern", "minLength", "maxLength", "minItems", "maxItems",
        "minProperties", "maxProperties", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum",
    )
)  # fmt: skip
_COUNTS: Final = (("minLength", "maxLength"), ("minItems", "maxItems"), ("minProperties", "maxProperties"))
_MAPS: Final = ("properties", "patternProperties", "$defs", "definitions")
_ALTERNATIVES: Final = ("anyOf", "oneOf", "allOf", "prefixItems")
_OR_FALSE: Final = ("additionalProperties", "items", "unevaluatedProperties", "unevaluatedItems")


def check_schema(schema: Any, where: str = "schema") -> None:
    """Raises InvalidArgument that names the place, as `schema.properties.age.minimum`."""
    try:
        length = len(orjson.dumps(schema))
    except (TypeError, orjson.JSONEncodeError) as exc:
        raise InvalidArgument(f"{where} must be a JSON document: {exc}") from None
    if length > LONGEST_SCHEMA:
        raise InvalidArgument(f"{where} has {length} bytes, at most {LONGEST_SCHEMA} are allowed")
    _SchemaChecker(schema).check_all(where)


class _SchemaChecker:
    def __init__(self, root: Any) -> None:
        self._root = root
        self._schemas = 0
        self._heights: dict[int, int] = {}  # by the ids of schemas
        self._targets: set[int] = set()  # of references
        self._resolved: set[str] = set()  # references that lead somewhere
        self._pending: list[tuple[Any, str]] = []  # what they lead to
        self._spent: Counter[str] = Counter()

    def check_all(self, where: str) -> None:
        """What references lead to need not stand where schemas do, and is compiled all the same."""
        self.check(self._root, where, 0)
        while self._pending:
            schema, reference = self._pending.pop()
            if id(schema) not in self._heights:
                self.check(schema, f"{where}{reference[1:].replace('/', '.')}"[:256], 0)
        if sum(self._heights[target] for target in self._targets) > DEEPEST_IN_ALL:
            _fail(where, f"what references lead to nests deeper than {DEEPEST_IN_ALL}, all together")

    def check(self, schema: Any, where: str, depth: int) -> int:
        """How many schemas there are within one another."""
        self._heights[id(schema)] = height = 1 + self._check(schema, where, depth)
        return height

    def _check(self, schema: Any, where: str, depth: int) -> int:
        """How many there are within it."""
        self._schemas += 1
        if self._schemas > MOST_SCHEMAS:
            _fail(where, f"there are more than {MOST_SCHEMAS} schemas within one another")
        if depth > DEEPEST_SCHEMA:
            _fail(where, f"schemas nest deeper than {DEEPEST_SCHEMA}")
        if schema is True:
            return 0
        if not isinstance(schema, Mapping):
            _fail(where, "must be an object or true" + ("; false accepts nothing" if schema is False else ""))
        for check in _CHECKS:
            check(schema, where)
        self._check_costs(schema, where)
        self._check_reference(schema, where)
        return max(self._check_members(schema, where, depth + 1), default=0)

    def _check_costs(self, schema: Mapping[str, Any], where: str) -> None:
        for what, cost in schema_costs(schema):
            self._spent[what] += cost
            if self._spent[what] > MOST_COSTS[what]:
                _fail(where, f"{what} make the schema too costly to follow")

    def _check_members(self, schema: Mapping[str, Any], where: str, depth: int) -> Iterator[int]:
        for keyword in _MAPS:
            for name, member in _mapping(schema, keyword, where).items():
                yield self.check(member, f"{where}.{keyword}.{name[:64]}", depth)
        for keyword in _ALTERNATIVES:
            for place, member in enumerate(schema.get(keyword, ())):
                yield self.check(member, f"{where}.{keyword}[{place}]", depth)
        for keyword in _OR_FALSE:
            if schema.get(keyword, False) is not False:
                yield self.check(schema[keyword], f"{where}.{keyword}", depth)
        if "propertyNames" in schema:
            yield self._check_names(schema["propertyNames"], f"{where}.propertyNames", depth)

    def _check_names(self, schema: Any, where: str, depth: int) -> int:
        if not isinstance(schema, Mapping) or schema.get("type", "string") != "string":
            _fail(where, "must be a schema of strings")
        return self.check(schema, where, depth)

    def _check_reference(self, schema: Mapping[str, Any], where: str) -> None:
        followed: set[str] = set()
        while isinstance(schema, Mapping) and "$ref" in schema:
            reference = schema["$ref"]
            if not isinstance(reference, str) or reference[:1] != "#":
                _fail(f"{where}.$ref", "must be a reference into the schema itself, as #/$defs/name")
            if reference in followed:
                _fail(f"{where}.$ref", "leads in a circle")
            if reference in self._resolved:
                break
            followed.add(reference)
            schema = self._found(reference, f"{where}.$ref")
            self._pending.append((schema, reference))
            self._targets.add(id(schema))
        self._resolved |= followed

    def _found(self, reference: str, where: str) -> Any:
        found = self._root
        for name in reference[1:].split("/")[1:]:
            if not isinstance(found, Mapping) or name not in found:
                _fail(where, f"there is no {reference[:128]} in the schema; it may lead through objects only")
            found = found[name]
        if reference[1:2] not in ("", "/") or not isinstance(found, Mapping | bool):
            _fail(where, f"{reference[:128]} is no schema")
        return found


def _check_keywords(schema: Mapping[str, Any], where: str) -> None:
    for keyword in _NOT_FOLLOWED:
        if keyword in schema:
            _fail(where, f"'{keyword}' is not supported by structured generation")
    alone = next((keyword for keyword in _ALONE if keyword in schema), None)
    besides = sorted(key for key in schema if key in _BESIDES or (key in _ALONE and key != alone)) if alone else ()
    if besides:
        _fail(where, f"'{besides[0]}' is not followed next to '{alone}'; move it into the schema that it belongs to")
    if schema.get("uniqueItems", False) is not False:
        _fail(f"{where}.uniqueItems", "only false is supported by structured generation")


def _check_type(schema: Mapping[str, Any], where: str) -> None:
    kinds = schema.get("type", "object")
    listed = kinds if isinstance(kinds, list) else [kinds]
    if not listed or not all(isinstance(kind, str) and kind in _TYPES for kind in listed):
        _fail(f"{where}.type", f"must be one of {', '.join(sorted(_TYPES))}, or an array of these")


def _check_values(schema: Mapping[str, Any], where: str) -> None:
    values = schema.get("enum", [None])
    if not isinstance(values, list) or not values:
        _fail(f"{where}.enum", "must be an array with at least one value")
    pending = [*values, schema.get("const")]
    while pending:
        value = pending.pop()
        if isinstance(value, float) and not isfinite(value):
            _fail(where, "numbers must be finite")
        pending += value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()


def _check_lists(schema: Mapping[str, Any], where: str) -> None:
    for keyword in _ALTERNATIVES:
        members = schema.get(keyword, [True])
        if not isinstance(members, list) or not (members or keyword == "prefixItems"):
            _fail(f"{where}.{keyword}", "must be an array with at least one schema")
    if len(schema.get("allOf", ())) > 1:
        _fail(f"{where}.allOf", "more than one schema is not supported by structured generation")
    required = schema.get("required", [])
    if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
        _fail(f"{where}.required", "must be an array of strings")
    unknown = sorted(set(required) - set(_mapping(schema, "properties", where)))
    if unknown:
        _fail(f"{where}.required", f"there is no '{unknown[0][:64]}' in properties")


def _check_names(schema: Mapping[str, Any], where: str) -> None:
    properties = _mapping(schema, "properties", where)
    if len(properties) > MOST_PROPERTIES:
        _fail(f"{where}.properties", f"has {len(properties)} properties, at most {MOST_PROPERTIES} are allowed")
    for name in properties:
        if any(character < " " or character in '"\\' for character in name):
            _fail(f"{where}.properties", "names with quotes, backslashes or control characters are not supported")
    for pattern in _mapping(schema, "patternProperties", where):
        check_regex(pattern, f"{where}.patternProperties")


def _check_strings(schema: Mapping[str, Any], where: str) -> None:
    if "pattern" in schema:
        if not isinstance(schema["pattern"], str):
            _fail(f"{where}.pattern", "must be a string")
        check_regex(schema["pattern"], f"{where}.pattern")
    if not isinstance(schema.get("format", ""), str):
        _fail(f"{where}.format", "must be a string")
    if "pattern" in schema and any(keyword in schema for keyword in ("format", "minLength", "maxLength")):
        _fail(f"{where}.pattern", "is not supported together with format, minLength or maxLength")


def _check_counts(schema: Mapping[str, Any], where: str) -> None:
    for least, most in _COUNTS:
        for keyword in (least, most):
            count, limit = schema.get(keyword, 0), MOST_REPEATS if keyword.endswith("Length") else MOST_MEMBERS
            if type(count) is not int or not 0 <= count <= limit:
                _fail(f"{where}.{keyword}", f"must be an integer from 0 to {limit}")
        if schema.get(least, 0) > schema.get(most, MOST_REPEATS):
            _fail(f"{where}.{least}", f"must not be more than {most}")


def _check_sizes(schema: Mapping[str, Any], where: str) -> None:
    """Counts against what there is to be counted: items and properties that are not described are not generated."""
    first, named = len(schema.get("prefixItems", ())), len(_mapping(schema, "properties", where))
    if schema.get("maxItems", MOST_REPEATS) < first:
        _fail(f"{where}.maxItems", f"must not be less than the {first} schemas of prefixItems")
    if schema.get("minItems", 0) > first and not _open(schema, "items", "unevaluatedItems"):
        _fail(f"{where}.minItems", "needs items, which say what the array consists of")
    if schema.get("maxProperties", MOST_REPEATS) < len(set(schema.get("required", ()))):
        _fail(f"{where}.maxProperties", "must not be less than the number of required properties")
    if schema.get("minProperties", 0) > named and not _open(schema, "additionalProperties", "unevaluatedProperties"):
        _fail(f"{where}.minProperties", "needs additionalProperties, for there are fewer properties")


def _open(schema: Mapping[str, Any], first: str, second: str) -> bool:
    """Whether there may be more than what is described; the second keyword counts only without the first."""
    return schema.get(first, schema.get(second, False)) is not False


_CHECKS: Final[tuple[Callable[[Mapping[str, Any], str], None], ...]] = (
    _check_keywords, _check_type, _check_values, _check_lists, _check_names, _check_strings, _check_counts,
    _check_sizes, check_bounds,
)  # fmt: skip


def _mapping(schema: Mapping[str, Any], keyword: str, where: str) -> Mapping[str, Any]:
    members = schema.get(keyword, {})
    if not isinstance(members, Mapping):
        _fail(f"{where}.{keyword}", "must be an object")
    return members


def _fail(where: str, reason: str) -> NoReturn:
    raise InvalidArgument(f"{where}: {reason}")
