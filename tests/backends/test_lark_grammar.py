"""Grammars in GBNF, as ONNX Runtime GenAI takes them."""

from __future__ import annotations

import pytest
from vintner.ebnf_syntax import check_grammar
from vintner.errors import InvalidArgument
from vintner_backends.lark_grammar import lark_grammar

TRANSLATED = [
    ('root ::= "yes" | "no"', 'start: "yes" | "no"'),
    (
        'root ::= Digit{1,9} # many\nDigit ::= [0-9]\n  | "ten"',
        'start: rule_1 {1,9}\nrule_1: /[\\x{30}-\\x{39}]/ | "ten"',
    ),
    (
        'root ::= ("a\\"\\n\\u03a9" "")* b-c.d?\nb-c.d ::= root',
        'start: ( "a\\"\\n\\u03a9" "" ) * rule_1 ?\nrule_1: start',
    ),
    ("root ::= [^/\\]x-]+", "start: /[^\\x{2f}\\x{5d}\\x{78}\\x{2d}]/ +"),
    ("root ::= [\\x41-\\u0043\\-z]", "start: /[\\x{41}-\\x{43}\\x{2d}\\x{7a}]/"),
    ("root ::= [a-c-e]", "start: /[\\x{61}-\\x{63}\\x{2d}\\x{65}]/"),
]


@pytest.mark.parametrize(("grammar", "expected"), TRANSLATED)
def test_a_grammar_keeps_its_rules(grammar: str, expected: str) -> None:
    check_grammar(grammar)
    assert lark_grammar(grammar) == expected


def test_what_is_no_grammar_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="no GBNF at position 9"):
        lark_grammar("root ::= 'yes'")
