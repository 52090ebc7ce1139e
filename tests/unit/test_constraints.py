"""Schemas, patterns and grammars: what structured generation follows passes, what it chokes on is refused by place."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vintner.ebnf_syntax import DEEPEST_GRAMMAR, LONGEST_GRAMMAR, MOST_RULES, check_grammar
from vintner.errors import InvalidArgument
from vintner.json_schemas import (
    DEEPEST_IN_ALL,
    DEEPEST_SCHEMA,
    LONGEST_SCHEMA,
    MOST_MEMBERS,
    MOST_PROPERTIES,
    MOST_SCHEMAS,
    check_schema,
)
from vintner.regex_syntax import DEEPEST_REGEX, LONGEST_REGEX, MOST_LOOSE, check_regex
from vintner.response_formats import ANY_OBJECT, Constraint, grammar_constraint, regex_constraint, response_constraint
from vintner.syntax_cursor import MOST_REPEATS

PERSON = {
    "type": "object",
    "title": "Person",
    "properties": {
        "name": {"type": "string", "minLength": 1, "description": "who"},
        "age": {"type": "integer", "minimum": 0, "exclusiveMaximum": 150},
        "friends": {"type": "array", "items": {"$ref": "#"}, "maxItems": 3},
        "kind": {"enum": ["a", 1, 1.5, None, True, [1], {"b": 2}]},
        "id": {"type": "string", "pattern": "^[A-Z]{2}-\\d+$"},
        "born": {"type": ["string", "null"], "format": "date"},
        "place": {"anyOf": [{"$ref": "#/$defs/point"}, {"const": "nowhere"}]},
        "more": {"allOf": [{"$ref": "#/$defs/point"}], "default": None},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
    "$defs": {"point": {"type": "array", "prefixItems": [{"type": "number"}, {"type": "number"}], "items": False}},
}


def nested(depth: int) -> Any:
    schema: Any = {}
    for _ in range(depth):
        schema = {"items": schema}
    return schema


def chained(references: int, depth: int) -> Any:
    """Each with so many schemas within one another, and the next one's reference in the last."""
    schemas: dict[str, Any] = {f"a{references}": {}}
    for place in range(references):
        schema: Any = {"$ref": f"#/$defs/a{place + 1}"}
        for _ in range(depth):
            schema = {"items": schema}
        schemas[f"a{place}"] = schema
    return {"$ref": "#/$defs/a0", "$defs": schemas}


def with_properties(count: int) -> Any:
    return {"type": "object", "properties": {f"p{number}": {} for number in range(count)}}


GOOD_SCHEMAS: list[Any] = [
    chained(DEEPEST_IN_ALL - 1, 0),
    {"items": {"$ref": "#"}},
    {**with_properties(20), "maxProperties": 10},
    {"prefixItems": [{"pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}$"}] * 100},
    True,
    {},
    PERSON,
    {"type": "object", "minProperties": 1, "additionalProperties": True},
    {"type": "array", "minItems": 1, "items": {}},
    {"type": "object", "patternProperties": {"^a": {}}, "propertyNames": {"maxLength": 3}},
    {"type": "string", "maxLength": MOST_REPEATS},
    {"type": "array", "items": {}, "maxItems": MOST_MEMBERS},
    {"type": "integer", "minimum": 5, "maximum": 5},
    {"type": "number", "minimum": -0.5, "exclusiveMaximum": 0.5},
    {"uniqueItems": False},
    {"type": "string", "enum": ["a"], "default": "a", "title": "A"},
    {"$ref": "#/$defs/a", "$defs": {"a": {"type": "integer"}}, "description": "a"},
    nested(DEEPEST_SCHEMA),
    {"type": "object", "properties": {f"p{number}": {} for number in range(MOST_PROPERTIES)}},
]


@pytest.mark.parametrize("schema", GOOD_SCHEMAS)
def test_a_schema_that_is_followed_passes(schema: Any) -> None:
    check_schema(schema)


