"""Options from every source, and the commands that take them."""

from __future__ import annotations

import importlib.util
import pickle
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import vintner.backend
from hypothesis import assume, given
from hypothesis import strategies as st
from vintner import __version__
from vintner.backend import Backends, Device
from vintner.cli import main
from vintner.config import CONFIG_FILE, ServerConfig, describe_options, load_config
from vintner.errors import ConfigError
from vintner.option_kinds import BOOLEAN, PORT, SECONDS, Kind, size
from vintner.options import NOT_SET, Option, UsageError, options_of

REPOSITORY = Path(__file__).parents[2]
OPTIONS = {option.name: option for option in options_of(ServerConfig)}

EXAMPLES: dict[str, tuple[str, object]] = {
    "model_repository": ("/models", (Path("/models"),)),
    "model_init_mode": ("ASYNC", "async"),
    "config_path": ("/etc/config.json", Path("/etc/config.json")),
    "model_name": ("digits", "digits"),
    "default_model_name": ("digits", "digits"),
    "host": ("127.0.0.1", "127.0.0.1"),
    "http_port": ("9000", 9000),
    "grpc_port": ("0", 0),
    "metrics_port": ("65535", 65535),
    "ovms_metrics": ("on", True),
    "log_level": ("DEBUG", "debug"),
    "log_format": ("json", "json"),
    "access_log": ("on", True),
    "cache_dir": ("/cache", Path("/cache")),
    "max_request_bytes": ("1GiB", 1 << 30),
    "max_json_nesting": ("7", 7),
    "max_json_keys": ("8", 8),
    "max_json_outputs": ("9", 9),
    "max_json_arrays": ("9", 9),
    "workers": ("2", 2),
    "http_header_timeout_seconds": ("0.5", 0.5),
    "http_body_timeout_seconds": ("120", 120.0),
    "http_docs": ("no", False),
    "request_timeout_seconds": ("2.5", 2.5),
    "max_message_bytes": ("4Mi", 4 << 20),
    "max_concurrent_requests": ("1", 1),
    "grpc_fast_path": ("off", "off"),
    "grpc_response_compression": ("low", "low"),
    "grpc_keepalive_seconds": ("30", 30.0),
    "grpc_keepalive_timeout_seconds": ("0.5", 0.5),
    "grpc_keepalive_permit_without_calls": ("on", True),
    "grpc_min_ping_interval_seconds": ("0", 0.0),
    "grpc_max_ping_strikes": ("0", 0),
    "grpc_max_connection_age_seconds": ("3600", 3600.0),
    "grpc_max_connection_age_grace_seconds": ("0", 0.0),
    "response_cache_bytes": ("0", 0),
    "rate_limit_resource": ("a:b:2", (("a:b", 2),)),
    "repository_poll_seconds": ("0.5", 0.5),
    "repository_settle_seconds": ("0", 0.0),
    "require_ready_marker": ("on", True),
    "follow_external_links": ("yes", True),
    "model_load_threads": ("2", 2),
    "model_control": ("Explicit", "explicit"),
    "load_model": ("a:b", ("a:b",)),
    "allow_model_upload": ("on", True),
    "allow_client_shm": ("on", True),
    "max_upload_bytes": ("5Mi", 5 << 20),
    "model_memory_budget": ("8GiB", 8 << 30),
    "upload_dir": ("/uploads", Path("/uploads")),
    "strict_readiness": ("off", False),
    "drain_seconds": ("2.5", 2.5),
    "exit_timeout_seconds": ("0", 0.0),
}
"""For each option a text and its value, which is not the default."""


def load(*arguments: str, **environment: str) -> ServerConfig:
    return load_config(arguments, environment)


def defaults_but(name: str, value: Any) -> ServerConfig:
    return replace(ServerConfig(), **{name: value})


def message(*arguments: str, **environment: str) -> str:
    with pytest.raises(ConfigError) as raised:
        load(*arguments, **environment)
    return str(raised.value)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "vintner.yaml"


# Every option, from every source


