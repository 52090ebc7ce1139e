"""Inferences on their way from a front end to a model and back, in whatever protocol they came.

Knows neither gRPC nor HTTP. Invariant: every inference is answered once, and counted once, with its outcome.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from threading import Lock
from weakref import WeakSet

from vintner.access_log import Visit, bounded
from vintner.classification import check_classes, classifying
from vintner.errors import Internal, InvalidArgument, QueueFull, VintnerError, outcome_of
from vintner.manager import AwaitLoad, Manager
from vintner.parking import Parking
from vintner.sequences import check_stateless
from vintner.servable import Servable
from vintner.turns import Turn
from vintner.types import Request, Response

logger = logging.getLogger(__name__)

Reply = Callable[[Response | Exception], None]


class Inferences:
    """Those of a server. Threads: any."""

    def __init__(self, manager: Manager, most: int, timeout: float) -> None:
        """At most `most` at the same time; `timeout` is in seconds, 0 sets no bound."""
        self._manager = manager
        self._routers = manager.routers
        self._limit = most
        self._timeout = timeout
        self._lock = Lock()
        self._running = 0
        self._languages: WeakSet[Servable] = WeakSet()  # language models that were asked something
        self._parking = Parking(manager.threads.alarms)
        manager.registry.parked = lambda: self._parking.waiting

    def refuse_waiting(self, at: float) -> None:
        """Has the requests answered that still wait for a model to be loaded at that time, of `time.monotonic`, and
        those to language models, of which nobody knows how long they will run."""
        self._parking.clear(at)
        self._manager.threads.alarms.set(at, self._cut_short)

    def _cut_short(self) -> None:
        with self._lock:
            languages = list(self._languages)
        for servable in languages:
            servable.cut_short()

    def submit(self, request: Request, protocol: str, reply: Reply, since: float | None = None) -> Turn | None:
        """Begins an inference and returns at once, with a turn that the caller has to run soon, or None.

        `reply` is called once with the response or the error, in any thread, and perhaps before this returns. It must
        be quick and not raise. `protocol` is `grpc` or `rest`, for the metrics. A request for a model that is yet to be
        loaded waits for that; one that has waited already, `since` that point in time, not for memory again.
        """
        started = time.monotonic() if since is None else since
        if self._timeout:
            request = self._bounded(request, started)
        if request.visit is not None and since is None:
            reply = _witnessed(request, request.visit, reply)
        try:
            servable = self._admit(request)
        except AwaitLoad as exc:
            if since is None or not exc.refusal:  # it may have gone again in the moment since it was there
                self._park(request, protocol, reply, started)
            else:
                self._reject(exc, protocol, started, reply)
            return None
        except Exception as exc:
            self._reject(exc, protocol, started, reply)
            return None
        if servable.language is not None:
            with self._lock:
                self._languages.add(servable)
        metrics = servable.metrics.requests[protocol]
        if request.classes:
            reply = classifying(request, servable, reply)
        if self._routers and not request.model_version:
            reply = self._observed(request, servable, started, reply)

        def settle(result: Response | Exception) -> None:
            servable.release()
            with self._lock:
                self._running -= 1
            metrics.observe(_outcome(result), time.monotonic() - started)
            reply(result if isinstance(result, Response) else _reported(result, request, servable))

        try:
            if request.parameters:
                check_stateless(request.model_name, request.parameters)
            if request.classes:
                check_classes(request.classes, servable.outputs)
            if request.asked is not None and servable.language is None:
                raise InvalidArgument(f"model '{request.model_name}' does not generate text", "model")
            if request.untyped is not None:
                untyped, request.untyped = request.untyped, None
                untyped.fill(request, [*servable.inputs, *servable.optional_inputs])
            return servable.submit(request, settle)
        except Exception as exc:
            settle(exc)
            return None

    def _bounded(self, request: Request, started: float) -> Request:
        """The request with the server's own deadline, if that comes before the client's."""
        deadline = started + self._timeout
        if request.deadline is not None and request.deadline <= deadline:
            return request
        return replace(request, deadline=deadline)

    def _observed(self, request: Request, servable: Servable, started: float, reply: Reply) -> Reply:
        """A reply that also tells the router of the model, if it has one, of a request that named no version."""
        router = self._routers.get(request.model_name)
        if router is None:
            return reply

        def observed(result: Response | Exception) -> None:
            seconds = time.monotonic() - started
            reply(result)
            router.settled(request, servable, result, _outcome(result), seconds)

        return observed

    def _reject(self, error: Exception, protocol: str, started: float, reply: Reply) -> None:
        self._manager.registry.rejected[protocol].observe(_outcome(error), time.monotonic() - started)
        reply(error)

    def _park(self, request: Request, protocol: str, reply: Reply, started: float) -> None:
        """Keeps a request until its model is loaded."""
        name = request.model_name

        def resume() -> None:
            turn = self.submit(request, protocol, reply, since=started)
            if turn is not None:
                turn.run()

        def refuse(error: Exception) -> None:
            self._reject(error, protocol, started, reply)

        try:
            go_on = self._parking.park(request, self._manager.queue_limits(name), resume, refuse, started)
        except QueueFull as exc:
            refuse(exc)
        else:
            self._manager.wake(name, go_on, request.model_version)

    def infer(self, request: Request, protocol: str) -> Response:
        """As `submit`, for a caller that can wait. Raises VintnerError."""
        answered = Lock()
        answered.acquire()
        results: list[Response | Exception] = []

        def reply(result: Response | Exception) -> None:
            results.append(result)
            answered.release()

        turn = self.submit(request, protocol, reply)
        if turn is not None:
            turn.gather()
            if turn.step():
                turn.pass_on()
        answered.acquire()
        if isinstance(results[0], Exception):
            raise results[0]
        return results[0]

    def reject(self, error: VintnerError, protocol: str) -> None:
        """Counts a request that a front end could not decode."""
        self._manager.registry.rejected[protocol].observe(error.outcome, 0.0)

    def _admit(self, request: Request) -> Servable:
        """Takes one of the places that the server has for inferences, and a lease on the model.

        The bound is below the number of threads of either front end, so that health checks always find one.
        """
        with self._lock:
            if self._running >= self._limit:
                raise QueueFull(f"Exceeds maximum queue size: the server runs {self._limit} requests already")
            self._running += 1
        try:
            return leased(self._manager, request.model_name, request.model_version, request.id)
        except Exception:
            with self._lock:
                self._running -= 1
            raise


def leased(manager: Manager, name: str, version: str, request_id: str | None = None) -> Servable:
    """As `Manager.lease`. Raises InvalidArgument for no name, too."""
    if not name:
        raise InvalidArgument("Model name cannot be empty")
    return manager.lease(name, version, request_id)


def _outcome(result: Response | Exception) -> str:
    return "ok" if isinstance(result, Response) else outcome_of(result)


def _witnessed(request: Request, visit: Visit, reply: Reply) -> Reply:
    """The reply to a request whose access is logged."""
    visit.request_id, visit.model, visit.version = request.id, request.model_name, request.model_version
    return visit.witness(reply)


def _reported(error: Exception, request: Request, servable: Servable) -> Exception:
    """What a client is told of a failure. That the server failed is logged, with what it failed at."""
    if request.visit is not None:
        request.visit.version = servable.version
    if isinstance(error, VintnerError) and error.code != "INTERNAL":
        return error
    known = isinstance(error, VintnerError)
    about = {"request_id": bounded(request.id), "model": servable.name, "version": servable.version}
    reason = error.message if isinstance(error, VintnerError) else "a bug of the server's, or of a backend's"
    logger.error("an inference failed: %s", reason, exc_info=None if known else error, extra=about)
    return error if known else Internal()