BAD_SCHEMAS: list[tuple[Any, str]] = [
    (False, "schema: must be an object or true; false accepts nothing"),
    ([], "schema: must be an object or true"),
    (3, "schema: must be an object or true"),
    ({"type": "nonsense"}, "schema.type: must be one of array, boolean"),
    ({"type": []}, "schema.type"),
    ({"type": ["string", 3]}, "schema.type"),
    ({"type": None}, "schema.type"),
    ({"enum": []}, "schema.enum: must be an array with at least one"),
    ({"enum": "a"}, "schema.enum"),
    ({"const": float("nan")}, "schema: numbers must be finite"),
    ({"enum": [[{"a": float("inf")}]]}, "schema: numbers must be finite"),
    ({"const": "\ud800"}, "schema must be a JSON document"),
    ({"const": object()}, "schema must be a JSON document"),
    ({"anyOf": []}, "schema.anyOf"),
    ({"oneOf": {}}, "schema.oneOf"),
    ({"allOf": [True, True]}, "schema.allOf: more than one"),
    ({"anyOf": [{}, False]}, r"schema.anyOf\[1\]: must be an object or true"),
    ({"not": {}}, "'not' is not supported"),
    ({"type": "integer", "multipleOf": 2}, "'multipleOf' is not supported"),
    ({"uniqueItems": True}, "schema.uniqueItems"),
    ({"$ref": "#/nope"}, r"schema.\$ref: there is no #/nope"),
    ({"$ref": 3}, r"schema.\$ref: must be a reference"),
    ({"$ref": "https://example.com/schema"}, r"schema.\$ref: must be a reference into the schema itself"),
    ({"$ref": "#anchor"}, r"#anchor is no schema"),
    ({"$ref": "#"}, "leads in a circle"),
    ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}, "leads in a circle"),
    ({"items": {"$ref": "#/$defs/a/anyOf/0"}, "$defs": {"a": {"anyOf": [{}]}}}, "may lead through objects only"),
    ({"$ref": "#/type", "type": "object"}, "#/type is no schema"),
    ({"anyOf": [{}], "properties": {}}, "schema: 'properties' is not followed next to 'anyOf'"),
    (
        {"items": {"$ref": "#/$defs/a", "minItems": 1}, "$defs": {"a": {}}},
        r"schema.items: 'minItems' is not .* '\$ref'",
    ),
    ({"enum": ["a"], "const": "b"}, "schema: 'enum' is not followed next to 'const'"),
    ({"properties": 3}, "schema.properties: must be an object"),
    ({"properties": {"a": {"properties": {"b": {"type": "x"}}}}}, "schema.properties.a.properties.b.type: must be"),
    ({"properties": {"a": False}}, "schema.properties.a: .*false accepts nothing"),
    ({"properties": {'a"': {}}}, "schema.properties: names with quotes"),
    ({"properties": {"a\n": {}}}, "schema.properties: names with quotes"),
    ({"properties": {f"p{n}": {} for n in range(MOST_PROPERTIES + 1)}}, f"has {MOST_PROPERTIES + 1} properties"),
    ({"patternProperties": {"(": {}}}, "schema.patternProperties: a group is not closed"),
    ({"propertyNames": {"type": "integer"}}, "schema.propertyNames: must be a schema of strings"),
    ({"propertyNames": False}, "schema.propertyNames"),
    ({"additionalProperties": 3}, "schema.additionalProperties: must be"),
    ({"required": "a"}, "schema.required: must be an array of strings"),
    ({"required": [3]}, "schema.required: must be an array of strings"),
    ({"properties": {"a": {}}, "required": ["b"]}, "schema.required: there is no 'b' in properties"),
    ({"items": [{}]}, "schema.items: must be an object or true"),
    ({"prefixItems": {}}, "schema.prefixItems"),
    ({"minItems": 1}, "schema.minItems: needs items"),
    ({"items": False, "minItems": 1, "unevaluatedItems": True}, "schema.minItems: needs items"),
    ({"prefixItems": [{}, {}], "maxItems": 1}, "schema.maxItems: must not be less than the 2"),
    ({"minProperties": 1}, "schema.minProperties: needs additionalProperties"),
    ({"properties": {"a": {}}, "required": ["a"], "maxProperties": 0}, "schema.maxProperties"),
    ({"minLength": -1}, "schema.minLength: must be an integer from 0"),
    ({"minLength": 2.0}, "schema.minLength"),
    ({"minLength": True}, "schema.minLength"),
    ({"maxLength": MOST_REPEATS + 1}, "schema.maxLength"),
    ({"items": {}, "maxItems": MOST_MEMBERS + 1}, f"schema.maxItems: must be an integer from 0 to {MOST_MEMBERS}"),
    ({"maxProperties": MOST_MEMBERS + 1}, "schema.maxProperties: must be an integer from 0"),
    ({"minLength": 5, "maxLength": 2}, "schema.minLength: must not be more than maxLength"),
    ({"minItems": 5, "maxItems": 2, "items": {}}, "schema.minItems: must not be more than maxItems"),
    ({"minProperties": 5, "maxProperties": 2}, "schema.minProperties: must not be more than"),
    ({"pattern": "("}, "schema.pattern: a group is not closed, at position 1"),
    ({"pattern": 3}, "schema.pattern: must be a string"),
    ({"pattern": "\0"}, "schema.pattern must not contain the character NUL"),
    ({"pattern": "a", "maxLength": 3}, "schema.pattern: is not supported together"),
    ({"format": 3}, "schema.format: must be a string"),
    ({"minimum": "x"}, "schema.minimum: must be a finite number"),
    ({"maximum": True}, "schema.maximum: must be a finite number"),
    ({"type": "integer", "minimum": 1.5}, "schema.minimum: must be a whole number"),
    ({"type": "integer", "minimum": 1e30}, "schema.minimum: must be a whole number of at most 64 bits"),
    ({"type": "integer", "minimum": 5, "maximum": 2}, "schema.minimum: there is no integer between"),
    ({"type": "integer", "exclusiveMinimum": 5, "exclusiveMaximum": 6}, "there is no integer between"),
    ({"type": ["string", "integer"], "minimum": 5, "maximum": 2}, "there is no integer between"),
    ({"type": "number", "minimum": 5, "maximum": 2}, "schema.maximum: must not be less"),
    ({"type": "number", "minimum": 5, "exclusiveMaximum": 5}, "schema.exclusiveMaximum: must be more"),
    ({"type": "number", "exclusiveMinimum": 5, "maximum": 5}, "schema.exclusiveMinimum: must be less"),
    (nested(DEEPEST_SCHEMA + 1), f"nest deeper than {DEEPEST_SCHEMA}"),
    ({"anyOf": [{}] * MOST_SCHEMAS}, f"more than {MOST_SCHEMAS} schemas"),
    ({"$ref": "#/title", "title": {"pattern": "\0"}}, "schema.title.pattern must not contain the character NUL"),
    ({"$ref": "#/title", "title": nested(DEEPEST_SCHEMA + 1)}, f"nest deeper than {DEEPEST_SCHEMA}"),
    (chained(DEEPEST_IN_ALL + 1, 0), f"what references lead to nests deeper than {DEEPEST_IN_ALL}"),
    (chained(20, DEEPEST_SCHEMA - 10), f"what references lead to nests deeper than {DEEPEST_IN_ALL}"),
    (
        {"prefixItems": [with_properties(500)] * 2},
        r"schema.prefixItems\[1\]: its properties make the schema too costly",
    ),
    ({**with_properties(200), "maxProperties": 100}, "schema: its properties make the schema too costly"),
    ({"prefixItems": [{"items": {}, "maxItems": MOST_MEMBERS}] * 11}, "items and properties that are counted make"),
    ({"prefixItems": [{"pattern": "a?" * 150}] * 3}, "its patterns make the schema too costly"),
    ({"patternProperties": {f"^p{number}[a-z]*$": {} for number in range(500)}}, "its patterns make the schema too"),
    ({"description": "x" * LONGEST_SCHEMA}, f"at most {LONGEST_SCHEMA} are allowed"),
]


