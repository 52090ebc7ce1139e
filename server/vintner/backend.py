"""The seam to the runtime libraries: what a backend is, and how it is found.

A backend is an adapter to one runtime. It is a class with no arguments, registered as an entry point of the group
`vintner.backends`; a third party's package can add one. Vintner imports a backend only through that entry point.

Threads: `find` and `load` may be called from several threads at once. One `Instance` is run by one thread at a
time; the instances of a model run at the same time. `close` is called once, when nothing runs any more.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from threading import Lock
from typing import Any, Protocol, runtime_checkable

from vintner.errors import ConfigError, nearest
from vintner.generation import EngineSpec, LanguageModel
from vintner.types import Array, Parameter, TensorSpec

logger = logging.getLogger(__name__)

ENTRY_POINT_GROUP = "vintner.backends"
PREFERRED = ("openvino_genai", "onnxruntime_genai", "openvino")
"""Asked first, in this order, for a model whose configuration names no backend: those of language models look for more
than a file that the others would take too."""


@dataclass(frozen=True, slots=True)
class Device:
    """A device that a backend can run on, as `vintner devices` shows it."""

    name: str
    description: str


@dataclass(frozen=True, slots=True)
class LoadSpec:
    """What to load, and how. Names of tensors are the model's own; the core renames."""

    path: Path
    """What `Backend.find` returned."""
    device: str = "CPU"
    performance_hint: str = "throughput"
    """`throughput` or `latency`."""
    precision: str | None = None
    """`f32`, `f16` or `bf16`: the precision to compute in; None leaves it to the runtime."""
    instances: int | None = None
    """Execution slots; None asks the runtime."""
    streams: int | None = None
    threads: int | None = None
    """CPU threads of all instances together; never more than `cores`."""
    cores: int = 1
    """Cores that this process may use, or those of `affinity`."""
    affinity: frozenset[int] = frozenset()
    """The cores to compute on, which the process may use; empty: not pinned. LoadError if a backend cannot."""
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Input name -> shape to give it before compilation; -1 for a dynamic extent."""
    rows: int | None = None
    """First extent to give to every input before compilation, over what `shapes` says; -1 for a dynamic one, None
    leaves it. A backend that cannot give it raises LoadError."""
    cache_dir: Path | None = None
    """Where compiled models may be kept between starts. Never beside the model."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """The model configuration's `backend_options`; unknown ones are errors of the backend's."""
    engine: EngineSpec = field(default_factory=EngineSpec)
    """Of a language model."""


class Instance(Protocol):
    """One execution slot of a loaded model."""

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Runs the model once.

        The inputs have passed validation against the model's specs, are C-contiguous and may be read-only. They stay
        unchanged during the call. The outputs belong to the caller: a later run does not overwrite them.
        Raises BackendError with the runtime's reason, or InvalidArgument for values that only the runtime can judge.
        """
        ...


class Generator(Protocol):
    """One execution slot of a loaded model that is decoupled: it gives any number of responses to a request."""

    def generate(
        self, inputs: Mapping[str, Array], parameters: Mapping[str, Parameter]
    ) -> Iterator[Mapping[str, Array]]:
        """Yields the outputs of each response, of which some may be missing, as soon as they are there.

        Inputs, outputs and errors are as those of `Instance.run`; `parameters` are the request's. It is iterated in one
        thread, and rests while the client is slow to take the responses. If nobody wants more, `close` is called, as it
        is in the end, where the iterator has it; a generator function sees that as GeneratorExit.
        """
        ...


class LoadedModel(Protocol):
    """One model on one device."""

    @property
    def platform(self) -> str:
        """What metadata reports, such as `openvino_ir`."""
        ...

    @property
    def inputs(self) -> Sequence[TensorSpec]: ...

    @property
    def outputs(self) -> Sequence[TensorSpec]: ...

    @property
    def instances(self) -> Sequence[Instance]: ...

    def close(self) -> None:
        """Gives back memory and device. Called once, when no instance runs."""
        ...


class GeneratingModel(Protocol):
    """As `LoadedModel`, of a model that is decoupled."""

    @property
    def platform(self) -> str: ...

    @property
    def inputs(self) -> Sequence[TensorSpec]: ...

    @property
    def outputs(self) -> Sequence[TensorSpec]: ...

    @property
    def instances(self) -> Sequence[Generator]: ...

    def close(self) -> None: ...


class Backend(Protocol):
    """An adapter to a runtime library."""

    def find(self, directory: Path) -> Path | None:
        """The model in a version's directory that this backend can load, or None.

        Raises ConfigError if it finds a model that it would load but cannot tell which, or a part of one.
        """
        ...

    def load(self, spec: LoadSpec) -> LoadedModel | GeneratingModel:
        """Loads and compiles. Raises LoadError with a reason that its reader can act on."""
        ...

    def devices(self) -> Sequence[Device]:
        """What this backend can run on here."""
        ...


@runtime_checkable
class LanguageBackend(Backend, Protocol):
    """An adapter to a runtime that has language models, too."""

    def generates(self, path: Path) -> bool:
        """Whether what `find` returned is a language model, which `load` would not load."""
        ...

    def load_language_model(self, spec: LoadSpec) -> LanguageModel:
        """As `load`."""
        ...


def close_anyway(close: Callable[[], None], name: str) -> None:
    """Closes what nobody needs any more. That it cannot be closed holds nothing up, and hides no other error."""
    try:
        close()
    except BaseException:  # some runtimes' panics, and SystemExit, are no Exceptions
        logger.exception("%s failed to close", name)


class Backends:
    """The backends that are installed, each imported and made once, when it is first asked for. Threads: any."""

    def __init__(self, points: Mapping[str, EntryPoint] | None = None, made: Mapping[str, Backend] | None = None):
        """Tests pass `made`; otherwise the installed entry points are read."""
        self._made: dict[str, Backend] = dict(made or {})
        self._lock = Lock()
        if points is None:
            points = {} if made is not None else {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
        self._points = points

    @property
    def names(self) -> Sequence[str]:
        """The preferred backends first, the others by name."""
        names = {*self._points, *self._made}
        return [*(name for name in PREFERRED if name in names), *sorted(names.difference(PREFERRED))]

    def get(self, name: str) -> Backend:
        """Raises ConfigError for a name that is not installed, or a backend that cannot be imported."""
        backend = self._made.get(name)
        if backend is not None:
            return backend
        with self._lock:  # the first use of a runtime in two threads at once can stand still for ever
            if name not in self._made:
                self._made[name] = self._make(name)
            return self._made[name]

    def _make(self, name: str) -> Backend:
        if name not in self._points:
            raise ConfigError(f"unknown backend '{name}'{nearest(name, self.names)}")
        try:
            backend: Backend = self._points[name].load()()
        except Exception as exc:
            raise ConfigError(f"backend '{name}' cannot be imported: {exc}") from exc
        return backend

    def find(self, directory: Path, name: str | None) -> tuple[str, Path]:
        """The backend and the path for a version's directory.

        With a name, only that backend is asked. Raises ConfigError if none recognises anything there.
        """
        asked = [name] if name else self.names
        for candidate in asked:
            path = self.get(candidate).find(directory)
            if path is not None:
                return candidate, path
        files = ", ".join(sorted(entry.name for entry in directory.iterdir())[:8]) or "nothing"
        raise ConfigError(f"no model recognised by {' or '.join(asked)} in {directory.name}/ (it holds {files})")
