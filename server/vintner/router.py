"""The traffic of one model: which version a request gets that names none, and what is learned of those on trial.

Ties together `traffic` (the choice), `canary` (the judgement) and `shadow` (the copies). It knows which versions are
ready only from what it is told after each change, and lives as long as its model has a `traffic` section, so that
windows and counts outlast the reload of a version.

Invariant: what is learned of a version is of one configuration and one state of its files; either of them new, the
trial begins anew.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Hashable, Iterator, Mapping
from threading import Lock

from vintner.canary import Trial
from vintner.executor import LeanExecutor
from vintner.model_config import CanaryConfig, TrafficConfig
from vintner.servable import Servable
from vintner.shadow import Executor, Shadow
from vintner.traffic import Points, point_of
from vintner.types import Request, Response

logger = logging.getLogger(__name__)


class Router:
    """Threads: any. `choose` takes no lock; the lock guards the counts and the trial."""

    def __init__(self, model: str, executor: Executor) -> None:
        """The executor is for the shadow."""
        self.model = model
        self._executor = executor
        self._lock = Lock()
        self._points = Points()
        self._canary_version = ""
        self._share = 0.0
        self._trial: Trial | None = None
        self._trial_of: Hashable = None
        self._tried: Servable | None = None  # outcomes of another load of the version are not the trial's
        self._shadow_of: Hashable = None
        self.shadow: Shadow | None = None
        self._requests: dict[str, int] = {}
        self._rollbacks: dict[str, int] = {}

    # -- what is wanted and what is ready ----------------------------------------------------------------------

    def direct(self, traffic: TrafficConfig, ready: Mapping[str, Servable], signatures: Mapping[int, Hashable]) -> None:
        """To be called after each change of the configuration or of the versions that are ready.

        `signatures` are of what these were loaded from: of a version whose files have changed, the trial begins anew.
        """
        with self._lock:
            self._begin_trial(traffic.canary, signatures)
            self._tried = ready.get(self._canary_version)
            self._requests = {version: self._requests.get(version, 0) for version in ready}
            on_trial = {self._canary_version: 0} | self._rollbacks  # from 0, so that the first roll-back is an increase
            self._rollbacks = {version: count for version, count in on_trial.items() if version in ready}
            former = self._begin_shadow(traffic, signatures)
            shadow = self.shadow
        if former is not None:
            former.aim(0, {})
        if shadow is not None and traffic.shadow is not None:
            shadow.aim(traffic.shadow.percent, ready)

    def _begin_trial(self, canary: CanaryConfig | None, signatures: Mapping[int, Hashable]) -> None:
        """Needs the lock."""
        trial_of = (canary, signatures.get(canary.version)) if canary is not None else None
        if trial_of == self._trial_of and self._trial is not None:
            return
        self._trial_of = trial_of
        self._canary_version = str(canary.version) if canary is not None else ""
        self._trial = Trial(canary) if canary is not None else None
        self._share = canary.percent / 100 if canary is not None else 0.0

    def _begin_shadow(self, traffic: TrafficConfig, signatures: Mapping[int, Hashable]) -> Shadow | None:
        """Returns the one that is over. Needs the lock."""
        version = traffic.shadow.version if traffic.shadow is not None else None
        shadow_of = (version, signatures.get(version)) if version is not None else None
        if shadow_of == self._shadow_of:
            return None
        self._shadow_of = shadow_of
        former = self.shadow
        self.shadow = Shadow(version, self._executor) if version is not None else None
        return former

    def renew(self) -> None:
        """Has the next `direct` begin a trial anew, also of a version that was rolled back."""
        with self._lock:
            self._trial = None

    def close(self) -> None:
        """Cancels what is under way for the shadow, and begins nothing more."""
        with self._lock:
            self._shadow_of, former, self.shadow = None, self.shadow, None
        if former is not None:
            former.aim(0, {})

    # -- requests ----------------------------------------------------------------------------------------------

    def choose(self, request_id: str) -> str:
        """The version that a request is for that names none; "" for the default."""
        share = self._share
        if not share:
            return ""
        point = point_of(self.model, request_id) if request_id else self._points.next()
        return self._canary_version if point < share else ""

    def settled(
        self, request: Request, servable: Servable, result: Response | Exception, outcome: str, seconds: float
    ) -> None:
        """To be told of each request that named no version, after it was answered. Quick, and never raises."""
        with self._lock:
            version = servable.version
            if version in self._requests:
                self._requests[version] += 1
            lost = (
                self._trial is not None
                and servable is self._tried
                and self._trial.observe(outcome, seconds, time.monotonic())
            )
            if lost:
                self._share = 0.0
                self._rollbacks[version] = self._rollbacks.get(version, 0) + 1
        if lost:
            about = {"model": self.model, "version": version}
            logger.warning("model '%s' version %s: %s", self.model, version, self.remark(version), extra=about)
        shadow = self.shadow
        if shadow is not None and isinstance(result, Response):
            shadow.offer(request, result)

    # -- questions ---------------------------------------------------------------------------------------------

    def remark(self, version: str) -> str:
        """What an operator should know of a version; empty if it is nothing."""
        trial = self._trial
        if trial is None or not trial.lost or version != self._canary_version:
            return ""
        return f"canary rolled back: {trial.lost}"

    @property
    def percent(self) -> tuple[str, float] | None:
        """The version of the canary, and its share as it is now; None without one."""
        return (self._canary_version, 100 * self._share) if self._canary_version else None

    @property
    def requests(self) -> Iterator[tuple[str, str, int]]:
        """Ready versions, their roles, and the requests that they answered of those that named no version."""
        for version, count in list(self._requests.items()):
            yield version, "canary" if version == self._canary_version else "default", count

    @property
    def rollbacks(self) -> Mapping[str, int]:
        """How often each version was rolled back that is or was on trial."""
        return self._rollbacks.copy()


class Routers:
    """The routers of a server's models, and the one thread that all shadows share. `all` is for lookups by any thread;
    the methods need the lock of whoever publishes versions."""

    def __init__(self) -> None:
        self._executor = LeanExecutor(1, "vintner-shadow")
        self.all: dict[str, Router] = {}

    def direct(
        self,
        model: str,
        traffic: TrafficConfig | None,
        ready: Mapping[str, Servable],
        signatures: Mapping[int, Hashable],
    ) -> Router | None:
        """The router of a model, made or told of what has changed; none, and the former closed, without `traffic`."""
        if traffic is None:
            self.drop(model)
            return None
        router = self.all.get(model)
        if router is None:
            router = self.all[model] = Router(model, self._executor)
        router.direct(traffic, ready, signatures)
        return router

    def drop(self, model: str) -> None:
        """For a model that goes, or has no `traffic` any more."""
        router = self.all.pop(model, None)
        if router is not None:
            router.close()

    def close(self) -> None:
        """Has nothing more begun for shadows. Requests are still routed."""
        for router in list(self.all.values()):
            router.close()
