"""What a model's `config.yaml` may say, each key declared once, and how the file is read.

Knows nothing of where the file lies nor of what the model turns out to be: whether its tensors exist is checked when
it is loaded. Invariant: a `ModelConfig` is complete and its values are within bounds; a key that was left out, or
left empty, has its default.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Hashable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    ValidationError,
    model_validator,
)

from vintner import option_kinds
from vintner.errors import ConfigError, InvalidArgument, nearest
from vintner.types import DTYPES


@dataclass(frozen=True, slots=True)
class VersionPolicy:
    """Which of the versions that are there are served: those listed, else the `latest` highest, else (None) all."""

    latest: int | None = 1
    specific: frozenset[int] | None = None

    def select(self, present: Collection[int]) -> tuple[int, ...]:
        """In ascending order. A listed version that is not there is passed over."""
        if self.specific is not None:
            return tuple(sorted(self.specific.intersection(present)))
        ordered = sorted(present)
        return tuple(ordered if self.latest is None else ordered[-self.latest :])

    def __str__(self) -> str:
        if self.specific is not None:
            return f"specific {sorted(self.specific)}"
        return "all" if self.latest is None else f"latest {self.latest}"


def _version_policy(given: object) -> VersionPolicy:
    match given:
        case VersionPolicy():
            return given
        case "latest":
            return VersionPolicy()
        case "all":
            return VersionPolicy(latest=None)
        case {"latest": count, **others} if not others and _is_positive(count):
            return VersionPolicy(latest=count)
        case {"specific": [_, *_] as versions, **others} if not others and all(map(_is_positive, versions)):
            return VersionPolicy(specific=frozenset(versions))
    raise _unfit("latest, all, {latest: N} or {specific: [1, 3]} with positive integers", given)


def _is_positive(value: object) -> bool:
    return type(value) is int and value > 0  # True is an int too, but nobody means it as one


def _unfit(expected: str, given: object) -> ValueError:
    return ValueError(f"expected {expected}, got {_shown(given)}")


def _instances(given: object) -> object:
    if given == "auto":
        return None
    if not _is_positive(given):
        raise _unfit('a positive integer or "auto"', given)
    return given


def _some_pools(given: object) -> object:
    if given == []:
        raise _unfit("at least one pool, such as {device: CPU}", given)
    return given


def _size(given: object) -> int:
    kind = option_kinds.size()
    try:
        return kind.parse(str(given))
    except ValueError:
        raise _unfit(kind.expected, given) from None


def _datatype(given: str) -> str:
    if given not in DTYPES:
        raise ValueError(f"unknown datatype '{given}'{nearest(given.upper(), DTYPES)}")
    return given


def _filename(given: str) -> str:
    if given in (".", "..") or re.search(r"[/\\\0]", given):
        raise _unfit("a bare file name inside the version's directory", given)
    return given


def _label_file(given: str) -> str:
    if not LABEL_FILE.fullmatch(given):
        raise _unfit("the name of a file in the model's directory that ends in .txt", given)
    return given


def _label(given: str) -> str:
    if "/" in given:
        raise _unfit("a label without a slash, which cannot be part of a path", given)
    return given


def _batching(given: object) -> object:
    return {"enabled": given} if isinstance(given, bool) else given


def _warmup(given: object) -> object:
    if isinstance(given, bool):
        return [{}] if given else []
    return given


def _by_tensor(given: object) -> object:
    """Tensors are often named by number, which YAML reads as one; an entry without keys is as good as none."""
    if not isinstance(given, Mapping):
        return given
    return {str(key) if type(key) is int else key: {} if entry is None else entry for key, entry in given.items()}


LABEL_FILE: Final = re.compile(r"[^./\\\0][^/\\\0]*\.txt")
"""What may hold labels: of all that lies beside the versions of a model, files of these names belong to it."""

Name = Annotated[str, Field(min_length=1)]
BareName = Annotated[str, Field(min_length=1), AfterValidator(_filename)]
Label = Annotated[str, Field(min_length=1), AfterValidator(_label)]
Hint = Literal["throughput", "latency"]
Precision = Literal["f32", "f16", "bf16"]
Cores = Annotated[str, Field(min_length=1), BeforeValidator(lambda given: str(given) if type(given) is int else given)]
Count = Annotated[int, Field(strict=True, ge=1)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Percent = Annotated[float, Field(strict=True, gt=0, le=100)]
Shape = tuple[Annotated[int, Field(strict=True, ge=-1)], ...]


IN_PLACE: Final = frozenset(
    {
        "batching.larger_requests",
        "batching.max_queue_delay_seconds",
        "batching.preferred_batch_sizes",
        "batching.retry_failed",
        "execution_timeout_seconds",
        "idle_unload_seconds",
        "load",
        "load_timeout_seconds",
        "memory_bytes",
        "metric_tags",
        "queue",
        "reopen_after_failures",
        "resource_preserving",
        "response_cache",
        "traffic",
        "version_labels",
        "version_policy",
    }
)
"""Keys that can change while a model is served. Any other needs a load; so does one that nobody thought of here.

