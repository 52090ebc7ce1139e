"""The server process: puts the parts together, waits for a signal, takes them apart.

The order of the end matters: readiness turns false first, so that balancers look elsewhere; after `drain_seconds` the
front ends stop accepting and finish what runs; then the models are unloaded. A second signal ends the process at once.
"""

from __future__ import annotations

import logging
import os
import resource
import select
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Final, NoReturn

from vintner import __version__, compiled_models, logs, memory
from vintner.arrival import Arrival
from vintner.backend import Backends
from vintner.config import ServerConfig
from vintner.cores import available_cores
from vintner.errors import ConfigError
from vintner.host import Host
from vintner.log_settings import LogSettings
from vintner.manager import Admission, Manager
from vintner.model_control import ModelControl
from vintner.model_source import Scan
from vintner.ovms_file import OvmsFile
from vintner.ovms_metrics import OvmsMetrics
from vintner.response_cache import ResponseCache
from vintner.service import Service
from vintner.shared_memory import Regions
from vintner.tracking import Repository
from vintner.triton_metrics import TritonMetrics
from vintner.uploads import Uploads
from vintner.vllm_metrics import VllmMetrics
from vintner.watching import Watcher

if TYPE_CHECKING:
    from vintner.front_ends import FrontEnds

logger = logging.getLogger(__name__)

SETTLED: Final = b"\0"
"""No signal has this number."""

MOST_DESCRIPTORS: Final = 1 << 14
"""Of open files that are counted on, however many the system allows."""

TO_ANSWER: Final = 1.0
"""Seconds before the end at which requests that wait for a load are refused, so that the refusals can be sent."""

GRPC_EXPERIMENTS = "-event_engine_listener"
"""grpc's newer listener costs a fifth of a synchronous Python server's calls (measured); read when grpc is imported."""


def serve(config: ServerConfig) -> int:
    """Serves until SIGTERM or SIGINT, then ends the process with its code. Raises ConfigError if it cannot start."""
    logs.configure(config.log_level, config.log_format)
    memory.keep_freed_buffers()
    memory.collect_rarely()
    if config.cache_dir is not None and (trouble := compiled_models.objection(config.cache_dir)):
        logger.warning("%s", trouble)
    wakes = _Wakes()
    server = _Server(config)
    server.start(wakes.settled)
    arrival = Arrival(config.model_repository)
    signalled = wakes.wait_for_signal(0)  # it came while all this was made: no load is begun that would be waited for
    while config.model_init_mode == "async" and not signalled and arrival.pending():
        signalled = wakes.wait_for_signal(config.repository_poll_seconds)
    if not signalled:
        _serve_models(server, wakes)
    finished = server.stop()
    if not finished:
        logger.error("gave up on work that was still running after %g s", config.exit_timeout_seconds)
    _exit(0 if finished else 1)


def _serve_models(server: _Server, wakes: _Wakes) -> None:
    """Until a signal, which may come first: a model may take minutes to load."""
    try:
        server.begin()
    except ConfigError as exc:  # of models that came late: everything runs by now
        logger.error("%s", exc)
        _exit(1)
    reported = False
    while not wakes.wait_for_signal():
        if not reported:
            server.report()
            reported = True


def _exit(code: int) -> NoReturn:
    """Ends the process, but not by way of the interpreter's own end: that would wait for loads, and be aborted by a
    thread that comes back from a runtime's code meanwhile, as from a run that was given up."""
    logging.shutdown()
    sys.stdout.flush()
    os._exit(code)


class _Wakes:
    """What the main thread waits for: that every model has been loaded or has failed, and SIGTERM or SIGINT.

    Both come through a pipe, into which Python writes a signal's number in whatever thread the system delivers it, at
    once. A lock or a queue would not do: a signal that comes just before the main thread falls asleep does not wake it.
    A second signal ends the process.
    """

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._seen = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._caught)

    def _caught(self, number: int, frame: FrameType | None) -> None:
        if self._seen:
            os._exit(128 + number)
        self._seen = True

    def settled(self) -> None:
        """Every model has been loaded or has failed. Threads: any."""
        with suppress(BlockingIOError):  # it has been told often enough
            os.write(self._writer, SETTLED)

    def wait_for_signal(self, timeout: float | None = None) -> bool:
        """False if it is only that the models are settled, or that so many seconds have passed."""
        ready, _, _ = select.select([self._reader], [], [], timeout)
        return bool(ready) and os.read(self._reader, 1) != SETTLED