def test_there_is_an_example_of_every_option() -> None:
    assert EXAMPLES.keys() == OPTIONS.keys()
    assert all(value != OPTIONS[name].default for name, (_, value) in EXAMPLES.items())


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_option_is_set_by_its_flag(name: str) -> None:
    text, value = EXAMPLES[name]
    assert load(f"{OPTIONS[name].flag}={text}") == defaults_but(name, value)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_option_is_set_by_its_environment_variable(name: str) -> None:
    text, value = EXAMPLES[name]
    assert load(**{f"VINTNER_{name.upper()}": text}) == defaults_but(name, value)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_option_is_set_by_its_key_in_the_file(name: str, file: Path) -> None:
    text, value = EXAMPLES[name]
    file.write_text(f"{name}: {text}\n")
    assert load(f"--config={file}") == defaults_but(name, value)


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_flag_overrules_the_environment_which_overrules_the_file(name: str, file: Path) -> None:
    option = OPTIONS[name]
    text, value = EXAMPLES[name]
    other = option.default_text or "other"
    file.write_text(f"{name}: {other}\n")
    assert getattr(load(f"--config={file}", **{option.variable: text}), name) == value
    assert getattr(load(option.flag + "=" + text, **{option.variable: other}), name) == value


def test_the_file_overrules_the_default(file: Path) -> None:
    file.write_text("http_port: 1\n")
    assert load(f"--config={file}") == replace(ServerConfig(), http_port=1)


def test_without_any_source_the_defaults_hold() -> None:
    assert load() == ServerConfig()


@pytest.mark.parametrize("option", OPTIONS.values(), ids=OPTIONS.keys())
def test_the_default_as_it_is_shown_is_the_default(option: Option) -> None:
    shown = option.default_text
    assert getattr(load(f"{option.flag}={shown}"), option.name) == option.default
    assert shown == "" or option.kind.parse(shown) == option.default


def test_a_configuration_survives_pickling() -> None:
    config = load("--model-repository=/models", "--cache-dir=/cache")
    assert pickle.loads(pickle.dumps(config)) == config


# The command line


@pytest.mark.parametrize("spelling", ["--http-port", "--http_port", "--rest-port", "--rest_port"])
def test_a_flag_has_spellings_and_takes_its_value_either_way(spelling: str) -> None:
    assert load(spelling, "9000").http_port == 9000
    assert load(f"{spelling}=9000").http_port == 9000


def test_underscores_in_a_value_stay() -> None:
    assert load("--model_name=text_lines").model_name == "text_lines"


def test_only_the_first_equals_sign_ends_a_flag() -> None:
    assert load("--cache-dir=/a=b").cache_dir == Path("/a=b")


def test_of_a_repeated_flag_the_last_wins_in_any_spelling() -> None:
    assert load("--http-port=bad", "--http_port=1", "--rest-port", "2").http_port == 2


@pytest.mark.parametrize(
    ("flag", "name", "value"),
    [
        ("--exit-timeout-secs=7", "exit_timeout_seconds", 7.0),
        ("--http-max-input-size=1024", "max_request_bytes", 1024),
        ("--repository-poll-secs=2", "repository_poll_seconds", 2.0),
        ("--model-control-mode=explicit", "model_control", "explicit"),
        ("--model_dir=x", "model_repository", (Path("x"),)),
        ("--rest_port=7", "http_port", 7),
    ],
)
def test_other_servers_spellings_of_a_flag_are_known(flag: str, name: str, value: object) -> None:
    assert getattr(load(*() if name == "model_repository" else ("--model-repository=m",), flag), name) == value


def test_a_repeatable_flag_collects_in_order() -> None:
    config = load("--model-repository", "b:c", "--model_dir=a", "--model-dir=")
    assert config.model_repository == (Path("b:c"), Path("a"))


@pytest.mark.parametrize("last", ["--model_dir=c", "--model-path=c"])
def test_of_the_flags_for_one_directory_the_last_wins_and_the_others_add(last: str) -> None:
    config = load("--model_dir=a", "--model-repository=b", last, "--model_dir=<no value>", "--model-repository=d")
    assert config.model_repository == (Path("b"), Path("c"), Path("d"))


