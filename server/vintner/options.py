"""Options: where their texts come from, and how a text becomes a value.

Knows no particular option. `config` declares each as a field of a dataclass, and the flag, the environment variable,
the key of the configuration file and the docs derive from the field. All sources give texts, and one parser for each
kind of value reads them, so `64MiB` or `off` means the same wherever it is written.
Invariant: what a source gives is used, overruled by a stronger source, or a ConfigError that names the place.

argparse is not used: it knows neither several spellings of all flags, nor values that mean "not set", nor which
source a bad value came from, and it would have to be told each option a second time.
"""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

import yaml

from vintner.errors import ConfigError, nearest
from vintner.option_kinds import BOOLEAN, Kind

ENVIRONMENT_PREFIX: Final = "VINTNER_"
NOT_SET: Final = frozenset({"", "<no value>"})
"""How a Kubernetes template renders a key that is missing."""
SERVICE_ADDRESS: Final = re.compile(r"(tcp|udp|sctp)://")
"""Kubernetes sets VINTNER_HTTP_PORT to such an address in every pod beside a Service named `vintner-http`."""
YAML_NULL: Final = "tag:yaml.org,2002:null"
SHAPES: Final[Mapping[type[yaml.Node], str]] = {
    yaml.ScalarNode: "a single value",
    yaml.SequenceNode: "a list",
    yaml.MappingNode: "a mapping",
}


class UsageError(ConfigError):
    """The command line itself is wrong: an unknown command or flag, or a word too many or too few."""


@dataclass(frozen=True, slots=True)
class Option:
    """An option, and the names that derive from its own: `http_port`, `--http-port`, `VINTNER_HTTP_PORT`."""

    name: str
    default: Any
    kind: Kind[Any]
    help_text: str
    aliases: tuple[str, ...] = ()
    """Further flags."""
    repeatable: bool = False
    """The value is a tuple of the kind's values; else the last of several wins."""
    replacing: tuple[str, ...] = ()
    """Those aliases of a repeatable option that stand for one value, as on other servers: of them the last wins."""
    separator: str = os.pathsep
    """Between the values of a repeatable option in its variable."""
    fallback_variable: str | None = None
    """An environment variable that others set, weaker than every other source."""

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def negation(self) -> str | None:
        """The flag that says false, where the kind is a boolean."""
        return "--no-" + self.flag.removeprefix("--") if self.kind is BOOLEAN else None

    @property
    def flags(self) -> Sequence[str]:
        return [self.flag, *self.aliases, *([self.negation] if self.negation else [])]

    @property
    def variable(self) -> str:
        return ENVIRONMENT_PREFIX + self.name.upper()

    @property
    def default_text(self) -> str:
        """The default as one would write it; "" if the option is not set by default."""
        return "" if self.default in (None, ()) else self.kind.write(self.default)


def as_option(kind: Kind[Any], help_text: str, **more: Any) -> Mapping[str, Any]:
    """The `metadata` of a dataclass field that is an option; `more` are further fields of `Option`."""
    return {"kind": kind, "help_text": help_text, **more}


def options_of(declaration: type) -> Sequence[Option]:
    """The options that a dataclass declares, in its order."""
    return [Option(field.name, field.default, **field.metadata) for field in fields(declaration)]


@dataclass(frozen=True, slots=True)
class Given:
    """A text for an option, and the place where it was found, in the words of its author."""

    option: Option
    text: str
    origin: str

    @property
    def is_set(self) -> bool:
        return self.text.strip() not in NOT_SET

    def value(self) -> Any:
        """Raises ConfigError if the text is not of the option's kind."""
        try:
            return self.option.kind.parse(self.text)
        except ValueError as exc:
            raise ConfigError(f"{self.origin}: expected {self.option.kind.expected}, got {self.text!r}") from exc


def settle(options: Sequence[Option], *sources: Iterable[Given]) -> dict[str, Any]:
    """The values of those options that a source sets, by name; the strongest source comes first.

    Raises ConfigError if a text that wins is not of its option's kind.
    """
    chosen: dict[str, list[Given]] = {}
    for source in sources:
        found: dict[str, list[Given]] = {}
        for given in source:
            if given.is_set:
                found.setdefault(given.option.name, []).append(given)
        chosen = found | chosen
    return {option.name: _combine(option, chosen[option.name]) for option in options if option.name in chosen}


def _combine(option: Option, given: Sequence[Given]) -> Any:
    if not option.repeatable:
        return given[-1].value()
    replacing = [each for each in given if each.origin.replace("_", "-") in option.replacing]
    return tuple(each.value() for each in given if each not in replacing or each is replacing[-1])