class _Server:
    """Everything that runs, with its ports bound by the constructor."""

    def __init__(self, config: ServerConfig) -> None:
        os.environ.setdefault("GRPC_EXPERIMENTS", GRPC_EXPERIMENTS)
        from vintner.front_ends import FrontEnds

        _check_dependencies(config)
        self._config = config
        backends = Backends()
        repository = _repository(config, backends)
        if config.model_init_mode == "sync":  # now, so that what cannot be read ends this before it begins
            repository.scan(time.monotonic(), settle=config.model_control == "poll")
        self._uploads = _uploads(config)
        self._manager = Manager(
            backends,
            cores=available_cores(),
            cache_dir=config.cache_dir,
            load_threads=config.model_load_threads,
            cache=ResponseCache(config.response_cache_bytes) if config.response_cache_bytes else None,
            resources=_by_name(config.rate_limit_resource),
            admission=Admission(config.model_control == "explicit", _chosen(config.load_model)),
            memory_budget=config.model_memory_budget,
            dialects=[TritonMetrics(Host()), VllmMetrics(), *([OvmsMetrics()] if config.ovms_metrics else [])],
        )
        self._watcher = Watcher(repository, self._manager.aspire, poll_seconds=config.repository_poll_seconds)
        self._service = Service(
            self._manager,
            strict_readiness=config.strict_readiness,
            max_concurrent_requests=config.max_concurrent_requests,
            control=ModelControl(self._manager, config.model_control, self._watcher.refresh, self._uploads),
            refresh=self._reload if config.config_path or config.model_control == "poll" else None,
            request_timeout=config.request_timeout_seconds,
            regions=Regions(config.allow_client_shm, _spare_descriptors(), config.max_message_bytes),
            log_settings=LogSettings(logs.Switches.of(config.log_level), logs.switch),
        )
        self._front_ends: FrontEnds = FrontEnds(config, self._service)

    def _reload(self) -> Scan:
        """An operator's word: what is there now is wanted, in every mode."""
        found = self._watcher.refresh()
        self._manager.adopt()
        return found

    def start(self, settled: Callable[[], None]) -> None:
        """Starts to answer, not ready yet. `settled` is called when every model has been loaded or has failed."""
        self._manager.subscribe(self._front_ends.announce_readiness)
        self._manager.subscribe(lambda: settled() if self._manager.settled.is_set() else None)
        self._front_ends.start()

    def begin(self) -> None:
        """Starts to load, and to follow, what the repository holds. Raises ConfigError if it cannot be read."""
        if self._config.model_control == "poll":
            self._watcher.start()
        else:
            self._watcher.refresh()

    def report(self) -> None:
        """The one line on standard output that says what was bound."""
        reasons = self._service.readiness()
        state = "ready" if not reasons else "NOT ready"
        print(f"vintner {__version__} {state} {self._front_ends.bound}", flush=True)
        for reason in reasons:
            logger.warning("the server is not ready: %s", reason)
        if not reasons:
            logger.info("the server is ready")

    def stop(self) -> bool:
        """False if work was still running when the time was up."""
        self._service.announce_stop()
        self._watcher.stop()
        self._front_ends.announce_readiness()
        logger.info("stopping: no longer ready, serving for another %g s", self._config.drain_seconds)
        time.sleep(self._config.drain_seconds)
        deadline = time.monotonic() + self._config.exit_timeout_seconds
        self._service.refuse_waiting(deadline - min(TO_ANSWER, self._config.exit_timeout_seconds / 2))
        finished = self._front_ends.stop(deadline)
        finished = self._manager.stop(max(0.0, deadline - time.monotonic())) and finished
        if self._uploads:
            self._uploads.close()
        return finished


def _check_dependencies(config: ServerConfig) -> None:
    """Raises ConfigError for options that need another one to have an effect, or that have none here."""
    if config.workers > 1:
        raise ConfigError(
            f"--workers: expected 1, got {config.workers}: one process uses all cores; for more, run more replicas"
        )
    for flag, given in (("--load-model", config.load_model), ("--allow-model-upload", config.allow_model_upload)):
        if given and config.model_control != "explicit":
            raise ConfigError(f"{flag} needs --model-control explicit; it is {config.model_control}")
    if config.grpc_max_connection_age_grace_seconds is not None and config.grpc_max_connection_age_seconds is None:
        raise ConfigError("--grpc-max-connection-age-grace-seconds needs --grpc-max-connection-age-seconds")
    if config.upload_dir is not None and not config.allow_model_upload:
        raise ConfigError("--upload-dir needs --allow-model-upload")
    if "*" in config.load_model and len(config.load_model) > 1:
        raise ConfigError(f"--load-model: '*' means all models and has to be alone, got {', '.join(config.load_model)}")


def _chosen(names: Collection[str]) -> Collection[str] | None:
    """The models to begin with, where they are not all; None for all."""
    return None if "*" in names else names


def _repository(config: ServerConfig, backends: Backends) -> Repository:
    return Repository(
        config.model_repository,
        backends,
        config.model_name,
        config.default_model_name,
        settle_seconds=config.repository_settle_seconds,
        require_ready_marker=config.require_ready_marker,
        follow_external_links=config.follow_external_links,
        given=OvmsFile(config.config_path) if config.config_path is not None else None,
    )


def _uploads(config: ServerConfig) -> Uploads | None:
    """Raises ConfigError for a place in a repository, where a scan would find uploads."""
    if not config.allow_model_upload:
        return None
    place = Path(config.upload_dir or tempfile.gettempdir()).resolve()
    for root in config.model_repository:
        if place.is_relative_to(root.resolve()):
            raise ConfigError(f"--upload-dir: {place} is in the model repository {root}; expected one outside of it")
    return Uploads(place, config.max_upload_bytes)


def _spare_descriptors() -> int:
    """Half of those that the process may open: the other half is for connections and files."""
    return min(resource.getrlimit(resource.RLIMIT_NOFILE)[0], MOST_DESCRIPTORS) // 2


def _by_name(resources: Sequence[tuple[str, int]]) -> dict[str, int]:
    """Raises ConfigError for a resource that is given twice."""
    counts: dict[str, int] = {}
    for name, count in resources:
        if name in counts:
            raise ConfigError(f"--rate-limit-resource: '{name}' is given twice, as {counts[name]} and as {count}")
        counts[name] = count
    return counts
