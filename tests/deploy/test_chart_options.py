"""The options of the server in the chart's schema: what that admits the server reads, and no option is left out."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml
from deploy.helm_render import CHART
from vintner.config import CONFIG_FILE, describe_options, load_config
from vintner.errors import ConfigError
from vintner.options import Option

CANDIDATES: list[Any] = [
    *(True, 0, 1, -1, 2, 70000, 2**31 - 1, 2**31, 2**40, 0.05, 0.1, 0.5),
    *(
        "",
        "0",
        "00",
        "1",
        "-1",
        "64MiB",
        "64 mi",
        "64M",
        "1GB",
        "0KiB",
        "1.5",
        "disk:2",
        "disk:0",
        "a:b:01",
        "a,b:1",
        ":1",
    ),
    *("none", "poll", "auto", "low", "debug", "json", "async", "*", "/somewhere", "1.10", "true"),
    *([], ["digits"], ["disk:2", "gpu:1"], ["disk"], [1], {}, {"a": 1}),
]
OPTIONS = [option for option in describe_options() if option != CONFIG_FILE]


@functools.cache
def described() -> Mapping[str, Any]:
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    properties: Mapping[str, Any] = schema["properties"]["server"]["properties"]["config"]["properties"]
    return properties


def admitted(option: Option) -> list[Any]:
    validator = jsonschema_rs.Draft7Validator(described()[option.name])
    return [candidate for candidate in CANDIDATES if validator.is_valid(candidate)]


def read(option: Option, value: Any, folder: Path) -> Any:
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump({option.name: value}), encoding="utf-8")
    return getattr(load_config([f"--config={file}"], {}), option.name)


def test_every_option_is_described() -> None:
    assert {option.name for option in OPTIONS} <= described().keys()


def test_options_that_the_chart_sets_are_refused_whatever_they_are() -> None:
    owned = [option for option in OPTIONS if not admitted(option)]
    assert {option.name for option in owned} == {
        *("model_repository", "model_name", "http_port", "grpc_port", "metrics_port", "log_format", "log_level"),
        *("cache_dir", "drain_seconds", "exit_timeout_seconds"),
    }


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_the_server_reads_what_the_schema_admits(option: Option, tmp_path: Path) -> None:
    for value in admitted(option):
        read(option, value, tmp_path)


OPEN = [option for option in OPTIONS if admitted(option)]


@pytest.mark.parametrize("option", OPEN, ids=lambda option: option.name)
def test_the_schema_admits_one_kind_of_value(option: Option) -> None:
    """Sizes are numbers or texts, and of what may be several, one may stand alone."""
    kinds = {bool: "boolean", int: "number", float: "number", str: "text", list: "list", dict: "mapping"}
    found = {kinds[type(value)] for value in admitted(option)}
    assert found in ({"boolean"}, {"number"}, {"text"}, {"number", "text"}, {"text", "list"})


@pytest.mark.parametrize("option", OPEN, ids=lambda option: option.name)
def test_the_schema_admits_what_the_server_reads(option: Option, tmp_path: Path) -> None:
    """Of its kind: a number that is written as a text, or a boolean as yes, is refused."""
    values = admitted(option)
    kinds = {type(value) for value in values} - {list}
    for value in CANDIDATES:
        if type(value) in kinds and value not in values and value != "":
            with pytest.raises(ConfigError):
                read(option, value, tmp_path)
