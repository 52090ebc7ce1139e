"""What a chat template does with a message's parts, read from its syntax tree: it is not run for that.

Knows nothing of a message. Invariant: what it says holds for the whole template, whatever branch a message takes; where
the syntax does not tell, it says what most templates expect.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from jinja2 import nodes


@dataclass(frozen=True, slots=True)
class TemplateUsage:
    parts: bool
    """It iterates over the parts of `content`, which others take as one string."""
    strings: bool
    """It asks whether something is a string, so that it can take `content` as one even if it knows of parts."""
    arguments_as_text: bool
    """It writes the arguments of a tool call as they are, so that they have to be JSON text and not an object."""
    words: frozenset[str] = frozenset()
    """All strings that stand in it, such as the roles that it knows."""


def usage_of(tree: nodes.Template) -> TemplateUsage:
    names = _content_names(tree)
    loops = [loop for loop in tree.find_all(nodes.For) if _is_content(loop.iter, names)]
    tests = [test for test in tree.find_all(nodes.Test) if test.name == "string"]
    asked = any(_reads(test.node, "arguments") for test in tests)
    words = frozenset(one.value for one in tree.find_all(nodes.Const) if isinstance(one.value, str))
    return TemplateUsage(bool(loops), bool(tests), not asked and _writes_arguments(tree), words)


def _content_names(tree: nodes.Template) -> frozenset[str]:
    """Names of variables and of macros' parameters that stand for the content of a message."""
    names: frozenset[str] = frozenset()
    while True:
        found = names | {name for name, value in _bindings(tree) if _is_content(value, names)}
        if found == names:
            return names
        names = found


def _bindings(tree: nodes.Template) -> Iterator[tuple[str, nodes.Node]]:
    for assign in tree.find_all(nodes.Assign):
        if isinstance(assign.target, nodes.Name):
            yield assign.target.name, assign.node
    macros = {macro.name: macro for macro in tree.find_all(nodes.Macro)}
    for call in tree.find_all(nodes.Call):
        macro = macros.get(call.node.name) if isinstance(call.node, nodes.Name) else None
        if macro is not None:
            yield from ((parameter.name, given) for parameter, given in zip(macro.args, call.args, strict=False))


def _is_content(node: nodes.Node | None, names: frozenset[str]) -> bool:
    if isinstance(node, nodes.Filter):
        return _is_content(node.node, names)
    if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice):
        return _is_content(node.node, names)
    return _reads(node, "content") or (isinstance(node, nodes.Name) and node.name in names)


def _reads(node: nodes.Node | None, key: str) -> bool:
    if isinstance(node, nodes.Getattr):
        return node.attr == key
    return isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const) and node.arg.value == key


def _writes_arguments(tree: nodes.Template) -> bool:
    written: list[nodes.Node] = []
    for output in tree.find_all(nodes.Output):
        written += output.nodes
    for sum_of_two in tree.find_all(nodes.Add):
        written += (sum_of_two.left, sum_of_two.right)
    for concatenation in tree.find_all(nodes.Concat):
        written += concatenation.nodes
    return any(_reads(node, "arguments") for node in written)