def test_kserves_word_for_models_that_come_later_is_only_a_default() -> None:
    assert load(MODEL_INIT_MODE="async").model_init_mode == "async"
    assert load("--model-init-mode=sync", MODEL_INIT_MODE="async").model_init_mode == "sync"
    assert message(MODEL_INIT_MODE="lazy") == "MODEL_INIT_MODE: expected one of sync, async, got 'lazy'"


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--strict-readiness", True),
        ("--strict_readiness", True),
        ("--strict-readiness=false", False),
        ("--no-strict-readiness", False),
        ("--no_strict_readiness", False),
    ],
)
def test_a_boolean_flag_has_three_forms(flag: str, value: bool) -> None:
    opposite = "no" if value else "yes"
    assert load(flag, VINTNER_STRICT_READINESS=opposite).strict_readiness is value


def test_of_a_boolean_and_its_negation_the_last_wins() -> None:
    assert load("--no-strict-readiness", "--strict-readiness").strict_readiness is True
    assert load("--strict-readiness", "--no-strict-readiness").strict_readiness is False


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--http-prot=1"], "unknown option '--http-prot'; did you mean '--http-port'?"),
        (["--grpc_prt", "1"], "unknown option '--grpc_prt'; did you mean '--grpc-port'?"),
        (["--htp-port"], "unknown option '--htp-port'; did you mean '--http-port'?"),
        (["--no-strict-rediness"], "unknown option '--no-strict-rediness'; did you mean '--no-strict-readiness'?"),
        (["-p", "1"], "unknown option '-p'; expected one of: --access-log, --allow-client-shm, --allow-model-upload, "),
        (["models"], "unexpected argument 'models'"),
        (["--strict-readiness", "false"], "unexpected argument 'false'"),
        (["--http-port"], "--http-port: needs a value, an integer from 0 to 65535"),
        (["--http_port", "--grpc-port=1"], "--http_port: needs a value, an integer from 0 to 65535"),
        (["--no-strict-readiness=true"], "--no-strict-readiness: takes no value; --strict-readiness does"),
    ],
)
def test_a_malformed_command_line_is_a_usage_error(arguments: list[str], expected: str) -> None:
    with pytest.raises(UsageError) as raised:
        load(*arguments)
    assert str(raised.value).startswith(expected)


@given(st.sampled_from(sorted(OPTIONS)), st.data())
def test_a_flag_is_never_abbreviated(name: str, data: st.DataObject) -> None:
    flag = OPTIONS[name].flag
    shorter = flag[: data.draw(st.integers(3, len(flag) - 1))]
    assume(shorter != "--config")  # which is an option too, and the beginning of --config-path
    with pytest.raises(UsageError, match="unknown option"):
        load(f"{shorter}=1")


# Not set


@pytest.mark.parametrize("nothing", [*sorted(NOT_SET), " "])
@pytest.mark.parametrize("name", EXAMPLES)
def test_an_empty_value_leaves_the_option_to_the_next_source(name: str, nothing: str, file: Path) -> None:
    option = OPTIONS[name]
    text, value = EXAMPLES[name]
    file.write_text(f"{name}: {text}\n")
    config = load(f"--config={file}", f"{option.flag}={nothing}", **{option.variable: nothing})
    assert config == defaults_but(name, value)


def test_an_empty_flag_does_not_undo_an_earlier_one() -> None:
    assert load("--model-name=digits", "--model-name", "").model_name == "digits"


@pytest.mark.parametrize("nothing", ["", "null", "~", "''", "<no value>"])
def test_a_null_in_the_file_is_not_set(nothing: str, file: Path) -> None:
    file.write_text(f"cache_dir: {nothing}\nmodel_name: {nothing}\nhttp_port: {nothing}")
    assert load(f"--config={file}") == ServerConfig()


def test_tritons_spelling_of_model_control_works() -> None:
    config = load("--model-control-mode=explicit", "--load-model=a", "--load-model", "b")
    assert (config.model_control, config.load_model) == ("explicit", ("a", "b"))
    assert load(VINTNER_LOAD_MODEL="a,b").load_model == ("a", "b")