The rest of `batching` does: what else it says decides which shapes the model is opened with, and an order of answers
cannot begin or end among requests that are under way.
"""


TAG: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_]*")
"""With an underscore before it, it is a label; with two, it would be one that Prometheus keeps for itself."""


def _tags(given: Mapping[str, str]) -> Mapping[str, str]:
    for name in given:
        if not TAG.fullmatch(name):
            raise ValueError(f"expected letters, digits and underscores, a letter or digit first, got '{name}'")
    return given


class Section(BaseModel):
    """A group of keys: nothing but those declared, each of which may be left empty."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        for key in given:
            if key not in cls.model_fields:
                raise ValueError(f"unknown key '{key}'{nearest(str(key), cls._keys())}")
        return {key: value for key, value in given.items() if value is not None}

    @classmethod
    def _keys(cls) -> Iterator[str]:
        """All keys, those of the sections inside as `section.key`: one put a level too high is found there."""
        for name, declared in cls.model_fields.items():
            yield name
            if isinstance(declared.annotation, type) and issubclass(declared.annotation, Section):
                yield from (f"{name}.{key}" for key in declared.annotation._keys())


class BatchingConfig(Section):
    """Merging of requests. With `max_batch_size` the first dimension of every tensor is the batch; without it batching
    is derived from a dynamic first dimension. The model is compiled for each of `compiled_sizes`, and batches are
    padded to them; the largest is then the limit. A request with more rows than a limit that is set is refused, and
    run alone without one, unless `larger_requests` says otherwise."""

    enabled: StrictBool = True
    max_batch_size: Count | None = None
    preferred_batch_sizes: tuple[Count, ...] = ()
    compiled_sizes: tuple[Count, ...] = ()
    max_queue_delay_seconds: Seconds | None = None
    preserve_order: StrictBool = False
    larger_requests: Literal["refuse", "run_alone"] | None = None
    retry_failed: StrictBool = True

    @property
    def row_limit(self) -> int | None:
        """Rows that a batch may have at most; None leaves it to the model."""
        return self.max_batch_size or max(self.compiled_sizes, default=None)

    @model_validator(mode="after")
    def _sizes_fit(self) -> BatchingConfig:
        sizes = self.compiled_sizes
        if list(sizes) != sorted(set(sizes)):
            raise ValueError(f"compiled_sizes: expected sizes that ascend, got {list(sizes)}")
        if sizes and (self.max_batch_size or 0) > sizes[-1]:
            raise ValueError(
                f"max_batch_size: expected at most the largest compiled size, {sizes[-1]}, got {self.max_batch_size}"
            )
        if sizes and self.larger_requests == "run_alone":
            raise ValueError("larger_requests: expected refuse with compiled_sizes, for no other size can be run")
        largest = max(self.preferred_batch_sizes, default=0)
        if self.row_limit is not None and largest > self.row_limit:
            raise ValueError(f"preferred_batch_sizes: expected at most the limit of {self.row_limit}, got {largest}")
        return self