@pytest.mark.parametrize(("schema", "reason"), BAD_SCHEMAS)
def test_a_schema_that_would_hurt_is_refused_by_place(schema: Any, reason: str) -> None:
    with pytest.raises(InvalidArgument, match=reason):
        check_schema(schema)


GOOD_PATTERNS = [
    "", "()", "^a$", "^", "$", "[a-z]+", "a|b|(c|d)?", r"\d{3}-\d{4}", "a{2,}?", "a{0}", "(?:a)", "(?<year>a)",
    r"[\w-]", r"[a-z\-\]]", "[-a]", "[a-]", "[+--]", r"\x41\u0041\u{1F600}", r"[\x00-\x1f]", r"\cA", r"\\", "]", "}",
    "é+", r"[\b]", ".*", r"[\s\S]*", "a\nb",
    "a{2147483647}", "(a{100}){100}", "(" * DEEPEST_REGEX + ")" * DEEPEST_REGEX, "a" * LONGEST_REGEX,
    "a?" * MOST_LOOSE, "[0-9]{3}" * 1000,
]  # fmt: skip


@pytest.mark.parametrize("pattern", GOOD_PATTERNS)
def test_a_pattern_that_is_followed_passes(pattern: str) -> None:
    check_regex(pattern)


BAD_PATTERNS = [
    ("(", "a group is not closed, at position 1"),
    ("a)", "'\\)' closes nothing, at position 1"),
    ("a|", "an alternative is empty"),
    ("|a", "an alternative is empty"),
    ("(a||b)", "an alternative is empty"),
    ("*a", "nothing to repeat"),
    ("{3}", "nothing to repeat"),
    ("(+)", "nothing to repeat"),
    ("^*", "nothing to repeat"),
    ("a**", "cannot be repeated"),
    ("a{2}{3}", "cannot be repeated"),
    ("a??*", "cannot be repeated"),
    ("a{5,2}", "bounds that rise"),
    ("a{2147483648}", "bounds that rise"),
    ("a{,3}", "must be like"),
    ("a{3", "must be like"),
    ("a{ 1}", "must be like"),
    ("a^b", "at the beginning only"),
    ("(a$)", "at the beginning only"),
    ("a(?=b)", "lookahead is not supported"),
    ("(?!a)b", "lookahead is not supported"),
    ("(?<=a)b", "lookbehind is not supported"),
    ("(?<!a)b", "lookbehind is not supported"),
    ("(?i)a", "this kind of group is not supported"),
    ("(?P<n>a)", "this kind of group is not supported"),
    ("(?", "this kind of group is not supported"),
    (r"(a)\1", "a backreference is not supported"),
    (r"\k<n>", "a backreference is not supported"),
    (r"\bfoo", "a word boundary is not supported"),
    (r"\p{L}", "a Unicode class is not supported"),
    (r"[\p{L}]", "a Unicode class is not supported"),
    (r"\q", r"there is no escape '\\q'"),
    (r"\A", r"there is no escape '\\A'"),
    ("\\", "an escape is not finished"),
    (r"\x4", "needs 2 hexadecimal digits"),
    (r"\u00", "needs 4 hexadecimal digits"),
    (r"\u{110000}", "there is no character"),
    (r"\uD800", "there is no character"),
    (r"\c1", "needs a letter"),
    ("[", "is not closed"),
    ("[a-", "is not closed"),
    ("[]", "class is empty"),
    ("[^]", "is not supported"),
    ("[z-a]", "from a lower to a higher"),
    (r"[a-\d]", "from a lower to a higher"),
    (r"[\w-.]", "from a lower to a higher"),
    ("[a\n]", "is not closed on its line"),
    ("a\0", "NUL"),
    ("(a{0,1000}){0,1000}", "ranges within ranges make 1000000"),
    ("((a{30}){30}){30}", "ranges within ranges make 27000"),
    ("(" * (DEEPEST_REGEX + 1) + ")" * (DEEPEST_REGEX + 1), f"deeper than {DEEPEST_REGEX}"),
    ("a" * (LONGEST_REGEX + 1), f"at most {LONGEST_REGEX}"),
    ("a?" * (MOST_LOOSE + 1), "too many repetitions that leave open"),
    (".*" * (MOST_LOOSE + 1), "too many repetitions that leave open"),
    ("a{0,9999}b{0,9999}" * 20, "too many repetitions that leave open"),
    ("a{1000,}" * 20, "too many repetitions that leave open"),
    ("(a|())" * (MOST_LOOSE + 1), "too many repetitions that leave open"),
]