@dataclass(frozen=True, slots=True)
class CommandLine:
    """The words after the command: flags with their values, and the words that are neither."""

    given: Sequence[Given]
    operands: Sequence[str]


def read_command_line(arguments: Sequence[str], options: Sequence[Option]) -> CommandLine:
    """Takes `--flag value` and `--flag=value`, and underscores for dashes. Raises UsageError for an unknown flag."""
    by_flag = {flag: option for option in options for flag in option.flags}
    given: list[Given] = []
    operands: list[str] = []
    remaining = deque(arguments)
    while remaining:
        word = remaining.popleft()
        if word.startswith("-"):
            given.append(_read_flag(word, remaining, by_flag))
        else:
            operands.append(word)
    return CommandLine(given, operands)


def _read_flag(word: str, remaining: deque[str], by_flag: Mapping[str, Option]) -> Given:
    """Takes the flag's value off `remaining` if it is a word of its own."""
    written, equals, text = word.partition("=")
    option = by_flag.get(written.replace("_", "-"))
    if option is None:
        raise UsageError(f"unknown option {written!r}{nearest(written.replace('_', '-'), by_flag)}")
    if written.replace("_", "-") == option.negation:
        if equals:
            raise UsageError(f"{written}: takes no value; {option.flag} does")
        return Given(option, "false", written)
    if not equals:
        text = "true" if option.negation else _next_word(written, remaining, option)
    return Given(option, text, written)


def _next_word(written: str, remaining: deque[str], option: Option) -> str:
    if not remaining or remaining[0].startswith("--"):
        raise UsageError(f"{written}: needs a value, {option.kind.expected}")
    return remaining.popleft()


def read_environment(environment: Mapping[str, str], options: Sequence[Option]) -> Iterator[Given]:
    """Unknown variables are no errors: Kubernetes puts VINTNER_PORT and VINTNER_SERVICE_HOST there unasked."""
    for option in options:
        text = environment.get(option.variable, "")
        if not SERVICE_ADDRESS.match(text):
            for part in text.split(option.separator) if option.repeatable else [text]:
                yield Given(option, part, option.variable)


def read_fallbacks(environment: Mapping[str, str], options: Sequence[Option]) -> Iterator[Given]:
    """What variables with foreign names say."""
    for option in options:
        if option.fallback_variable:
            yield Given(option, environment.get(option.fallback_variable, ""), option.fallback_variable)


def read_file(path: Path, options: Sequence[Option]) -> Iterator[Given]:
    """Reads a YAML mapping from options' names to values. Raises ConfigError for an unknown key, or one given twice."""
    by_name = {option.name: option for option in options}
    seen: set[str] = set()
    for key_node, value_node in _read_mapping(path):
        key = str(key_node.value).replace("-", "_")
        if key not in by_name:
            raise ConfigError(f"{path}: unknown key {key_node.value!r}{nearest(key, by_name)}")
        if key in seen:
            raise ConfigError(f"{path}:{key}: given twice")
        seen.add(key)
        for text in _node_texts(value_node, by_name[key], f"{path}:{key}"):
            yield Given(by_name[key], text, f"{path}:{key}")


def _read_mapping(path: Path) -> Sequence[tuple[yaml.Node, yaml.Node]]:
    """The pairs of nodes of a file's mapping.

    Nodes keep the text of a scalar, which the loaded values do not: a model named 1.10 is not the number 1.1.
    """
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), yaml.SafeLoader)
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path}: cannot be read: {getattr(exc, 'strerror', None) or 'it is not UTF-8'}") from exc
    except yaml.YAMLError as exc:
        raise ConfigError(f"{path}: is not YAML: {' '.join(str(exc).split())}") from exc
    if node is None or node.tag == YAML_NULL:
        return []
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{path}: expected a mapping of option names to values, got {SHAPES[type(node)]}")
    pairs: Sequence[tuple[yaml.Node, yaml.Node]] = node.value
    return pairs


def _node_texts(node: yaml.Node, option: Option, origin: str) -> Iterator[str]:
    items: Sequence[yaml.Node] = node.value if option.repeatable and isinstance(node, yaml.SequenceNode) else [node]
    for item in items:
        if not isinstance(item, yaml.ScalarNode):
            raise ConfigError(f"{origin}: expected {option.kind.expected}, got {SHAPES[type(item)]}")
        yield "" if item.tag == YAML_NULL else item.value
