"""A `LoadSpec` in terms of OpenVINO's devices and properties.

Knows no model and compiles nothing. Invariant: a property that Vintner has a setting for is set from that setting
alone, so no `backend_options` can go past the core budget.

The bindings lose 2 KB with each `get_property("SUPPORTED_PROPERTIES")` (measured), so a device is asked once, and a
compiled model is asked for what is wanted of it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Final

import openvino as ov
from vintner.backend import LoadSpec
from vintner.errors import LoadError, nearest

from vintner_backends.cpu_budget import CpuBudget
from vintner_backends.openvino_reshaping import OPTIONS as RESHAPING

COMPOSITE: Final = ("AUTO", "HETERO", "MULTI", "BATCH")
OWN_PINNING: Final = ("ENABLE_CPU_PINNING", "ENABLE_CPU_RESERVATION")
"""By which OpenVINO chooses cores itself."""
SETTINGS: Final[Mapping[str, str]] = {
    "CACHE_DIR": "cache_dir",
    "DEVICE_PROPERTIES": "streams, threads and precision",
    "INFERENCE_NUM_THREADS": "threads",
    "INFERENCE_PRECISION_HINT": "precision",
    "NUM_STREAMS": "streams",
    "PERFORMANCE_HINT": "performance_hint",
}
"""Properties that have a setting of their own, with its name."""


def is_cpu(device: str) -> bool:
    return device.split(".")[0] == "CPU"


def check_device(core: ov.Core, device: str) -> None:
    """Raises LoadError if a device that the string names is not here; the message lists those that are."""
    available = core.available_devices
    for part in named_devices(device):
        if not any(part == one or one.startswith(f"{part}.") or part == f"{one}.0" for one in available):
            raise LoadError(f"device '{part}' is not available here; OpenVINO sees {', '.join(available) or 'none'}")


def named_devices(device: str) -> Iterator[str]:
    """The devices in `GPU.1`, `AUTO:-NPU,GPU,CPU`, `MULTI:GPU(4),CPU`, …; one that is excluded need not exist."""
    head, _, listed = device.partition(":")
    parts = listed.split(",") if listed else []
    yield from (part.strip().split("(")[0] for part in parts if not part.strip().startswith("-"))
    if head not in COMPOSITE:
        yield head


def compile_properties(known: Callable[[str], Collection[str]], spec: LoadSpec, budget: CpuBudget) -> dict[str, Any]:
    """What to compile with; `known` gives a device's options. Raises LoadError for one that it has no property for.

    The processor's own properties go under its name: they hold where AUTO, HETERO or MULTI use it too, and other
    devices, which reject them, do not see them.
    """
    check_options(known, spec)
    properties: dict[str, Any] = {"PERFORMANCE_HINT": spec.performance_hint.upper()}
    if spec.streams is not None and not is_cpu(spec.device):
        properties["NUM_STREAMS"] = spec.streams
    if spec.precision is not None:
        properties["INFERENCE_PRECISION_HINT"] = spec.precision
    if spec.cache_dir is not None:
        properties["CACHE_DIR"] = str(spec.cache_dir)
    own = {name: value for name, value in spec.options.items() if name not in RESHAPING}
    return {**properties, **own, "DEVICE_PROPERTIES": {"CPU": processor_properties(spec, budget)}}


def processor_properties(spec: LoadSpec, budget: CpuBudget) -> dict[str, Any]:
    """Threads and streams on the processor; instances that were asked for get a stream each.

    With one thread there are 0 streams, which is OpenVINO's way to say "on the caller's thread". With 1, it takes a
    short cut that loses the errors of a synchronous run, and the request would answer with the outputs of the last.
    """
    properties: dict[str, Any] = {
        "INFERENCE_NUM_THREADS": budget.threads,
        # Pinned models of one thread each all sit on the first core, and leave the others idle.
        "ENABLE_CPU_PINNING": spec.options.get("ENABLE_CPU_PINNING", False),
    }
    streams = 0 if budget.threads == 1 else spec.streams or budget.instances
    return properties if streams is None else {**properties, "NUM_STREAMS": streams}


def pinned_copies(spec: LoadSpec, budget: CpuBudget) -> int:
    """How many times to compile a model that keeps to chosen cores: once for each instance, on its caller's thread.

    OpenVINO's own threads are shared by all models of a process, and go from one to the next, so they cannot be bound
    to the cores of one. With 0 streams it computes on the caller's thread, which can; but requests to one compiled
    model then wait for each other. Raises LoadError where an instance would need more than one thread.
    """
    if not is_cpu(spec.device):
        raise LoadError(f"cores can be chosen for the device CPU alone, not for {spec.device}; remove the cores")
    for option in OWN_PINNING:
        if option in spec.options:
            raise LoadError(f"backend option '{option}' and chosen cores contradict each other; remove one")
    instances = budget.instances or (1 if spec.performance_hint == "latency" else budget.threads)
    if (spec.streams or instances) != budget.threads or instances != budget.threads:
        raise LoadError(
            "OpenVINO keeps to chosen cores only with one thread for each instance, and"
            f" {instances} instances on {budget.threads} threads were asked for: leave the instances to auto with the"
            " throughput hint, set threads to their number, or use the onnxruntime backend"
        )
    return instances


def streams_of(compiled: ov.CompiledModel) -> int:
    """Streams of a compiled model, as far as its device tells; at least 1."""
    return max(1, number(compiled, "NUM_STREAMS") or 0)


def number(compiled: ov.CompiledModel, name: str) -> int | None:
    """A property of a compiled model, or None if its device has none of that name."""
    try:
        value: int = compiled.get_property(name)
    except RuntimeError:
        return None
    return value


def loses_errors(compiled: ov.CompiledModel) -> bool:
    """Whether a synchronous run would keep silent about its failure: one stream of one thread on the processor."""
    return all(number(compiled, name) == 1 for name in ("NUM_STREAMS", "INFERENCE_NUM_THREADS"))


def on_callers_thread(properties: dict[str, Any]) -> dict[str, Any]:
    """The same properties, and 0 streams on the processor."""
    processor = properties.get("DEVICE_PROPERTIES", {}).get("CPU", {})
    return {**properties, "DEVICE_PROPERTIES": {"CPU": {**processor, "NUM_STREAMS": 0}}}


def read_properties(spec: LoadSpec) -> dict[str, Any]:
    """What to read the model with. Mapped weights kill the process with SIGBUS if their file is cut short later."""
    return {"ENABLE_MMAP": spec.options.get("ENABLE_MMAP", False)}


def known_options(core: ov.Core, device: str) -> Collection[str]:
    """What `backend_options` may hold for a device, those included that have a setting of their own."""
    return frozenset(
        {*core.get_property(device, "SUPPORTED_PROPERTIES"), "ENABLE_CPU_PINNING", "ENABLE_MMAP", *RESHAPING}
    )


def check_options(known: Callable[[str], Collection[str]], spec: LoadSpec) -> None:
    device = spec.device.partition(":")[0]
    for option in spec.options:
        if option in SETTINGS:
            raise LoadError(f"backend option '{option}' has a setting of its own: {SETTINGS[option]}")
        if option not in known(device):
            raise LoadError(f"{device} has no property '{option}'{nearest(option, set(known(device)) - set(SETTINGS))}")
