"""Envoy and nginx as deploy/ configures them, in front of servers of a test's.

What is changed in a configuration is said here, and nothing else is: the addresses of the servers, the ports to listen
on, where a test wants it retries and the memory, and that Envoy's admin page is on any port.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from running_server import ROOT, RunningServer
from waiting import wait_until

BIN = Path(sys.executable).parent
ENVOY = ROOT / "deploy" / "envoy" / "envoy.yaml"
NGINX = ROOT / "deploy" / "nginx" / "nginx.conf"
ENDS = 20.0
NOBODY = 65534


@dataclass
class Proxy:
    """Where it listens, as a RunningServer says it."""

    process: subprocess.Popen[bytes]
    log: Path
    grpc: str
    http: str

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(ENDS)


@dataclass
class Envoy(Proxy):
    admin: str
    retries: bool

    def statistics(self, cluster: str) -> dict[str, int]:
        """The counters and gauges of a cluster."""
        reply = _get(f"http://{self.admin}/stats?format=json&filter=^cluster.{cluster}.")
        return {each["name"].split(".", 2)[2]: each["value"] for each in reply["stats"] if "value" in each}

    def healthy(self) -> tuple[int, int]:
        """Servers that get something, over gRPC and REST."""
        over_grpc, over_rest = (self.statistics(f"vintner_{name}")["membership_healthy"] for name in ("grpc", "rest"))
        return over_grpc, over_rest


def _get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=ENDS) as reply:
        return json.load(reply)


def envoy_configuration(servers: Sequence[RunningServer], *, retries: bool = True, memory: int | None = None) -> Any:
    document = yaml.safe_load(ENVOY.read_text())
    if memory is not None:
        (monitor,) = document["overload_manager"]["resource_monitors"]
        monitor["typed_config"]["max_heap_size_bytes"] = memory
    document["admin"]["address"]["socket_address"]["port_value"] = 0
    resources = document["static_resources"]
    for listener in resources["listeners"]:
        listener["address"]["socket_address"] = {"address": "127.0.0.1", "port_value": 0}
        manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
        for route in (route for host in manager["route_config"]["virtual_hosts"] for route in host["routes"]):
            if not retries:
                del route["route"]["retry_policy"]
    addresses = {"vintner_grpc": [each.grpc for each in servers], "vintner_rest": [each.http for each in servers]}
    for cluster in resources["clusters"]:
        endpoints = [{"endpoint": {"address": _address(each)}} for each in addresses[cluster["name"]]]
        cluster["load_assignment"]["endpoints"] = [{"lb_endpoints": endpoints}]
    return document


def _address(text: str) -> Any:
    host, _, port = text.rpartition(":")
    return {"socket_address": {"address": host, "port_value": int(port)}}


@contextmanager
def envoy(
    servers: Sequence[RunningServer], directory: Path, *, retries: bool = True, memory: int | None = None
) -> Iterator[Envoy]:
    """With `retries` False, each call has a single try; `memory` is what it may have, in bytes."""
    configuration, log, admin = (directory / f"envoy.{end}" for end in ("yaml", "log", "admin"))
    configuration.write_text(yaml.safe_dump(envoy_configuration(servers, retries=retries, memory=memory)))
    admin.unlink(missing_ok=True)
    options = ["--use-dynamic-base-id", "--log-level", "warning", "--admin-address-path", str(admin)]
    with log.open("w") as stderr:
        process = subprocess.Popen([BIN / "envoy", "-c", configuration, *options], stderr=stderr)
    try:
        wait_until(lambda: process.poll() is not None or (admin.exists() and admin.read_text()))
        assert process.poll() is None, log.read_text()
        address = admin.read_text()
        names = ("grpc", "rest")
        wait_until(lambda: {*names} <= {*_listeners(address)})
        over_grpc, over_rest = (_listeners(address)[name] for name in names)
        yield Envoy(process, log, over_grpc, over_rest, address, retries)
    finally:
        process.kill()
        process.wait(ENDS)


def _listeners(admin: str) -> dict[str, str]:
    found = {}
    for listener in _get(f"http://{admin}/listeners?format=json").get("listener_statuses", ()):
        address = listener["local_address"]["socket_address"]
        found[listener["name"]] = f"{address['address']}:{address['port_value']}"
    return found


def nginx_configuration(servers: Sequence[RunningServer], ports: tuple[int, int]) -> str:
    """With these servers, and listening on these ports for gRPC and for REST."""
    text = NGINX.read_text()
    for name, addresses in (("grpc", [each.grpc for each in servers]), ("rest", [each.http for each in servers])):
        upstream = re.compile(rf"(upstream vintner_{name} {{.*?)((?:^ *server [^\n]*\n)+)", re.DOTALL | re.MULTILINE)
        (options,) = {line.split(maxsplit=2)[2] for line in upstream.search(text)[2].splitlines()}  # type: ignore[index]
        lines = "".join(f"        server {address} {options}\n" for address in addresses)
        text = upstream.sub(lambda match, lines=lines: match[1] + lines, text)
    for usual, port in zip((8001, 8000), ports, strict=True):
        text, changed = re.subn(rf"listen {usual}\b", f"listen 127.0.0.1:{port}", text)
        assert changed == 1
    return text


@contextmanager
def nginx(servers: Sequence[RunningServer]) -> Iterator[Proxy]:
    """An nginx with a directory of its own, as whoever runs the test, or as nobody if that is root."""
    nobody = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
    with tempfile.TemporaryDirectory(prefix="vintner-nginx-") as directory:
        prefix = Path(directory)
        (prefix / "tmp").mkdir()
        ports = _free_port(), _free_port()
        (prefix / "nginx.conf").write_text(nginx_configuration(servers, ports))
        if nobody:
            for path in (prefix, *prefix.iterdir()):
                os.chown(path, NOBODY, NOBODY)
        log = prefix / "log"
        with log.open("w") as stderr:
            process = subprocess.Popen([BIN / "nginx", "-p", prefix, "-c", "nginx.conf"], stderr=stderr, **nobody)
        try:
            wait_until(lambda: process.poll() is not None or all(map(_is_open, ports)))
            assert process.poll() is None, log.read_text()
            yield Proxy(process, log, *(f"127.0.0.1:{port}" for port in ports))
        finally:
            process.terminate()  # which ends the processes that it has started
            process.wait(ENDS)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


def _is_open(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0
