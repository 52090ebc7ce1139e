"""Writes docs/options.md from the declarations of the options; with --check, only tells whether it is current."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from generated_file import run
from vintner.config import CONFIG_FILE, describe_options
from vintner.options import Option

DOCUMENT: Final = Path(__file__).parents[1] / "docs" / "options.md"

INTRODUCTION: Final = """\
# Options of `vintner serve`

<!-- Written by scripts/generate_options_doc.py from server/vintner/config.py; do not edit. -->

Every option is a flag, an environment variable and a key of the YAML file that `--config` names. A flag overrules
the environment, the environment overrules the file.

- `--flag value` and `--flag=value` are the same, and so are dashes and underscores in the names of flags and keys.
  Flags are not abbreviated. Of several, the last wins, unless the option may be repeated.
- A boolean is `--flag`, `--flag=false` or `--no-flag`; elsewhere `true`, `yes`, `on` or `1`, and their opposites.
- An empty value and `<no value>` (what a template makes of a missing key) mean that the option was not given there.
- An unknown flag or key is an error. An unknown variable is not, because Kubernetes sets variables named after
  Services; for the same reason a variable with the address of a Service (`tcp://…`) counts as not set.
- Relative paths start at the working directory, wherever they are written.

| Flag | Environment | Key | Value | Default | |
|---|---|---|---|---|---|
"""


def main(arguments: Sequence[str] | None = None) -> int:
    return run(DOCUMENT, render, __file__, arguments)


def render() -> str:
    return INTRODUCTION + "".join(map(row, describe_options()))


def row(option: Option) -> str:
    default = f"`{option.default_text}`" if option.default_text else "not set"
    key = "" if option == CONFIG_FILE else f"`{option.name}`"
    cells = [code(*option.flags), f"`{option.variable}`", key, value(option), default, notes(option)]
    return f"| {' | '.join(cells)} |\n"


def code(*names: str) -> str:
    return ", ".join(f"`{name}`" for name in names)


def value(option: Option) -> str:
    if option.repeatable:
        several = f"a repeated flag, a list, or separated by `{option.separator}` in the environment"
        return f"{option.kind.expected}, or several: {several}"
    return option.kind.expected


def notes(option: Option) -> str:
    if option.fallback_variable:
        return f"{option.help_text} `{option.fallback_variable}` says it where nothing else does."
    if option.replacing:
        return f"{option.help_text} Of {' and '.join(f'`{flag}`' for flag in option.replacing)} only the last counts."
    return option.help_text


if __name__ == "__main__":
    sys.exit(main())