@pytest.mark.parametrize(("pattern", "reason"), BAD_PATTERNS)
def test_a_pattern_that_would_hurt_is_refused_by_position(pattern: str, reason: str) -> None:
    with pytest.raises(InvalidArgument, match=reason):
        check_regex(pattern)


GOOD_GRAMMARS = [
    'root ::= "a"', 'root ::= "yes" | "no"\n', "root ::= [a-z]+ [^0-9]? [\\]\\-^]*",
    'root ::= a b\na ::= "1"\nb ::= ("x" | "y"){1,3}',
    'root ::= "a"\n  "b"\n\n| "c" # "not closed', 'root ::= "" | "a" root',
    'a-b ::= "x"\nroot ::= a-b .c\n.c ::= "y"', 'root::="a"',
    'root ::= "\\x41\\u0041\\U0001F600\\n\\"\\\\"', "\troot ::= (\n\"a\"\n)", 'root ::= a\r\na ::= "x"\r\n',
    "root ::= " + "(" * DEEPEST_GRAMMAR + '"a"' + ")" * DEEPEST_GRAMMAR,
    'root ::= r0\n' + "".join(f'r{n} ::= [a-z]+ " "? ("a" | "")\n' for n in range(900)),
]  # fmt: skip


@pytest.mark.parametrize("grammar", GOOD_GRAMMARS)
def test_a_grammar_that_is_followed_passes(grammar: str) -> None:
    check_grammar(grammar)