class QueueLevel(Section):
    """What is different for one level of priority; what is left out is as for all."""

    max_requests: Count | None = None
    timeout_seconds: Seconds | None = None
    timeout_action: Literal["reject", "delay"] | None = None


class QueueConfig(Section):
    """Who may wait for the model, for how long, and who goes first; sizes are in bytes. Priority 1 is the highest."""

    max_requests: Count = 256
    max_bytes: Annotated[int, BeforeValidator(_size)] = 256 * 2**20
    timeout_seconds: Seconds | None = None
    timeout_action: Literal["reject", "delay"] = "reject"
    timeout_override: StrictBool = True
    priority_levels: Count = 1
    default_priority: Count | None = None
    levels: Mapping[Count, QueueLevel] = {}

    @property
    def default_level(self) -> int:
        """The priority of a request that gives none."""
        return self.default_priority or (self.priority_levels + 1) // 2

    @model_validator(mode="after")
    def _within_levels(self) -> QueueConfig:
        named = {"default_priority": self.default_priority} if self.default_priority else {}
        for place, level in (*named.items(), *((f"levels.{level}", level) for level in self.levels)):
            if level > self.priority_levels:
                raise ValueError(f"{place}: there are {self.priority_levels} priority_levels, got {level}")
        return self


class TensorConfig(Section):
    """One input or output: `name` is what it is served as; `datatype` and `dims` are what the model must turn out to
    have, -1 being any extent."""

    name: Name | None = None
    datatype: Annotated[str, AfterValidator(_datatype)] | None = None
    dims: Shape | None = None


class InputConfig(TensorConfig):
    """An input may be given another shape before the model is compiled; -1 is a dynamic extent."""

    shape: Shape | None = None
    ragged: StrictBool = False
    """Rows may differ in shape; the model takes their elements end to end."""


class OutputConfig(TensorConfig):
    """An output's classes may have labels: a file in the model's directory, one label a line."""

    labels: Annotated[Name, AfterValidator(_label_file)] | None = None


BatchInputKind = Literal[
    "element_count",
    "accumulated_element_count",
    "accumulated_element_count_with_zero",
    "max_element_count_as_shape",
    "item_shape",
    "item_shape_flatten",
]


class BatchInputConfig(Section):
    """An input that is computed from the batch and no part of requests: what of a ragged input's rows it holds."""

    kind: BatchInputKind
    source: Name


class WarmupInput(Section):
    """What an input gets: a file of raw bytes in the model's `warmup/`, or made data. `shape` is without the batch
    where the sample has a `batch_size`; it is needed where the model leaves an extent open."""

    shape: Shape | None = None
    data: Literal["random", "zero"] = "random"
    file: BareName | None = None


class WarmupConfig(Section):
    """A request that every instance runs `count` times before the model is ready. Inputs by the model's own names."""

    name: Name = "sample"
    batch_size: Count | None = None
    count: Count = 1
    inputs: Annotated[Mapping[str, WarmupInput], BeforeValidator(_by_tensor)] = {}


class RateLimiterConfig(Section):
    """What each run needs of the resources that models share, all at once. A model of priority 2 gets half as many
    turns as one of priority 1, where they compete."""

    resources: Mapping[Name, Count] = {}
    priority: Count = 1

    @model_validator(mode="after")
    def _claims_something(self) -> RateLimiterConfig:
        if not self.resources:
            raise ValueError(
                "resources: expected at least one, such as {gpu: 1}; there is nothing else to take turns at"
            )
        return self