# The environment


def test_resources_in_the_environment_are_separated_by_commas() -> None:
    config = load(VINTNER_RATE_LIMIT_RESOURCE="gpu:2,disk:1")
    assert config.rate_limit_resource == (("gpu", 2), ("disk", 1))


@pytest.mark.parametrize("text", ["gpu", "gpu:0", ":2", "gpu:two", "gpu:1,disk:2"])
def test_a_resource_without_a_name_or_a_number_of_units_is_refused(text: str) -> None:
    expected = "expected a resource and how many units there are, such as disk:2, got"
    assert message("--rate-limit-resource", text) == f"--rate-limit-resource: {expected} {text!r}"


def test_directories_in_the_environment_are_separated_as_in_a_search_path() -> None:
    config = load(VINTNER_MODEL_REPOSITORY="/a::/b")
    assert config.model_repository == (Path("/a"), Path("/b"))


def test_variables_that_kubernetes_sets_for_services_are_ignored() -> None:
    config = load(
        VINTNER_PORT="tcp://10.0.0.1:8000",
        VINTNER_SERVICE_HOST="10.0.0.1",
        VINTNER_HTTP_PORT="tcp://10.0.0.1:8000",
        VINTNER_HTTP_PROT="typo",
    )
    assert config == ServerConfig()


def test_the_name_of_the_inference_service_is_only_a_default(file: Path) -> None:
    assert load(INFERENCE_SERVICE_NAME="service").default_model_name == "service"
    assert load(INFERENCE_SERVICE_NAME="service").model_name is None
    assert load("--default-model-name=other", INFERENCE_SERVICE_NAME="service").default_model_name == "other"
    assert load(INFERENCE_SERVICE_NAME="<no value>").default_model_name is None


# The file


def test_the_environment_can_name_the_file_and_a_flag_overrules_it(file: Path) -> None:
    file.write_text("http_port: 1")
    assert load(VINTNER_CONFIG=str(file)).http_port == 1
    assert load(f"--config={file}", VINTNER_CONFIG="/nowhere.yaml").http_port == 1


def test_keys_of_the_file_may_have_dashes_and_directories_be_a_list(file: Path) -> None:
    file.write_text("model-repository: [/a, ~, /b:c]\ngrpc-port: 1")
    config = load(f"--config={file}")
    assert config.model_repository == (Path("/a"), Path("/b:c"))
    assert config.grpc_port == 1


@pytest.mark.parametrize("name", ["1.10", "0x10", "010", "2024-01-01", "1_000", "no", "'null'"])
def test_a_value_in_the_file_is_read_as_it_is_written(name: str, file: Path) -> None:
    file.write_text(f"model_name: {name}")
    assert load(f"--config={file}").model_name == name.strip("'")


@pytest.mark.parametrize("content", ["", "# nothing\n", "{}", "---\n"])
def test_an_empty_file_sets_nothing(content: str, file: Path) -> None:
    file.write_text(content)
    assert load(f"--config={file}") == ServerConfig()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("http_prot: 1", ": unknown key 'http_prot'; did you mean 'http_port'?"),
        ("log-levle: info", ": unknown key 'log-levle'; did you mean 'log_level'?"),
        ("config: other.yaml", ": unknown key 'config'; did you mean 'config_path'?"),
        ("zzz: other.yaml", ": unknown key 'zzz'; expected one of: access_log, allow_client_shm, allow_model_upload, "),
        ("http_port: 1\nhttp-port: 2", ":http_port: given twice"),
        ("http_port: true", ":http_port: expected an integer from 0 to 65535, got 'true'"),
        ("http_port: [1]", ":http_port: expected an integer from 0 to 65535, got a list"),
        ("model_repository: {a: b}", ":model_repository: expected a directory, got a mapping"),
        ("model_repository: [[a]]", ":model_repository: expected a directory, got a list"),
        ("- http_port", ": expected a mapping of option names to values, got a list"),
        ("http_port", ": expected a mapping of option names to values, got a single value"),
        ("a: [1", ": is not YAML: while parsing a flow sequence"),
        ("a: \x07", ": is not YAML: unacceptable character #x0007: special characters are not allowed"),
    ],
)
def test_a_mistake_in_the_file_is_one_line_that_names_it(content: str, expected: str, file: Path) -> None:
    file.write_text(content)
    text = message(f"--config={file}")
    assert text.startswith(f"{file}{expected}")
    assert "\n" not in text


