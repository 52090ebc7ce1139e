"""The versions that can be leased: a map that is replaced as a whole, so that a lookup takes no lock.

Knows nothing of how they came. Invariant: whoever gets a servable from here has a lease on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vintner.lifecycle import Revision
from vintner.model_config import TrafficConfig
from vintner.router import Router, Routers
from vintner.servable import Servable
from vintner.traffic import default_version


@dataclass(frozen=True, slots=True)
class Published:
    """The ready versions of one model; the `router` of one that has `traffic` says who gets requests for none."""

    versions: Mapping[str, Servable]
    default: Servable
    router: Router | None = None


class Catalogue:
    """Threads: any for lookups; one at a time publishes."""

    def __init__(self) -> None:
        self._models: Mapping[str, Published] = {}
        self._routers = Routers()
        self.routers: Mapping[str, Router] = self._routers.all
        """Of the models that have `traffic`."""

    def publish(
        self,
        name: str,
        versions: Mapping[int, Servable],
        revisions: Mapping[int, Revision],
        traffic: TrafficConfig | None,
    ) -> None:
        """Replaces what is published of a model; nothing is, without versions."""
        by_name = {str(number): versions[number] for number in sorted(versions)}
        router = self._routers.direct(name, traffic, by_name, revisions)
        models = dict(self._models)
        models.pop(name, None)
        if versions:
            models[name] = Published(by_name, versions[default_version(versions, traffic)], router)
        self._models = models

    def renew(self, name: str) -> None:
        """Has the trial of a canary begin anew with what is published next."""
        if name in self.routers:
            self.routers[name].renew()

    def lease(self, name: str, version: str, request_id: str | None) -> Servable | None:
        """A version, held loaded until its `release`; "" asks for the default. None if there is none.

        With a `request_id`, which may be "", it is for a request, which "" leaves to the model's traffic.
        """
        while True:
            published = self._models.get(name)
            if published is None:
                return None
            if version:
                servable = published.versions.get(version)
            elif published.router is None or request_id is None:
                servable = published.default
            else:
                servable = published.versions.get(published.router.choose(request_id), published.default)
            if servable is None:
                return None
            if servable.acquire():
                return servable
            # It was retired since the lookup, so the map has been replaced since: look again.

    def versions(self, name: str) -> list[str]:
        """In ascending order; empty for an unknown model."""
        published = self._models.get(name)
        return list(published.versions) if published else []

    def ready(self, name: str = "") -> list[Servable]:
        """The versions of a model, or of all models, in order. They may be retired the next moment."""
        models = self._models
        names = [name] if name else sorted(models)
        return [servable for each in names if each in models for servable in models[each].versions.values()]

    def remark(self, name: str, version: str) -> str:
        """What a router has to say of a version, such as that it is a canary no more."""
        router = self.routers.get(name)
        return router.remark(version) if router is not None else ""

    def drop(self, name: str) -> None:
        """Forgets the router of a model that is gone."""
        self._routers.drop(name)

    def clear(self) -> None:
        """Nothing can be leased any more, and no copies are made for shadows."""
        self._models = {}
        self._routers.close()