class GenerationConfig(Section):
    """What is special to language models. Sizes are in bytes; files, and the directory of a `draft_model`, lie in the
    version's directory. Tokens are guessed ahead, `num_assistant_tokens` of them, by that model or, with
    `max_ngram_size`, from the prompt."""

    max_num_seqs: Count | None = None
    max_num_batched_tokens: Count | None = None
    kv_cache_size: Annotated[int | None, BeforeValidator(_size)] = None
    prefix_caching: StrictBool = True
    max_model_length: Count | None = None
    default_max_tokens: Count | None = None
    draft_model: BareName | None = None
    draft_device: Name | None = None
    num_assistant_tokens: Count | None = None
    max_ngram_size: Count | None = None
    adapters: Mapping[Name, BareName] = {}
    chat_template: BareName | None = None
    tool_parser: Name = "auto"
    reasoning_parser: Name = "auto"

    @model_validator(mode="after")
    def _one_who_guesses(self) -> GenerationConfig:
        if self.draft_model and self.max_ngram_size:
            raise ValueError("draft_model and max_ngram_size: expected one of the two, got both")
        if self.num_assistant_tokens and not (self.draft_model or self.max_ngram_size):
            raise ValueError("num_assistant_tokens: expected draft_model or max_ngram_size beside it")
        if self.draft_device and not self.draft_model:
            raise ValueError("draft_device: expected draft_model beside it")
        return self


class PoolConfig(Section):
    """Instances on one device. What is left out is as the model's own key of that name says; `hint` is its
    `performance_hint`."""

    device: Name | None = None
    hint: Hint | None = None
    precision: Precision | None = None
    instances: Annotated[int | None, BeforeValidator(_instances)] = None
    streams: Count | None = None
    threads: Count | None = None
    cores: Cores | None = None


class CanaryConfig(Section):
    """A version that gets `percent` of the requests that name none, until it passes a bound: `max_error_rate`, a
    fraction, or `max_p99_seconds`, over the last `window_seconds`, and once there were `min_requests` in these."""

    version: Count
    percent: Percent
    max_error_rate: Annotated[float, Field(strict=True, ge=0, le=1)] = 0.05
    max_p99_seconds: Seconds | None = None
    min_requests: Count = 50
    window_seconds: Annotated[float, Field(strict=True, ge=1, le=86400)] = 60.0


class ShadowConfig(Section):
    """A version that gets a copy of `percent` of the requests that name none; its answers are compared and dropped."""

    version: Count
    percent: Percent = 100.0


class TrafficConfig(Section):
    """Which versions get the requests that name none. Without a `default`, it is the highest ready one of those that
    are not on trial."""

    default: Count | None = None
    canary: CanaryConfig | None = None
    shadow: ShadowConfig | None = None

    @property
    def on_trial(self) -> frozenset[int]:
        """The versions that are served to be judged."""
        return frozenset(trial.version for trial in (self.canary, self.shadow) if trial is not None)

    @property
    def versions(self) -> frozenset[int]:
        """All versions that are named."""
        return self.on_trial | ({self.default} if self.default is not None else set())

    @model_validator(mode="after")
    def _distinct_versions(self) -> TrafficConfig:
        named = {"default": self.default}
        named |= {f"{role}.version": own.version for role in ("canary", "shadow") if (own := getattr(self, role))}
        roles: dict[int, str] = {}
        for role, version in named.items():
            if version in roles:
                raise ValueError(f"{role}: expected another version than that of {roles[version]}, got {version}")
            if version is not None:
                roles[version] = role
        if not roles:
            raise ValueError("expected at least one of default, canary and shadow")
        return self