def test_a_file_that_cannot_be_read_is_named_with_the_reason(file: Path) -> None:
    assert message(f"--config={file}") == f"{file}: cannot be read: No such file or directory"
    assert message(f"--config={file.parent}") == f"{file.parent}: cannot be read: Is a directory"
    file.write_bytes(b"model_name: \xff")
    assert message(f"--config={file}") == f"{file}: cannot be read: it is not UTF-8"


# Values


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("http_port", "65536", "an integer from 0 to 65535"),
        ("grpc_port", "-1", "an integer from 0 to 65535"),
        ("metrics_port", "80.0", "an integer from 0 to 65535"),
        ("log_level", "verbose", "one of debug, info, warning, error"),
        ("log_format", "xml", "one of text, json"),
        ("max_request_bytes", "0", "a number of bytes, such as 1048576, 512KiB, 64MiB or 1GiB"),
        ("max_request_bytes", "64M", "a number of bytes, such as 1048576, 512KiB, 64MiB or 1GiB"),
        ("max_request_bytes", "64MB", "a number of bytes, such as 1048576, 512KiB, 64MiB or 1GiB"),
        ("max_message_bytes", "2GiB", "a number of bytes up to 2147483647, such as 1048576, 512KiB, 64MiB or 1GiB"),
        ("max_concurrent_requests", "0", "an integer of at least 1"),
        ("model_load_threads", "four", "an integer of at least 1"),
        ("strict_readiness", "maybe", "true or false"),
        ("drain_seconds", "-0.1", "a number of seconds, 0 or more"),
        ("drain_seconds", "nan", "a number of seconds, 0 or more"),
        ("exit_timeout_seconds", "inf", "a number of seconds, 0 or more"),
        ("exit_timeout_seconds", "30s", "a number of seconds, 0 or more"),
    ],
)
def test_a_bad_value_is_named_with_its_place_and_what_was_expected(
    name: str, text: str, expected: str, file: Path
) -> None:
    option = OPTIONS[name]
    file.write_text(f"{name}: {text}")
    assert message(f"{option.flag}={text}") == f"{option.flag}: expected {expected}, got '{text}'"
    assert message(**{option.variable: text}) == f"{option.variable}: expected {expected}, got '{text}'"
    assert message(f"--config={file}") == f"{file}:{name}: expected {expected}, got '{text}'"


def test_a_bad_value_is_named_in_the_spelling_that_was_used() -> None:
    assert message("--rest_port", "x") == "--rest_port: expected an integer from 0 to 65535, got 'x'"


NUMBERS = st.from_regex(r"[-+]?[0-9.]{1,6}( ?[KMG]i?B?)?", fullmatch=True)


@given(st.sampled_from([PORT, SECONDS, BOOLEAN, size(), size(low=0)]), st.text() | NUMBERS)
def test_a_text_is_either_no_value_or_one_that_can_be_written_and_read_back(kind: Kind[object], text: str) -> None:
    with suppress(ValueError):
        value = kind.parse(text)
        assert kind.parse(kind.write(value)) == value


@given(st.integers(0, 1 << 60))
def test_a_size_is_read_back_as_it_was_written(number: int) -> None:
    assert size(low=0).parse(size(low=0).write(number)) == number


def test_only_some_sizes_may_be_0() -> None:
    assert size(low=0).write(0) == "0"
    assert message("--max-request-bytes=0").startswith("--max-request-bytes: expected a number of bytes")


