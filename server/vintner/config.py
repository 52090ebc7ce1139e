"""The server's options, each declared once; everything else about them derives from the field.

Knows nothing of how an option takes effect. Precedence: flag, environment, configuration file, default.
Invariant: a `ServerConfig` from `load_config` holds only values that its options' kinds admit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, get_args

from vintner.grpc_connections import LEVELS, Compression
from vintner.logs import LogFormat, LogLevel
from vintner.option_kinds import (
    ADDRESS,
    BOOLEAN,
    DIRECTORY,
    FILE,
    NAME,
    PERIOD,
    PORT,
    RESOURCE,
    SECONDS,
    choice,
    integer,
    size,
)
from vintner.options import (
    Option,
    UsageError,
    as_option,
    options_of,
    read_command_line,
    read_environment,
    read_fallbacks,
    read_file,
    settle,
)

MIB: Final = 1 << 20
LARGEST_MESSAGE: Final = 2**31 - 1
"""gRPC counts a message's bytes in a signed 32-bit integer."""


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """What `vintner serve` was told."""

    model_repository: tuple[Path, ...] = field(
        default=(),
        metadata=as_option(
            DIRECTORY,
            "Directory of models: a repository, one versioned model, or the files of a single model.",
            aliases=("--model-dir", "--model-path"),
            replacing=("--model-dir", "--model-path"),
            repeatable=True,
        ),
    )
    model_init_mode: Literal["sync", "async"] = field(
        default="sync",
        metadata=as_option(
            choice(("sync", "async")),
            "With async, a model repository that is not there yet is waited for, as KServe's modelcar needs it.",
            fallback_variable="MODEL_INIT_MODE",
        ),
    )
    config_path: Path | None = field(
        default=None,
        metadata=as_option(FILE, "OpenVINO Model Server's config.json, whose models are served too."),
    )
    model_name: str | None = field(
        default=None,
        metadata=as_option(NAME, "Name of the model where the directory holds a single one."),
    )
    default_model_name: str | None = field(
        default=None,
        metadata=as_option(
            NAME,
            "Name of a single model, in DIR itself, that neither --model-name nor its configuration names.",
            fallback_variable="INFERENCE_SERVICE_NAME",
        ),
    )
    host: str = field(default="0.0.0.0", metadata=as_option(ADDRESS, "Address to listen on."))
    http_port: int = field(
        default=8000, metadata=as_option(PORT, "Port for REST; 0 picks a free one.", aliases=("--rest-port",))
    )
    grpc_port: int = field(default=8001, metadata=as_option(PORT, "Port for gRPC; 0 picks a free one."))
    metrics_port: int = field(
        default=8002,
        metadata=as_option(PORT, "Port for /metrics, which REST's port has too; 0 picks a free one."),
    )
    ovms_metrics: bool = field(
        default=False,
        metadata=as_option(BOOLEAN, "Count by OpenVINO Model Server's names, too: `ovms_*` in /metrics."),
    )
    log_level: LogLevel = field(
        default="info", metadata=as_option(choice(get_args(LogLevel)), "Least severe messages to log.")
    )
    log_format: LogFormat = field(
        default="text",
        metadata=as_option(choice(get_args(LogFormat)), "Log text for people or one JSON object a line."),
    )
    access_log: bool = field(default=False, metadata=as_option(BOOLEAN, "Log each request, whatever is logged else."))
    cache_dir: Path | None = field(
        default=None,
        metadata=as_option(DIRECTORY, "Where to keep compiled models between starts; without it they are not kept."),
    )
    max_request_bytes: int = field(
        default=64 * MIB,
        metadata=as_option(size(), "Largest REST body, after decompression.", aliases=("--http-max-input-size",)),
    )
    max_json_nesting: int = field(
        default=100,
        metadata=as_option(
            integer(1, 1000), "Arrays and objects within one another, in the JSON of an inference over REST."
        ),
    )
    max_json_keys: int = field(
        default=1024, metadata=as_option(integer(1), "Keys of one object in the JSON of an inference over REST.")
    )
    max_json_outputs: int = field(
        default=1024, metadata=as_option(integer(1), "Outputs that an inference over REST may ask for.")
    )
    max_json_arrays: int = field(
        default=1 << 22,
        metadata=as_option(integer(1), "Arrays and objects, all together, in the JSON of an inference over REST."),
    )
    workers: int = field(
        default=1,
        metadata=as_option(
            integer(1), "Processes, as KServe's Python server has them: only 1 is taken, which uses all cores."
        ),
    )
    http_header_timeout_seconds: float = field(
        default=65.0,
        metadata=as_option(
            PERIOD, "How long a REST client may take for the header of a request, also of the next on its connection."
        ),
    )
    http_body_timeout_seconds: float = field(
        default=65.0,
        metadata=as_option(
            PERIOD, "How long a REST client may take for the body of a request, beside 8 s for each MiB of it."
        ),
    )
    http_docs: bool = field(
        default=True,
        metadata=as_option(BOOLEAN, "Serve the description of REST: `/openapi.json`, and the page `/docs`."),
    )
    request_timeout_seconds: float = field(
        default=0.0,
        metadata=as_option(
            SECONDS, "How long an inference may take, once it has been received, over both protocols; 0 sets no bound."
        ),
    )
    max_message_bytes: int = field(
        default=LARGEST_MESSAGE, metadata=as_option(size(LARGEST_MESSAGE), "Largest gRPC message.")
    )
    grpc_fast_path: Literal["auto", "off"] = field(
        default="auto",
        metadata=as_option(
            choice(("auto", "off")),
            "Serve inferences over gRPC by a faster loop on grpcio's private interface, if it passes a check at start.",
        ),
    )
    grpc_response_compression: Compression = field(
        default="none",
        metadata=as_option(
            choice(LEVELS),
            "How hard to compress gRPC replies, for clients that take compressed ones.",
            aliases=("--grpc-infer-response-compression-level",),
        ),
    )
    grpc_keepalive_seconds: float | None = field(
        default=None,
        metadata=as_option(
            PERIOD, "Silence after which a gRPC client is asked for a sign of life; default: gRPC's, two hours."
        ),
    )
    grpc_keepalive_timeout_seconds: float | None = field(
        default=None,
        metadata=as_option(
            PERIOD, "Time for that sign of life, before the connection is closed; default: gRPC's, a minute."
        ),
    )
    grpc_keepalive_permit_without_calls: bool = field(
        default=False,
        metadata=as_option(BOOLEAN, "Ask gRPC clients without a call under way too, and let them ask."),
    )
    grpc_min_ping_interval_seconds: float | None = field(
        default=None,
        metadata=as_option(
            SECONDS, "Time that gRPC clients have to leave between their pings; default: gRPC's, five minutes."
        ),
    )
    grpc_max_ping_strikes: int | None = field(
        default=None,
        metadata=as_option(
            integer(0, LARGEST_MESSAGE),
            "Pings before that time for which a connection is left open; 0: any number; default: gRPC's, 2.",
            aliases=("--grpc-http2-max-ping-strikes",),
        ),
    )
    grpc_max_connection_age_seconds: float | None = field(
        default=None,
        metadata=as_option(PERIOD, "Age after which a gRPC connection takes no new calls: clients connect anew."),
    )
    grpc_max_connection_age_grace_seconds: float | None = field(
        default=None,
        metadata=as_option(SECONDS, "Time for the calls under way then, before they are cancelled; default: any."),
    )
    max_concurrent_requests: int = field(
        default=256,
        metadata=as_option(
            integer(1), "Inferences in the server at once, over both protocols; more are refused at once."
        ),
    )
    response_cache_bytes: int = field(
        default=64 * MIB,
        metadata=as_option(
            size(low=0), "Memory for the answers of models with `response_cache: true`; 0 keeps no answers."
        ),
    )
    rate_limit_resource: tuple[tuple[str, int], ...] = field(
        default=(),
        metadata=as_option(
            RESOURCE,
            "Units of a resource that models name in `rate_limiter`; default: as many as the largest claim of a model.",
            repeatable=True,
            separator=",",
        ),
    )
    repository_poll_seconds: float = field(
        default=2.0,
        metadata=as_option(
            PERIOD,
            "How often to look for changes where the file system does not tell of them.",
            aliases=("--repository-poll-secs",),
        ),
    )
    repository_settle_seconds: float = field(
        default=0.75,
        metadata=as_option(
            SECONDS, "For how long a version's or configuration's files must not change before they are taken."
        ),
    )
    require_ready_marker: bool = field(
        default=False,
        metadata=as_option(BOOLEAN, "Take only versions with a file `.ready`, written after all their other files."),
    )
    follow_external_links: bool = field(
        default=False, metadata=as_option(BOOLEAN, "Follow links in a repository that lead out of it.")
    )
    model_memory_budget: int | None = field(
        default=None,
        metadata=as_option(
            size(),
            "Memory for models, by the size of their files or `memory_bytes`; models that nobody uses make room.",
        ),
    )
    model_load_threads: int = field(
        default=4, metadata=as_option(integer(1), "Model versions that are loaded at the same time.")
    )
    allow_client_shm: bool = field(
        default=False,
        metadata=as_option(
            BOOLEAN,
            "Let clients on this machine register shared memory: they can have models read and write any object there.",
        ),
    )
    model_control: Literal["none", "poll", "explicit"] = field(
        default="poll",
        metadata=as_option(
            choice(("none", "poll", "explicit")),
            "What is loaded: what the repository has at the start; what it has at any time; what clients ask for.",
            aliases=("--model-control-mode",),
        ),
    )
    load_model: tuple[str, ...] = field(
        default=(),
        metadata=as_option(
            NAME,
            "Model to load at the start with `--model-control explicit`; `*` alone means all.",
            repeatable=True,
            separator=",",
        ),
    )
    allow_model_upload: bool = field(
        default=False,
        metadata=as_option(
            BOOLEAN,
            "Let clients upload the files of models with a load (`--model-control explicit`): they can run any model.",
        ),
    )
    max_upload_bytes: int = field(
        default=1024 * MIB, metadata=as_option(size(), "Largest upload of a model, all of its files together.")
    )
    upload_dir: Path | None = field(
        default=None,
        metadata=as_option(
            DIRECTORY, "Where to keep uploaded models while they are loaded; default: the system's temporary directory."
        ),
    )
    strict_readiness: bool = field(
        default=True, metadata=as_option(BOOLEAN, "Not ready if a model that was there at the start failed to load.")
    )
    drain_seconds: float = field(
        default=0.0,
        metadata=as_option(SECONDS, "How long to go on serving, reported as not ready, after SIGTERM."),
    )
    exit_timeout_seconds: float = field(
        default=30.0,
        metadata=as_option(
            SECONDS, "How long running work may take to finish, after that.", aliases=("--exit-timeout-secs",)
        ),
    )


CONFIG_FILE: Final = Option("config", None, FILE, "YAML file with options; flags and environment overrule it.")


def describe_options() -> Sequence[Option]:
    """What `vintner serve` accepts, in the order of its help."""
    return [*options_of(ServerConfig), CONFIG_FILE]


def load_config(arguments: Sequence[str], environment: Mapping[str, str]) -> ServerConfig:
    """The configuration for `vintner serve` with these arguments.

    Raises UsageError for a malformed command line, and ConfigError for a bad value, key or file.
    """
    command_line = read_command_line(arguments, describe_options())
    if command_line.operands:
        raise UsageError(f"unexpected argument {command_line.operands[0]!r}")
    variables = list(read_environment(environment, describe_options()))
    path = settle([CONFIG_FILE], command_line.given, variables).get(CONFIG_FILE.name)
    options = options_of(ServerConfig)
    file = list(read_file(path, options)) if path else []
    fallbacks = read_fallbacks(environment, options)
    return ServerConfig(**settle(options, command_line.given, variables, file, fallbacks))
