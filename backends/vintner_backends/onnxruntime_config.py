"""A `LoadSpec` in terms of ONNX Runtime's providers, session options and threads.

Knows no model and opens no session. Invariant: threads that compute for a model, callers' and session's together,
stay within the core budget.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import onnxruntime
from vintner.backend import LoadSpec
from vintner.errors import LoadError, nearest

from vintner_backends.cpu_budget import cpu_budget

SUFFIX: Final = "ExecutionProvider"
CPU: Final = "CPUExecutionProvider"
OPTIONS: Final = ("graph_optimization", "inter_op_threads", "providers")
LEVELS: Final[Mapping[str, onnxruntime.GraphOptimizationLevel]] = {
    "disable": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
}


@dataclass(frozen=True, slots=True)
class Provider:
    """An execution provider and its own options."""

    name: str
    options: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Threads:
    """How the instances, which share one session, divide the budget."""

    instances: int
    intra_op: int
    inter_op: int


def check_supported(spec: LoadSpec) -> None:
    """Raises LoadError for what ONNX Runtime cannot do, or an option that it does not have."""
    if spec.shapes:
        raise LoadError("ONNX Runtime cannot reshape a model; remove the shapes, or use the openvino backend")
    if spec.rows == -1:  # said before the session is made, which takes as long as any
        raise LoadError("ONNX Runtime cannot make a static dimension dynamic")
    if spec.streams is not None:
        raise LoadError("ONNX Runtime has no streams; set the instances, or use the openvino backend")
    if spec.precision not in (None, "f32"):
        raise LoadError(f"ONNX Runtime computes in the model's own precision; precision {spec.precision} is not there")
    for option in spec.options:
        if option not in OPTIONS:
            raise LoadError(f"unknown backend option '{option}'{nearest(option, OPTIONS)}")


def providers(spec: LoadSpec) -> list[Provider]:
    """Those that the option `providers` lists, in its order; otherwise the device's.

    An entry is a name, or a mapping from one name to that provider's options. Raises LoadError for one that this
    build of ONNX Runtime does not have.
    """
    entries = spec.options.get("providers", [spec.device])
    if not isinstance(entries, list) or not entries:
        raise LoadError("backend option 'providers' is a list of execution providers, in the order to try them")
    return [provider(entry) for entry in entries]


def provider(entry: Any) -> Provider:
    given = entry if isinstance(entry, Mapping) else {entry: {}}
    if len(given) != 1:
        raise LoadError(f"an entry of 'providers' has one name, not {len(given)}")
    [(name, options)] = given.items()
    return Provider(available_provider(str(name)), {str(key): str(value) for key, value in (options or {}).items()})


def available_provider(name: str) -> str:
    """The full name for a device or provider: `CPU` and `CPUExecutionProvider` are the same."""
    available = onnxruntime.get_available_providers()
    for candidate in available:
        if name.lower() in (candidate.lower(), candidate.removesuffix(SUFFIX).lower()):
            return str(candidate)
    known = ", ".join(candidate.removesuffix(SUFFIX) for candidate in available)
    raise LoadError(f"device '{name}' is not available here; ONNX Runtime has {known}")


def threads(spec: LoadSpec, chosen: Sequence[Provider]) -> Threads:
    """Each instance computes on its caller's thread; the session's pools hold what is left of the budget.

    Raises LoadError where cores were chosen and it is not the CPU that computes.

    So `instances + (intra_op - 1) + (inter_op - 1)` threads at most compute at once. Without a number of instances,
    `throughput` takes one for each thread and `latency` a single one with all threads.
    """
    budget = cpu_budget(spec)
    inter_op = spec.options.get("inter_op_threads", 1)
    if not isinstance(inter_op, int) or not 1 <= inter_op <= budget.threads:
        raise LoadError(
            f"backend option 'inter_op_threads' is a number from 1 to the {budget.threads} threads there are"
        )
    on_cpu = chosen[0].name == CPU
    if spec.affinity and not on_cpu:
        raise LoadError(f"cores can be chosen for the CPU alone, not for {chosen[0].name}; remove the cores")
    left = budget.threads - (inter_op - 1)
    default = left if on_cpu and spec.performance_hint == "throughput" else 1
    instances = (budget.instances if on_cpu else spec.instances) or default
    return Threads(instances=instances, intra_op=max(1, left - instances + 1), inter_op=inter_op)


def session_options(spec: LoadSpec, division: Threads) -> onnxruntime.SessionOptions:
    """Raises LoadError for a graph optimisation level that there is not."""
    level = spec.options.get("graph_optimization", "all")
    if str(level) not in LEVELS:
        raise LoadError(f"unknown graph_optimization '{level}'{nearest(str(level), LEVELS)}")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = LEVELS[level]
    options.intra_op_num_threads = division.intra_op
    options.inter_op_num_threads = division.inter_op
    if division.inter_op > 1:
        options.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL
    # Idle pool threads would spin between runs, on the very cores that decode and encode the requests.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.log_severity_level = 4  # what fails is raised, too; the library's own lines on stderr would double it
    return options