class ModelConfig(Section):
    """Everything that can be set for one model. Tensors are keyed by the model's own names."""

    name: Name | None = None
    backend: Name | None = None
    filename: BareName | None = None
    device: Name = "CPU"
    performance_hint: Hint = "throughput"
    precision: Precision | None = None
    instances: Annotated[int | None, BeforeValidator(_instances)] = None
    streams: Count | None = None
    threads: Count | None = None
    cores: Cores | None = None
    pools: Annotated[tuple[PoolConfig, ...], BeforeValidator(_some_pools)] | None = None
    execution_timeout_seconds: Seconds | None = None
    reopen_after_failures: Count = 3
    core_weight: Annotated[float, Field(ge=0.001, le=1000)] | None = None
    rate_limiter: RateLimiterConfig | None = None
    batching: Annotated[BatchingConfig, BeforeValidator(_batching)] = BatchingConfig()
    queue: QueueConfig = QueueConfig()
    response_cache: StrictBool = False
    inputs: Annotated[Mapping[str, InputConfig], BeforeValidator(_by_tensor)] = {}
    outputs: Annotated[Mapping[str, OutputConfig], BeforeValidator(_by_tensor)] = {}
    batch_inputs: Annotated[Mapping[str, BatchInputConfig], BeforeValidator(_by_tensor)] = {}
    warmup: Annotated[tuple[WarmupConfig, ...], BeforeValidator(_warmup)] = ()
    version_policy: Annotated[VersionPolicy, BeforeValidator(_version_policy)] = VersionPolicy()
    decoupled: StrictBool = False
    generation: GenerationConfig = GenerationConfig()
    version_labels: Mapping[Label, Count] = {}
    resource_preserving: StrictBool = False
    load: Literal["at_start", "on_demand"] = "at_start"
    idle_unload_seconds: Seconds | None = None
    load_timeout_seconds: Seconds | None = None
    memory_bytes: Annotated[int | None, BeforeValidator(_size)] = None
    metric_tags: Annotated[Mapping[str, str], AfterValidator(_tags)] = {}
    traffic: TrafficConfig | None = None
    backend_options: Mapping[str, Any] = {}

    def wanted_versions(self, available: Collection[int]) -> tuple[int, ...]:
        """Those of the available versions that are to be loaded, in ascending order: what the policy selects of those
        that are not on trial, and what `traffic` or a label names. A version on trial is not the latest yet."""
        on_trial, directed = (self.traffic.on_trial, self.traffic.versions) if self.traffic else (set(), set())
        selected = self.version_policy.select(set(available) - on_trial)
        named = {*directed, *self.version_labels.values()}
        return tuple(sorted({*selected, *named.intersection(available)}))

    def in_pools(self) -> tuple[ModelConfig, ...]:
        """For each pool, the configuration of a model that is on its device alone."""
        return tuple(self._on(pool) for pool in self.pools) if self.pools else (self,)

    def _on(self, pool: PoolConfig) -> ModelConfig:
        own = {key: getattr(pool, key) for key in pool.model_fields_set}
        if "hint" in own:
            own["performance_hint"] = own.pop("hint")
        return self.model_copy(update={**own, "pools": None})

    @property
    def loading(self) -> Hashable:
        """What a loaded version would have to be loaded anew for, if it changed: equal for configurations of which one
        can take the other's place while the model is served. Pools count as what they come to."""
        return tuple(_frozen(config.model_dump(exclude=_IN_PLACE)) for config in self.in_pools())

    @model_validator(mode="after")
    def _ragged_sources(self) -> ModelConfig:
        ragged = [name for name, given in self.inputs.items() if given.ragged]
        for name, computed in self.batch_inputs.items():
            if name in self.inputs:
                raise ValueError(f"batch_inputs.{name}: it is among the inputs too; a computed one is not served")
            if computed.source not in ragged:
                raise ValueError(f"batch_inputs.{name}.source: '{computed.source}' is no ragged input")
        return self

    @model_validator(mode="after")
    def _distinct_names(self) -> ModelConfig:
        for kind, tensors in (("inputs", self.inputs), ("outputs", self.outputs)):
            served = Counter(tensor.name or own for own, tensor in tensors.items())
            name, count = max(served.items(), key=lambda item: item[1], default=("", 0))
            if count > 1:
                raise ValueError(f"{count} {kind} would be served as '{name}'")
        return self