@given(st.floats(min_value=0, allow_infinity=False))
def test_seconds_are_read_back_as_they_were_written(seconds: float) -> None:
    assert SECONDS.parse(SECONDS.write(seconds)) == seconds


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("7", 7),
        ("1KiB", 1024),
        ("64Mi", 64 << 20),
        ("64 mib", 64 << 20),
        ("2GiB", 2 << 30),
        ("1tI", 1 << 40),
    ],
)
def test_sizes_take_binary_suffixes(text: str, number: int) -> None:
    assert size().parse(text) == number


@pytest.mark.parametrize(("word", "value"), [("true", True), ("Yes", True), ("ON", True), ("1", True), ("0", False)])
def test_booleans_are_read_in_the_usual_words(word: str, value: bool) -> None:
    assert BOOLEAN.parse(word) is value


# The document


@pytest.fixture
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generator", REPOSITORY / "scripts" / "generate_options_doc.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_document_of_the_options_is_current(generator: ModuleType) -> None:
    assert generator.main(["--check"]) == 0


def test_a_stale_document_is_noticed_and_renewed(
    generator: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    document = tmp_path / "options.md"
    monkeypatch.setattr(generator, "DOCUMENT", document)
    assert generator.main(["--check"]) == 1
    assert generator.main([]) == 0
    assert generator.main(["--check"]) == 0
    document.write_text("old")
    assert generator.main(["--check"]) == 1
    assert capsys.readouterr().err.count("options.md is stale") == 2


# The commands


@dataclass(frozen=True)
class FakeFinding:
    model: str
    version: int | None
    problem: str | None
    detail: str


class Application(ModuleType):
    """Stands for the modules that the commands import."""

    def __init__(self) -> None:
        super().__init__("application")
        self.served: list[ServerConfig] = []
        self.validated: list[tuple[Path, str | None]] = []
        self.findings: list[FakeFinding] = []

    def serve(self, config: ServerConfig) -> int:
        self.served.append(config)
        return 7

    def validate(self, root: Path, model_name: str | None) -> Sequence[FakeFinding]:
        self.validated.append((root, model_name))
        return self.findings


@pytest.fixture
def application(monkeypatch: pytest.MonkeyPatch) -> Application:
    application = Application()
    monkeypatch.setitem(sys.modules, "vintner.app", application)
    monkeypatch.setitem(sys.modules, "vintner.validation", application)
    return application


@pytest.fixture
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for option in describe_options():
        monkeypatch.delenv(option.variable, raising=False)
    monkeypatch.delenv("INFERENCE_SERVICE_NAME", raising=False)


@pytest.mark.usefixtures("no_environment")
def test_serve_passes_the_configuration_on_and_returns_the_exit_code(
    application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VINTNER_GRPC_PORT", "0")
    assert main(["serve", "--model-repository", "/models"]) == 7
    assert application.served == [ServerConfig(model_repository=(Path("/models"),), grpc_port=0)]


@pytest.mark.usefixtures("no_environment")
def test_serve_without_a_repository_is_an_error(application: Application, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve"]) == 1
    expected = "no model repository: give --model-repository DIR or set VINTNER_MODEL_REPOSITORY, or --config-path FILE"
    assert capsys.readouterr().err == f"vintner: error: {expected}\n"
    assert application.served == []


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        ([], 2, "no command given; expected serve, devices, validate, health, --version or --help"),
        (["srve"], 2, "unknown command 'srve'; did you mean 'serve'?"),
        (["devices", "CPU"], 2, "unexpected argument 'CPU'"),
        (["--version", "serve"], 2, "unexpected argument 'serve'"),
        (["serve", "--http-prot=1"], 2, "unknown option '--http-prot'; did you mean '--http-port'?"),
        (["serve", "--http-port=x\ny"], 1, r"--http-port: expected an integer from 0 to 65535, got 'x\ny'"),
        (["serve", "--config=/no\x1bwhere"], 1, r"/no\x1bwhere: cannot be read: No such file or directory"),
        (["validate"], 2, "validate takes one directory, got 0"),
        (["validate", "a", "b"], 2, "validate takes one directory, got 2"),
        (["validate", "a", "--http-port=1"], 2, "unknown option '--http-port'; expected one of: --model-name"),
        (
            ["health", "--drain-seconds=1"],
            2,
            "unknown option '--drain-seconds'; expected one of: --config, --host, --http-port, --rest-port",
        ),
        (["health", "now"], 2, "unexpected argument 'now'"),
        (
            ["health", "--http-port=0"],
            1,
            "--http-port: is 0, which does not say where the server listens; expected its port",
        ),
    ],
)
def test_a_mistake_is_one_line_and_an_exit_code(
    arguments: list[str], code: int, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == code
    assert capsys.readouterr() == ("", f"vintner: error: {expected}\n")


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["serve", "--help"], ["validate", "--model-name", "-h"]])
def test_help_shows_each_option_with_default_and_variable(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 0
    text = " ".join(capsys.readouterr().out.split())
    for option in describe_options():
        shown = f"--[no-]{option.flag[2:]}" if option.negation else f"{option.flag} {option.kind.metavar}"
        assert f"{shown} {option.help_text} [" in text
        assert option.variable in text
    assert "[default 64MiB; VINTNER_RESPONSE_CACHE_BYTES]" in text
    assert "also --model-dir" in text
    assert "VINTNER_DEFAULT_MODEL_NAME; INFERENCE_SERVICE_NAME" in text


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"vintner {__version__}\n"


@pytest.mark.parametrize("argument", ["--version", "--help"])
def test_version_and_help_import_no_runtime(argument: str) -> None:
    heavy = "{'numpy', 'openvino', 'onnxruntime', 'grpc', 'granian', 'pydantic', 'google.protobuf'}"
    code = f"import sys; from vintner.cli import main; main([{argument!r}]); print(sorted({heavy} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.splitlines()[-1] == "[]"


class FakeBackend:
    def __init__(self, *devices: Device) -> None:
        self._devices = devices

    def devices(self) -> Sequence[Device]:
        return self._devices


class MissingLibrary:
    name = "broken"

    def load(self) -> None:
        raise ImportError("libbroken.so.1:\n  cannot open shared object file")


def test_devices_are_shown_aligned_by_backend(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    several = FakeBackend(Device("CPU", "a processor"), Device("GPU.0", "a card"))
    backends = Backends({"broken": MissingLibrary()}, {"openvino": several, "none": FakeBackend()})  # type: ignore[dict-item]
    monkeypatch.setattr(vintner.backend, "Backends", lambda: backends)
    assert main(["devices"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "openvino",
        "  CPU    a processor",
        "  GPU.0  a card",
        "backend 'broken' cannot be imported: libbroken.so.1: cannot open shared object file",
        "none",
        "  no devices",
    ]


def test_validate_shows_a_line_for_each_version(application: Application, capsys: pytest.CaptureFixture[str]) -> None:
    application.findings = [
        FakeFinding("digits", 1, None, "openvino  image FP32[-1,1,8,8] -> scores FP32[-1,10]"),
        FakeFinding("text", None, None, ""),
    ]
    assert main(["validate", "models"]) == 0
    assert application.validated == [(Path("models"), None)]
    assert capsys.readouterr().out.splitlines() == [
        "ok   digits/1  openvino  image FP32[-1,1,8,8] -> scores FP32[-1,10]",
        "ok   text",
    ]


def test_validate_fails_if_one_version_is_bad(application: Application, capsys: pytest.CaptureFixture[str]) -> None:
    application.findings = [
        FakeFinding("digits", 1, None, "fine"),
        FakeFinding("digits", 10, "no such\nfile", "ignored"),
    ]
    assert main(["validate", "--model_name=flat", "models"]) == 1
    assert application.validated == [(Path("models"), "flat")]
    assert capsys.readouterr().out.splitlines() == ["ok   digits/1   fine", r"bad  digits/10  no such\nfile"]


def test_validate_of_a_place_without_models_is_an_error(
    application: Application, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["validate", "models"]) == 1
    assert capsys.readouterr() == ("", "vintner: error: no model found in models\n")


def test_the_options_of_the_server_do_not_include_the_file_itself() -> None:
    assert CONFIG_FILE.name not in OPTIONS
    assert [option.name for option in describe_options()] == [*OPTIONS, CONFIG_FILE.name]
