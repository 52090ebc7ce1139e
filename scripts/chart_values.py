"""Reads helm/vintner/values.yaml with its comments: what keys there are, what is their default, what they mean.

Knows nothing of how that is shown. Invariant: every key of the file is one `Value`, in the file's order; a comment on
the lines above a key, as far as they are indented as the key is, belongs to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

CHART: Final = Path(__file__).parents[1] / "helm" / "vintner"


@dataclass(frozen=True, slots=True)
class Value:
    """A key of values.yaml: `image.tag`, its default, and the comment above it."""

    path: tuple[str, ...]
    default: Any
    comment: str
    is_group: bool
    """Whether its keys are `Value`s of their own: a mapping with keys in block style."""

    @property
    def name(self) -> str:
        return ".".join(self.path)


def read_values(file: Path = CHART / "values.yaml") -> Sequence[Value]:
    text = file.read_text(encoding="utf-8")
    root = yaml.compose(text, yaml.SafeLoader)
    if not isinstance(root, yaml.MappingNode):
        raise SystemExit(f"{file}: expected a mapping of values")
    return list(_values_of(root, (), text.splitlines()))


def _values_of(mapping: yaml.MappingNode, above: tuple[str, ...], lines: Sequence[str]) -> Iterator[Value]:
    for key, node in mapping.value:
        path = (*above, str(key.value))
        is_group = isinstance(node, yaml.MappingNode) and not node.flow_style
        yield Value(path, _construct(node), _comment_above(key.start_mark, lines), is_group)
        if is_group:
            yield from _values_of(node, path, lines)


def _construct(node: yaml.Node) -> Any:
    return yaml.SafeLoader("").construct_object(node, deep=True)  # type: ignore[no-untyped-call]


def _comment_above(mark: yaml.Mark, lines: Sequence[str]) -> str:
    prefix = " " * mark.column + "#"
    first = mark.line
    while first and lines[first - 1].startswith(prefix):
        first -= 1
    return " ".join(line.removeprefix(prefix).strip() for line in lines[first : mark.line])