def _nested(keys: Collection[str]) -> dict[str, Any]:
    """Keys with dots, as pydantic takes them: `{"queue": True, "batching": {"retry_failed"}}`."""
    nested: dict[str, Any] = {}
    for key in keys:
        section, dot, own = key.partition(".")
        if dot:
            nested.setdefault(section, set()).add(own)
        else:
            nested[key] = True
    return nested


_IN_PLACE: Final = _nested(IN_PLACE)


def _frozen(value: Any) -> Hashable:
    """Values of YAML as something that can be compared and hashed. By their text, for 1 is not True, and NaN is NaN."""
    if isinstance(value, Mapping):
        return frozenset((key, _frozen(part)) for key, part in value.items())
    if isinstance(value, set | frozenset):
        return frozenset(map(_frozen, value))
    if isinstance(value, list | tuple):
        return tuple(map(_frozen, value))
    return repr(value)


def read_model_config(path: Path) -> ModelConfig:
    """Reads a `config.yaml`; an empty one is all defaults.

    Raises ConfigError that names the file, each key that is wrong, and what was expected there.
    """
    try:
        document = yaml.load(path.read_bytes(), _UniqueKeys)
    except OSError as exc:
        raise ConfigError(f"{path.name}: {exc.strerror}") from exc
    except (
        yaml.YAMLError,
        ValueError,
        RecursionError,
    ) as exc:  # PyYAML lets a date of 2026-13-01 through as ValueError
        raise ConfigError(f"{path.name}: {_yaml_problem(exc)}") from exc
    if document is not None and not isinstance(document, dict):
        raise ConfigError(f"{path.name}: expected keys and values, got {_shown(document)}")
    return parse_model_config(document or {}, path.name)


def parse_model_config(document: Mapping[str, Any], origin: str) -> ModelConfig:
    """Checks what a file says. `origin` names that file in the ConfigError."""
    try:
        return ModelConfig.model_validate(document)
    except ValidationError as exc:
        raise ConfigError(f"{origin}: {_problems(exc)}") from exc


def parse_traffic(document: object) -> TrafficConfig:
    """Checks what a client says under `traffic`. Raises InvalidArgument that names each key that is wrong."""
    try:
        return TrafficConfig.model_validate(document)
    except ValidationError as exc:
        raise InvalidArgument(f"traffic: {_problems(exc)}") from exc


def _problems(error: ValidationError) -> str:
    return "; ".join(_problem(dict(one)) for one in error.errors())


def _problem(error: Mapping[str, Any]) -> str:
    """One line for one of pydantic's errors: where, what was expected, what is there."""
    place = ".".join(map(str, error["loc"]))
    if error["type"] == "missing":
        return f"{place}: expected a value, there is none"
    cause = error.get("ctx", {}).get("error")
    problem = str(cause) if cause else f"{_expectation(error['msg'])}, got {_shown(error['input'])}"
    return f"{place}: {problem}" if place else problem


def _expectation(message: str) -> str:
    """Pydantic's "Input should be a valid dictionary or instance of X", in the words of YAML."""
    message = re.sub(r" or instance of \w+$", "", message)
    message = re.sub(r"^\w+ should (be|have) ", "expected ", message)
    message = re.sub(r"^expected (?=greater|less)", "expected a number ", message)
    return message.replace("valid dictionary", "mapping").replace("valid tuple", "list")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _yaml_problem(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    return " ".join(str(error).split())


class _UniqueKeys(yaml.SafeLoader):
    """YAML as it is meant: of a key that is there twice, PyYAML would silently drop the first."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in keys:
                raise yaml.constructor.ConstructorError(None, None, f"'{key.value}' is there twice", key.start_mark)
            keys.add(key.value)
        return super().construct_mapping(node, deep)
