"""The command `vintner`: serve, devices, validate, health.

Knows how to read a command line and print an answer, and nothing else; what does the work is imported by the command
that needs it, so that `--version` and `--help` load no runtime. Invariant: a mistake of the operator's is one line
on standard error and an exit code, never a traceback: 1 if the operation failed, 2 if the command line is wrong.
"""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from vintner import __version__
from vintner.config import CONFIG_FILE, ServerConfig, describe_options, load_config
from vintner.errors import ConfigError, OperatorError, nearest
from vintner.logs import escape
from vintner.options import Option, UsageError, options_of, read_command_line, settle

if TYPE_CHECKING:
    from vintner.backend import Backend
    from vintner.validation import Finding

USAGE: Final = """\
Vintner serves OpenVINO and ONNX models over the Open Inference Protocol (KServe v2).

usage: vintner serve --model-repository DIR [option ...]   serve the models
       vintner devices                                     show what the backends can run on here
       vintner validate DIR [--model-name NAME]            check a repository without serving it
       vintner health [--http-port N] [--host ADDRESS]     ask a running server whether it is alive
       vintner --version | --help

Options of serve, with their environment variables. A flag overrules the environment, which overrules the
file; an empty value means "not set".
"""

COMMANDS: Final = ("serve", "devices", "validate", "health")
WHERE: Final = ("host", "http_port")
"""Options that say where a server is asked for its health."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code."""
    try:
        return _run(list(sys.argv[1:] if argv is None else argv))
    except OperatorError as exc:
        print(f"vintner: error: {escape(exc.message)}", file=sys.stderr)
        return 2 if isinstance(exc, UsageError) else 1


def _run(words: Sequence[str]) -> int:
    if "--help" in words or "-h" in words:
        return _show(_help_text())
    match words:
        case ["--version"]:
            return _show(f"vintner {__version__}")
        case ["serve", *arguments]:
            return _serve(arguments)
        case ["devices"]:
            return _devices()
        case ["validate", *arguments]:
            return _validate(arguments)
        case ["health", *arguments]:
            return _health(arguments)
        case ["devices" | "--version", extra, *_]:
            raise UsageError(f"unexpected argument {extra!r}")
        case [command, *_]:
            raise UsageError(f"unknown command {command!r}{nearest(command, COMMANDS)}")
    raise UsageError(f"no command given; expected {', '.join(COMMANDS)}, --version or --help")


def _show(text: str) -> int:
    print(text)
    return 0


def _help_text() -> str:
    return "\n".join([USAGE, *map(_option_help, describe_options())])


def _option_help(option: Option) -> str:
    flag = f"--[no-]{option.flag[2:]}" if option.negation else f"{option.flag} {option.kind.metavar}"
    notes = [f"default {option.default_text}"] if option.default_text else []
    notes += [f"may be repeated, in the variable with '{option.separator}' between"] if option.repeatable else []
    notes += [f"also {alias}" for alias in option.aliases]
    notes += [f"of {' and '.join(option.replacing)} only the last counts"] if option.replacing else []
    notes += filter(None, [option.variable, option.fallback_variable])
    text = f"{option.help_text} [{'; '.join(notes)}]"
    return f"  {flag}\n{textwrap.fill(text, 100, initial_indent=' ' * 8, subsequent_indent=' ' * 8)}"


def _serve(arguments: Sequence[str]) -> int:
    config = load_config(arguments, os.environ)
    if not config.model_repository and config.config_path is None:
        raise ConfigError(
            "no model repository: give --model-repository DIR or set VINTNER_MODEL_REPOSITORY, or --config-path FILE"
        )
    from vintner.app import serve as serve_until_signal

    return serve_until_signal(config)


def _devices() -> int:
    from vintner.backend import Backends

    backends = Backends()
    for name in backends.names:
        try:
            lines = _device_lines(backends.get(name))
        except OperatorError as exc:
            print(escape(" ".join(exc.message.split())))
        else:
            print(name, *lines, sep="\n")
    return 0


def _device_lines(backend: Backend) -> Sequence[str]:
    found = backend.devices()
    width = max((len(device.name) for device in found), default=0)
    return [f"  {device.name:<{width}}  {device.description}" for device in found] or ["  no devices"]


def _validate(arguments: Sequence[str]) -> int:
    options = [option for option in options_of(ServerConfig) if option.name == "model_name"]
    command_line = read_command_line(arguments, options)
    if len(command_line.operands) != 1:
        raise UsageError(f"validate takes one directory, got {len(command_line.operands)}")
    from vintner.validation import validate as findings_in

    root = Path(command_line.operands[0])
    findings = findings_in(root, settle(options, command_line.given).get("model_name"))
    if not findings:
        raise ConfigError(f"no model found in {root}")
    print(*_finding_lines(findings), sep="\n")
    return 1 if any(finding.problem is not None for finding in findings) else 0


def _finding_lines(findings: Sequence[Finding]) -> Iterable[str]:
    names = [f"{each.model}/{each.version}" if each.version is not None else each.model for each in findings]
    width = max(map(len, names))
    for name, finding in zip(names, findings, strict=True):
        verdict, text = ("ok", finding.detail) if finding.problem is None else ("bad", finding.problem)
        yield escape(f"{verdict:<4} {name:<{width}}  {text}").rstrip()


def _health(arguments: Sequence[str]) -> int:
    """Flags are only those that say where the server is; what else is known is the server's own."""
    read_command_line(arguments, [*(each for each in options_of(ServerConfig) if each.name in WHERE), CONFIG_FILE])
    from vintner.health import check, servers_arguments

    config = load_config([*servers_arguments(), *arguments], os.environ)
    return _show(f"alive: {check(config)}")
