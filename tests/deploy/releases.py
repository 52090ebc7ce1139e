"""The objects of a release of the chart, by what they are, and what Helm says of values that it does not take.

Knows nothing of servers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import pytest
import yaml
from deploy.helm_render import ChartRefused, Object, render_helm4

WORKLOADS: Final = ("Deployment", "StatefulSet")


@dataclass(frozen=True)
class Release:
    """The objects of a release."""

    objects: Sequence[Object]

    def one(self, kind: str, suffix: str = "") -> Object:
        """The object of this kind whose name ends so; without an ending the one with the shortest name."""
        found = [each for each in self.objects if each["kind"] == kind and each["metadata"]["name"].endswith(suffix)]
        assert found, f"no {kind} *{suffix}"
        return min(found, key=lambda each: len(each["metadata"]["name"]))

    @property
    def workload(self) -> Object:
        return next(each for each in self.objects if each["kind"] in WORKLOADS)

    @property
    def template(self) -> Object:
        return self.workload["spec"]["template"]

    @property
    def pod(self) -> Object:
        return self.template["spec"]

    @property
    def server(self) -> Object:
        return self.pod["containers"][0]

    @property
    def config(self) -> dict[str, Any]:
        return yaml.safe_load(self.one("ConfigMap")["data"]["config.yaml"])

    def volume(self, name: str) -> Object:
        """The source of one of the pod's volumes; a claim's template where each replica has its own."""
        own = self.workload["spec"].get("volumeClaimTemplates", [])
        templates = [{"name": each["metadata"]["name"], "claim": each["spec"]} for each in own]
        [found] = [each for each in self.pod.get("volumes", []) + templates if each["name"] == name]
        return {key: value for key, value in found.items() if key != "name"}

    def mount(self, name: str) -> Object:
        [found] = [each for each in self.server["volumeMounts"] if each["name"] == name]
        return found

    def container_port(self, port: int | str) -> int:
        """The number of a port of the server's container, given by that or its name."""
        [found] = [each for each in self.server["ports"] if port in (each["name"], each["containerPort"])]
        return int(found["containerPort"])


def released(**values: Any) -> Release:
    return Release(render_helm4(values))


def refused(**values: Any) -> str:
    """Why Helm does not take them."""
    with pytest.raises(ChartRefused) as refusal:
        render_helm4(values)
    return str(refusal.value)
