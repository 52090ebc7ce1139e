"""Reads a Dockerfile, and which files of the build's context `.dockerignore` lets through.

Knows the syntax that the project's own Dockerfile uses, and nothing of what instructions do. Invariant: what it does
not know is a ValueError that names the line, so nothing of the file is passed over.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

INSTRUCTIONS: Final = frozenset(
    ("ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "LABEL", "RUN", "STOPSIGNAL", "USER",
     "WORKDIR")
)  # fmt: skip
PAIR: Final = re.compile(r'\s*([\w.-]+)=("[^"]*"|\S*)')
VARIABLE: Final = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


@dataclass(frozen=True, slots=True)
class Instruction:
    """`line` is where it begins; continued lines are joined in `text`, without the comments between them."""

    line: int
    name: str
    text: str

    def pairs(self) -> dict[str, str]:
        """The text as `a=1 b="2 3"`."""
        found = {match[1]: match[2].strip('"') for match in PAIR.finditer(self.text)}
        if PAIR.sub("", self.text).strip():
            raise ValueError(f"line {self.line}: {self.name}: expected name=value pairs, got {self.text!r}")
        return found

    def words(self) -> list[str]:
        """The text as a JSON list, the only form that this reads of CMD and ENTRYPOINT."""
        try:
            words: list[str] = json.loads(self.text)
        except ValueError:
            raise ValueError(f"line {self.line}: {self.name}: expected a JSON list, got {self.text!r}") from None
        return words


def read(path: Path) -> Iterator[Instruction]:
    """The instructions in their order."""
    begun, text = 0, ""
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        begun = begun or number
        text += line.removesuffix("\\")
        if not line.endswith("\\"):
            name, _, rest = text.strip().partition(" ")
            if name not in INSTRUCTIONS:
                raise ValueError(f"line {begun}: expected one of {', '.join(sorted(INSTRUCTIONS))}, got {name!r}")
            yield Instruction(begun, name, rest.strip())
            begun, text = 0, ""


def expand(text: str, variables: Mapping[str, str]) -> str:
    """The text with `$NAME` and `${NAME}` replaced; a variable that is not set is empty, as for a builder."""
    return VARIABLE.sub(lambda match: variables.get(match[1] or match[2], ""), text)


def context(root: Path) -> list[str]:
    """Paths of the files below `root` that a builder is sent: the last pattern that fits a path, or a directory that
    it is in, decides."""
    lines = [line.strip() for line in (root / ".dockerignore").read_text().splitlines()]
    patterns = [line for line in lines if line and not line.startswith("#")]
    rules = [(not line.startswith("!"), _pattern(line.lstrip("!").strip("/"))) for line in patterns]
    # Directories that no later exception can be in need no walk, such as an environment with its 100,000 files.
    tops = [top for top in sorted(root.iterdir()) if not _ignored(top.name, rules)]
    files = [file for top in tops for file in ([top] if top.is_file() else sorted(top.rglob("*"))) if file.is_file()]
    paths = [file.relative_to(root).as_posix() for file in files]
    return [path for path in paths if not _ignored(path, rules)]


def _ignored(path: str, rules: list[tuple[bool, re.Pattern[str]]]) -> bool:
    verdict = False
    for ignores, pattern in rules:
        if pattern.match(path):
            verdict = ignores
    return verdict


def _pattern(text: str) -> re.Pattern[str]:
    """Of Go's path patterns with Docker's `**`; what fits a directory fits all below it."""
    pieces = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    tokens = re.findall(r"\*\*/|\*\*|\*|\?|\[[^]]+\]|[^*?[]+", text)
    inner = "".join(pieces.get(token, token if token[0] == "[" else re.escape(token)) for token in tokens)
    return re.compile(f"{inner}(?:/.*)?$")
