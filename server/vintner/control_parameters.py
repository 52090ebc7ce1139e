"""The parameters of a load or an unload, as a front end has decoded them, read and checked.

Knows neither protocol, nor what the models do with it. Invariant: what is returned was understood as a whole; a
parameter that is unknown or of the wrong type is refused, and never dropped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, Final

from vintner.errors import InvalidArgument, nearest
from vintner.json_text import parse

Value = bool | int | str | bytes | Mapping[str, Any]
"""A parameter's: `bytes` are the content of a file, a mapping is a JSON object."""

NO_REPOSITORIES: Final = "'repository_name' specification is not supported"
"""Repositories have no names here, as in Triton."""

FILE: Final = "file:"
LOAD: Final = ("config", f"{FILE}<version>/<file>", "pin_version", "traffic")
UNLOAD: Final = ("unload_dependents",)
KINDS: Final[Mapping[type, str]] = {bool: "a boolean", int: "an integer", str: "a string", bytes: "bytes"}


@dataclass(frozen=True, slots=True)
class LoadParameters:
    """`config` is JSON text; `files` are by their path in the model's directory, and only there with a `config`.

    `pin_version` is 0 to take the pin away, `traffic` empty to have the configured one back; None: as it is.
    """

    config: str | None = None
    files: Mapping[str, bytes] = field(default_factory=dict)
    pin_version: int | None = None
    traffic: Mapping[str, Any] | None = None

    @property
    def loads(self) -> bool:
        """False if they only say which version answers: that is no load."""
        return self.config is not None or (self.pin_version is None and self.traffic is None)


def read_load(parameters: Mapping[str, Value]) -> LoadParameters:
    """Raises InvalidArgument that names the parameter and says what was expected."""
    files = {key.removeprefix(FILE): _file(key, value) for key, value in parameters.items() if key.startswith(FILE)}
    _refuse_unknown(parameters.keys() - {FILE + path for path in files}, LOAD, "a load")
    if files and "config" not in parameters:
        raise InvalidArgument(
            f"parameter '{FILE}{next(iter(files))}' needs the parameter 'config', the configuration of the model that"
            " is uploaded; '{}' will do"
        )
    config = parameters.get("config")
    if config is not None and not isinstance(config, str):
        raise _unfit("config", "a string of JSON", config)
    return LoadParameters(config, files, _pin(parameters.get("pin_version")), _traffic(parameters.get("traffic")))


def read_unload(parameters: Mapping[str, Value]) -> None:
    """Nothing here depends on another model, so `unload_dependents` asks for nothing. Raises as `read_load`."""
    _refuse_unknown(parameters.keys(), UNLOAD, "an unload")
    given = parameters.get("unload_dependents", False)
    if not isinstance(given, bool):
        raise _unfit("unload_dependents", "a boolean", given)


def read_object(text: str, what: str) -> Mapping[str, Any]:
    """The JSON object in a parameter's text. Raises InvalidArgument that begins with `what`."""
    try:
        document = parse(text.encode())
    except InvalidArgument as exc:
        raise InvalidArgument(f"{what}: {exc}") from exc
    if not isinstance(document, dict):
        raise InvalidArgument(f"{what}: expected a JSON object, such as {{}}")
    return document


def _refuse_unknown(keys: Set[str], known: Sequence[str], what: str) -> None:
    for key in sorted(keys - set(known)):
        raise InvalidArgument(f"unknown parameter '{key}' of {what}{nearest(key, known)}")


def _file(key: str, value: Value) -> bytes:
    if not isinstance(value, bytes):
        raise _unfit(key, "the bytes of a file", value)
    return value


def _pin(value: Value | None) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise _unfit("pin_version", "a version, or 0 for none", value)
    return value


def _traffic(value: Value | None) -> Mapping[str, Any] | None:
    if isinstance(value, str):
        return read_object(value, "parameter 'traffic'")
    if value is not None and not isinstance(value, Mapping):
        raise _unfit("traffic", "an object, such as {}", value)
    return value


def _unfit(name: str, expected: str, given: Value) -> InvalidArgument:
    shown = f"{given}" if type(given) is int else KINDS.get(type(given), "an object")
    return InvalidArgument(f"parameter '{name}' must be {expected}, got {shown}")
