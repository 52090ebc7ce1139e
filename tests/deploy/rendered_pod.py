"""Runs on this machine what the chart's objects say: the server's command line with its configuration file, and what
its Service, port-forwards and probes lead to.

Knows nothing of values. Invariant: nothing is taken from elsewhere than the objects; only directories and ports are
replaced, each by what stands for it here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml
from deploy.helm_render import Object
from deploy.releases import Release
from running_server import ROOT, RunningServer, start_command

BUNDLED: Final = {"/opt/vintner/model_repository": ROOT / "model_repository"}
"""What the image has."""


@dataclass(frozen=True)
class Standing:
    """A release whose pod runs here; `addresses` has what its container's ports are in fact."""

    release: Release
    server: RunningServer
    addresses: Mapping[int, str]

    def behind_container(self, port: int | str) -> str:
        return self.addresses[self.release.container_port(port)]

    def behind_service(self, service: Object, port: int) -> str:
        [target] = [each["targetPort"] for each in service["spec"]["ports"] if each["port"] == port]
        return self.behind_container(target)

    def resolved(self, text: str) -> str:
        """A text with the addresses that the cluster's DNS and Services would lead to."""
        for service in (each for each in self.release.objects if each["kind"] == "Service"):
            metadata = service["metadata"]
            name = re.escape(f"{metadata['name']}.{metadata['namespace']}")
            text = re.sub(rf"{name}:(\d+)", lambda found, at=service: self.behind_service(at, int(found[1])), text)
        return text


def stand_up(release: Release, folder: Path, directories: Mapping[str, Path] | None = None) -> Standing:
    """Starts the server's container, with directories of this machine in the places of its volumes.

    Those that it may write need not be given. The environment of the tests takes the place of the image's.
    """
    assert "command" not in release.server, "the image's entry point is vintner"
    places = {**BUNDLED, **(directories or {}), **_written(release, folder), **_configured(release, folder)}
    arguments = [_here(argument, places) for argument in release.server["args"]]
    file = places[release.mount("config")["mountPath"]] / "config.yaml"
    config = {key: _here(value, places) if isinstance(value, str) else value for key, value in release.config.items()}
    ports = {name: config[f"{name}_port"] for name in ("http", "grpc", "metrics")}
    file.write_text(yaml.safe_dump(config | {f"{name}_port": 0 for name in ports}))
    server = start_command(folder / "server.log", *arguments)
    return Standing(release, server, {port: getattr(server, name) for name, port in ports.items()})


def _written(release: Release, folder: Path) -> dict[str, Path]:
    """Directories for the mounts that are not read-only."""
    paths = [each["mountPath"] for each in release.server["volumeMounts"] if not each.get("readOnly")]
    places = {path: folder / "written" / path.strip("/") for path in paths}
    for place in places.values():
        place.mkdir(parents=True)
    return places


def _configured(release: Release, folder: Path) -> dict[str, Path]:
    """A directory with the files of the ConfigMap, where the container mounts it."""
    assert release.volume("config")["configMap"]["name"] == release.one("ConfigMap")["metadata"]["name"]
    place = folder / "configured"
    place.mkdir()
    for name, text in release.one("ConfigMap")["data"].items():
        (place / name).write_text(text)
    return {release.mount("config")["mountPath"]: place}


def _here(text: str, places: Mapping[str, Path]) -> str:
    """A path in the container, also after `--flag=`, as the path on this machine."""
    mounts = "|".join(map(re.escape, sorted(places, key=len, reverse=True)))
    return re.sub(rf"(^|=)({mounts})(?=/|$)", lambda found: f"{found[1]}{places[found[2]]}", text)