BAD_GRAMMARS = [
    ("", "there is no rule 'root'"),
    ("# nothing", "there is no rule 'root'"),
    ('foo ::= "a"', "there is no rule 'root'"),
    ("root ::= nope", "there is no rule 'nope'"),
    ('root ::= "a"\nroot ::= "b"', "there is another rule 'root'"),
    ('root = "a"', "expected a rule"),
    ('start: "a"', "expected a rule"),
    ("root ::= ", "an alternative is empty"),
    ('root ::= "a" |', "an alternative is empty"),
    ('root ::= ("a" | )', "an alternative is empty"),
    ("root ::= ()", "an alternative is empty"),
    ("root ::= 'a'", "expected a literal"),
    ('root ::= "a"; x', "expected a literal"),
    ('root ::= "a" (="b")', "expected a literal"),
    ('root ::= ("a"', "a group is not closed"),
    ('root ::= "a")', "closes nothing"),
    ('root ::= "a', "a literal is not closed"),
    ('root ::= "a\nb"', "a literal is not closed"),
    ('root ::= "\\d"', "there is no escape"),
    ("root ::= [\\d]", "there is no escape"),
    ('root ::= "\\u00"', "needs 4 hexadecimal digits"),
    ("root ::= [a", "is not closed"),
    ("root ::= [a\nb]", "is not closed"),
    ("root ::= []", "class is empty"),
    ("root ::= [z-a]", "from a lower to a higher"),
    ('root ::= "a"**', "cannot be repeated"),
    ('root ::= "a"{5,2}', "bounds that rise"),
    ('root ::= "a"{,3}', "must be like"),
    ('root ::= ("a"{0,1000}){0,1000}', "ranges within ranges"),
    ('root ::= "\0"', "NUL"),
    ("root ::= " + "(" * (DEEPEST_GRAMMAR + 1), f"deeper than {DEEPEST_GRAMMAR}"),
    ("".join(f'r{number} ::= "a"\n' for number in range(MOST_RULES + 1)), f"more than {MOST_RULES} rules"),
    ("#" * (LONGEST_GRAMMAR + 1), f"at most {LONGEST_GRAMMAR}"),
    ("root ::= " + "[a-z]* " * 1000, "too many repetitions that leave open"),
    ("root ::= " + '("a" | "") ' * 1000, "too many repetitions that leave open"),
]


@pytest.mark.parametrize(("grammar", "reason"), BAD_GRAMMARS)
def test_a_grammar_that_would_hurt_is_refused(grammar: str, reason: str) -> None:
    with pytest.raises(InvalidArgument, match=reason):
        check_grammar(grammar)


HOSTILE = st.text("()[]{}|*+?^$\\-.,0123456789abdpukxDcU:=<>!\"'#\n r")


@given(HOSTILE)
def test_no_text_is_anything_but_right_or_refused(text: str) -> None:
    for check in (check_regex, check_grammar, check_schema):
        with suppress(InvalidArgument):
            check(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.sampled_from(["a", "#", "object", "array"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["type", "items", "properties", "enum", "const", "$ref", "anyOf", "allOf", "prefixItems", "required",
                 "minItems", "maxItems", "minimum", "maximum", "pattern", "format", "$defs", "additionalProperties",
                 "propertyNames", "patternProperties", "minProperties", "maxProperties", "exclusiveMinimum", "not"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)  # fmt: skip


@given(JSON)
def test_no_document_is_anything_but_right_or_refused(schema: Any) -> None:
    with suppress(InvalidArgument):
        check_schema(schema)


def test_response_formats_become_constraints() -> None:
    assert response_constraint(None) is None
    assert response_constraint({"type": "text"}) is None
    assert response_constraint({"type": "json_object"}) == ANY_OBJECT
    wanted = {"type": "json_schema", "json_schema": {"name": "person", "strict": True, "schema": PERSON}}
    constraint = response_constraint(wanted)
    assert constraint is not None
    assert constraint.kind == "json_schema"
    assert json.loads(constraint.value) == PERSON
    assert list(json.loads(constraint.value)["properties"]) == list(PERSON["properties"])  # type: ignore[call-overload]


def named(**wanted: Any) -> Any:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": {}, **wanted}}


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        ("json", "response_format must be an object with a type: json_object, json_schema, text"),
        ({}, "response_format must be an object with a type"),
        ({"type": "json"}, r"response_format.type: 'json' is not supported; expected one of: json_object"),
        ({"type": "text", "schema": {}}, "response_format: there is no key 'schema'"),
        ({"type": "json_schema"}, "response_format.json_schema must be an object"),
        ({"type": "json_schema", "json_schema": {"name": "x"}}, "response_format.json_schema.schema is missing"),
        (named(name="a b"), "response_format.json_schema.name must be"),
        (named(name=None), "response_format.json_schema.name must be"),
        (named(strict="yes"), "response_format.json_schema.strict must be"),
        (named(description=3), "response_format.json_schema.description must be"),
        (named(shema={}), "response_format.json_schema: there is no key 'shema'; did you mean 'schema'"),
        (named(schema={"type": "x"}), "response_format.json_schema.schema.type: must be one of"),
    ],
)
def test_an_error_names_the_parameter(wanted: Any, reason: str) -> None:
    with pytest.raises(InvalidArgument, match=reason):
        response_constraint(wanted)


def test_patterns_and_grammars_become_constraints() -> None:
    assert regex_constraint("a+") == Constraint("regex", "a+")
    assert grammar_constraint('root ::= "a"') == Constraint("grammar", 'root ::= "a"')
    with pytest.raises(InvalidArgument, match="guided_regex: a group"):
        regex_constraint("(", "guided_regex")
    with pytest.raises(InvalidArgument, match="guided_grammar: there is no rule"):
        grammar_constraint("", "guided_grammar")
